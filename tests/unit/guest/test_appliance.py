"""What an appliance needs is looked for before anything is written."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from osprovider.errors import ApplianceError, GuestError
from osprovider.guest import appliance as module
from osprovider.guest import appliance_memory
from osprovider.guest.appliance import require_appliance


def test_a_node_without_libguestfs_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(appliance_memory, "_KERNELS", tmp_path)
    with pytest.raises(
        GuestError, match=r"needs python3-guestfs and a kernel in /boot .*: install it, or set isolation"
    ):
        require_appliance()


@pytest.mark.parametrize(
    ("stage", "answer", "is_the_nodes_fault"),
    [
        ("launched", {"error": "QEMU does not start it"}, True),
        ("mounted", {"error": "its xfs cannot be mounted at /"}, False),
        ("mounted", None, True),
        ("done", {"error": "it lost what was written to the guest"}, False),
    ],
)
def test_a_fault_of_the_guests_is_told_from_one_of_the_nodes(
    stage: str, answer: dict[str, str] | None, is_the_nodes_fault: bool
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, tempfile.TemporaryFile() as log, subprocess.Popen(["true"]) as process:
        theirs.send(json.dumps({"step": "boot"}).encode())
        if answer is not None:
            theirs.send(json.dumps(answer).encode())
        theirs.close()
        with pytest.raises(GuestError) as caught:
            module._Server(process, ours, log, "/dev/loop0")._expect(stage, 10)
    assert isinstance(caught.value, ApplianceError) == is_the_nodes_fault


def test_an_appliance_that_hangs_is_the_nodes_fault() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        ours,
        theirs,
        tempfile.TemporaryFile() as log,
        subprocess.Popen(["true"]) as process,
        pytest.raises(ApplianceError, match="is not mounted after 0 s"),
    ):
        module._Server(process, ours, log, "/dev/loop0")._expect("mounted", 0.05)
