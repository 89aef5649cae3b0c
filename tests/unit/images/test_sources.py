"""Where images come from: what verifies is there and pinned, and of what does not nothing is kept."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from osprovider.config.model import Image
from osprovider.errors import ImageError, NodeError
from osprovider.images.sources.cache import Pin, SourceCache
from osprovider.images.sources.fetch import Fetcher, Limits
from osprovider.images.sources.obtain import Obtained, Sources
from osprovider.paths import Directories
from tests.support.http_server import (
    Handler,
    Page,
    Server,
    cut,
    endless,
    ignore_range,
    lie,
    proxying,
    redirect,
    serving,
    status,
)

CONTENT = random.Random(1).randbytes(1 << 20)
CHANGED = CONTENT[::-1]
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SHA512 = hashlib.sha512(CONTENT).hexdigest()
QUICK = Limits(connect=20, idle=20, total=120, attempts=2, pause=0)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        server.pages["/images/image.qcow2"] = Page(CONTENT)
        yield server


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    for name in ("etc", "cache"):
        (tmp_path / name).mkdir()
    return Directories(tmp_path / "etc", tmp_path / "cache", tmp_path / "run", tmp_path / "share")


@pytest.fixture
def sources(directories: Directories) -> Sources:
    return Sources(directories, fetcher=Fetcher(limits=QUICK))


@pytest.fixture
def image(server: Server) -> Image:
    return Image(source=f"{server.url}/images/image.qcow2")


@pytest.fixture
def local(tmp_path: Path) -> Image:
    path = tmp_path / "image.qcow2"
    path.write_bytes(CONTENT)
    return Image(source=str(path))


def obtain(sources: Sources, image: Image) -> Obtained:
    """Obtain it, and let it go at once."""
    with sources.obtain("web", image) as obtained:
        assert all(path.exists() for path in obtained.paths.values())
        return obtained


def refusal(sources: Sources, image: Image) -> str:
    """Why it is not to be had, by either way."""
    messages = []
    with pytest.raises(ImageError) as caught, sources.obtain("web", image):
        pass
    messages.append(str(caught.value))
    with pytest.raises(ImageError) as caught:
        sources.pull("web", image)
    messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].isprintable()
    assert sources.pinned("web", image) is None
    return messages[0]


def kept(directories: Directories) -> list[str]:
    """All that is in the cache."""
    return sorted(str(path.relative_to(directories.cache)) for path in directories.cache.rglob("*") if path.is_file())


def assert_kept(directories: Directories, *contents: bytes) -> None:
    """The cache has files with these contents and names, the pins beside them, and nothing else."""
    found = [name for name in kept(directories) if not name.endswith(".json")]
    assert found == sorted(f"sources/{hashlib.sha256(content).hexdigest()}" for content in contents)
    assert {(directories.cache / name).read_bytes() for name in found} == set(contents)


# -- from servers -----------------------------------------------------------------------------------------------------


def test_an_image_is_fetched_and_pinned(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    assert sources.pinned("web", image) is None
    obtained = obtain(sources, image)
    assert obtained.pin == Pin(str(image.source), f"sha256:{SHA256}", len(CONTENT), "nothing", etag='"1"')
    assert obtained.paths == {"image": directories.cache / "sources" / SHA256}
    assert obtained.still_same()
    assert sources.pinned("web", image) == obtained.pin
    assert_kept(directories, CONTENT)


def test_what_is_there_is_not_asked_for_again(sources: Sources, image: Image, server: Server) -> None:
    first = obtain(sources, image)
    assert obtain(sources, image) == first
    assert sources.pinned("web", image) == first.pin
    assert len(server.requests) == 1


def test_what_is_gone_from_the_cache_is_fetched_again(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    first = obtain(sources, image)
    first.paths["image"].unlink()
    assert sources.pinned("web", image) == first.pin
    assert obtain(sources, image) == first
    assert len(server.requests) == 2


@pytest.mark.parametrize("rubbish", [b"", b"{", b"[]", b"{}", b'{"files": 1}', b'{"files": [], "what": 1}'])
def test_a_damaged_pin_counts_as_none(sources: Sources, image: Image, directories: Directories, rubbish: bytes) -> None:
    first = obtain(sources, image)
    (pin,) = (directories.cache / "sources").glob("*.json")
    pin.write_bytes(rubbish)
    assert sources.pinned("web", image) is None
    assert obtain(sources, image) == first


def test_news_are_asked_for_only_by_a_pull(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    before = sources.pull("web", image)
    assert sources.pull("web", image) == before
    assert server.requests[-1].headers["if-none-match"] == '"1"'
    server.pages["/images/image.qcow2"] = Page(CHANGED, etag='"2"')
    assert obtain(sources, image).pin == before
    assert len(server.requests) == 2
    after = sources.pull("web", image)
    assert after.digest == f"sha256:{hashlib.sha256(CHANGED).hexdigest()}"
    assert obtain(sources, image).pin == after
    assert_kept(directories, CHANGED)


def test_news_are_asked_for_by_date_where_there_is_no_tag(sources: Sources, image: Image, server: Server) -> None:
    date = "Sat, 21 Nov 2026 00:00:00 GMT"
    server.pages["/images/image.qcow2"] = Page(CONTENT, etag=None, last_modified=date)
    before = sources.pull("web", image)
    assert sources.pull("web", image) == before
    assert server.requests[-1].headers["if-modified-since"] == date


def test_what_is_in_use_survives_its_replacement(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    with sources.obtain("web", image) as obtained:
        server.pages["/images/image.qcow2"] = Page(CHANGED, etag='"2"')
        other = Sources(directories, fetcher=Fetcher(limits=QUICK))
        other.pull("web", image)
        assert obtained.paths["image"].read_bytes() == CONTENT
        assert not SourceCache(directories).discard(obtained.paths["image"])
    assert_kept(directories, CONTENT, CHANGED)


def test_what_turns_out_to_be_no_good_is_not_kept_and_named_by_its_url(
    sources: Sources, server: Server, image: Image, directories: Directories
) -> None:
    with pytest.raises(ImageError) as caught, sources.obtain("web", image) as obtained:
        raise ImageError(f"{obtained.paths['image']}: damaged at byte 3")
    assert str(caught.value) == f"{image.source}: damaged at byte 3"
    assert_kept(directories)
    server.pages["/images/image.qcow2"] = Page(CHANGED)
    assert obtain(sources, image).paths["image"].read_bytes() == CHANGED


def test_what_turns_out_to_be_no_good_stays_where_somebody_else_uses_it(sources: Sources, image: Image) -> None:
    with sources.obtain("web", image) as used:
        with pytest.raises(ImageError, match="damaged"), sources.obtain("web", image):
            raise ImageError("damaged")
        assert used.paths["image"].read_bytes() == CONTENT


def test_what_a_node_cannot_read_is_kept(sources: Sources, image: Image, directories: Directories) -> None:
    with pytest.raises(NodeError) as caught, sources.obtain("web", image) as obtained:
        raise NodeError(f"{obtained.paths['image']}: xz is missing")
    assert str(caught.value) == f"{image.source}: xz is missing"
    assert_kept(directories, CONTENT)


def test_downloads_are_listed_and_removed(sources: Sources, image: Image, directories: Directories) -> None:
    cache = SourceCache(directories)
    assert cache.downloads() == ()
    path = obtain(sources, image).paths["image"]
    os.utime(path, (1000, 1000))
    (download,) = cache.downloads()
    assert (download.path, download.used) == (path, 1000)
    assert download.size_bytes >= len(CONTENT)
    obtain(sources, image)
    assert cache.downloads()[0].used > 1000
    assert cache.discard(download.path)
    assert_kept(directories)


def test_two_definitions_of_the_same_file_share_it(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    obtain(sources, image)
    server.pages["/mirror"] = Page(CONTENT)
    mirror = Image(source=f"{server.url}/mirror", checksums=f"sha256:{SHA256}")
    assert obtain(sources, mirror).pin.verified == "sha256 of the definition"
    assert server.asked("/mirror") == []
    assert_kept(directories, CONTENT)


def test_what_is_compressed_is_kept_as_it_is(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    packed = gzip.compress(CONTENT)
    server.pages["/images/image.qcow2"] = Page(packed, headers={"Content-Encoding": "gzip"})
    checked = dataclasses.replace(image, checksums=f"sha256:{hashlib.sha256(packed).hexdigest()}")
    assert obtain(sources, checked).paths["image"].read_bytes() == packed


def test_the_proxy_is_for_everything_that_is_fetched(image: Image, server: Server, directories: Directories) -> None:
    server.pages["/images/SHA256SUMS"] = Page(f"{SHA256}  image.qcow2\n".encode())
    with proxying() as proxy:
        obtain(Sources(directories, proxy=proxy.url), dataclasses.replace(image, checksums="SHA256SUMS"))
    assert [line.split("/")[-2].split(" ")[0] for line in proxy.asked] == ["SHA256SUMS", "image.qcow2"]


# -- checksums --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checksum", [f"sha256:{SHA256}", f"sha512:{SHA512}"])
def test_the_checksum_of_a_definition_is_held_to(sources: Sources, image: Image, checksum: str) -> None:
    pin = obtain(sources, dataclasses.replace(image, checksums=checksum)).pin
    assert (pin.expected, pin.verified) == (checksum, f"{checksum[:6]} of the definition")


def test_with_the_checksum_in_the_definition_there_is_nothing_to_ask(
    sources: Sources, image: Image, server: Server
) -> None:
    checked = dataclasses.replace(image, checksums=f"sha512:{SHA512}")
    before = sources.pull("web", checked)
    assert sources.pull("web", checked) == before
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SHA256SUMS", f"{'0' * 64}  other\n{SHA256} *image.qcow2\n"),
        ("SHA512SUMS", f"{SHA512}  image.qcow2\n"),
        ("CHECKSUM", f"SHA256 (image.qcow2) = {SHA256}\n"),
        ("image.qcow2.sha256", f"{SHA256}\n"),
        ("../SHA256SUMS", f"{SHA256}  ./images/image.qcow2\n"),
        ("/SHA256SUMS", f"{SHA256}  image.qcow2\n"),
    ],
)
def test_a_list_beside_the_image_is_held_to(
    sources: Sources, image: Image, server: Server, name: str, text: str
) -> None:
    path = os.path.normpath(f"/images/{name}") if not name.startswith("/") else name
    server.pages[path] = Page(text.encode())
    checked = dataclasses.replace(image, checksums=name)
    assert obtain(sources, checked).pin.verified == name.rpartition("/")[2]
    assert [request.path for request in server.requests] == [path, "/images/image.qcow2"]


def test_a_list_says_whether_there_are_news(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    server.pages["/images/SHA256SUMS"] = Page(f"{SHA256}  image.qcow2\n".encode())
    checked = dataclasses.replace(image, checksums="SHA256SUMS")
    sources.pull("web", checked)
    sources.pull("web", checked)
    assert len(server.asked("/images/image.qcow2")) == 1
    server.pages["/images/SHA256SUMS"] = Page(f"{hashlib.sha256(CHANGED).hexdigest()}  image.qcow2\n".encode())
    server.pages["/images/image.qcow2"] = Page(CHANGED, etag='"2"')
    sources.pull("web", checked)
    assert_kept(directories, CHANGED)


def test_the_name_in_a_list_is_the_decoded_one(sources: Sources, server: Server) -> None:
    server.pages["/my%20image.qcow2?today"] = Page(CONTENT)
    server.pages["/SHA256SUMS"] = Page(f"{SHA256}  my image.qcow2\n".encode())
    obtain(sources, Image(source=f"{server.url}/my%20image.qcow2?today", checksums="SHA256SUMS"))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("misdeed", [None, lie(1000), redirect("/other")], ids=["changed", "short", "other"])
def test_nothing_is_kept_of_what_does_not_verify(
    sources: Sources, image: Image, server: Server, directories: Directories, algorithm: str, misdeed: object
) -> None:
    page = server.pages["/images/image.qcow2"]
    page.always = misdeed  # type: ignore[assignment]
    if misdeed is None:
        page.content = CHANGED
    server.pages["/other"] = Page(b"<html>welcome to our hotel</html>")
    wanted = SHA256 if algorithm == "sha256" else SHA512
    checked = dataclasses.replace(image, checksums=f"{algorithm}:{wanted}")
    assert f"image.qcow2: has {algorithm} " in refusal(sources, checked)
    assert kept(directories) == []


def test_nothing_is_kept_of_what_does_not_verify_after_it_was_interrupted(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    server.pages["/images/image.qcow2"] = Page(CHANGED, misdeeds=[cut(1000), cut(0)])
    checked = dataclasses.replace(image, checksums=f"sha256:{SHA256}")
    with pytest.raises(ImageError, match="the connection ended after 1000 of"):
        sources.pull("web", checked)
    assert [Path(name).suffix for name in kept(directories)] == [".part", ".json"]
    assert "has sha256" in refusal(sources, checked)
    assert server.requests[2].headers["range"] == "bytes=1000-"
    assert kept(directories) == []


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (Page(b""), "SHA256SUMS: image.qcow2 is not among its 0 checksums"),
        (Page(f"{SHA256}  other\n{SHA256}  another\n".encode()), "image.qcow2 is not among its 2 checksums"),
        (Page(f"{SHA256}  image.qcow2\n{'0' * 64}  image.qcow2\n".encode()), "2 different sha256 checksums"),
        (Page(f"{'0' * 32}  image.qcow2\n".encode()), "has only MD5"),
        (Page(always=status(404)), "SHA256SUMS: the server answers 404"),
        (Page(always=status(500)), "SHA256SUMS: the server answers 500"),
        (Page(always=endless), "SHA256SUMS: larger than 4.0 MiB, which is too much for a list"),
        (Page(b"", always=redirect("file:///etc/passwd")), "which is less safe"),
    ],
)
def test_without_its_checksum_nothing_is_fetched(
    sources: Sources, image: Image, server: Server, directories: Directories, page: Page, message: str
) -> None:
    server.pages["/images/SHA256SUMS"] = page
    assert message in refusal(sources, dataclasses.replace(image, checksums="SHA256SUMS"))
    assert server.asked("/images/image.qcow2") == []
    assert kept(directories) == []


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (Page(b""), "image.qcow2: empty, 0 bytes"),
        (Page(always=status(404)), "image.qcow2: the server answers 404 Not Found: correct the address"),
        (Page(always=status(500)), "image.qcow2: the server answers 500 Internal Server Error, 2 times in a row"),
        (Page(always=endless), "image.qcow2: larger than 2.0 MiB, the max_size of the definition"),
        (Page(always=lie(3 << 20)), "image.qcow2: larger than 2.0 MiB"),
    ],
)
def test_nothing_is_kept_of_what_was_not_sent(
    sources: Sources, image: Image, server: Server, directories: Directories, page: Page, message: str
) -> None:
    server.pages["/images/image.qcow2"] = page
    assert message in refusal(sources, dataclasses.replace(image, max_size="2MiB"))
    assert kept(directories) == []


def test_what_was_there_stays_where_the_new_does_not_verify(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    server.pages["/images/SHA256SUMS"] = Page(f"{SHA256}  image.qcow2\n".encode())
    checked = dataclasses.replace(image, checksums="SHA256SUMS")
    before = sources.pull("web", checked)
    server.pages["/images/SHA256SUMS"] = Page(f"{'0' * 64}  image.qcow2\n".encode())
    with pytest.raises(ImageError, match="has sha256"):
        sources.pull("web", checked)
    assert obtain(sources, checked).pin == before
    assert_kept(directories, CONTENT)


def test_what_may_be_secret_is_neither_said_nor_recorded(
    sources: Sources, server: Server, directories: Directories, capsys: pytest.CaptureFixture[str]
) -> None:
    server.pages["/image?token=word"] = Page(CONTENT, misdeeds=[status(500), status(404)])
    server.pages["/list?token=word"] = Page(f"{SHA256}  image\n".encode(), misdeeds=[status(500), status(404)])
    source = f"{server.url.replace('//', '//user:word@')}/image?token=word"
    image = Image(source=source, checksums="list?token=word")
    messages = []
    for _ in range(2):
        with pytest.raises(ImageError) as caught:
            sources.pull("web", image)
        messages.append(str(caught.value))
    assert [message.split(": ")[0] for message in messages] == [f"{server.url}/list", f"{server.url}/image"]
    pin = obtain(sources, image).pin
    assert (pin.location, pin.verified) == (f"{server.url}/image", "list")
    assert server.requests[-1].headers["authorization"].startswith("Basic ")
    recorded = "".join((directories.cache / name).read_text() for name in kept(directories) if name.endswith(".json"))
    assert "word" not in "".join(messages) + capsys.readouterr().err + recorded


# -- from this node ---------------------------------------------------------------------------------------------------


def test_a_file_is_read_where_it_is(sources: Sources, local: Image, directories: Directories) -> None:
    obtained = obtain(sources, local)
    assert obtained.paths == {"image": Path(str(local.source))}
    assert obtained.pin.digest == f"sha256:{SHA256}"
    assert sources.pinned("web", local) == obtained.pin
    assert_kept(directories)


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


def test_who_uses_a_file_can_tell_that_it_was_changed_meanwhile(sources: Sources, local: Image) -> None:
    path = Path(str(local.source))
    with sources.obtain("web", local) as obtained:
        assert obtained.still_same()
        before = path.stat()
        with path.open("r+b") as file:
            file.write(b"x")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
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
        sources.pull("web", checked)


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
        str(tmp_path / ("x" * 300)): "File name too long",
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
        ("directory", "Is a directory"),
        ("absent", "No such file or directory"),
        ("large", "too large for a list"),
    ],
)
def test_a_list_that_is_none_is_refused(sources: Sources, local: Image, tmp_path: Path, name: str, said: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 30)
    assert refusal(sources, dataclasses.replace(local, checksums=name)).startswith(f"{tmp_path / name}: {said}")


def test_another_word_of_how_to_get_it_is_another_source(
    sources: Sources, image: Image, directories: Directories
) -> None:
    obtain(sources, image)
    assert sources.pinned("web", dataclasses.replace(image, description="other", format="qcow2")) is not None
    for change in ({"checksums": f"sha256:{SHA256}"}, {"source": f"{image.source}?"}, {"keyring": "other"}):
        assert sources.pinned("web", dataclasses.replace(image, **change)) is None  # type: ignore[arg-type]


def test_a_cache_that_cannot_be_written_is_said(image: Image, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    directories = Directories(tmp_path / "etc", tmp_path / "cache", tmp_path / "run", tmp_path / "share")
    with pytest.raises(ImageError, match="the cache directory has to be writable"):
        Sources(directories, fetcher=Fetcher(limits=QUICK)).pull("web", image)


def test_pins_are_json_that_says_what_there_is(sources: Sources, image: Image, directories: Directories) -> None:
    obtain(sources, image)
    (pin,) = (directories.cache / "sources").glob("*.json")
    assert json.loads(pin.read_text())["digest"] == f"sha256:{SHA256}"
