"""Neither the size of a file nor a server's time is without end."""

from __future__ import annotations

from pathlib import Path

import pytest

from osprovider.errors import ImageError
from osprovider.images.sources.fetch import Fetcher, Limits
from tests.support.http_server import Page, Server, cut, drip, endless, lie, stall, status, trickle
from tests.unit.images.fetch.fetching import IMPATIENT, LIMIT, left, refusal


def test_what_declares_to_be_too_large_is_refused_at_once(server: Server, target: Path) -> None:
    server.pages["/image"].always = lie(LIMIT + 1)
    assert "larger than 4.0 MiB, the max_size of the definition" in refusal(server, target)
    assert left(target) == []


def test_what_has_no_end_is_refused_at_the_limit(server: Server, target: Path) -> None:
    server.pages["/image"].always = endless
    assert "larger than 4.0 MiB" in refusal(server, target)
    assert len(server.requests) == 1
    assert left(target) == []


def test_a_part_counts_for_the_limit(server: Server, target: Path) -> None:
    server.pages["/image"].misdeeds = [cut(2 << 20)]
    assert "larger than 2.5 MiB" in refusal(server, target, limit=5 << 19)


def test_a_server_that_takes_too_long_is_given_up(server: Server, target: Path) -> None:
    server.pages["/image"].always = drip(0.01)
    limits = Limits(connect=20, idle=20, total=2, attempts=3, pause=0)
    assert "not done after 2 s: the server is too slow" in refusal(server, target, limits=limits)
    assert left(target) == ["part", "part.json"]


@pytest.mark.parametrize(
    ("begin", "again"),
    [
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;", b"x"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b""),
    ],
    ids=["headers", "continue", "chunk", "body"],
)
def test_no_server_is_waited_for_longer_than_that_however_it_stalls(
    begin: bytes, again: bytes, server: Server, target: Path
) -> None:
    server.pages["/image"].always = trickle(begin, again)
    limits = Limits(connect=20, idle=20, total=0.5, attempts=3, pause=0)
    assert "the server is too slow" in refusal(server, target, limits=limits)
    with pytest.raises(ImageError, match="the server is too slow"):
        Fetcher(limits=limits).small(f"{server.url}/image")


def test_a_list_that_takes_too_long_is_given_up(server: Server) -> None:
    server.pages["/image"].always = drip(0.01)
    limits = Limits(connect=20, idle=20, total=0.2, attempts=3, pause=0)
    with pytest.raises(ImageError, match="the server is too slow"):
        Fetcher(limits=limits).small(f"{server.url}/image")


def test_a_list_is_tried_again_and_has_a_limit(server: Server) -> None:
    server.pages["/image"] = Page(b"some text", misdeeds=[status(500), cut(3), stall])
    fetcher = Fetcher(limits=IMPATIENT)
    with pytest.raises(ImageError, match="3 times in a row"):
        fetcher.small(f"{server.url}/image")
    assert fetcher.small(f"{server.url}/image") == b"some text"
    with pytest.raises(ImageError, match="larger than 8 bytes, which is too much for a list"):
        fetcher.small(f"{server.url}/image", 8)


def test_a_directory_that_is_not_there_is_said(server: Server, tmp_path: Path) -> None:
    message = refusal(server, tmp_path / "absent" / "part")
    assert message.startswith(f"{tmp_path}/absent/part: no such file or directory; the cache directory")
