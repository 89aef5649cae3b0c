"""A process that uses the store as the command and `create` do: ``python -m tests.system.images.builder JOB``.

JOB is JSON. It is a process of its own because building changes the mount namespace, and because the tests kill it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osprovider.config.model import BootstrapBuild, Image, Layout, Repository, Variant
from osprovider.errors import OsproviderError, Terminated
from osprovider.images.store import Store
from osprovider.log import reporter
from osprovider.paths import Directories
from osprovider.signals import terminable

__all__ = ["Job", "directories", "run_job", "start_job"]

_CHECKOUT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Job:
    """What to ask of the store.

    Attributes:
        base: holds the cache directory and the run directory.
        name: the image's.
        build: fields of `BootstrapBuild`.
        filesystem: the root's type.
        force: build, though it is there; otherwise the template is opened.
        cache: the cache directory, where it is another one.
    """

    base: str
    name: str = "test"
    build: Mapping[str, Any] = field(default_factory=dict)
    filesystem: str = "ext4"
    force: bool = False
    cache: str | None = None


def directories(base: Path, cache: str | None = None) -> Directories:
    """Directories of a test's own."""
    return Directories(base / "etc", Path(cache) if cache else base / "cache", base / "run", base / "share")


def start_job(
    job: Job, *, prefix: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a process for `job`, with a prefix such as ``unshare --uts`` before it."""
    fields = {name: getattr(job, name) for name in Job.__slots__}
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "tests.system.images.builder", json.dumps(fields)],
        cwd=_CHECKOUT,
        env={**os.environ, **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_job(
    job: Job, *, prefix: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a process for `job` to its end. Standard output is the manifest as JSON, and the inode of the template."""
    process = start_job(job, prefix=prefix, environ=environ)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def _build(fields: Mapping[str, Any]) -> BootstrapBuild:
    """A build of what JSON made of its fields."""
    values: dict[str, Any] = {name: tuple(it) if isinstance(it, list) else it for name, it in fields.items()}
    values["repositories"] = {name: Repository(**each) for name, each in fields.get("repositories", {}).items()}
    return BootstrapBuild(**values)


def _main(text: str) -> int:
    job = Job(**json.loads(text))
    store = Store(directories(Path(job.base), job.cache))
    image = Image(build=_build({"suite": "bookworm", **job.build}))
    variant = Variant(layout=Layout(filesystem=job.filesystem))  # type: ignore[arg-type]
    try:
        with terminable():
            if job.force:
                store.build(job.name, image, variant, force=True)
            with store.opened(job.name, image, variant) as template:
                sys.stdout.write(json.dumps([str(template.path), os.fstat(template.fd).st_ino]))
    except (OsproviderError, Terminated) as error:
        reporter.error(str(error))
        return getattr(error, "exit_code", 1)
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
