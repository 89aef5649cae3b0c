"""A fetch that was interrupted goes on, with the rest of the same file and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from osprovider.errors import ImageError
from osprovider.images.sources.fetch import Limits
from tests.support.http_server import (
    Handler,
    Misdeed,
    Page,
    Server,
    cut,
    ignore_range,
    lie,
    stall_within,
    status,
    wrong_range,
)
from tests.unit.images.fetch.fetching import CONTENT, IMPATIENT, assert_whole, fetch, left, refusal


@pytest.mark.parametrize(
    "misdeed", [cut(1 << 20), stall_within(1 << 20), lie(len(CONTENT) + 9)], ids=["cut", "stall", "lie"]
)
def test_a_fetch_goes_on_where_it_was_interrupted(server: Server, target: Path, misdeed: Misdeed) -> None:
    server.pages["/image"].misdeeds = [misdeed]
    assert_whole(fetch(server, target, limits=IMPATIENT), target)
    first, second = server.requests
    assert "range" not in first.headers
    assert second.headers["if-range"] == '"1"'
    assert second.headers["range"] in {f"bytes={1 << 20}-", f"bytes={len(CONTENT)}-"}


def test_a_length_that_is_said_twice_counts(server: Server, target: Path) -> None:
    def say_twice(handler: Handler, page: Page) -> None:
        cut(1000)(handler, Page(page.content, page.etag, headers={"content-length": str(len(CONTENT))}))

    server.pages["/image"].misdeeds = [say_twice]
    assert_whole(fetch(server, target), target)
    assert len(server.requests) == 2


def test_it_goes_on_as_often_as_there_is_something_more(server: Server, target: Path) -> None:
    server.pages["/image"].misdeeds = [cut(300_000)] * 9
    assert_whole(fetch(server, target), target)
    assert len(server.requests) == 10


def test_the_date_serves_where_there_is_no_tag(server: Server, target: Path) -> None:
    page = server.pages["/image"]
    page.etag, page.last_modified = None, "Sat, 21 Nov 2026 00:00:00 GMT"
    page.misdeeds = [cut(1000)]
    assert_whole(fetch(server, target), target)
    assert server.requests[1].headers["if-range"] == page.last_modified
    assert server.requests[1].headers["range"] == "bytes=1000-"


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_without_a_strong_validator_it_begins_anew(server: Server, target: Path, etag: str | None) -> None:
    page = server.pages["/image"]
    page.etag, page.misdeeds = etag, [cut(1000)]
    assert_whole(fetch(server, target), target)
    assert "range" not in server.requests[1].headers


def test_a_server_that_knows_no_ranges_sends_it_anew(server: Server, target: Path) -> None:
    server.pages["/image"].misdeeds = [cut(1000), ignore_range]
    assert_whole(fetch(server, target), target)


def test_what_was_replaced_meanwhile_is_fetched_anew(server: Server, target: Path) -> None:
    changed = CONTENT[::-1]

    def cut_and_replace(handler: Handler, page: Page) -> None:
        cut(1000)(handler, page)
        page.content, page.etag = changed, '"2"'

    server.pages["/image"].misdeeds = [cut_and_replace]
    fetched = fetch(server, target)
    assert_whole(fetched, target, changed)
    assert fetched is not None
    assert fetched.etag == '"2"'


def test_the_rest_of_another_file_is_not_taken_from_a_server_that_knows_no_if_range(
    server: Server, target: Path
) -> None:
    changed = CONTENT[::-1]

    def replace(handler: Handler, page: Page) -> None:
        page.content, page.etag = changed, '"2"'
        wrong_range(1000)(handler, page)

    server.pages["/image"].misdeeds = [cut(1000), replace]
    assert_whole(fetch(server, target), target, changed)
    assert [request.headers.get("range") for request in server.requests] == [None, "bytes=1000-", None]


def test_nor_where_only_its_date_tells(server: Server, target: Path) -> None:
    changed, page = CONTENT[::-1], server.pages["/image"]

    def replace(handler: Handler, page: Page) -> None:
        page.content, page.last_modified = changed, "Sun, 22 Nov 2026 00:00:00 GMT"
        wrong_range(1000)(handler, page)

    page.etag, page.last_modified = None, "Sat, 21 Nov 2026 00:00:00 GMT"
    page.misdeeds = [cut(1000), replace]
    assert_whole(fetch(server, target), target, changed)
    assert [request.headers.get("range") for request in server.requests] == [None, "bytes=1000-", None]


def test_a_tag_that_cannot_be_sent_back_counts_as_none(server: Server, target: Path) -> None:
    """So it is in no pin either, by which the next pull would ask for news in vain."""
    page = server.pages["/image"]
    page.etag, page.last_modified = '"1\r\n 2"', "Sat, 21 Nov 2026 00:00:00 GMT"
    page.misdeeds = [cut(1000)]
    fetched = fetch(server, target)
    assert_whole(fetched, target)
    assert fetched is not None
    assert (fetched.etag, fetched.last_modified) == (None, page.last_modified)
    assert server.requests[1].headers["range"] == "bytes=1000-"


def test_another_part_than_was_asked_for_is_not_taken(server: Server, target: Path) -> None:
    server.pages["/image"].misdeeds = [cut(1000), wrong_range(900)]
    assert_whole(fetch(server, target), target)
    assert "range" not in server.requests[2].headers


def _part(start: int, end: int, total: str, body: bytes, length: int | None = None) -> Misdeed:
    """Answer with a part; in chunks where no length is declared."""

    def do(handler: Handler, page: Page) -> None:
        said = {"Content_Range": f"bytes {start}-{end}/{total}"}
        if length is None:
            handler.head(206, page, None, Transfer_Encoding="chunked", **said)
            handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        else:
            handler.head(206, page, length, **said)
            handler.wfile.write(body)
            handler.hang_up()

    return do


LAST = len(CONTENT) - 1


@pytest.mark.parametrize(
    "misdeed",
    [
        _part(900, LAST, str(len(CONTENT)), CONTENT[900:]),
        _part(1000, LAST, str(len(CONTENT)), CONTENT[1000:] + b"more"),
        _part(1000, LAST, str(len(CONTENT)), CONTENT[1000:] + b"more", len(CONTENT) - 996),
        _part(1000, 1999, "*", CONTENT[1000:2000]),
        status(416, Content_Range="bytes */500"),
        status(416),
    ],
    ids=["from-before", "too-much", "declares-too-much", "does-not-say-of-what", "has-less", "has-none"],
)
def test_a_part_that_is_not_the_rest_makes_it_begin_anew(server: Server, target: Path, misdeed: Misdeed) -> None:
    server.pages["/image"].misdeeds = [cut(1000), misdeed]
    assert_whole(fetch(server, target), target)
    assert [request.headers.get("range") for request in server.requests] == [None, "bytes=1000-", None]


def test_parts_are_put_together(server: Server, target: Path) -> None:
    total = str(len(CONTENT))
    server.pages["/image"].misdeeds = [cut(1000), _part(1000, 1999, total, CONTENT[1000:2000], 1000)]
    assert_whole(fetch(server, target), target)
    assert server.requests[2].headers["range"] == "bytes=2000-"


def test_a_part_does_not_outlive_the_news_that_nothing_has_changed(server: Server, target: Path) -> None:
    server.pages["/image"].misdeeds = [cut(1000), cut(0), cut(0)]
    refusal(server, target)
    assert fetch(server, target, unless={"If-None-Match": '"1"'}) is None
    assert left(target) == []


def test_a_part_without_an_end_is_refused_at_the_limit(server: Server, target: Path) -> None:
    server.pages["/image"].misdeeds = [cut(2 << 20), _part(2 << 20, LAST, str(len(CONTENT)), bytes(3 << 20))]
    assert "larger than 4.0 MiB" in refusal(server, target)
    assert left(target) == []


def test_a_server_that_never_sends_the_right_part_is_given_up(server: Server, target: Path) -> None:
    def bad(handler: Handler, page: Page) -> None:
        (wrong_range(900) if "Range" in handler.headers else cut(1000))(handler, page)

    server.pages["/image"].always = bad
    refusal(server, target)
    assert len(server.requests) <= 6


def test_a_server_that_always_begins_anew_is_given_up(server: Server, target: Path) -> None:
    def shorter_and_longer(handler: Handler, page: Page) -> None:
        cut(1000 + len(server.requests) % 2, ranges=False)(handler, page)

    server.pages["/image"].always = shorter_and_longer
    assert "the connection ended after 100" in refusal(server, target)
    assert len(server.requests) <= 5


def test_the_next_run_goes_on_with_what_a_server_gave_up(server: Server, target: Path) -> None:
    server.pages["/image"].misdeeds = [cut(1000), cut(0), cut(0), cut(0)]
    refusal(server, target)
    assert left(target) == ["part", "part.json"]
    assert_whole(fetch(server, target), target)
    assert server.requests[-1].headers["range"] == "bytes=1000-"


def test_what_cannot_be_gone_on_with_is_not_left(server: Server, target: Path) -> None:
    server.pages["/image"] = Page(CONTENT, etag=None, always=cut(1000))
    refusal(server, target)
    assert left(target) == []


def test_a_part_from_before_the_node_was_started_is_not_trusted(server: Server, target: Path) -> None:
    server.pages["/image"].misdeeds = [cut(1000)] * 3
    with pytest.raises(ImageError):
        fetch(server, target, limits=Limits(attempts=1, pause=0))
    notes = target.with_name("part.json")
    notes.write_text(json.dumps({**json.loads(notes.read_text()), "boot": "another"}))
    target.write_bytes(bytes(1000))  # as a file system may leave what was not synced
    assert_whole(fetch(server, target), target)


@pytest.mark.parametrize("notes", [None, b"", b"{", b"[]", b"null", b"{}", b'{"boot": 7, "etag": 1}'])
def test_a_part_of_which_nothing_is_known_is_not_taken(server: Server, target: Path, notes: bytes | None) -> None:
    target.write_bytes(b"something")
    if notes is not None:
        target.with_name("part.json").write_bytes(notes)
    assert_whole(fetch(server, target), target)
    assert "range" not in server.requests[0].headers


def test_all_that_was_there_already_is_not_fetched_again(server: Server, target: Path) -> None:
    """The process was killed after the last byte."""
    server.pages["/image"].misdeeds = [lie(len(CONTENT) + 1)]
    with pytest.raises(ImageError):
        fetch(server, target, limits=Limits(attempts=1, pause=0))
    assert_whole(fetch(server, target), target)
    assert server.requests[-1].headers["range"] == f"bytes={len(CONTENT)}-"
