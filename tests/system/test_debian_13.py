"""The Debian package on a node of Debian 13: built on Debian 12, run by Debian 13's Python and with its tools.

The tree is made once a run, with image files and an image of packages, which needs the mirrors; each process that tests
has a node of its own above it. What is on an instance's disk is judged by this machine's tools.

Not for: what does not depend on the node's release, or whether instances boot.
"""

from __future__ import annotations

import dataclasses
import os
import random
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from osprovider.ganeti.request import Script
from osprovider.ganeti.synthesis import synthesize
from tests.support.containers import Container, Overlay, container, run_in_tree
from tests.support.debian import lay_debian
from tests.support.leftovers import no_leftovers
from tests.support.mounts import mounted
from tests.support.runs import locked
from tests.support.small_system import lay_out, make_image
from tests.support.template import with_appliance
from tests.support.trees import Entry, populate, read_tree, scratch_filesystem
from tests.system.create.cloud import BIOS_BOOT, ESP, MIB, ROOT
from tests.system.create.published import Installed, verify_gpt
from tests.system.create.site import Outcome, Site, root_of, sfdisk
from tools.memory_limit import memory_limit

DEFINITION = "/usr/share/ganeti/os/osprovider"

# What osprovider recommends for what is done here; of the kernels, the larger one, which nodes of metal have.
RECOMMENDED = [
    "btrfs-progs",
    "dump",
    "extlinux",
    "fuse2fs",
    "linux-image-amd64",
    "python3-guestfs",
    "qemu-utils",
    "xfsprogs",
]
FILES = {"tar": "small.tar.zst", "dump": "small.dump", "disk": "small.qcow2"}


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant: its image, what else it says, and the partitions that an instance of it has."""

    image: str
    text: str
    partitions: Sequence[str]


VARIANTS = {
    "packages": Variant("packages", "boot: {loader: none}\n", [ROOT]),
    "tar": Variant("tar", "", [BIOS_BOOT, ESP, ROOT]),
    "dump": Variant("dump", "layout: {firmware: [bios]}\nboot: {loader: extlinux}\n", [BIOS_BOOT, ROOT]),
    "disk": Variant("disk", "", [ROOT]),
    "xfs": Variant("tar", "layout: {filesystem: xfs}\n", [BIOS_BOOT, ESP, ROOT]),
    "btrfs": Variant("tar", "layout: {filesystem: btrfs}\n", [BIOS_BOOT, ESP, ROOT]),
}

DEFAULTS = "network: {renderer: none}\nhooks: {disable: [users, ssh]}\n"
PACKAGES = "build: {suite: trixie, components: [main], packages: [e2fsprogs]}\n"
FEATURES = {
    "tar": (["dumpe2fs", "-h"], r"Filesystem features:.*"),
    "xfs": (["xfs_db", "-r", "-c", "sb 0", "-c", "print"], r"features_\w+ = .*"),
    "btrfs": (["btrfs", "inspect-internal", "dump-super"], r"(?:compat|compat_ro|incompat)_flags\s.*"),
}

# What the release's own mkfs.ext4 has and Debian 12's has not, and small files in inodes that have room for all of
# their extended attributes.
DUMPED = ("-O", "orphan_file,metadata_csum_seed,inline_data", "-I", "512")
DUMP = """\
image=$1
shift
loop=$(losetup --read-only --show --find "/srv/$image.img") && {
    dump -0 -q "$@" "$loop"
    status=$?
    losetup --detach "$loop" && exit $status
}
"""

_IMPORT = """\
import importlib, pkgutil, osprovider
for module in pkgutil.walk_packages(osprovider.__path__, "osprovider."):
    importlib.import_module(module.name)
    print(module.name)
"""


@dataclass(frozen=True, slots=True)
class Node:
    """A node without a network.

    Attributes:
        container: what it runs in.
        srv: its ``/srv``, as far as it was written to, as this machine sees it.
    """

    container: Container
    srv: Path

    def create(self, name: str, *, within: Sequence[str] = (), isolation: str = "auto") -> Installed:
        """Install an instance of a variant; as `Container.run`."""
        file = f"{name}-{isolation}.raw"
        self.container.run(["truncate", "--size=1G", f"/srv/{file}"])
        # Its UUID, from which others come, is its own: no kernel has two file systems of one UUID at once.
        made_up = synthesize(f"{name}.example.org", name, disks=[{"path": f"/srv/{file}"}], nics=[{}])
        environment = made_up | {"INSTANCE_UUID": str(uuid.uuid4()), "OSP_ISOLATION": isolation}
        create = [f"{DEFINITION}/create"]
        done = self.container.run(create, environment=environment, check=False, within=within, timeout=1800)
        assert done.returncode == 0, done.stderr
        disk = self.srv / file
        return Installed(disk, Outcome(0, done.stderr), sfdisk(disk), self.srv.parents[1])


@pytest.fixture(scope="session")
def tree(run_directory: Path, package: Path) -> Path:
    """A minimal Debian 13 with the package, installed by apt with what it depends on, and images."""
    root = run_directory / "debian-13"
    with locked(run_directory / "debian-13.lock"):
        if not root.exists():
            begun = run_directory / "debian-13.begun"
            shutil.rmtree(begun, ignore_errors=True)  # of a process whose attempt failed
            lay_debian(begun, RECOMMENDED, [package], suite="trixie")
            for name, text in _site(Path("/srv")).items():
                (begun / "etc/ganeti/osprovider" / name).write_text(text)
            for name in FILES.values():
                make_image(name.partition(".")[2], begun / "srv")
            run_in_tree(begun, ["osprovider", "image", "build", "packages"], timeout=1800)
            begun.rename(root)
    return root


def _site(images: Path) -> dict[str, str]:
    """What a site writes that has its image files there."""
    return {
        "defaults.yaml": DEFAULTS,
        "images/packages.yaml": PACKAGES,
        **{f"images/{kind}.yaml": f"source: {images / name}\n" for kind, name in FILES.items()},
        **{f"variants/{name}.yaml": f"image: {variant.image}\n{variant.text}" for name, variant in VARIANTS.items()},
    }


@pytest.fixture(scope="module")
def node(tree: Path, run_directory: Path) -> Iterator[Node]:
    """A node of that Debian."""
    directory = Path(tempfile.mkdtemp(prefix="debian-13-", dir=run_directory))
    with no_leftovers([directory]), container(Overlay(tree, directory), "node13") as running:
        yield Node(running, directory / "upper/srv")


def test_the_package_is_installed_with_all_that_it_depends_on(node: Node, package: Path) -> None:
    run, version = node.container.run, package.name.split("_")[1]
    assert "\nVERSION_CODENAME=trixie\n" in run(["cat", "/etc/os-release"]).stdout
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", "osprovider"]
    assert run(query).stdout == f"installed {version}"
    run(["apt-get", "check"])
    assert run(["dpkg", "--audit"]).stdout == ""
    assert run(["osprovider", "--version"]).stdout == f"osprovider, version {version}\n"
    assert "no problem found" in run(["osprovider", "check"]).stdout


def test_the_os_scripts_work(node: Node) -> None:
    run = node.container.run
    for script in Script:
        assert run([f"{DEFINITION}/{script.value}", "--help"]).stdout.startswith(f"usage: {script.value}")
    environment = synthesize("", "packages", script=Script.VERIFY, parameters={"wipe": "everything"})
    wrong = run([f"{DEFINITION}/verify", "parameters"], environment=environment, check=False)
    assert wrong.returncode == 2
    assert "OSP_WIPE" in wrong.stderr


def test_every_module_is_compiled_and_imported_without_a_warning(node: Node) -> None:
    """Its Python warns of what a later one will not take."""
    afresh = ["env", "PYTHONPYCACHEPREFIX=/tmp/compiled", "python3", "-W", "error", "-c", _IMPORT]
    imported = node.container.run(afresh).stdout.split()
    assert {"osprovider.cli.main", "osprovider.deploy", "osprovider.images.store"} <= set(imported)


@pytest.mark.parametrize(("name", "isolation"), [*((name, "auto") for name in VARIANTS), ("disk", "appliance")])
def test_an_image_is_prepared_and_an_instance_of_it_is_sound(node: Node, name: str, isolation: str) -> None:
    built = node.container.run(["osprovider", "image", "build", VARIANTS[name].image])
    assert " is ready: " in built.stdout
    assert "libguestfs" not in built.stderr
    installed = node.create(name, isolation=isolation)
    assert ("libguestfs appliance" in installed.outcome.said) == (isolation == "appliance")
    assert installed.outcome.said.count("store the guest's changes") == (name == "disk" and isolation == "auto")
    assert "warning: " not in installed.outcome.said  # such as that the appliance's kernel wants more memory
    verify_gpt(installed.disk)
    parts = installed.partitions
    assert [part["type"] for part in parts.values()] == VARIANTS[name].partitions
    root = installed.partition(max(parts))
    assert root.size_bytes > 700 * MIB
    assert root.text("/etc/hostname") == f"{name}.example.org\n"
    assert name == "disk" or f"UUID={root.uuid} / " in root.text("/etc/fstab")
    assert (root.tree / "boot/extlinux/ldlinux.sys").exists() == (name == "dump")
    for number, part in parts.items():
        if part["type"] == ESP:
            assert (installed.partition(number).tree / "EFI/BOOT/BOOTX64.EFI").stat().st_size > 0


def test_a_disk_image_is_prepared_and_installed_with_200_mib_of_memory(node: Node) -> None:
    """Page cache and all, emulated; the appliance of this release's kernel is the largest part."""
    with memory_limit(200) as limited:
        prepared = node.container.run(["osprovider", "image", "build", "--force", "disk"], within=limited, timeout=1800)
        said = prepared.stderr + node.create("disk", within=limited).outcome.said
        assert "start the libguestfs appliance" not in said
        said += node.create("disk", within=limited, isolation="appliance").outcome.said
    assert said.count("start the libguestfs appliance") == 1
    assert "warning: " not in said


@pytest.fixture(scope="module")
def dumped(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Mapping[bytes, Entry]:
    """What is beneath ``/srv`` in the file system ``/srv/dumped.img`` of the node."""
    base = tmp_path_factory.mktemp("dumped")
    with scratch_filesystem(base / "dumped.img", base / "root", 128 * MIB, *DUMPED) as root:
        lay_out(root)
        (root / "srv").mkdir()
        populate(root / "srv", longest=254)
        _add_files_of_long_runs(root / "srv")
        tree = _comparable(root / "srv")
    shutil.copy(base / "dumped.img", node.container.root / "srv/dumped.img")
    return tree


def _add_files_of_long_runs(root: Path) -> None:
    """A file for each kind of run that dump(8) writes, and one of more than a header has room for."""
    large = random.Random(13).randbytes(17 * MIB)
    (root / "large").write_bytes(large)
    for name, begin, end in (("sparse", 5 * MIB, 40 * MIB), ("begin", 1 << 30, 0), ("end", 0, 1 << 30)):
        with (root / name).open("wb") as file:
            file.seek(begin)
            file.write(large[: 700 << 10])
            file.truncate(file.tell() + end)
    with (root / "many-runs").open("wb") as file:
        for number in range(600):
            file.seek(8192 * number)
            file.write(large[:4096])
    (root / "larger").write_bytes(large[:5000])
    subprocess.run(["fallocate", "--keep-size", "--length=3M", root / "larger"], check=True)
    for number in range(300):
        (root / f"small-{number}").write_bytes(large[: number * 10])


def _comparable(root: Path) -> Mapping[bytes, Entry]:
    """A tree without what the release's restore(8) loses: parts of seconds, times before 1970, capabilities."""
    return {
        name: dataclasses.replace(
            entry,
            mtime_ns=entry.mtime_ns // 10**9 % (1 << 32),
            xattrs=tuple(pair for pair in entry.xattrs if pair[0] != "security.capability"),
        )
        for name, entry in read_tree(root).items()
    }


@pytest.mark.parametrize("options", [(), ("-z",), ("-j",)])
def test_a_dump_of_its_own_becomes_an_image(
    node: Node, dumped: Mapping[bytes, Entry], tmp_path: Path, options: Sequence[str]
) -> None:
    name = "dump" + "".join(options)
    node.container.run(["sh", "-c", DUMP, "sh", "dumped", *options, "-f", f"/srv/{name}.own"])
    site = node.container.root / "etc/ganeti/osprovider"
    (site / f"images/{name}.own.yaml").write_text(f"source: /srv/{name}.own\n")
    (site / f"variants/{name}.own.yaml").write_text(f"image: {name}.own\n{VARIANTS['dump'].text}")
    built = node.container.run(["osprovider", "image", "build", f"{name}.own"])
    assert " is ready: " in built.stdout
    assert "libguestfs" not in built.stderr
    assert f"{name}.own: this node's restore loses the capabilities of files, here of 1; " in built.stderr
    with root_of(node.create(f"{name}.own").disk) as root, mounted(root, tmp_path / "root") as tree:
        assert _comparable(tree / "srv") == dumped


def test_a_dump_whose_attributes_its_restore_mixes_up_is_refused(node: Node, tmp_path: Path) -> None:
    """It gives a directory's to another one."""
    with scratch_filesystem(tmp_path / "mixed.img", tmp_path / "root", 32 * MIB) as root:
        (root / "both").mkdir()
        for name, size in (("user.small", 1), ("user.large", 300)):  # in its inode, and in a block
            os.setxattr(root / "both", name, b"x" * size)
    shutil.copy(tmp_path / "mixed.img", node.container.root / "srv/mixed.img")
    node.container.run(["sh", "-c", DUMP, "sh", "mixed", "-f", "/srv/mixed.own"])
    definition = node.container.root / "etc/ganeti/osprovider/images/mixed.own.yaml"
    definition.write_text("source: /srv/mixed.own\n")
    refused = node.container.run(["osprovider", "image", "build", "mixed.own"], check=False)
    assert refused.returncode == 1
    assert "has extended attributes in two places, which this node's restore mixes up: make a tar" in refused.stderr


@pytest.mark.parametrize("name", FEATURES)
def test_a_file_system_has_the_features_that_debian_12_gives_it(
    node: Node, tree: Path, run_directory: Path, tmp_path: Path, name: str
) -> None:
    """The defaults of the tools differ, and guests need not know what the newer ones make."""
    site = Site(tmp_path, with_appliance(tmp_path / "cache", run_directory))
    for path, text in _site(tree / "srv").items():
        site.write(path, text)
    here = site.disk(1024 * MIB)
    site.created(here, variant=name)
    assert _features(node.create(name).disk, name) == _features(here, name)


def _features(disk: Path, name: str) -> list[str]:
    words, pattern = FEATURES[name]
    with root_of(disk) as root:
        said = subprocess.run([*words, root], capture_output=True, text=True, check=True).stdout
    found = re.findall(pattern, said)
    assert found
    return found
