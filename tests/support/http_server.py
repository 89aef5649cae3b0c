"""Web servers on the loopback interface, for what is fetched: one of a directory, and one that misbehaves on purpose.

A page of the second has a list of misdeeds, one for each further request, after which it is served as it should be. A
misdeed is a function that answers a request, or part of it. Whatever they are asked is recorded. A stall lasts until
the server is closed: who waits for its end waits for ever, so tests need no clock.

Not for: anything that is not on this machine.
"""

from __future__ import annotations

import http.client
import http.server
import re
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

__all__ = [
    "Handler",
    "Misdeed",
    "Page",
    "Proxy",
    "Request",
    "Server",
    "cut",
    "drip",
    "endless",
    "ignore_range",
    "lie",
    "make_certificate",
    "proxying",
    "redirect",
    "serve",
    "serving",
    "stall",
    "stall_within",
    "status",
    "trickle",
    "wrong_range",
]

_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Request:
    """What a server was asked: the path with its query, and the headers by their lower-case names."""

    path: str
    headers: Mapping[str, str]


@dataclass(slots=True)
class Page:
    """What a path holds.

    Attributes:
        content: the bytes.
        etag: its validator, quoted as in the header; None for none.
        last_modified: likewise.
        headers: further ones.
        misdeeds: what is done in place of serving it, once each, first to last.
        always: and from then on.
    """

    content: bytes = b""
    etag: str | None = '"1"'
    last_modified: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    misdeeds: list[Misdeed] = field(default_factory=list)
    always: Misdeed | None = None


class Server:
    """A server as tests see it.

    Attributes:
        url: without a slash at its end.
        pages: by path. Others are 404.
        requests: what it was asked, in its order.
        closing: set when stalls end.
    """

    def __init__(self) -> None:
        self.url = ""
        self.pages: dict[str, Page] = {}
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()

    def asked(self, path: str) -> list[Request]:
        """The requests for a path."""
        return [request for request in self.requests if request.path == path]

    def take(self, request: Request) -> tuple[Page | None, Misdeed | None]:
        """Record a request, and return what it is for and what is done to it."""
        with self._lock:
            self.requests.append(request)
            page = self.pages.get(request.path)
            if page is None:
                return None, None
            return page, page.misdeeds.pop(0) if page.misdeeds else page.always


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the requests of a `Server`, which subclasses name."""

    protocol_version = "HTTP/1.1"
    site: Server

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer."""
        page, misdeed = self.site.take(Request(self.path, {key.lower(): self.headers[key] for key in self.headers}))
        with suppress(ConnectionError, ssl.SSLError):
            if page is None:
                status(404)(self, Page())
            else:
                (misdeed or _behave)(self, page)

    def head(self, code: int, page: Page, length: int | None, **headers: str) -> None:
        """Send a status and headers; names of headers with underscores for hyphens."""
        self.send_response(code)
        said = {
            "ETag": page.etag,
            "Last-Modified": page.last_modified,
            **page.headers,
            **{name.replace("_", "-"): value for name, value in headers.items()},
            "Content-Length": None if length is None else str(length),
        }
        for name, value in said.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

    def hang_up(self) -> None:
        """End the connection."""
        self.close_connection = True
        self.wfile.flush()


Misdeed = Callable[[Handler, Page], None]


def _behave(handler: Handler, page: Page) -> None:
    """Serve a page as RFC 9110 has it: conditions (13.2.2), then a range (14.2)."""
    asked = handler.headers
    if "If-None-Match" in asked:
        if page.etag is not None and asked["If-None-Match"] == page.etag:
            handler.head(304, page, None)
            return
    elif page.last_modified is not None and asked["If-Modified-Since"] == page.last_modified:
        handler.head(304, page, None)
        return
    start = _start(handler, page)
    if start is None:
        handler.head(200, page, len(page.content))
        handler.wfile.write(page.content)
    elif start >= len(page.content):
        handler.head(416, page, 0, Content_Range=f"bytes */{len(page.content)}")
    else:
        _send_part(handler, page, start)


def _start(handler: Handler, page: Page) -> int | None:
    """Where the range begins that was asked for; None for all of it."""
    found = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    held = handler.headers.get("If-Range")
    if found is None or (held is not None and held not in {page.etag, page.last_modified}):
        return None
    return int(found[1])


def _send_part(handler: Handler, page: Page, start: int) -> None:
    rest = page.content[start:]
    total = len(page.content)
    handler.head(206, page, len(rest), Content_Range=f"bytes {start}-{total - 1}/{total}")
    handler.wfile.write(rest)


# -- misdeeds ---------------------------------------------------------------------------------------------------------


def status(code: int, **headers: str) -> Misdeed:
    """Answer with a status and an excuse."""

    def do(handler: Handler, page: Page) -> None:
        excuse = b"<html>this is not what you asked for</html>"
        handler.head(code, Page(etag=None), len(excuse), **headers)
        handler.wfile.write(excuse)

    return do


def redirect(place: str, code: int = 302) -> Misdeed:
    """Send on."""
    return status(code, Location=place)


def cut(after: int, *, ranges: bool = True) -> Misdeed:
    """Declare all of what is asked for, send `after` bytes of it, and hang up."""

    def do(handler: Handler, page: Page) -> None:
        start = (_start(handler, page) if ranges else None) or 0
        total = len(page.content)
        if start:
            handler.head(206, page, total - start, Content_Range=f"bytes {start}-{total - 1}/{total}")
        else:
            handler.head(200, page, total)
        handler.wfile.write(page.content[start : start + after])
        handler.hang_up()

    return do


def ignore_range(handler: Handler, page: Page) -> None:
    """Send all of it, whatever was asked for."""
    handler.head(200, page, len(page.content))
    handler.wfile.write(page.content)


def wrong_range(start: int) -> Misdeed:
    """Send the rest from `start` on, wherever it was to begin."""

    def do(handler: Handler, page: Page) -> None:
        _send_part(handler, page, start)

    return do


def lie(declared: int) -> Misdeed:
    """Declare another length than what is sent has, and hang up."""

    def do(handler: Handler, page: Page) -> None:
        handler.head(200, page, declared)
        handler.wfile.write(page.content)
        handler.hang_up()

    return do


def stall(handler: Handler, page: Page) -> None:
    """Say nothing at all."""
    handler.site.closing.wait()
    handler.hang_up()


def stall_within(after: int) -> Misdeed:
    """Send `after` bytes of what is asked for, and then nothing."""

    def do(handler: Handler, page: Page) -> None:
        cut(after)(handler, page)
        handler.site.closing.wait()

    return do


def drip(pause: float) -> Misdeed:
    """Send a byte every `pause` seconds."""

    def do(handler: Handler, page: Page) -> None:
        handler.head(200, page, len(page.content))
        for byte in page.content:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if handler.site.closing.wait(pause):
                break
        handler.hang_up()

    return do


def trickle(begin: bytes, again: bytes) -> Misdeed:
    """Answer `begin`, and then `again` as often as there is somebody who listens."""

    def do(handler: Handler, _: Page) -> None:
        handler.wfile.write(begin)
        with suppress(OSError):
            while not handler.site.closing.wait(0.05):
                handler.wfile.write(again)
        handler.hang_up()

    return do


def endless(handler: Handler, page: Page) -> None:
    """Send zeros for ever, in chunks, without a length."""
    handler.head(200, page, None, Transfer_Encoding="chunked")
    chunk = b"%x\r\n%s\r\n" % (_PIECE, bytes(_PIECE))
    while not handler.site.closing.is_set():
        handler.wfile.write(chunk)


# -- servers ----------------------------------------------------------------------------------------------------------


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Server]:
    """Run a server that misbehaves as its pages say.

    Args:
        certificate: a file with a certificate for ``localhost`` and its key; it speaks https then.
    """
    site = Server()
    handler = type("_Handler", (Handler,), {"site": site})
    with _running(handler, certificate) as port:
        site.url = f"https://localhost:{port}" if certificate else f"http://127.0.0.1:{port}"
        try:
            yield site
        finally:
            site.closing.set()


@contextmanager
def serve(files: Path) -> Iterator[str]:
    """Serve a directory; gives its URL."""

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *words: socketserver._RequestType) -> None:
            super().__init__(*words, directory=str(files))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with _running(Files) as port:
        yield f"http://127.0.0.1:{port}"


@dataclass(slots=True)
class Proxy:
    """A forward proxy: its URL, and the request lines that it was sent, with the ``Proxy-Authorization`` of each."""

    url: str
    asked: list[str] = field(default_factory=list)
    authorization: list[str | None] = field(default_factory=list)


@contextmanager
def proxying() -> Iterator[Proxy]:
    """Run a forward proxy that records what it is asked: absolute URLs, and tunnels (RFC 9110, 9.3.6)."""
    proxy = Proxy("")

    class Forward(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _note(self) -> None:
            proxy.asked.append(self.requestline)
            proxy.authorization.append(self.headers["Proxy-Authorization"])

        def do_GET(self) -> None:
            self._note()
            parts = urlsplit(self.path)
            server = http.client.HTTPConnection(str(parts.hostname), parts.port)
            try:
                sent = {key: value for key, value in self.headers.items() if not key.lower().startswith("proxy-")}
                server.request("GET", parts.path, headers={**sent, "Connection": "close"})
                answer = server.getresponse()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.read())
            finally:
                server.close()

        def do_CONNECT(self) -> None:
            self._note()
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=_pump, args=(server, self.connection))
                back.start()
                _pump(self.connection, server)
                back.join()

    with _running(Forward) as port:
        proxy.url = f"http://127.0.0.1:{port}"
        yield proxy


def make_certificate(path: Path) -> Path:
    """Make a self-signed certificate for ``localhost``, and write it and its key into one file."""
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*words, *names, "-keyout", path, "-out", f"{path}.pem"], check=True, capture_output=True)
    with path.open("ab") as file:
        file.write(Path(f"{path}.pem").read_bytes())
    return path


class _Quiet(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that goes away is none."""


@contextmanager
def _running(handler: type[http.server.BaseHTTPRequestHandler], certificate: Path | None = None) -> Iterator[int]:
    """Run a server; gives its port."""
    with _Quiet(("127.0.0.1", 0), handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # The handshake is the thread's, so that a client that gives it up does not end the server.
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_PIECE):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
