"""Templates, each built once a run and shared by every test that needs it: building takes half a minute.

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


def shared_cache(directory: Path, name: str = "cache", image: str = IMAGE, definition: str | None = None) -> Path:
    """Return a cache directory of osprovider's with the template of an image, built by the first process to ask.

    Args:
        directory: the run's.
        name: of the cache in it.
        image: which one.
        definition: of an image that is not shipped, in YAML.
    """
    cache = directory / name
    with locked(directory / f"{name}.lock"):
        if not (ready := directory / f"{name}.ready").exists():  # the appliance may lie in the cache already
            environment = {
                "PATH": os.environ["PATH"],
                "OSPROVIDER_CONFIG_DIR": str(config := directory / f"{name}-config"),
                "OSPROVIDER_CACHE_DIR": str(cache),
                "OSPROVIDER_RUN_DIR": str(directory / f"{name}-run"),
            }
            if definition is not None:
                (config / "images").mkdir(parents=True, exist_ok=True)
                (config / "images" / f"{image}.yaml").write_text(definition)
            build = [str(CHECKOUT / "tools" / "osprovider"), "image", "build", image]
            done = subprocess.run(build, env=environment, check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-4000:]
            ready.touch()
    return cache
