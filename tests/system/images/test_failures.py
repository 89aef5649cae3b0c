"""Builds that cannot succeed: one line that names the image, the cause and the way out, and nothing left behind."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from osprovider import linux
from osprovider.config.model import BootstrapBuild, Image, Repository
from osprovider.errors import ImageError
from osprovider.guest.host import HostGuest
from osprovider.images.builder import bootstrap, distributions, requirements
from osprovider.images.recipe import Recipe
from tests.support.http_server import serve, serving
from tests.support.leftovers import no_leftovers
from tests.support.mounts import mounted
from tests.support.openpgp import Keys, making_keys
from tests.support.packages import make_deb, make_repository
from tests.system.images.builder import Job, run_job
from tests.system.images.conftest import shared_template

TOOLS = ("mmdebstrap", "debootstrap")


class _NotFound(BaseHTTPRequestHandler):
    """A web server without files."""

    def do_GET(self) -> None:
        self.send_error(404)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def empty_mirror() -> Iterator[str]:
    """The address of a mirror that answers 404."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _NotFound) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/debian"
        server.shutdown()
        thread.join()


def error_of(base: Path, build: Mapping[str, Any], *, cache: Path | None = None) -> str:
    """The one line that a failing build says last; checks that nothing is left."""
    with no_leftovers([base]):
        done = run_job(Job(str(base), name="bad", build=build, cache=str(cache) if cache else None))
    assert done.returncode == 1
    templates = (cache or base / "cache") / "templates"
    assert not templates.exists() or list(templates.iterdir()) == []
    last = done.stderr.splitlines()[-1]
    assert last.startswith("osprovider: image bad: "), done.stderr
    assert "Traceback" not in done.stderr
    return last


@pytest.mark.parametrize("tool", TOOLS)
def test_a_mirror_that_answers_404(tool: str, empty_mirror: str, tmp_path: Path) -> None:
    line = error_of(tmp_path, {"tool": tool, "mirror": empty_mirror})
    assert f"{empty_mirror} has no suite bookworm: it answers 404" in line
    assert "images/bad.yaml" in line


@pytest.mark.parametrize("tool", TOOLS)
def test_a_mirror_that_cannot_be_reached(tool: str, tmp_path: Path) -> None:
    line = error_of(tmp_path, {"tool": tool, "mirror": "http://127.0.0.1:9/debian"})
    assert "http://127.0.0.1:9/debian cannot be reached" in line
    assert "build.mirror of images/bad.yaml" in line


@pytest.mark.parametrize("tool", TOOLS)
def test_no_network(tool: str, tmp_path: Path) -> None:
    job = Job(str(tmp_path), name="bad", build={"tool": tool})
    with no_leftovers([tmp_path]):
        done = run_job(job, prefix=["unshare", "--net"])
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("osprovider: image bad: ")
    assert "cannot be resolved" in line or "cannot be reached" in line
    assert "images/bad.yaml" in line


@pytest.mark.parametrize("tool", TOOLS)
def test_an_unknown_suite(tool: str, tmp_path: Path) -> None:
    line = error_of(tmp_path, {"tool": tool, "suite": "no-such-suite"})
    assert "has no suite no-such-suite" in line
    assert "build.suite" in line


def test_an_unknown_package(tmp_path: Path) -> None:
    """Either tool lays a base, and apt installs what is named."""
    line = error_of(tmp_path, {"packages": ["no-such-package"]})
    assert "has no package no-such-package in bookworm; correct build.packages of images/bad.yaml" in line


def test_an_excluded_package_that_is_needed(tmp_path: Path) -> None:
    line = error_of(tmp_path, {"packages": ["openssh-server"], "exclude": ["openssh-client"]})
    assert "openssh-server needs openssh-client, which is excluded; correct build.exclude of images/bad.yaml" in line


@pytest.mark.parametrize("tool", TOOLS)
def test_a_proxy_that_refuses(tool: str, tmp_path: Path) -> None:
    with serving() as proxy:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc" / "cache.yaml").write_text(f"proxy: {proxy.url}\n")
        line = error_of(tmp_path, {"tool": tool})
    assert re.search("has no suite bookworm(-[a-z]+)?: it answers 404", line), line  # apt asks for all at once
    asked = {request.path for request in proxy.requests}
    assert asked
    assert all(urlsplit(path).netloc and "/dists/bookworm" in path for path in asked)


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    """Keys named ``ours`` and ``theirs``."""
    with making_keys(tmp_path / "gpg") as made:
        made.make("ours")
        made.make("theirs")
        yield made


def repository(base: Path, url: str, keys: bytes) -> dict[str, Any]:
    """A build with a repository that is trusted for these keys."""
    (base / "etc" / "keys").mkdir(parents=True)
    (base / "etc" / "keys" / "shop.gpg").write_bytes(keys)
    return {"repositories": {"shop": {"url": url, "suite": "stable", "keyring": "shop.gpg"}}}


def test_a_repository_that_somebody_else_signed(keys: Keys, tmp_path: Path) -> None:
    make_repository(tmp_path / "www", "stable", [make_deb(tmp_path, "shop-tools")], keys, "theirs")
    with serve(tmp_path / "www") as url:
        line = error_of(tmp_path, repository(tmp_path, url, keys.export("ours")))
    assert f"what {url} offers is not signed by a key of {tmp_path}/etc/keys/shop.gpg" in line
    assert "build.repositories.shop of images/bad.yaml" in line


def test_a_repositorys_key_does_not_vouch_for_the_archive(keys: Keys, tmp_path: Path) -> None:
    for suite in ("bookworm", "stable"):
        make_repository(tmp_path / suite, suite, [], keys, "theirs")
    with serve(tmp_path) as url:
        build = repository(tmp_path, f"{url}/stable", keys.export("theirs"))
        line = error_of(tmp_path, {**build, "mirror": f"{url}/bookworm", "updates": False, "security": False})
    assert f"what {url}/bookworm offers is not signed by a key of /usr/share/keyrings/debian-archive-key" in line


def test_a_repository_that_answers_404(empty_mirror: str, keys: Keys, tmp_path: Path) -> None:
    line = error_of(tmp_path, repository(tmp_path, empty_mirror, keys.export("ours")))
    assert f"{empty_mirror} has no suite stable: it answers 404; check build.repositories.shop of images/bad" in line


def test_a_mirror_without_security_updates(keys: Keys, tmp_path: Path) -> None:
    make_repository(tmp_path / "www" / "debian", "bookworm", [], keys, "ours")
    (tmp_path / "etc" / "keys").mkdir(parents=True)
    (tmp_path / "etc" / "keys" / "ours.gpg").write_bytes(keys.export("ours"))
    with serve(tmp_path / "www") as url:
        line = error_of(tmp_path, {"mirror": f"{url}/debian", "keyring": "ours.gpg", "updates": False})
    assert f"{url}/debian-security has no suite bookworm-security: it answers 404" in line
    assert "or say build.security: false there" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no OpenPGP keys"),
        (b"keys", "holds no OpenPGP keys"),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!\n-----END PGP PUBLIC KEY BLOCK-----\n", "damaged armour"),
    ],
)
def test_a_key_file_without_keys(content: bytes, message: str, tmp_path: Path) -> None:
    assert f"etc/keys/shop.gpg: {message}" in error_of(tmp_path, repository(tmp_path, "http://[::1]:9", content))


@pytest.mark.parametrize("armour", [False, True])
def test_a_secret_key_does_not_get_into_an_image(armour: bool, keys: Keys, tmp_path: Path) -> None:
    secret = keys.gpg(*(["--armor"] if armour else []), "--export-secret-keys", "<ours@example.org>")
    line = error_of(tmp_path, repository(tmp_path, "http://[::1]:9", secret))
    assert "etc/keys/shop.gpg: holds a secret key" in line


def test_a_package_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "etc" / "debs").mkdir(parents=True)
    (tmp_path / "etc" / "debs" / "a.deb").write_text("hello\n")
    line = error_of(tmp_path, {"debs": ["a.deb"]})
    assert f"{tmp_path}/etc/debs/a.deb: no Debian package: " in line


def test_a_package_file_that_does_not_say_what_it_is_for(tmp_path: Path) -> None:
    """As dpkg-deb does not make it, but reads it."""
    debs, tree = tmp_path / "etc" / "debs", tmp_path / "tree"
    for directory in (debs, tree):
        directory.mkdir(parents=True)
    (tree / "debian-binary").write_text("2.0\n")
    (tree / "control").write_text("Package: own\nVersion: 1\n")
    for name, members in (("control.tar", ["./control"]), ("data.tar", ["--files-from=/dev/null"])):
        subprocess.run(["tar", "--create", f"--file={name}", *members], cwd=tree, check=True)
    subprocess.run(["ar", "rc", debs / "own.deb", "debian-binary", "control.tar", "data.tar"], cwd=tree, check=True)
    line = error_of(tmp_path, {"debs": ["own.deb"]})
    assert f"{debs}/own.deb: does not say its Architecture, as every Debian package does: build it again" in line


def test_a_package_file_of_another_architecture(tmp_path: Path) -> None:
    (tmp_path / "etc" / "debs").mkdir(parents=True)
    deb = make_deb(tmp_path / "etc" / "debs", "other", fields={"Architecture": "arm64"})
    line = error_of(tmp_path, {"debs": [deb.name]})
    assert f"{deb}: is for arm64, and the image for amd64" in line


@pytest.mark.parametrize("said", ["the licence is missing", "curl: (6) Could not resolve host: get.example.org"])
def test_a_packages_script_that_fails(said: str, tmp_path: Path) -> None:
    (tmp_path / "etc" / "debs").mkdir(parents=True)
    postinst = f"#!/bin/sh\necho '{said}' >&2\nexit 3\n"
    deb = make_deb(tmp_path / "etc" / "debs", "broken", postinst=postinst)
    line = error_of(tmp_path, {"debs": [deb.name]})
    assert f"package broken cannot be installed: {said}: installed broken package post-" in line


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("#!/bin/sh\necho 'it is missing' >&2; exit 3\n", "failed: it is missing"),
        ("#!/bin/sh\nexit 3\n", "failed: exit status 3"),
        ("#!/bin/none\n", "failed: chroot: failed to run command"),
    ],
)
def test_a_script_that_fails(script: str, message: str, run_directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "motd"
    path.write_text(script)
    with changeable(shared_template(run_directory, "mmdebstrap").path, tmp_path) as root, opened_guest(root) as guest:
        with pytest.raises(ImageError, match=rf"^image bad: the script {re.escape(str(path))} {message}"):
            bootstrap.run_script("bad", guest, root, path, 1_700_000_000, lambda _: None)
        assert not (root / "run/osprovider-script").exists()


@contextmanager
def changeable(template: Path, base: Path) -> Iterator[Path]:
    """A template's tree that can be changed, while the template stays as it is."""
    for name in ("upper", "work", "root"):
        (base / name).mkdir()
    with mounted(template, base / "lower"):
        options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
        linux.mount("overlay", str(base / "root"), "overlay", linux.MountFlag.NOATIME, options)
        try:
            yield base / "root"
        finally:
            linux.umount(str(base / "root"))


@contextmanager
def opened_guest(root: Path) -> Iterator[HostGuest]:
    """The guest at a path."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield HostGuest(fd, mountpoint=root)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        ({"debs": ("a.deb",)}, r"etc/debs/a\.deb is missing; put it there, or correct build\.debs\[0\] of images/bad"),
        ({"scripts": ("a",)}, r"etc/scripts/a is missing; put it there, or correct build\.scripts\[0\] of images/bad"),
        ({"scripts": ("plain",)}, r"etc/scripts/plain does not say what runs it; begin it with #!/bin/sh"),
        (
            {"repositories": {"shop": Repository(url="http://h.example", suite="x", keyring="a.gpg")}},
            r"etc/keys/a\.gpg is missing; put it there, or correct build\.repositories\.shop\.keyring of images/bad",
        ),
        (
            {"packages": ("nano",), "exclude": ("nano",)},
            "nano is among build.exclude of images/bad.yaml, and the variant",
        ),
    ],
)
def test_what_a_build_names_is_looked_at_before_it_begins(build: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "etc" / "scripts").mkdir(parents=True)
    (tmp_path / "etc" / "scripts" / "plain").write_text("echo hello\n")
    image = Image(build=BootstrapBuild(suite="bookworm", **build))
    with pytest.raises(ImageError, match=f"^image bad: .*{message}"):
        requirements.require_tools(Recipe("bad", image, "ext4", site=tmp_path / "etc"))


def test_the_keys_of_a_distribution_that_are_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keyring = dataclasses.replace(distributions.KEYRINGS["ubuntu"], path=tmp_path / "none.gpg")
    monkeypatch.setitem(distributions.KEYRINGS, "ubuntu", keyring)
    image = Image(build=BootstrapBuild(suite="noble"))
    with pytest.raises(
        ImageError,
        match=r"none\.gpg is missing; apt install ubuntu-keyring \(images\.md has the way for Debian 12, which "
        r"lacks it\), or put the keys into keys/",
    ):
        requirements.require_tools(Recipe("bad", image, "ext4"))


def test_a_tool_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "BASE_ENVIRONMENT", {"PATH": "/nonexistent"})
    with pytest.raises(ImageError, match=r"^image bad: mmdebstrap is not installed; apt install mmdebstrap"):
        requirements.require_tools(Recipe("bad", Image(build=BootstrapBuild(suite="bookworm")), "ext4"))


def test_keys_that_are_not_installed(tmp_path: Path) -> None:
    image = Image(build=BootstrapBuild(suite="bookworm", keyring="none.gpg"))
    with pytest.raises(ImageError, match=r"^image bad: \S+/keys/none\.gpg is missing; put the keys there"):
        requirements.require_tools(Recipe("bad", image, "ext4", site=tmp_path))


@contextmanager
def small_cache(base: Path, size: str) -> Iterator[Path]:
    """A cache directory on a file system of its own."""
    cache = base / "small"
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", cache], check=True)
    try:
        yield cache
    finally:
        subprocess.run(["umount", cache], check=True)


def test_a_cache_directory_that_is_full_from_the_start(tmp_path: Path) -> None:
    with small_cache(tmp_path, "100m") as cache:
        line = error_of(tmp_path, {}, cache=cache)
    assert f"the cache directory {cache} has too little space: 100 MiB are free" in line
    assert "preparing it needs at least 512 MiB" in line


def test_a_cache_directory_that_fills_up(tmp_path: Path) -> None:
    with small_cache(tmp_path, "530m") as cache:
        line = error_of(tmp_path, {"packages": ["linux-image-amd64"]}, cache=cache)
    assert f"the cache directory {cache} has too little space: 530 MiB are free" in line
    assert "preparing it needs more than 530 MiB" in line


def test_a_cache_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    done = run_job(Job(str(tmp_path), name="bad"))
    assert done.returncode == 1
    assert f"the cache directory {tmp_path}/cache has to be writable" in done.stderr.splitlines()[-1]
