"""What a template holds that was built by mmdebstrap or debootstrap from the real archive."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import zlib
from pathlib import Path

from osprovider.disk import filesystem
from tests.support.mounts import mounted
from tests.system.images.conftest import NODE, Built, shared_template


def installed(tree: Path) -> set[str]:
    """The packages of a tree."""
    listing = subprocess.run(
        ["dpkg-query", f"--root={tree}", "--show", "--showformat=${Package} ${Version} ${db:Status-Status}\n"],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(listing.stdout.splitlines())


def read(tree: Path, path: str) -> str:
    return (tree / path[1:]).read_text()


def test_the_manifest_says_what_the_tree_is(built: Built) -> None:
    manifest = built.manifest
    assert (manifest.distribution.id, manifest.distribution.version_id) == ("debian", "12")
    assert manifest.distribution.codename == "bookworm"
    assert manifest.init == "systemd"
    assert manifest.network_stacks == ("networkd",)
    assert manifest.boot_loaders == ()
    assert manifest.kernels == ()
    assert manifest.built_here
    assert manifest.architecture == "amd64"
    assert set(manifest.tools) == {manifest.image, "osprovider"}  # the image is named after its tool here
    assert manifest.key == built.path.parent.name


def test_every_package_is_installed_and_configured(built: Built, tree: Path) -> None:
    packages = installed(tree)
    assert {"iputils-ping", "openssh-server", "systemd"} <= {line.split()[0] for line in packages}
    assert {line.split()[2] for line in packages} == {"installed"}


def test_both_tools_install_the_same_packages(run_directory: Path, tmp_path: Path) -> None:
    found = []
    for tool in ("mmdebstrap", "debootstrap"):
        with mounted(shared_template(run_directory, tool).path, tmp_path / tool) as tree:
            found.append(installed(tree))
    assert found[0] == found[1]


def test_file_capabilities_survive(tree: Path) -> None:
    assert os.getxattr(tree / "usr/bin/ping", "security.capability")


def test_acls_survive(tree: Path) -> None:
    assert os.getxattr(tree / "var/log/journal", "system.posix_acl_access")


def test_nothing_names_the_node_or_its_proxy(tree: Path) -> None:
    leaks = [
        path
        for top in ("etc", "var", "root", "run", "boot", "opt", "srv")
        for path in (tree / top).rglob("*")
        if path.is_file() and not path.is_symlink() and re.search(rb"leaky", path.read_bytes())
    ]
    assert leaks == []
    assert NODE not in read(tree, "/etc/hosts")


def test_names_are_everybodys(tree: Path) -> None:
    assert read(tree, "/etc/hostname") == "localhost\n"
    assert re.match(r"127\.0\.0\.1\s+localhost\n", read(tree, "/etc/hosts"))


def test_the_nodes_name_servers_are_not_in_the_tree(tree: Path) -> None:
    resolver = tree / "etc/resolv.conf"
    assert not resolver.exists()


def test_the_machine_has_no_identity_yet(tree: Path) -> None:
    assert read(tree, "/etc/machine-id") == ""
    dbus = tree / "var/lib/dbus/machine-id"
    assert not dbus.exists() or dbus.is_symlink()
    assert list((tree / "etc/ssh").glob("ssh_host_*")) == []
    assert not (tree / "var/lib/systemd/random-seed").exists()


def test_nothing_of_the_build_is_left(tree: Path) -> None:
    for path in (
        "usr/sbin/policy-rc.d",
        "etc/apt/apt.conf.d/00mmdebstrap",
        "etc/apt/apt.conf.d/99mmdebstrap",
        "etc/initramfs-tools/conf.d/osprovider",
        "debootstrap",
        "sbin/start-stop-daemon.REAL",
        "usr/sbin/start-stop-daemon.real",
        "var/log/bootstrap.log",
        "var/log/dpkg.log",
    ):
        assert not (tree / path).exists(), path
    assert (
        "Usage: start-stop-daemon"
        in subprocess.run(
            [tree / "sbin/start-stop-daemon", "--help"], check=True, capture_output=True, text=True
        ).stdout
    )
    for place in ("var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "var/lib/apt/lists/*_*", "run/*", "tmp/*"):
        assert [path.name for path in tree.glob(place) if path.name != "lock"] == [], place
    logs = [path for path in (tree / "var/log").rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in logs if path.stat().st_size] == []


def test_apt_finds_updates_and_takes_no_setting_from_the_build(tree: Path) -> None:
    suites = [line.split()[2] for line in read(tree, "/etc/apt/sources.list").splitlines()]
    assert suites == ["bookworm", "bookworm-updates", "bookworm-security"]
    settings = "".join(path.read_text() for path in (tree / "etc/apt/apt.conf.d").iterdir())
    assert not re.search(r"(?i)proxy|install-recommends", settings)


def test_the_usr_directory_is_merged(tree: Path) -> None:
    assert [(tree / name).readlink() for name in ("bin", "sbin", "lib")] == [
        Path("usr/bin"),
        Path("usr/sbin"),
        Path("usr/lib"),
    ]


def test_the_file_system_is_sound_and_as_the_manifest_says(built: Built) -> None:
    subprocess.run(["e2fsck", "-f", "-n", built.path], check=True, capture_output=True)
    superblock = filesystem.read_superblock(built.path)
    said = built.manifest.filesystem
    assert (superblock.type, superblock.uuid, superblock.size_bytes) == (said.type, said.uuid, said.size_bytes)
    assert built.path.stat().st_size == said.size_bytes
    assert stat.S_IMODE(built.path.stat().st_mode) == 0o600
    position = 0
    with built.path.open("rb") as file:
        for extent in built.manifest.extents:
            assert not any(file.read(extent.offset - position)), f"data before {extent.offset}"
            assert zlib.crc32(file.read(extent.length)) == extent.crc32, extent
            position = extent.offset + extent.length
        assert not any(file.read()), f"data after {position}"


def test_the_template_is_small_and_grows(built: Built, tmp_path: Path) -> None:
    said = built.manifest.filesystem
    assert built.manifest.data_bytes < said.used_bytes + (32 << 20)
    copy = tmp_path / "copy"
    shutil.copyfile(built.path, copy)
    os.truncate(copy, 20 << 30)
    filesystem.grow(copy)
    assert filesystem.read_superblock(copy).size_bytes == 20 << 30


def test_each_step_is_told_with_its_time(built: Built) -> None:
    for step in (r"bookworm by \w+: \(\d+ packages\)", "clean:", r"pack: \(.+\)", "digest:", r"checksums: \(.+\)"):
        assert re.search(rf"(?m)^image {built.manifest.image}: {step} [\d.]+ s$", built.log), step
