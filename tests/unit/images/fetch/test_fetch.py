"""Fetching from servers that cannot be relied on: what comes is whole, or an error says why it is not."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from osprovider.errors import ImageError
from osprovider.images.sources.addresses import shown_url
from osprovider.images.sources.fetch import Fetched, Fetcher
from tests.support.http_server import Handler, Page, Server, cut, proxying, redirect, serving, stall, status
from tests.unit.images.fetch.fetching import (
    CONTENT,
    DIGEST,
    IMPATIENT,
    LIMIT,
    QUICK,
    assert_whole,
    fetch,
    left,
    refusal,
)

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


def test_a_redirect_may_have_letters_as_they_are(server: Server, target: Path) -> None:
    server.pages["/f%C3%BCr"] = server.pages["/image"]
    server.pages["/old"] = Page(always=redirect("/für".encode().decode("latin-1")))
    assert_whole(fetch(server, target, "/old"), target)


def test_a_redirect_without_an_end_is_followed_before_that(server: Server, target: Path) -> None:
    """Of which all was kept in memory."""

    def redirect_and_stall(handler: Handler, _: Page) -> None:
        handler.head(302, Page(etag=None), 1000, Location="/image")
        handler.site.closing.wait()

    server.pages["/old"] = Page(always=redirect_and_stall)
    assert_whole(fetch(server, target, "/old", limits=IMPATIENT), target)


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
    assert "what answers speaks no HTTP, 3 times in a row" in refusal(server, target)


def test_lengths_that_contradict_each_other_are_said(server: Server, target: Path) -> None:
    def answer(handler: Handler, page: Page) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "5")
        handler.send_header("Content-Length", str(len(page.content)))
        handler.end_headers()
        handler.hang_up()

    server.pages["/image"].always = answer
    assert "the server's answer contradicts itself: content-length contained multiple" in refusal(server, target)


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
