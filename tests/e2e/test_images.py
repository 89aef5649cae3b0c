"""Instances of images that others made, added by a real Ganeti: from a tar, a dump and a disk of a cloud image.

All three are made of the same system, and boot side by side; what was seen of them is looked at.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.cluster import GATEWAY, NETWORK, Cluster, cluster, instance_name
from tests.e2e.console import recorded
from tests.e2e.observation import Observation, observe_in_cluster
from tests.e2e.tree import NodeTree
from tests.support.image_files import (
    Published,
    make_cloud_disk,
    make_dump,
    make_qcow2,
    make_system,
    make_tar,
    template_image,
)
from tests.support.qemu import EMULATED_ARGS

_DISK_SIZE = 3 << 30
_IMAGES = "/srv/images"
_CONFIG = "/etc/ganeti/osprovider"
_FILES = {"tar": "own.tar.zst", "dump": "old-x86_64-root.dump", "disk": "own.qcow2"}
_SOURCES = {**_FILES, "dump": "old-x86_64"}  # as instance-image named its images
_ADDRESSES = {"tar": 31, "dump": 32, "disk": 33}
_ISSUED_KEY_TYPES = {"ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"}

KINDS = list(_FILES)


@dataclass(frozen=True, slots=True)
class Lab:
    """A cluster of one node that has the images, and what the system was published with."""

    cluster: Cluster
    directory: Path
    published: Published


@pytest.fixture(scope="module")
def lab(own_directory: Path, node_tree: NodeTree) -> Iterator[Lab]:
    with cluster(node_tree, own_directory, nodes=1) as running:
        root = running.master.container.root
        images = root / _IMAGES.lstrip("/")
        images.mkdir()
        template = template_image(root / "var/cache/ganeti-osprovider")
        system, raw = own_directory / "own.img", own_directory / "own.raw"
        published = make_system(template, system)
        make_tar(system, images / _FILES["tar"], "zstd", "-q", "-3")
        make_dump(system, images / _FILES["dump"], "-z1")
        make_cloud_disk(system, published, raw)
        make_qcow2(raw, images / _FILES["disk"], compressed=True)
        raw.unlink()
        _configure(running, images, node_tree.public_key)
        yield Lab(running, own_directory, published)


def _configure(running: Cluster, images: Path, public_key: str) -> None:
    """Write what a site writes: the network, who may log in, images by path and checksum, variants of them."""
    node = running.master
    node.write(
        f"{_CONFIG}/subnets/lab.yaml", f"networks: [{NETWORK}]\ngateways: [{GATEWAY}]\nmatch: {{link: gnt-br0}}\n"
    )
    node.write(
        f"{_CONFIG}/defaults.yaml",
        f'users:\n  root:\n    ssh_authorized_keys: ["{public_key}"]\n'
        f"boot: {{kernel_args: [quiet, {', '.join(EMULATED_ARGS)}]}}\n",
    )
    for kind, name in _FILES.items():
        digest = hashlib.sha256((images / name).read_bytes()).hexdigest()
        definition = f"source: {_IMAGES}/{_SOURCES[kind]}\nchecksums: sha256:{digest}\n"
        node.write(f"{_CONFIG}/images/own-{kind}.yaml", definition)
        node.write(f"{_CONFIG}/variants/own-{kind}.yaml", f"image: own-{kind}\n")
    node.write(f"{_CONFIG}/variants.list", "".join(f"own-{kind}\n" for kind in KINDS))


@pytest.fixture(scope="module")
def seen(lab: Lab) -> Mapping[str, Observation]:
    """What each instance is like."""
    node = lab.cluster.master
    with ExitStack() as stack:
        consoles = {}
        for kind in KINDS:
            name, address = _place(kind)
            log = lab.directory / f"{kind}.log"
            consoles[kind] = stack.enter_context(recorded(node.container, name, log))
            lab.cluster.run(
                [
                    *["gnt-instance", "add", "-t", "file", "-s", f"{_DISK_SIZE >> 30}G"],
                    *["-o", f"osprovider+own-{kind}"],
                    *["-n", node.name, "--no-ip-check", "--no-name-check", "--net", f"0:ip={address}"],
                    *["-B", "memory=512M", name],
                ]
            )
        return {kind: observe_in_cluster(lab.cluster, *_place(kind), consoles[kind]) for kind in KINDS}


def _place(kind: str) -> tuple[str, str]:
    """The name and the address of the instance of an image."""
    return instance_name(_ADDRESSES[kind]), f"198.51.100.{_ADDRESSES[kind]}"


@pytest.mark.parametrize("kind", KINDS)
def test_it_boots_and_answers_at_its_address(seen: Mapping[str, Observation], kind: str) -> None:
    guest = seen[kind]
    name, address = _place(kind)
    assert guest.fqdn == name
    assert guest.addresses == {f"{address}/25"}
    assert guest.routes == {"default": GATEWAY, NETWORK: None}
    assert guest.state == "running", guest.failed_units


@pytest.mark.parametrize("kind", KINDS)
def test_its_root_fills_the_disk(seen: Mapping[str, Observation], kind: str) -> None:
    guest = seen[kind]
    assert guest.root.size > _DISK_SIZE - (512 << 20)
    assert guest.root_size > 0.9 * guest.root.size


@pytest.mark.parametrize("kind", KINDS)
def test_its_fstab_names_what_it_has(seen: Mapping[str, Observation], kind: str) -> None:
    guest = seen[kind]
    named = {each.lower() for each in re.findall(r"^(?:PART)?UUID=\"?([\w-]+)", guest.fstab, re.MULTILINE)}
    there = {each.lower() for volume in guest.volumes for each in (volume.uuid, volume.partition_uuid) if each}
    assert named
    assert named <= there


@pytest.mark.parametrize("kind", KINDS)
def test_it_notes_which_image_it_is_of(seen: Mapping[str, Observation], kind: str) -> None:
    assert f"own-{kind}" in seen[kind].note.values()


def test_no_two_of_them_share_an_identity(seen: Mapping[str, Observation]) -> None:
    for kind, guest in seen.items():
        others = set().union(*(other.identity for name, other in seen.items() if name != kind))
        assert not guest.identity & others
        assert re.fullmatch(r"[0-9a-f]{32}", guest.machine_id)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_published_identity_is_left(lab: Lab, seen: Mapping[str, Observation], kind: str) -> None:
    guest = seen[kind]
    assert not guest.identity & lab.published.identity
    assert set(guest.host_keys) == _ISSUED_KEY_TYPES


def test_the_disk_keeps_its_own_table(seen: Mapping[str, Observation]) -> None:
    """Three partitions with the root last on the disk, as they were published, and not a table of ours."""
    parts = [volume for volume in seen["disk"].volumes if volume.kind == "part"]
    assert sorted(volume.size for volume in parts)[:2] == [3 << 20, 124 << 20]
    assert len(parts) == 3
