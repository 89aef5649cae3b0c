"""Files that are written for others: whole under their name, whoever else writes them."""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from osprovider.errors import ImageError
from osprovider.images.newfile import new_file


@pytest.mark.parametrize("force", [False, True])
def test_what_another_has_just_finished_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, force: bool
) -> None:
    """It was opened by the name that it had until then, and is locked by nobody any more."""
    output, lock = tmp_path / "disk.raw", fcntl.flock
    with ExitStack() as other:
        fd, _ = other.enter_context(new_file(output, force=force))
        os.write(fd, b"whole")

        def lock_too_late(fd: int, how: int) -> None:
            monkeypatch.setattr(fcntl, "flock", lock)
            other.close()
            lock(fd, how)

        monkeypatch.setattr(fcntl, "flock", lock_too_late)
        with pytest.raises(ImageError, match="another osprovider is writing it"), new_file(output, force=force):
            pass
    assert output.read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["disk.raw"]
