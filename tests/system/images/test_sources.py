"""Sources with signatures, over https, by many processes at once, killed ones, and by the command."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import yaml

from osprovider.config.model import Image
from osprovider.errors import ImageError
from osprovider.images.sources.fetch import Fetcher, Limits
from osprovider.images.sources.obtain import Sources
from tests.support import small_system
from tests.support.http_server import Handler, Page, Server, cut, make_certificate, proxying, redirect, serving, status
from tests.support.leftovers import no_leftovers
from tests.support.openpgp import Keys, making_keys
from tests.system.create.site import Site
from tests.system.images.obtainer import Job, directories, start

CONTENT = random.Random(1).randbytes(8 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Limits(connect=20, idle=20, total=120, attempts=2, pause=0)


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """A directory for a cache of the test's own."""
    with no_leftovers([tmp_path]):
        (tmp_path / "cache").mkdir()
        (tmp_path / "etc" / "keys").mkdir(parents=True)
        yield tmp_path


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        server.pages["/image.qcow2"] = Page(CONTENT)
        yield server


def kept(base: Path) -> list[str]:
    """All that is in the cache, but for the pins."""
    found = (path for path in (base / "cache").rglob("*") if path.is_file())
    return sorted(path.name for path in found if not (path.suffix == ".json" and len(path.stem) == 64))


# -- signatures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Publisher:
    """A server with an image, its list and the list's signature, and the definition of that."""

    base: Path
    server: Server
    keys: Keys
    image: Image

    def publish(
        self, text: str, *, signed: str | None = None, by: str = "publisher", how: str = "--detach-sign"
    ) -> None:
        """Publish a list and the signature of it, or of another text `signed`."""
        path = self.base / "list"
        path.write_text(text if signed is None else signed)
        signature = self.keys.sign(path, by, how=how)
        self.server.pages["/SHA256SUMS"] = Page(text.encode() if how == "--detach-sign" else signature)
        self.server.pages["/SHA256SUMS.sign"] = Page(signature)

    def obtain(self, image: Image | None = None) -> str:
        """Obtain the image; returns how it was verified."""
        sources = Sources(directories(self.base), fetcher=Fetcher(limits=QUICK))
        with sources.obtain("web", image or self.image) as obtained:
            return obtained.pin.verified

    def refusal(self) -> str:
        """Why the image is refused; nothing was fetched, and nothing is kept."""
        with pytest.raises(ImageError) as caught:
            self.obtain()
        assert self.server.asked("/image.qcow2") == []
        assert kept(self.base) == []
        return str(caught.value)


GOOD = f"{'0' * 64}  other.qcow2\n{SHA256}  image.qcow2\n"


@pytest.fixture
def publisher(base: Path, server: Server) -> Iterator[Publisher]:
    with making_keys(base / "gpg") as keys:
        keys.make("publisher")
        (base / "etc/keys/publisher.gpg").write_bytes(keys.export())
        image = Image(
            source=f"{server.url}/image.qcow2",
            checksums="SHA256SUMS",
            signature="SHA256SUMS.sign",
            keyring="publisher.gpg",
        )
        yield Publisher(base, server, keys, image)


def test_a_list_with_a_good_signature_is_held_to(publisher: Publisher) -> None:
    publisher.publish(GOOD)
    assert publisher.obtain() == f"SHA256SUMS, signed by {publisher.keys.fingerprint('publisher')}"
    assert kept(publisher.base) == [SHA256]


def test_a_list_that_is_signed_in_place_is_held_to(publisher: Publisher) -> None:
    publisher.publish(GOOD, how="--clearsign")
    in_place = dataclasses.replace(publisher.image, signature="SHA256SUMS")
    assert publisher.obtain(in_place) == f"SHA256SUMS, signed by {publisher.keys.fingerprint('publisher')}"
    assert len(publisher.server.asked("/SHA256SUMS")) == 1


def test_a_ring_may_lie_anywhere(publisher: Publisher) -> None:
    publisher.publish(GOOD)
    ring = publisher.base / "ring.asc"
    ring.write_bytes(publisher.keys.export(armour=True))
    assert "signed by" in publisher.obtain(dataclasses.replace(publisher.image, keyring=str(ring)))


def test_a_list_and_its_signature_may_be_files_of_this_node(publisher: Publisher) -> None:
    publisher.publish(GOOD)
    for name in ("SHA256SUMS", "SHA256SUMS.sign"):
        (publisher.base / name).write_bytes(publisher.server.pages[f"/{name}"].content)
    (publisher.base / "image.qcow2").write_bytes(CONTENT)
    local = dataclasses.replace(publisher.image, source=str(publisher.base / "image.qcow2"))
    assert "signed by" in publisher.obtain(local)
    assert publisher.server.requests == []


def test_a_list_that_was_changed_after_it_was_signed_is_refused(publisher: Publisher) -> None:
    publisher.publish(GOOD, signed=GOOD.replace("0", "1"))
    assert "SHA256SUMS.sign: the signature is not of this file: it was changed" in publisher.refusal()


def test_a_list_signed_by_somebody_else_is_refused(publisher: Publisher) -> None:
    publisher.keys.make("somebody")
    publisher.publish(GOOD, by="somebody")
    assert f"and {publisher.base}/etc/keys/publisher.gpg has no such key" in publisher.refusal()


def test_a_list_without_its_signature_is_refused(publisher: Publisher) -> None:
    publisher.publish(GOOD)
    publisher.server.pages["/SHA256SUMS.sign"] = Page(always=status(404))
    assert "SHA256SUMS.sign: the server answers 404 Not Found" in publisher.refusal()


def test_a_list_without_the_ring_is_refused(publisher: Publisher) -> None:
    publisher.publish(GOOD)
    (publisher.base / "etc/keys/publisher.gpg").unlink()
    assert "keys/publisher.gpg: no such file or directory; put the publisher's keys there" in publisher.refusal()


def test_a_key_that_was_revoked_since_is_refused(publisher: Publisher) -> None:
    publisher.publish(GOOD)
    publisher.keys.revoke("publisher")
    (publisher.base / "etc/keys/publisher.gpg").write_bytes(publisher.keys.export())
    assert "SHA256SUMS.sign: the key was revoked" in publisher.refusal()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{SHA256}  other.qcow2\n{SHA256}  another.qcow2\n", "image.qcow2 is not among its 2 checksums"),
        (f"{SHA256}  image.qcow2\n{'0' * 64}  image.qcow2\n", "has 2 different sha256 checksums of image.qcow2"),
    ],
)
def test_a_signed_list_that_does_not_say_is_refused(publisher: Publisher, text: str, said: str) -> None:
    publisher.publish(text)
    assert said in publisher.refusal()


def test_nothing_is_kept_of_an_image_that_is_not_the_signed_one(publisher: Publisher) -> None:
    publisher.publish(GOOD)
    publisher.server.pages["/image.qcow2"] = Page(CONTENT[:-1] + b"x")
    with pytest.raises(ImageError, match=r"image\.qcow2: has sha256 "):
        publisher.obtain()
    assert kept(publisher.base) == []


# -- https ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return make_certificate(tmp_path / "certificate")


def fetch(server: Server, base: Path, fetcher: Fetcher) -> None:
    image = Image(source=f"{server.url}/image.qcow2", checksums=f"sha256:{SHA256}")
    with Sources(directories(base), fetcher=fetcher).obtain("web", image):
        pass


def test_a_certificate_that_nobody_vouches_for_is_refused(base: Path, certificate: Path) -> None:
    with serving(certificate) as server:
        server.pages["/image.qcow2"] = Page(CONTENT)
        with pytest.raises(
            ImageError, match=r"image\.qcow2: the server's certificate is not trusted: self-signed certificate; correct"
        ):
            fetch(server, base, Fetcher(limits=QUICK))
        assert server.requests == []
    assert kept(base) == []


def test_a_certificate_of_another_name_is_refused(base: Path, certificate: Path) -> None:
    with serving(certificate) as server:
        server.url = server.url.replace("localhost", "127.0.0.1")
        with pytest.raises(ImageError, match=r"not trusted: hostname '127.0.0.1' doesn't match 'localhost'; correct"):
            fetch(server, base, Fetcher(limits=QUICK, ca_file=certificate))


@pytest.mark.parametrize("by_proxy", [False, True], ids=["directly", "by-proxy"])
def test_a_certificate_that_is_trusted_is_taken(base: Path, certificate: Path, by_proxy: bool) -> None:
    with serving(certificate) as server, proxying() as proxy:
        server.pages["/image.qcow2"] = Page(CONTENT, misdeeds=[cut(1000)])
        fetch(server, base, Fetcher(proxy.url if by_proxy else None, QUICK, ca_file=certificate))
        assert [line.split()[0] for line in proxy.asked] == ["CONNECT"] * 2 * by_proxy
    assert kept(base) == [SHA256]


def test_https_does_not_become_http_on_the_way(base: Path, certificate: Path, server: Server) -> None:
    with serving(certificate) as secure:
        secure.pages["/image.qcow2"] = Page(always=redirect(f"{server.url}/image.qcow2"))
        with pytest.raises(
            ImageError, match=r"redirects to http://127\.0\.0\.1:[0-9]+/image\.qcow2, which is less safe"
        ):
            fetch(secure, base, Fetcher(limits=QUICK, ca_file=certificate))
        server.pages["/up/image.qcow2"] = Page(always=redirect(f"{secure.url}/image.qcow2"))
        server.url += "/up"
        with pytest.raises(ImageError, match="which is less safe"):
            fetch(server, base, Fetcher(limits=QUICK, ca_file=certificate))
    assert server.asked("/image.qcow2") == []


# -- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["obtain", "pull"])
def test_eight_that_need_an_image_fetch_it_once(base: Path, server: Server, how: Literal["obtain", "pull"]) -> None:
    processes = [start(Job(str(base), f"{server.url}/image.qcow2", how=how)) for _ in range(8)]
    results = [(process.communicate(), process.returncode) for process in processes]
    assert [status for _, status in results] == [0] * 8, results
    assert {stdout for (stdout, _), _ in results} == {f"sha256:{SHA256}"}
    unconditional = [request for request in server.requests if "if-none-match" not in request.headers]
    assert len(unconditional) == 1
    assert len(server.requests) == (1 if how == "obtain" else 8)
    assert kept(base) == [SHA256]


def test_eight_that_need_a_file_verify_it_once(base: Path) -> None:
    path = base / "image.qcow2"
    path.write_bytes(CONTENT)
    processes = [start(Job(str(base), str(path), f"sha256:{SHA256}")) for _ in range(8)]
    results = [(process.communicate(), process.returncode) for process in processes]
    assert [status for _, status in results] == [0] * 8, results
    assert sum("image web: verify" in stderr for (_, stderr), _ in results) == 1
    assert kept(base) == []


@dataclass(slots=True)
class Half:
    """A misdeed that sends half of a page, and then waits until the client has gone; `sent` is set between."""

    sent: threading.Event

    def __call__(self, handler: Handler, page: Page) -> None:
        """Answer."""
        handler.head(200, page, len(page.content))
        handler.wfile.write(page.content[: len(page.content) // 2])
        handler.wfile.flush()
        self.sent.set()
        handler.rfile.read(1)
        handler.hang_up()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_the_next_run_goes_on_after_one_that_was_ended(base: Path, server: Server, how: signal.Signals) -> None:
    half = Half(threading.Event())
    server.pages["/image.qcow2"].misdeeds = [half]
    job = Job(str(base), f"{server.url}/image.qcow2", f"sha256:{SHA256}")
    process = start(job)
    assert half.sent.wait(60)
    part = next(iter(_wait_for_part(base)))
    process.send_signal(how)
    process.communicate()
    size = part.stat().st_size
    assert size > 0
    second = start(job)
    stdout, stderr = second.communicate()
    assert second.returncode == 0, stderr
    assert stdout == f"sha256:{SHA256}"
    assert server.requests[-1].headers["range"] == f"bytes={size}-"
    assert kept(base) == [SHA256]


def _wait_for_part(base: Path) -> Iterator[Path]:
    """Wait until something of a download has been written."""
    for _ in range(600):
        yield from (path for path in (base / "cache").rglob("*.part") if path.stat().st_size)
        threading.Event().wait(0.1)
    raise AssertionError("nothing was written")


def test_who_waits_takes_over_from_one_that_was_killed(base: Path, server: Server) -> None:
    half = Half(threading.Event())
    server.pages["/image.qcow2"].misdeeds = [half]
    job = Job(str(base), f"{server.url}/image.qcow2", f"sha256:{SHA256}")
    first = start(job)
    assert half.sent.wait(60)
    next(_wait_for_part(base))
    second = start(job)
    assert second.stderr is not None
    assert second.stderr.readline() == "waiting for another osprovider that fetches image web\n"
    first.kill()
    first.communicate()
    assert second.communicate()[0] == f"sha256:{SHA256}"
    assert "range" in server.requests[-1].headers
    assert kept(base) == [SHA256]


def test_a_disk_that_is_full_is_said_and_nothing_stays(base: Path, server: Server) -> None:
    mount = f'mount -t tmpfs -o size=1m tmpfs {base}/cache && "$@"; status=$?; find {base}/cache -type f; exit $status'
    job = Job(str(base), f"{server.url}/image.qcow2")
    process = start(job, ["unshare", "--mount", "sh", "-c", mount, "sh"])
    stdout, stderr = process.communicate()
    assert process.returncode == 1
    assert stdout == ""
    assert stderr.splitlines()[-1].endswith(
        ".part: no space left on device; the cache directory has to be writable, and not full"
    )


def test_a_file_that_may_not_be_read_is_refused(base: Path) -> None:
    path = base / "image.qcow2"
    path.write_bytes(CONTENT)
    path.chmod(0)
    process = start(Job(str(base), str(path)), ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"])
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert stderr.splitlines()[-1] == f"osprovider: {path}: cannot be read: permission denied"
    assert kept(base) == []


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with no_leftovers([tmp_path]):
        yield Site(tmp_path, tmp_path / "cache")


def test_an_image_is_added_pulled_and_renewed_by_the_command(site: Site, server: Server, tmp_path: Path) -> None:
    _, (tar,) = small_system.make_image("tar.gz", tmp_path)
    digest = hashlib.sha256(tar.read_bytes()).hexdigest()
    server.pages["/small.tar.gz"] = Page(tar.read_bytes(), misdeeds=[cut(100)])
    server.pages["/SHA256SUMS"] = Page(f"{digest}  small.tar.gz\n".encode())
    url = f"{server.url}/small.tar.gz"

    added = site.command("image", "add", url, "--name", "small", "--checksums", "SHA256SUMS")
    assert added.status == 0, added.said
    path = site.config / "images/small.yaml"
    assert yaml.safe_load(path.read_text()) == {"source": url, "checksums": "SHA256SUMS"}
    assert server.requests == []

    pulled = site.command("image", "pull", "small")
    assert pulled.status == 0, pulled.said
    assert "trying again in 1 s" in pulled.said
    assert pulled.last_line.startswith("small is ready: ")
    assert len(server.asked("/small.tar.gz")) == 2
    assert "verify" not in pulled.said  # once more

    again = site.command("image", "pull", "small")
    assert again.status == 0, again.said
    assert "unpack" not in again.said
    assert len(server.asked("/small.tar.gz")) == 2

    server.pages["/SHA256SUMS"] = Page(f"{'0' * 64}  small.tar.gz\n".encode())
    refused = site.command("image", "pull", "small")
    assert refused.status == 1
    assert f"{url}: has sha256 {digest} and should have {'0' * 64}" in refused.last_line
    shown = site.command("image", "show", "small")
    assert f"sha256:{digest}" in shown.said
    assert "verified by  SHA256SUMS" in shown.said


def test_the_proxy_is_the_one_of_the_nodes_cache_yaml(site: Site, server: Server, tmp_path: Path) -> None:
    _, (tar,) = small_system.make_image("tar.gz", tmp_path)
    server.pages["/small.tar.gz"] = Page(tar.read_bytes())
    with proxying() as proxy:
        site.write("cache.yaml", f"proxy: {proxy.url}\n")
        site.write("images/small.yaml", f"source: {server.url}/small.tar.gz\n")
        pulled = site.command("image", "pull", "small")
        assert pulled.status == 0, pulled.said
        assert proxy.asked == [f"GET {server.url}/small.tar.gz HTTP/1.1"]


def test_a_password_in_an_address_is_refused_and_not_said(site: Site) -> None:
    outcome = site.command("image", "add", "https://user:secret@cloud.example.org/image.qcow2", "--name", "web")
    assert outcome.status == 2
    assert "holds a password" in outcome.said
    assert "secret" not in outcome.said
    assert not (site.config / "images").exists() or not list((site.config / "images").iterdir())
