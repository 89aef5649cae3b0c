"""Ubuntu's keys on a node of Debian's, got in the way that the documentation tells the operator of one.

They are in place for the processes of a test and nobody else: the machine's own keyrings stay as they are.

Not for: the images; their definitions are shipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osprovider import linux
from tests.support.debian import MORTAL
from tests.support.documents import CHECKOUT, Command, blocks, commands
from tests.support.runs import locked

__all__ = ["ubuntu_keys"]

_KEYRINGS = Path("/usr/share/keyrings")
_IN_PLACE = f'mount --bind "$0" {_KEYRINGS} && exec "$@"'


@contextmanager
def ubuntu_keys(directory: Path) -> Iterator[None]:
    """Have this process, and what it starts, see a node that has Ubuntu's keys.

    Args:
        directory: the run's, which shares them.
    """
    keyrings = _shared_keyrings(directory)
    linux.private_mount_namespace()
    linux.mount(str(keyrings), str(_KEYRINGS), None, linux.MountFlag.BIND)
    try:
        yield
    finally:
        linux.umount(str(_KEYRINGS))


def _shared_keyrings(directory: Path) -> Path:
    """The node's keyrings and Ubuntu's, in a directory; made by the first process of the run to ask."""
    finished = directory / "keyrings"
    with locked(directory / "keyrings.lock"):
        if not finished.exists():
            begun = directory / "keyrings.begun"
            shutil.rmtree(begun, ignore_errors=True)  # of a process whose attempt failed
            shutil.copytree(_KEYRINGS, begun)
            with tempfile.TemporaryDirectory(dir=directory) as place:
                env = {**os.environ, "TMPDIR": place}  # mmdebstrap leaves a directory there where it is killed
                for command in _documented():
                    words = [*MORTAL, "sh", "-c", _IN_PLACE, str(begun), *command.words]
                    done = subprocess.run(words, cwd=place, env=env, check=False, capture_output=True, text=True)
                    assert done.returncode == 0, f"{command}: {done.stderr[-4000:]}"
            begun.rename(finished)
    return finished


def _documented() -> list[Command]:
    """What the operator is told to run."""
    document = CHECKOUT / "docs" / "images.md"
    (block,) = (block for block in blocks(document) if "--include=ubuntu-keyring" in block.text)
    return commands(block)
