"""Images of servers: fetched once, pinned, and asked for again on demand only."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
from pathlib import Path

import pytest

from osprovider.config.model import Image
from osprovider.errors import ImageError, NodeError
from osprovider.images.sources.cache import Pin, SourceCache
from osprovider.images.sources.fetch import Fetcher
from osprovider.images.sources.obtain import Sources
from osprovider.paths import Directories
from tests.support.http_server import Page, Server, proxying
from tests.unit.images.sources.obtaining import CHANGED, CONTENT, QUICK, SHA256, assert_kept, obtain, pull


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
    assert obtain(sources, image).pin == first.pin
    assert sources.pinned("web", image) == first.pin
    assert len(server.requests) == 1


def test_what_is_gone_from_the_cache_is_fetched_again(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    first = obtain(sources, image)
    first.paths["image"].unlink()
    assert sources.pinned("web", image) == first.pin
    assert obtain(sources, image).pin == first.pin
    assert len(server.requests) == 2


@pytest.mark.parametrize("rubbish", [b"", b"{", b"[]", b"{}", b'{"files": 1}', b'{"files": [], "what": 1}'])
def test_a_damaged_pin_counts_as_none(sources: Sources, image: Image, directories: Directories, rubbish: bytes) -> None:
    first = obtain(sources, image)
    (pin,) = (directories.cache / "sources").glob("*.json")
    pin.write_bytes(rubbish)
    assert sources.pinned("web", image) is None
    assert obtain(sources, image).pin == first.pin


def test_a_flipped_bit_of_a_pin_is_not_believed(sources: Sources, image: Image, directories: Directories) -> None:
    first = obtain(sources, image)
    (pin,) = (directories.cache / "sources").glob("*.json")
    text = bytearray(pin.read_bytes())
    text[text.index(b"sha256:") + 7] ^= 1
    pin.write_bytes(text)
    assert sources.pinned("web", image) is None
    assert obtain(sources, image).pin == first.pin


def test_who_waited_for_the_first_pull_fetches_nothing(sources: Sources, image: Image, server: Server) -> None:
    """While the first one prepares its image, others may have the source."""
    with sources.pulled("web", image) as found, sources.pulled("web", image) as same:
        assert same == found == sources.pinned("web", image)
    assert [request.headers.get("if-none-match") for request in server.requests] == [None, '"1"']


def test_news_are_asked_for_only_by_a_pull(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    before = pull(sources, image)
    assert pull(sources, image) == before
    assert server.requests[-1].headers["if-none-match"] == '"1"'
    server.pages["/images/image.qcow2"] = Page(CHANGED, etag='"2"')
    assert obtain(sources, image).pin == before
    assert len(server.requests) == 2
    after = pull(sources, image)
    assert after.digest == f"sha256:{hashlib.sha256(CHANGED).hexdigest()}"
    assert obtain(sources, image).pin == after
    assert_kept(directories, CHANGED)


def test_news_are_asked_for_by_date_where_there_is_no_tag(sources: Sources, image: Image, server: Server) -> None:
    date = "Sat, 21 Nov 2026 00:00:00 GMT"
    server.pages["/images/image.qcow2"] = Page(CONTENT, etag=None, last_modified=date)
    before = pull(sources, image)
    assert pull(sources, image) == before
    assert server.requests[-1].headers["if-modified-since"] == date


def test_what_is_in_use_survives_its_replacement(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    with sources.obtain("web", image) as obtained:
        server.pages["/images/image.qcow2"] = Page(CHANGED, etag='"2"')
        other = Sources(directories, fetcher=Fetcher(limits=QUICK))
        pull(other, image)
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


def test_where_something_newer_is_no_good_the_node_keeps_to_what_it_had(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    """For there may be templates of that, though what was fetched for them is gone."""
    obtained = obtain(sources, image)
    SourceCache(directories).discard(obtained.paths["image"])
    server.pages["/images/image.qcow2"] = Page(CHANGED)
    with pytest.raises(ImageError, match="damaged"), sources.obtain("debian", image):
        raise ImageError("damaged")
    assert sources.pinned("debian", image) == obtained.pin
    assert_kept(directories)
    newer = obtain(sources, image).pin
    assert sources.pinned("debian", image) == newer != obtained.pin


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


def test_what_is_somebody_elses_is_no_download(sources: Sources, image: Image, directories: Directories) -> None:
    obtained = obtain(sources, image)
    (directories.cache / "sources/lost+found").mkdir()
    (directories.cache / "sources/README").write_text("mine")
    cache = SourceCache(directories)
    assert [download.path for download in cache.downloads()] == [obtained.paths["image"]]


def test_two_definitions_of_the_same_file_share_it(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    obtain(sources, image)
    server.pages["/mirror"] = Page(CONTENT)
    mirror = Image(source=f"{server.url}/mirror", checksums=f"sha256:{SHA256}")
    assert obtain(sources, mirror).pin.verified == "sha256 of the definition"
    assert server.asked("/mirror") == []
    assert_kept(directories, CONTENT)


def test_what_another_definition_fetched_is_fetched_anew_where_it_is_damaged(
    sources: Sources, image: Image, server: Server, directories: Directories
) -> None:
    with sources.obtain("debian", image) as obtained:
        path = obtained.paths["image"]
    path.write_bytes(CONTENT[:-1] + b"?")
    same = dataclasses.replace(image, checksums=obtained.pin.digest)
    with sources.obtain("same", same) as again:
        assert again.paths["image"].read_bytes() == CONTENT
    assert len(server.asked("/images/image.qcow2")) == 2


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
        pull(Sources(directories, fetcher=Fetcher(limits=QUICK)), image)


def test_pins_are_json_that_says_what_there_is(sources: Sources, image: Image, directories: Directories) -> None:
    obtain(sources, image)
    (pin,) = (directories.cache / "sources").glob("*.json")
    assert json.loads(pin.read_text())["digest"] == f"sha256:{SHA256}"
