"""Images of every format, from a definition to a template and not a second time: by the command and by `create`."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from osprovider.manifest import Manifest
from tests.support import small_system
from tests.support.http_server import Page, serving
from tests.support.image_files import make_tar, template_image
from tests.support.leftovers import no_leftovers
from tests.support.mounts import mounted
from tests.support.template import shared_cache, with_appliance
from tests.system.create.site import Site, debugfs, sfdisk

GIB = 1 << 30
FORMATS = {
    "tar.gz": "tar.gzip",
    "tar.zst": "tar.zstd",
    "dump": "dump",
    "dump pair": "dump",
    "raw": "raw",
    "qcow2": "qcow2",
}
"""What is made, and what it is by its content."""

TREES = {"tar.gz", "tar.zst", "dump", "dump pair"}


@pytest.fixture
def own_site(tmp_path: Path, run_directory: Path) -> Iterator[Site]:
    """A site with an empty cache, but for the libguestfs appliance."""
    with tempfile.TemporaryDirectory(dir=run_directory) as directory, no_leftovers([tmp_path]):
        yield Site(tmp_path, with_appliance(Path(directory), run_directory))


@dataclass(frozen=True, slots=True)
class Source:
    """An image file, or a pair.

    Attributes:
        location: what the definition has.
        files: what there is of it.
    """

    location: str
    files: list[Path]

    @property
    def digest(self) -> str:
        """As the manifest has it."""
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in self.files]
        text = "".join(f"{digest}\n" for digest in digests)
        return f"sha256:{digests[0] if len(digests) == 1 else hashlib.sha256(text.encode()).hexdigest()}"


def define(site: Site, source: Source, **more: str) -> None:
    lines = {"source": source.location, **more}
    site.write("images/small.yaml", "".join(f"{key}: {value}\n" for key, value in lines.items()))


def build(site: Site, *options: str) -> Manifest:
    """Have it built, and return the manifest."""
    outcome = site.command("image", "build", "small", "--json", *options)
    assert outcome.status == 0, outcome.said
    (made,) = json.loads(outcome.said[outcome.said.index("[\n") :])
    return Manifest.from_json((Path(made["directory"]) / "manifest.json").read_bytes())


def template(site: Site, manifest: Manifest) -> Path:
    return site.cache / "templates" / manifest.key / "template.img"


@pytest.fixture(params=FORMATS)
def kind(request: pytest.FixtureRequest) -> str:
    """A format, as people call it."""
    return str(request.param)


@pytest.fixture
def source(kind: str, tmp_path: Path) -> Source:
    """An image of that format."""
    directory = tmp_path / "images"
    directory.mkdir()
    return Source(*small_system.make_image(kind, directory))


def test_it_becomes_a_template_whose_manifest_says_where_it_came_from(
    kind: str, source: Source, own_site: Site, tmp_path: Path
) -> None:
    define(own_site, source)
    manifest = build(own_site)
    assert manifest.origin is not None
    assert manifest.origin.location == source.location
    assert manifest.origin.format == FORMATS[kind]
    assert manifest.origin.digest == source.digest
    assert manifest.origin.size_bytes == sum(path.stat().st_size for path in source.files)
    assert manifest.origin.verified == "nothing"
    assert manifest.distribution.pretty_name == small_system.PRETTY_NAME
    assert [kernel.version for kernel in manifest.kernels] == ["6.1.0-1-amd64"]
    assert manifest.built_here == (kind in TREES)
    assert (manifest.table is not None) == (kind == "qcow2")
    made = template(own_site, manifest)
    assert [path.name for path in sorted(made.parent.iterdir())] == ["manifest.json", "packages.json", "template.img"]
    assert made.stat().st_size == manifest.size_bytes
    if manifest.table is None:
        subprocess.run(["e2fsck", "-fn", made], check=True, capture_output=True)
        with mounted(made, tmp_path / "tree") as tree:
            assert (tree / "boot/vmlinuz-6.1.0-1-amd64").read_bytes() == b"kernel"
            assert (tree / "bin").readlink() == Path("usr/bin")
    else:
        root = next(part for part in manifest.table.partitions if part.role == "root")
        with made.open("rb") as file:
            assert not any(file.read(34 * 512)), "the table is not in the template"
            file.seek(root.start_bytes + 1024 + 56)
            assert file.read(2) == b"\x53\xef", "ext4's magic"


def test_the_second_time_nothing_is_read_again(kind: str, source: Source, own_site: Site) -> None:
    define(own_site, source)
    first = build(own_site)
    inode = template(own_site, first).stat().st_ino
    for path in source.files:
        _make_unreadable(path)
    outcome = own_site.command("image", "build", "small")
    assert outcome.status == 0, outcome.said
    assert outcome.said.splitlines() == [line for line in outcome.said.splitlines() if "small is ready" in line]
    assert template(own_site, first).stat().st_ino == inode


def _make_unreadable(path: Path) -> None:
    """Put into a file what no image is, so that whoever reads it fails, and nobody can tell from without."""
    status = path.stat()
    with path.open("r+b") as file:
        file.write(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_source_that_is_gone_keeps_nobody_from_the_template(tmp_path: Path, own_site: Site) -> None:
    source = Source(*small_system.make_image("tar.gz", tmp_path))
    define(own_site, source)
    manifest = build(own_site)
    own_site.write("variants/small.yaml", "image: small\nboot: {loader: none}\nnetwork: {renderer: none}\n")
    aside = tmp_path / "aside"
    source.files[0].rename(aside)
    outcome = own_site.command("plan", "web1.example.org", "--variant", "small", "--disk", "1G")
    assert outcome.status == 0, outcome.said
    assert "small (ready, " in outcome.said
    assert build(own_site) == manifest
    shutil.rmtree(own_site.cache / "templates")
    outcome = own_site.command("image", "build", "small")
    assert outcome.status == 1
    assert f"there is no {source.location}" in outcome.last_line
    aside.rename(source.files[0])
    assert build(own_site).key == manifest.key


def test_a_template_is_used_without_its_server_and_its_download(tmp_path: Path, own_site: Site) -> None:
    _, (image,) = small_system.make_image("tar.gz", tmp_path)
    with serving() as server:
        server.pages["/small.tar.gz"] = Page(image.read_bytes())
        server.pages["/SHA256SUMS"] = Page(f"{hashlib.sha256(image.read_bytes()).hexdigest()}  small.tar.gz\n".encode())
        define(own_site, Source(f"{server.url}/small.tar.gz", []), checksums="SHA256SUMS")
        manifest = build(own_site)
        assert manifest.origin is not None
        assert (manifest.origin.location, manifest.origin.verified) == (f"{server.url}/small.tar.gz", "SHA256SUMS")
        (download,) = (path for path in (own_site.cache / "sources").iterdir() if not path.suffix)
        assert download.name == manifest.origin.digest.removeprefix("sha256:")
        download.unlink()
        asked = len(server.requests)
        assert build(own_site) == manifest
        assert len(server.requests) == asked
        server.pages.clear()
        outcome = own_site.command("image", "build", "small", "--force")
        assert outcome.status == 1
        assert server.url in outcome.last_line
        assert build(own_site) == manifest


@pytest.mark.parametrize("kind", ["tar.gz", "qcow2", "dump"])
def test_a_damaged_download_is_not_kept_and_the_next_one_is_taken(kind: str, tmp_path: Path, own_site: Site) -> None:
    _, (image,) = small_system.make_image(kind, tmp_path)
    whole = image.read_bytes()
    with serving() as server:
        server.pages["/small?token=secret"] = Page(whole[: len(whole) // 2])
        define(own_site, Source(f"{server.url}/small?token=secret", []))
        outcome = own_site.command("image", "build", "small")
        assert outcome.status == 1
        assert f"osprovider: {server.url}/small: " in outcome.last_line
        assert "cut off" in outcome.last_line
        assert "secret" not in outcome.said
        assert [path for path in (own_site.cache / "sources").iterdir() if path.suffix != ".json"] == []
        server.pages["/small?token=secret"] = Page(whole)
        build(own_site)


@pytest.mark.parametrize("is_fetched", [True, False])
def test_a_bit_that_flips_after_a_source_was_verified_gets_into_no_template(
    is_fetched: bool, tmp_path: Path, own_site: Site
) -> None:
    _, (packed,) = small_system.make_image("tar.gz", tmp_path)
    image = tmp_path / "small.tar"
    image.write_bytes(whole := gzip.decompress(packed.read_bytes()))
    with serving() as server:
        server.pages["/small.tar"] = Page(whole)
        define(own_site, Source(f"{server.url}/small.tar" if is_fetched else str(image), []))
        manifest = build(own_site)
        assert manifest.origin is not None
        digits = manifest.origin.digest.removeprefix("sha256:")
        path = own_site.cache / "sources" / digits if is_fetched else image
        flip(path, whole.index(b"PRETTY_NAME"))
        outcome = own_site.command("image", "build", "small", "--force")
        assert outcome.status == 1
        assert "/small.tar: damaged since it was verified: has sha256:" in outcome.last_line
        assert f" and had sha256:{digits}; " in outcome.last_line
        assert path.exists() == (not is_fetched)
        assert build(own_site) == manifest
        image.write_bytes(whole)
        outcome = own_site.command("image", "build", "small", "--force")
        assert outcome.status == 0, outcome.said


def flip(path: Path, byte: int) -> None:
    """Flip a bit as a failing disk does: nothing else says that the file has changed."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(byte)
        (value,) = file.read(1)
        file.seek(byte)
        file.write(bytes([value ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_pull_of_what_cannot_be_prepared_leaves_the_template_of_before_in_use(tmp_path: Path, own_site: Site) -> None:
    _, (image,) = small_system.make_image("tar.gz", tmp_path)
    whole = image.read_bytes()
    with serving() as server:
        server.pages["/small"] = Page(whole, etag='"1"')
        define(own_site, Source(f"{server.url}/small", []))
        manifest = build(own_site)
        server.pages["/small"] = Page(whole[: len(whole) // 2], etag='"2"')
        outcome = own_site.command("image", "pull", "small")
        assert outcome.status == 1
        assert "cut off" in outcome.last_line
        assert build(own_site) == manifest
        small_system.make_image("tar.gz", tmp_path, data_bytes=4096)
        server.pages["/small"] = Page(image.read_bytes(), etag='"3"')
        outcome = own_site.command("image", "pull", "small")
        assert outcome.status == 0, outcome.said
        assert "again" not in outcome.said, "what was verified just now is verified once"
        assert build(own_site).key != manifest.key


def test_a_source_with_other_content_is_prepared_anew(tmp_path: Path, own_site: Site) -> None:
    define(own_site, source := Source(*small_system.make_image("tar.gz", tmp_path)))
    first = build(own_site)
    small_system.make_image("tar.gz", tmp_path, data_bytes=4096)
    second = build(own_site)
    assert first.key != second.key
    assert second.origin is not None
    assert second.origin.digest == source.digest


def test_the_same_content_in_another_place_is_not_prepared_again(tmp_path: Path, own_site: Site) -> None:
    define(own_site, source := Source(*small_system.make_image("tar.gz", tmp_path)))
    first = build(own_site)
    define(own_site, Source(str(source.files[0].rename(tmp_path / "moved.tar.gz")), source.files))
    outcome = own_site.command("image", "build", "small")
    assert outcome.status == 0, outcome.said
    assert "unpack" not in outcome.said
    assert [path.name for path in (own_site.cache / "templates").iterdir()] == [first.key]


def test_a_file_that_was_only_touched_is_not_prepared_again(tmp_path: Path, own_site: Site) -> None:
    define(own_site, source := Source(*small_system.make_image("tar.gz", tmp_path)))
    first = build(own_site)
    source.files[0].touch()
    outcome = own_site.command("image", "build", "small")
    assert outcome.status == 0, outcome.said
    assert "unpack" not in outcome.said
    assert build(own_site) == first


def test_the_same_source_makes_the_same_template_whether_it_is_verified_before_or_not(
    kind: str, source: Source, own_site: Site
) -> None:
    define(own_site, source)
    first = build(own_site)
    own_site.command("image", "remove", "small")
    if len(source.files) == 1:
        define(own_site, source, checksums=source.digest)
    second = build(own_site)
    assert (second.key, second.filesystem.uuid) == (first.key, first.filesystem.uuid)
    assert second.definition == first.definition


def test_it_is_shown_with_its_origin(tmp_path: Path, own_site: Site) -> None:
    define(own_site, source := Source(*small_system.make_image("tar.zst", tmp_path)))
    build(own_site)
    outcome = own_site.command("image", "show", "small", "--json")
    shown: dict[str, Any] = json.loads(outcome.said)
    (only,) = shown["templates"]
    assert only["origin"]["digest"] == source.digest
    assert only["origin"]["format"] == "tar.zstd"
    said = own_site.command("image", "show", "small").said
    assert f"{source.location} (tar.zstd" in said
    assert source.digest in said


# -- side by side -----------------------------------------------------------------------------------------------------


def test_eight_creates_of_an_image_that_is_not_prepared_prepare_it_once(
    own_site: Site, run_directory: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "debian.tar.zst"
    make_tar(template_image(shared_cache(run_directory)), archive, "zstd", "-3")
    define(own_site, Source(str(archive), [archive]))
    own_site.write("variants/small.yaml", "image: small\n")
    processes = []
    for number in range(8):
        disk = own_site.disk(3 * GIB, name=f"disk{number}.raw")
        nic = {"ip": f"198.51.100.{number + 30}", "link": "lab0"}
        environment = own_site.environment(disk, name=f"web{number}.example.org", variant="small", nics=[nic])
        processes.append((disk, own_site.start("create", environment)))
    logs = [process.communicate()[0] for _, process in processes]
    assert [process.returncode for _, process in processes] == [0] * 8, "\n\n".join(logs)
    assert [sum("unpack tar.zstd" in log for log in logs), sum("image small: verify" in log for log in logs)] == [1, 1]
    for log in logs:
        waited = log.count("waiting for another osprovider that prepares image small")
        assert waited == (0 if "unpack tar.zstd" in log else 1), log
    assert len(list((own_site.cache / "templates").iterdir())) == 1
    assert len({sfdisk(disk)["id"] for disk, _ in processes}) == 8
    for number, (disk, _) in enumerate(processes):
        assert debugfs(disk, "cat /etc/hostname") == f"web{number}.example.org\n"


def test_a_warm_create_says_nothing_of_images(own_site: Site, run_directory: Path, tmp_path: Path) -> None:
    archive = tmp_path / "debian.tar.zst"
    make_tar(template_image(shared_cache(run_directory)), archive, "zstd", "-3")
    define(own_site, Source(str(archive), [archive]))
    own_site.write("variants/small.yaml", "image: small\n")
    own_site.created(own_site.disk(3 * GIB), variant="small")
    archive.unlink()
    outcome = own_site.created(own_site.disk(3 * GIB, name="second.raw"), variant="small")
    assert not re.search("(?m)^image ", outcome.said), outcome.said
