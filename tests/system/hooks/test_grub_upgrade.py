"""What Debian's own maintainer scripts make of the answers that the hook grub gives them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.boot_context import boot_context, run_hook
from tests.system.hooks.debian import Debian

# No disk of this machine's is there for grub-install; that of the image's builder is nowhere.
_PREPARE = """
export DEBIAN_FRONTEND=noninteractive
mount -t tmpfs dev /dev
mknod -m 666 /dev/null c 1 3
"""
_INSTALLED_BY_ITS_BUILDER = """
dpkg --install /root/ucf.deb /root/grub-pc.deb
mkdir -p /boot/grub/i386-pc
echo boot code >/boot/grub/i386-pc/core.img
echo grub-pc grub-pc/install_devices multiselect /dev/disk/by-id/scsi-0QEMU_builder | debconf-set-selections
"""
_UPGRADE = "dpkg --install /root/grub-pc.deb && echo upgraded; cat /boot/grub/i386-pc/core.img"
DATABASE = "var/cache/debconf/config.dat"


@pytest.fixture
def grub_pc(copies: Callable[[], Debian], tmp_path: Path) -> Debian:
    """A Debian with grub-pc, whose GRUB its builder has installed on a disk that the instance does not have."""
    subprocess.run(["apt-get", "-q", "download", "grub-pc", "ucf"], cwd=tmp_path, check=True, capture_output=True)
    debian = copies()
    for name in ("grub-pc", "ucf"):
        (package,) = tmp_path.glob(f"{name}_*.deb")
        _debugfs(debian, f"write {package} /root/{name}.deb")
    debian.run(_PREPARE + _INSTALLED_BY_ITS_BUILDER)
    return debian


def test_an_upgrade_of_grub_pc_fails_with_the_builders_answers_and_not_with_ours(
    grub_pc: Debian, tmp_path: Path
) -> None:
    said = grub_pc.run(_PREPARE + _UPGRADE, check=False)
    assert "upgraded" not in said
    assert "post-installation script subprocess returned error" in said
    tree = tmp_path / "tree"
    (tree / DATABASE).parent.mkdir(parents=True)
    (tree / DATABASE).write_text(grub_pc.run(f"cat /{DATABASE}"))
    run_hook("grub", tree, boot_context())
    _debugfs(grub_pc, f"rm /{DATABASE}")
    _debugfs(grub_pc, f"write {tree / DATABASE} /{DATABASE}")
    said = grub_pc.run(f"{_PREPARE}{_UPGRADE}; debconf-show grub-pc")
    assert "upgraded\nboot code\n" in said
    assert "* grub-pc/install_devices_empty: true\n" in said
    assert [line for line in said.splitlines() if line.startswith("* grub-pc/install_devices:")] != []


def _debugfs(debian: Debian, command: str) -> None:
    done = subprocess.run(["debugfs", "-w", "-R", command, debian.image], check=True, capture_output=True, text=True)
    assert "No such file" not in done.stderr
