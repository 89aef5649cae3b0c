"""Templates that the tests of this directory look into: built once a run and tool, whoever comes first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from osprovider.manifest import Manifest
from tests.support.mounts import mounted
from tests.support.runs import locked
from tests.system.images.builder import Job, run_job

NODE = "leaky-node.example.net"
"""The name of the node that the shared templates are built on."""

PROXY = "http://proxy.leaky.example.net:3128"
"""Its proxy, which does not exist, so that whoever asks it fails."""

# iputils-ping's program has a file capability, systemd gives the journal's directory an ACL, openssh-server makes host
# keys and wants its daemon started.
PACKAGES = ("iputils-ping", "openssh-server", "systemd", "systemd-sysv")


@dataclass(frozen=True, slots=True)
class Built:
    """A template that was built: its files, its manifest and what the build printed."""

    path: Path
    manifest: Manifest
    log: str


@pytest.fixture(scope="session", params=["mmdebstrap", "debootstrap"])
def built(request: pytest.FixtureRequest, run_directory: Path) -> Built:
    """A template of the same definition by each tool."""
    return shared_template(run_directory, request.param)


def shared_template(run_directory: Path, tool: str) -> Built:
    """The run's template by `tool`, built on a node that has a name and a proxy."""
    base = run_directory / "images"
    base.mkdir(exist_ok=True)
    log = base / f"{tool}.log"
    job = Job(str(base), name=tool, build={"tool": tool, "packages": PACKAGES})
    with locked(base / f"{tool}.lock"):
        name_it = f'hostname {NODE}; exec "$@"'
        environ = {"http_proxy": PROXY, "HTTP_PROXY": PROXY, "https_proxy": PROXY, "LEAKY": NODE}
        done = run_job(job, prefix=["unshare", "--uts", "sh", "-c", name_it, "sh"], environ=environ)
        assert done.returncode == 0, done.stderr
        if not log.exists():
            log.write_text(done.stderr)
    path = Path(json.loads(done.stdout)[0])
    return Built(path, Manifest.from_json((path.parent / "manifest.json").read_bytes()), log.read_text())


@pytest.fixture
def tree(built: Built, tmp_path: Path) -> Iterator[Path]:
    """The template's tree, to be read."""
    with mounted(built.path, tmp_path / "tree") as root:
        yield root
