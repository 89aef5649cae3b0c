"""What an appliance needs is looked for before anything is written."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from osprovider.errors import GuestError
from osprovider.guest import appliance as module
from osprovider.guest.appliance import require_appliance


def test_a_node_without_libguestfs_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(module, "_KERNELS", tmp_path)
    with pytest.raises(
        GuestError, match=r"needs python3-guestfs and a kernel in /boot .*: install it, or set isolation"
    ):
        require_appliance()
