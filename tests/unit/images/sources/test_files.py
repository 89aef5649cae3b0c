"""Images of this node: read where they are, and verified again when they have changed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import pytest

from osprovider.config.model import Image
from osprovider.errors import ImageError, NodeError
from osprovider.images.sources.obtain import Sources
from osprovider.paths import Directories
from tests.support.http_server import Handler, Page, Server, ignore_range
from tests.support.sparse import sparse_file
from tests.unit.images.sources.obtaining import CHANGED, CONTENT, SHA256, assert_kept, kept, obtain, pull, refusal


def test_a_file_is_read_where_it_is(sources: Sources, local: Image, directories: Directories) -> None:
    obtained = obtain(sources, local)
    assert obtained.paths == {"image": Path(str(local.source))}
    assert obtained.pin.digest == f"sha256:{SHA256}"
    assert sources.pinned("web", local) == obtained.pin
    assert_kept(directories)


def test_a_disk_that_is_full_is_said(sources: Sources, local: Image, directories: Directories) -> None:
    pull(sources, local)
    (pin,) = (directories.cache / "sources").glob("*.json")
    pin.with_suffix(".new").symlink_to("/dev/full")
    with pytest.raises(ImageError, match=rf"{pin}: cannot be written: no space left on device; the cache directory"):
        pull(sources, local)
    assert [path.name for path in pin.parent.iterdir()] == [pin.name]


def test_a_file_that_has_changed_is_verified_again(sources: Sources, local: Image) -> None:
    before = obtain(sources, local)
    Path(str(local.source)).write_bytes(CHANGED)
    assert sources.pinned("web", local) is None
    assert not before.still_same()
    assert obtain(sources, local).pin.digest == f"sha256:{hashlib.sha256(CHANGED).hexdigest()}"


def test_a_file_that_changes_while_it_is_verified_is_refused(
    sources: Sources, local: Image, server: Server, directories: Directories
) -> None:
    path = Path(str(local.source))

    def change(handler: Handler, page: Page) -> None:
        path.write_bytes(CHANGED)
        ignore_range(handler, page)

    digest = hashlib.sha256(CHANGED).hexdigest()
    server.pages["/SHA256SUMS"] = Page(f"{digest}  image.qcow2\n".encode(), misdeeds=[change])
    checked = dataclasses.replace(local, checksums=f"{server.url}/SHA256SUMS")
    with pytest.raises(ImageError, match="was changed while it was read; try again"), sources.obtain("web", checked):
        pass
    assert kept(directories) == []
    assert obtain(sources, checked).pin.digest == f"sha256:{digest}"


def test_a_file_of_which_nothing_is_asked_is_there_before_it_is_read(sources: Sources, local: Image) -> None:
    with sources.obtain("web", local) as obtained:
        assert not obtained.is_known
        assert sources.pinned("web", local) is None
        assert obtained.pin.digest == f"sha256:{SHA256}"
        assert sources.pinned("web", local) == obtained.pin
    assert obtain(sources, local).is_known


def test_one_that_has_to_verify_is_not(sources: Sources, local: Image) -> None:
    checked = dataclasses.replace(local, checksums=f"sha256:{SHA256}")
    with sources.obtain("web", checked) as obtained:
        assert obtained.is_known
        assert sources.pinned("web", checked) == obtained.pin


def changed_in_use(sources: Sources, local: Image, error: Exception | None) -> None:
    """Use a file that becomes another one, in vain."""
    with sources.obtain("web", local) as obtained:
        Path(str(local.source)).write_bytes(CHANGED)
        if error:
            raise error
        _ = obtained.pin


@pytest.mark.parametrize("error", [None, ImageError("image.qcow2: cut off at byte 7")])
def test_of_one_that_changes_while_it_is_used_that_is_told(
    sources: Sources, local: Image, directories: Directories, error: Exception | None
) -> None:
    with pytest.raises(ImageError, match="was changed while it was read; try again"):
        changed_in_use(sources, local, error)
    assert kept(directories) == []


def test_what_a_node_cannot_do_is_told_of_a_changed_file_too(sources: Sources, local: Image) -> None:
    with pytest.raises(NodeError, match="the disk is full"):
        changed_in_use(sources, local, NodeError("the disk is full"))


@pytest.mark.parametrize("how", ["anew", "pinned", "verified"])
def test_who_uses_a_file_can_tell_that_it_was_changed_meanwhile(sources: Sources, local: Image, how: str) -> None:
    """Even where its owner sets its time back."""
    path = Path(str(local.source))
    if how == "verified":
        local = dataclasses.replace(local, checksums=f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")
    if how == "pinned":
        pull(sources, local)
    with sources.obtain("web", local) as obtained:
        assert obtained.still_same()
        before = path.stat()
        with path.open("r+b") as file:
            file.write(b"x")
        while path.stat().st_ctime_ns == before.st_ctime_ns:  # the kernel's clock goes by ticks
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert not obtained.still_same()


@pytest.mark.parametrize(
    ("suffixes", "parts"),
    [
        (["-root.dump"], {"root": "-root.dump"}),
        (["-root.dump", "-boot.dump"], {"root": "-root.dump", "boot": "-boot.dump"}),
        ([".tar.gz"], {"image": ".tar.gz"}),
        ([".img"], {"image": ".img"}),
        ([".raw"], {"image": ".raw"}),
        ([".qcow2"], {"image": ".qcow2"}),
        (["", ".raw", "-root.dump"], {"image": ""}),
    ],
)
def test_files_of_instance_image_are_found_under_their_names(
    sources: Sources, tmp_path: Path, suffixes: list[str], parts: dict[str, str]
) -> None:
    for suffix in suffixes:
        (tmp_path / f"debian-amd64{suffix}").write_bytes(suffix.encode())
    obtained = obtain(sources, Image(source=str(tmp_path / "debian-amd64")))
    assert obtained.paths == {part: tmp_path / f"debian-amd64{suffix}" for part, suffix in parts.items()}
    assert len(obtained.pin.files) == len(parts)


def test_a_pair_of_dumps_is_known_by_both(sources: Sources, tmp_path: Path) -> None:
    image = Image(source=str(tmp_path / "debian"))
    root, boot = tmp_path / "debian-root.dump", tmp_path / "debian-boot.dump"
    digests = set()
    for contents in ((b"root", None), (b"root", b"boot"), (b"boot", b"root"), (b"root", b"else")):
        root.write_bytes(contents[0])
        if contents[1]:
            boot.write_bytes(contents[1])
        assert sources.pinned("web", image) is None
        digests.add(obtain(sources, image).pin.digest)
    assert len(digests) == 4


def test_checksums_of_a_pair_are_refused(sources: Sources, tmp_path: Path) -> None:
    for part in ("root", "boot"):
        (tmp_path / f"debian-{part}.dump").write_bytes(b"dump")
    image = Image(source=str(tmp_path / "debian"), checksums="SHA256SUMS")
    assert "checksums are of one file" in refusal(sources, image)


def test_the_name_in_a_list_is_the_files_that_is_meant(sources: Sources, tmp_path: Path) -> None:
    (tmp_path / "debian.qcow2").write_bytes(CONTENT)
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  debian\n{SHA256}  debian.qcow2\n")
    assert obtain(sources, Image(source=str(tmp_path / "debian"), checksums="SHA256SUMS")).pin.verified == "SHA256SUMS"


@pytest.mark.parametrize("where", ["SHA256SUMS", "lists/SHA256SUMS", "/SHA256SUMS"])
def test_a_list_of_this_node_is_held_to(sources: Sources, local: Image, tmp_path: Path, where: str) -> None:
    path = tmp_path / where.removeprefix("/")
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{SHA256}  image.qcow2\n")
    name = str(path) if where.startswith("/") else where
    checked = dataclasses.replace(local, checksums=name)
    assert obtain(sources, checked).pin.verified == "SHA256SUMS"
    path.write_text(f"{'0' * 64}  image.qcow2\n")
    with pytest.raises(ImageError, match=r"image\.qcow2: has sha256 "):
        pull(sources, checked)


def test_a_list_of_a_server_is_held_to_for_a_file_of_this_node(sources: Sources, local: Image, server: Server) -> None:
    server.pages["/SHA256SUMS"] = Page(f"{SHA256}  image.qcow2\n".encode())
    obtain(sources, dataclasses.replace(local, checksums=f"{server.url}/SHA256SUMS"))


@pytest.mark.parametrize("checksum", [f"sha256:{'0' * 64}", f"sha512:{'0' * 128}"])
def test_a_file_with_another_checksum_is_refused(
    sources: Sources, local: Image, directories: Directories, checksum: str
) -> None:
    assert "damaged, or not the image that was meant" in refusal(
        sources, dataclasses.replace(local, checksums=checksum)
    )
    assert kept(directories) == []


def test_a_link_to_a_file_is_followed(sources: Sources, local: Image, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to("image.qcow2")
    image = Image(source=str(link))
    assert obtain(sources, image).pin.digest == f"sha256:{SHA256}"
    (tmp_path / "next").write_bytes(CHANGED)
    link.unlink()
    link.symlink_to("next")
    assert sources.pinned("web", image) is None


def test_what_is_no_file_is_refused(sources: Sources, tmp_path: Path, directories: Directories) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "dangling").symlink_to("nothing")
    for source, said in {
        str(tmp_path): "is no regular file",
        str(tmp_path / "pipe"): "is no regular file",
        "/dev/zero": "is no regular file",
        str(tmp_path / "absent"): "there is no ",
        str(tmp_path / "absent" / "image"): "there is no ",
        str(tmp_path / "circle"): "there is no ",
        str(tmp_path / "dangling"): "there is no ",
        str(tmp_path / ("x" * 300)): "file name too long",
    }.items():
        message = refusal(sources, Image(source=source))
        assert message.startswith(f"image web: {source}") or f"there is no {source}, and no " in message
        assert said in message
    assert kept(directories) == []


def test_a_name_that_fits_two_files_is_refused(sources: Sources, tmp_path: Path) -> None:
    for suffix in (".tar.gz", "-root.dump"):
        (tmp_path / f"debian{suffix}").write_bytes(CONTENT)
    message = refusal(sources, Image(source=str(tmp_path / "debian")))
    assert "has debian-root.dump and debian.tar.gz: name one of them" in message


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pipe", "is no regular file"),
        ("/dev/zero", "is no regular file"),
        ("directory", "is a directory"),
        ("absent", "no such file or directory"),
        ("large", "too large for a list"),
    ],
)
def test_a_list_that_is_none_is_refused(sources: Sources, local: Image, tmp_path: Path, name: str, said: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    sparse_file(tmp_path / "large", 1 << 30)
    assert refusal(sources, dataclasses.replace(local, checksums=name)).startswith(f"{tmp_path / name}: {said}")
