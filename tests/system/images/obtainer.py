"""A process that obtains a source: ``python -m tests.system.images.obtainer JOB``, with JOB as JSON.

A process of its own because the tests kill it, run eight of it, and take its privileges away.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from osprovider.config.model import Image
from osprovider.errors import OsproviderError, Terminated
from osprovider.images.sources.fetch import Fetcher, Limits
from osprovider.images.sources.obtain import Sources
from osprovider.log import reporter
from osprovider.paths import Directories
from osprovider.signals import terminable

__all__ = ["Job", "directories", "start"]

_CHECKOUT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Job:
    """What to ask for.

    Attributes:
        base: holds the configuration, the cache and the run directory.
        source: the definition's.
        checksums: likewise.
        how: as a create does, or as ``image pull`` does.
    """

    base: str
    source: str
    checksums: str | None = None
    how: Literal["obtain", "pull"] = "obtain"


def directories(base: Path) -> Directories:
    """Directories of a test's own."""
    return Directories(base / "etc", base / "cache", base / "run", base / "share")


def start(job: Job, prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start a process for `job`, with a prefix such as ``setpriv`` before it. It prints the digest."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "tests.system.images.obtainer", json.dumps(asdict(job))],
        cwd=_CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _main(text: str) -> int:
    job = Job(**json.loads(text))
    image = Image(source=job.source, checksums=job.checksums)
    limits = Limits(connect=20, idle=60, total=300, attempts=2, pause=0)
    sources = Sources(directories(Path(job.base)), fetcher=Fetcher(limits=limits))
    try:
        with terminable():
            if job.how == "pull":
                with sources.pulled("web", image) as pin:
                    sys.stdout.write(pin.digest)
            else:
                with sources.obtain("web", image) as obtained:
                    sys.stdout.write(obtained.pin.digest)
    except (OsproviderError, Terminated) as error:
        reporter.error(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
