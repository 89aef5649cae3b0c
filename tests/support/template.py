"""Templates and the libguestfs appliance, each built once a run and shared by every test that needs it.

A template takes half a minute, the appliance a quarter.

Not for: tests of building itself.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.support.runs import locked

__all__ = ["CHECKOUT", "IMAGE", "copy_cache", "shared_cache", "with_appliance"]

CHECKOUT = Path(__file__).resolve().parents[2]
IMAGE = "debian-12"


def shared_cache(directory: Path, image: str = IMAGE, definition: str | None = None) -> Path:
    """Return a cache directory of osprovider's with the template of an image, built by the first process to ask.

    It has the run's appliance as well.

    Args:
        directory: the run's.
        image: which one.
        definition: of an image that is not shipped, in YAML.
    """
    cache = directory / "cache"
    with locked(directory / "cache.lock"):
        if not (ready := directory / "cache.ready").exists():
            with_appliance(cache, directory)
            environment = {
                "PATH": os.environ["PATH"],
                "OSPROVIDER_CONFIG_DIR": str(config := directory / "cache-config"),
                "OSPROVIDER_CACHE_DIR": str(cache),
                "OSPROVIDER_RUN_DIR": str(directory / "cache-run"),
            }
            if definition is not None:
                (config / "images").mkdir(parents=True, exist_ok=True)
                (config / "images" / f"{image}.yaml").write_text(definition)
            build = [str(CHECKOUT / "tools" / "osprovider"), "image", "build", image]
            done = subprocess.run(build, env=environment, check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-4000:]
            ready.touch()
    return cache


def with_appliance(cache: Path, directory: Path) -> Path:
    """Have a cache, which is made where it is missing, keep its appliance where all of the run do; returns it.

    Args:
        cache: of osprovider's.
        directory: the run's.
    """
    shared = directory / "appliance"
    shared.mkdir(exist_ok=True)
    cache.mkdir(exist_ok=True)
    with suppress(FileExistsError):
        (cache / "appliance").symlink_to(shared)
    return cache


def copy_cache(cache: Path, target: Path, *, link: bool = True) -> Path:
    """Make a cache with what is prepared in another one, and nothing that other processes do there; returns it.

    Args:
        cache: one with the run's appliance, which both have then.
        target: missing.
        link: the templates are the same files, and not to be changed.
    """
    target.mkdir()
    what = [path for name in ("appliance", "history", "sources", "templates") if (path := cache / name).exists()]
    subprocess.run(["cp", "--archive", "--link" if link else "--sparse=always", *what, target], check=True)
    return target
