"""The shipped image, built once a run and shared by every test that needs it: building takes half a minute.

Not for: tests of building itself.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.runs import locked

__all__ = ["CHECKOUT", "IMAGE", "shared_cache"]

CHECKOUT = Path(__file__).resolve().parents[2]
IMAGE = "debian-12"


def shared_cache(directory: Path) -> Path:
    """Return a cache directory of osprovider's with the template of debian-12, built by the first process to ask.

    Args:
        directory: the run's.
    """
    cache = directory / "cache"
    with locked(directory / "cache.lock"):
        if not (ready := directory / "cache.ready").exists():  # the appliance may lie in the cache already
            environment = {
                "PATH": os.environ["PATH"],
                "OSPROVIDER_CONFIG_DIR": str(directory / "cache-config"),
                "OSPROVIDER_CACHE_DIR": str(cache),
                "OSPROVIDER_RUN_DIR": str(directory / "cache-run"),
            }
            build = [str(CHECKOUT / "tools" / "osprovider"), "image", "build", IMAGE]
            done = subprocess.run(build, env=environment, check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-4000:]
            ready.touch()
    return cache
