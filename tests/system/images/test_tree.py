"""What is taken out of a tree, and what is noted of it."""

# ruff: noqa: S108 - the temporary directories are the guest's

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from osprovider.guest.host import HostGuest
from osprovider.images.cleaning import clean
from osprovider.images.inspection import inspect, version_key
from osprovider.manifest import Kernel
from tests.support.guests import directory_guest

OS_RELEASE = """\
PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
ID=debian
# a comment
VERSION_ID="12"
VERSION_CODENAME=bookworm
"""


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[HostGuest]:
    """An empty tree at ``tmp_path``."""
    with directory_guest(tmp_path) as guest:
        yield guest


@pytest.mark.parametrize(
    "path",
    [
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/ssh/ssh_host_ed25519_key.pub",
        "/var/cache/apt/archives/libc6_2.36_amd64.deb",
        "/var/cache/apt/archives/partial/libc6_2.36_amd64.deb",
        "/var/cache/apt/pkgcache.bin",
        "/var/lib/apt/lists/mirror.example.org_debian_dists_bookworm_InRelease",
        "/var/lib/systemd/random-seed",
        "/var/log/dpkg.log",
        "/var/log/apt/term.log",
        "/var/log/journal/0123456789abcdef/system.journal",
        "/tmp/.hidden/file",
        "/var/tmp/file",
        "/run/file",
        "/etc/resolv.conf",
    ],
)
def test_what_belongs_to_the_build_is_taken_out(path: str, guest: HostGuest) -> None:
    guest.write(path, "leaky")
    clean(guest)
    assert not guest.exists(path)


@pytest.mark.parametrize("path", ["/etc/ssh/sshd_config", "/etc/apt/apt.conf.d/01proxy", "/run/lock/file"])
def test_what_belongs_to_the_system_stays(path: str, guest: HostGuest) -> None:
    guest.write(path, "content")
    clean(guest)
    assert guest.read(path) == b"content"


def test_directories_and_links_stay(guest: HostGuest, tmp_path: Path) -> None:
    guest.mkdir("/tmp", mode=0o1777)
    guest.write("/usr/share/doc/README", "read me")
    guest.symlink("/usr/share/doc/README", "/var/log/README")
    clean(guest)
    assert (tmp_path / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert guest.read("/var/log/README") == b"read me"


def test_logs_that_scripts_made_are_emptied_and_keep_their_mode(guest: HostGuest, tmp_path: Path) -> None:
    guest.write("/var/log/btmp", "login", mode=0o660, owner=(0, 43))
    clean(guest)
    found = (tmp_path / "var/log/btmp").stat()
    assert (found.st_size, found.st_mode & 0o777, found.st_gid) == (0, 0o660, 43)


def test_the_machine_id_is_empty_and_dbus_follows_it(guest: HostGuest) -> None:
    guest.write("/etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    guest.write("/var/lib/dbus/machine-id", "0123456789abcdef0123456789abcdef\n")
    clean(guest)
    assert guest.read("/etc/machine-id") == b""
    assert guest.is_symlink("/var/lib/dbus/machine-id")


def test_a_resolver_that_a_package_laid_stays(guest: HostGuest) -> None:
    guest.symlink("../run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf")
    clean(guest)
    assert guest.is_symlink("/etc/resolv.conf")


def test_links_out_of_the_tree_lead_nowhere(guest: HostGuest, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "kept.log").write_text("kept")
    guest.symlink(str(outside), "/var/log")
    guest.symlink(str(outside / "kept.log"), "/etc/machine-id")
    clean(guest)
    assert (outside / "kept.log").read_text() == "kept"


def test_further_paths_are_taken_out(guest: HostGuest) -> None:
    guest.write("/usr/sbin/policy-rc.d", "#!/bin/sh\n")
    clean(guest, ["/usr/sbin/policy-rc.d"])
    assert not guest.exists("/usr/sbin/policy-rc.d")


def test_the_distribution_is_as_os_release_says(guest: HostGuest) -> None:
    guest.write("/usr/lib/os-release", OS_RELEASE)
    guest.symlink("../usr/lib/os-release", "/etc/os-release")
    found = inspect(guest).distribution
    assert (found.id, found.version_id, found.codename) == ("debian", "12", "bookworm")
    assert found.pretty_name == "Debian GNU/Linux 12 (bookworm)"


def test_a_tree_of_nobodys_has_the_defaults_of_os_release(guest: HostGuest) -> None:
    facts = inspect(guest)
    assert (facts.distribution.id, facts.distribution.pretty_name) == ("linux", "Linux")
    assert (facts.init, facts.network_stacks, facts.boot_loaders, facts.kernels) == ("none", (), (), ())


def test_systemd_is_known_by_its_link(guest: HostGuest) -> None:
    guest.write("/lib/systemd/systemd", "")
    guest.symlink("/lib/systemd/systemd", "/sbin/init")
    assert inspect(guest).init == "systemd"


def test_another_init_beside_systemds_files_is_known(guest: HostGuest) -> None:
    guest.write("/lib/systemd/systemd", "")
    guest.write("/sbin/init", "")
    assert inspect(guest).init == "sysvinit"


def test_ifupdown_comes_before_networkd(guest: HostGuest) -> None:
    guest.write("/lib/systemd/systemd-networkd", "")
    assert inspect(guest).network_stacks == ("networkd",)
    guest.write("/sbin/ifup", "")
    assert inspect(guest).network_stacks == ("ifupdown", "networkd")


def test_boot_loaders_are_known_by_their_files(guest: HostGuest) -> None:
    guest.mkdir("/usr/lib/grub/x86_64-efi")
    assert inspect(guest).boot_loaders == ("grub-uefi",)
    guest.mkdir("/usr/lib/grub/i386-pc")
    assert inspect(guest).boot_loaders == ("grub-bios", "grub-uefi")


def test_kernels_come_newest_first_with_their_initramfs(guest: HostGuest) -> None:
    for version in ("6.1.0-9-amd64", "6.1.0-56-amd64", "6.12.1-amd64"):
        guest.write(f"/boot/vmlinuz-{version}", "")
    guest.write("/boot/initrd.img-6.1.0-56-amd64", "")
    assert inspect(guest).kernels == (
        Kernel("6.12.1-amd64", "/boot/vmlinuz-6.12.1-amd64", None),
        Kernel("6.1.0-56-amd64", "/boot/vmlinuz-6.1.0-56-amd64", "/boot/initrd.img-6.1.0-56-amd64"),
        Kernel("6.1.0-9-amd64", "/boot/vmlinuz-6.1.0-9-amd64", None),
    )


@pytest.mark.parametrize(
    ("image", "initrd"),
    [
        ("vmlinuz-6.12.5-200.fc41.x86_64", "initramfs-6.12.5-200.fc41.x86_64.img"),
        ("vmlinuz-6.4.0-150600.23-default", "initrd-6.4.0-150600.23-default"),
        ("vmlinuz-linux", "initramfs-linux.img"),
        ("vmlinuz-virt", "initramfs-virt"),
    ],
)
def test_the_initramfs_of_any_distribution_is_found(image: str, initrd: str, guest: HostGuest) -> None:
    for name in (image, initrd):
        guest.write(f"/boot/{name}", "")
    assert inspect(guest).kernels == (Kernel(image.removeprefix("vmlinuz-"), f"/boot/{image}", f"/boot/{initrd}"),)


def test_a_rescue_kernel_is_no_choice_while_there_is_another(guest: HostGuest) -> None:
    for name in ("vmlinuz-0-rescue-0123456789abcdef0123456789abcdef", "vmlinuz-6.12.5-200.fc41.x86_64"):
        guest.write(f"/boot/{name}", "")
    assert [kernel.version for kernel in inspect(guest).kernels] == [
        "6.12.5-200.fc41.x86_64",
        "0-rescue-0123456789abcdef0123456789abcdef",
    ]


def test_a_release_candidate_comes_before_its_release() -> None:
    versions = ["6.12", "6.12~rc7", "6.12-1", "6.2"]
    assert sorted(versions, key=version_key) == ["6.2", "6.12~rc7", "6.12", "6.12-1"]
