"""Types and style are part of what is tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_CHECKOUT = Path(__file__).resolve().parents[2]
# Hooks have no suffix, so that mypy has to be told of each.
_HOOKS = sorted(str(path) for path in (_CHECKOUT / "hooks").iterdir())


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["ruff", "check", "."], id="ruff check"),
        pytest.param(["ruff", "format", "--check", "."], id="ruff format"),
        pytest.param(["mypy"], id="mypy"),
        pytest.param(["mypy", "--scripts-are-modules", *_HOOKS], id="mypy of hooks"),
    ],
)
def test_style(words: list[str], tmp_path: Path) -> None:
    if words[0] == "mypy":  # its cache is not for two at once
        words = [*words, f"--cache-dir={tmp_path}"]
    done = subprocess.run([sys.executable, "-m", *words], cwd=_CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
