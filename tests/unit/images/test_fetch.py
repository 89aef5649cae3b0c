"""Fetching from servers that cannot be relied on: what comes is whole, or an error says why it is not."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from osprovider.errors import ImageError
from osprovider.images.sources.addresses import shown_url
from osprovider.images.sources.fetch import Fetched, Fetcher, Limits
from tests.support.http_server import (
    Handler,
    Misdeed,
    Page,
    Server,
    cut,
    drip,
    endless,
    ignore_range,
    lie,
    proxying,
    redirect,
    serving,
    stall,
    stall_within,
    status,
    trickle,
    wrong_range,
)

CONTENT = random.Random(1).randbytes(3 << 20)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
LIMIT = 4 << 20
QUICK = Limits(connect=20, idle=20, total=120, attempts=3, pause=0)
IMPATIENT = Limits(connect=20, idle=1, total=120, attempts=3, pause=0)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        server.pages["/image"] = Page(CONTENT)
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache" / "part"


def fetch(
    server: Server,
    target: Path,
    path: str = "/image",
    *,
    limits: Limits = QUICK,
    limit_bytes: int = LIMIT,
    unless: dict[str, str] | None = None,
) -> Fetched | None:
    return Fetcher(limits=limits).download(
        f"{server.url}{path}", target, algorithms=("sha256",), limit_bytes=limit_bytes, unless=unless
    )


def assert_whole(fetched: Fetched | None, target: Path, content: bytes = CONTENT) -> None:
    """It came, it is all that is left, and what is said of it is right."""
    assert fetched is not None
    assert target.read_bytes() == content
    assert fetched.digests == {"sha256": hashlib.sha256(content).hexdigest()}
    assert fetched.size_bytes == len(content)
    assert left(target) == [target.name]


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def refusal(server: Server, target: Path, path: str = "/image", *, limits: Limits = QUICK, limit: int = LIMIT) -> str:
    with pytest.raises(ImageError) as caught:
        fetch(server, target, path, limits=limits, limit_bytes=limit)
    message = str(caught.value)
    assert message.isprintable()
    return message


# -- what goes well ---------------------------------------------------------------------------------------------------


def test_a_file_is_fetched_whole_with_its_digests_and_validators(server: Server, target: Path) -> None:
    server.pages["/image"].last_modified = "Sat, 21 Nov 2026 00:00:00 GMT"
    fetched = Fetcher(limits=QUICK).download(
        f"{server.url}/image", target, algorithms=("sha256", "sha512"), limit_bytes=LIMIT
    )
    assert fetched == Fetched(
        {"sha256": DIGEST, "sha512": hashlib.sha512(CONTENT).hexdigest()},
        len(CONTENT),
        '"1"',
        "Sat, 21 Nov 2026 00:00:00 GMT",
    )
    assert left(target) == ["part"]


def test_a_file_in_chunks_without_a_length_is_fetched_whole(server: Server, target: Path) -> None:
    def in_chunks(handler: Handler, page: Page) -> None:
        handler.head(200, page, None, Transfer_Encoding="chunked")
        for start in range(0, len(CONTENT), 100_000):
            piece = CONTENT[start : start + 100_000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    server.pages["/image"].always = in_chunks
    assert_whole(fetch(server, target), target)


def test_what_is_compressed_stays_so_whatever_the_server_calls_it(server: Server, target: Path) -> None:
    packed = gzip.compress(CONTENT)
    server.pages["/image"] = Page(packed, headers={"Content-Encoding": "gzip", "Content-Type": "text/plain"})
    assert_whole(fetch(server, target), target, packed)
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_nothing_is_fetched_where_nothing_has_changed(server: Server, target: Path) -> None:
    assert fetch(server, target, unless={"If-None-Match": '"1"'}) is None
    assert left(target) == []
    assert_whole(fetch(server, target, unless={"If-None-Match": '"0"'}), target)


def test_an_empty_file_leaves_nothing(server: Server, target: Path) -> None:
    server.pages["/image"] = Page(b"")
    fetched = fetch(server, target)
    assert fetched is not None
    assert fetched.size_bytes == 0


def test_the_environment_has_no_say(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = target.parent.parent
    (home / ".netrc").write_text("default login somebody password something\n")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(home))
    assert_whole(fetch(server, target), target)
    assert "authorization" not in server.requests[0].headers


def test_the_proxy_is_asked(server: Server, target: Path) -> None:
    with proxying() as proxy:
        fetcher = Fetcher(proxy.url, QUICK)
        fetched = fetcher.download(f"{server.url}/image", target, algorithms=("sha256",), limit_bytes=LIMIT)
    assert_whole(fetched, target)
    assert proxy.asked == [f"GET {server.url}/image HTTP/1.1"]


def test_a_proxy_that_is_not_there_is_named_as_the_cause(server: Server, target: Path) -> None:
    fetcher = Fetcher("http://user:secret@127.0.0.1:9", QUICK)
    with pytest.raises(ImageError, match=r"/image: connection refused, 3 .* through the proxy http://127.0.0.1:9 of"):
        fetcher.download(f"{server.url}/image", target, algorithms=("sha256",), limit_bytes=LIMIT)
    assert server.requests == []


def test_a_proxy_that_wants_a_password_is_not_taken_for_a_wrong_address(server: Server, target: Path) -> None:
    server.pages["/image"].always = status(407)
    assert "answers 407 Proxy Authentication Required: correct proxy in cache.yaml" in refusal(server, target)


# -- redirects --------------------------------------------------------------------------------------------------------


def test_redirects_are_followed_also_to_another_server(server: Server, target: Path) -> None:
    with serving() as other:
        other.pages["/deep/image"] = Page(CONTENT)
        other.pages["/mirror"] = Page(always=redirect("deep/image", 307))
        server.pages["/latest"] = Page(always=redirect(f"{other.url}/mirror", 301))
        assert_whole(fetch(server, target, "/latest"), target)


def test_a_redirect_asks_for_the_rest_as_well(server: Server, target: Path) -> None:
    server.pages["/image"].misdeeds = [cut(1000)]
    server.pages["/latest"] = Page(always=redirect("/image"))
    assert_whole(fetch(server, target, "/latest"), target)
    assert [request.headers.get("range") for request in server.asked("/image")] == [None, "bytes=1000-"]


def test_redirects_in_a_circle_end(server: Server, target: Path) -> None:
    server.pages["/one"] = Page(always=redirect("/two"))
    server.pages["/two"] = Page(always=redirect("/one"))
    assert "redirects more than 10 times" in refusal(server, target, "/one")
    assert len(server.requests) == 11
    assert left(target) == []


@pytest.mark.parametrize("place", ["file:///etc/shadow", "ftp://127.0.0.1/image", "FILE:/etc/shadow", "data:,image"])
def test_a_redirect_to_what_is_not_http_is_refused(server: Server, target: Path, place: str) -> None:
    server.pages["/image"].always = redirect(place)
    assert "which is less safe; correct the source" in refusal(server, target)
    assert len(server.requests) == 1
    assert left(target) == []


@pytest.mark.parametrize("place", ["http://[::1", "http://127.0.0.1:99999/", "http://*.x/"])
def test_a_redirect_to_what_is_no_address_is_refused(server: Server, target: Path, place: str) -> None:
    server.pages["/image"].always = redirect(place)
    assert "address; correct the source" in refusal(server, target)
    assert len(server.requests) == 1


def test_messages_name_the_server_that_a_redirect_led_to_and_no_secrets(
    server: Server, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.pages["/image"].always = redirect("http://user:word@127.0.0.1:9/elsewhere?token=word")
    message = refusal(server, target)
    assert "redirected to http://127.0.0.1:9/elsewhere: connection refused" in message
    assert "word" not in message + capsys.readouterr().err


def test_addresses_are_shown_without_what_may_be_secret() -> None:
    assert shown_url("https://user:word@host.example:8443/a/b?token=word#word") == "https://host.example:8443/a/b"
    assert shown_url("https://host.example/\x1b[2J") == "https://host.example/?[2J"
    assert shown_url("http://[word") == "something that is no address"


# -- errors of the server ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_what_may_be_better_the_next_time_is_tried_again(server: Server, target: Path, code: int) -> None:
    server.pages["/image"].misdeeds = [status(code)]
    assert_whole(fetch(server, target), target)
    assert len(server.requests) == 2


def test_a_server_says_how_long_it_wants_to_be_left_alone(
    server: Server, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.pages["/image"].misdeeds = [status(503, Retry_After="1"), status(503, Retry_After="\xb2")]
    assert_whole(fetch(server, target), target)
    said = capsys.readouterr().err
    assert "503 Service Unavailable; trying again in 1 s" in said
    assert "503 Service Unavailable; trying again in 0 s" in said


def test_a_server_that_always_fails_is_given_up(server: Server, target: Path) -> None:
    server.pages["/image"].always = status(500)
    message = refusal(server, target)
    assert message == (
        f"{server.url}/image: the server answers 500 Internal Server Error, 3 times in a row; is the server up, and "
        "reachable from here?"
    )
    assert len(server.requests) == 3
    assert left(target) == []


@pytest.mark.parametrize("code", [204, 304, 400, 401, 403, 404, 410, 416])
def test_what_will_not_be_better_is_not_tried_again(server: Server, target: Path, code: int) -> None:
    server.pages["/image"].always = status(code)
    assert f"the server answers {code} " in refusal(server, target)
    assert len(server.requests) == 1
    assert left(target) == []


def test_what_a_server_says_does_not_reach_the_terminal_as_it_is(server: Server, target: Path) -> None:
    def answer(handler: Handler, page: Page) -> None:
        handler.send_response(404, "gone\x1b[2J")
        handler.end_headers()

    server.pages["/image"].always = answer
    assert "404 gone?[2J" in refusal(server, target)


def test_a_server_that_is_not_there_is_given_up(target: Path) -> None:
    server = Server()
    server.url = "http://127.0.0.1:9"
    assert "connection refused, 3 times in a row" in refusal(server, target)
    assert left(target) == []


def test_a_server_without_an_answer_is_given_up(server: Server, target: Path) -> None:
    server.pages["/image"].always = stall
    assert "timed out" in refusal(server, target, limits=IMPATIENT)
    assert left(target) == []


def test_what_is_no_http_is_given_up(server: Server, target: Path) -> None:
    def babble(handler: Handler, page: Page) -> None:
        handler.wfile.write(b"220 mail.example.org ESMTP\r\n" * 10)
        handler.hang_up()

    server.pages["/image"].always = babble
    assert "3 times in a row" in refusal(server, target)


@pytest.mark.parametrize("length", ["\xb2", "-1", "9" * 5000, "1e3", "many"])
def test_a_length_that_is_none_counts_as_unknown(server: Server, target: Path, length: str) -> None:
    def answer(handler: Handler, page: Page) -> None:
        handler.send_response(200)
        handler.send_header("content-length", length)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(page.content)
        handler.hang_up()

    server.pages["/image"].always = answer
    assert_whole(fetch(server, target), target)


# -- going on ---------------------------------------------------------------------------------------------------------


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


# -- limits -----------------------------------------------------------------------------------------------------------


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
    limits = Limits(connect=20, idle=20, total=0.2, attempts=3, pause=0)
    assert "not done after 0 s: the server is too slow" in refusal(server, target, limits=limits)
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
    assert message.startswith(f"{tmp_path}/absent/part: No such file or directory; the cache directory")
