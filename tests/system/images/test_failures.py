"""Builds that cannot succeed: one line that names the image, the cause and the way out, and nothing left behind."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from osprovider.config.model import BootstrapBuild, Image
from osprovider.errors import ImageError
from osprovider.images import bootstrap
from osprovider.images.recipe import Recipe
from tests.support.leftovers import no_leftovers
from tests.system.images.builder import Job, run_job

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


@pytest.mark.parametrize("tool", TOOLS)
def test_an_unknown_package(tool: str, tmp_path: Path) -> None:
    line = error_of(tmp_path, {"tool": tool, "packages": ["no-such-package"]})
    assert "has no package no-such-package in bookworm; correct build.packages of images/bad.yaml" in line


def test_a_tool_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "BASE_ENVIRONMENT", {"PATH": "/nonexistent"})
    with pytest.raises(ImageError, match=r"^image bad: mmdebstrap is not installed; apt install mmdebstrap"):
        bootstrap.require_tools(Recipe("bad", Image(build=BootstrapBuild(suite="bookworm")), "ext4"))


def test_keys_that_are_not_installed(tmp_path: Path) -> None:
    image = Image(build=BootstrapBuild(suite="bookworm", keyring="none.gpg"))
    with pytest.raises(ImageError, match=r"^image bad: \S+/keys/none\.gpg is missing; put the keys there"):
        bootstrap.require_tools(Recipe("bad", image, "ext4", site=tmp_path))


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
