"""The hook identity: nothing in the guest says that it is somebody else."""

from __future__ import annotations

import dataclasses
import json
import stat
from pathlib import Path
from typing import Any

from tests.support.boot_context import run_hook
from tests.unit.hooks.trees import context, snapshot, write_tree

SEED = "/var/lib/systemd/random-seed"


def note(root: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((root / "etc/osprovider.json").read_text())
    return said


def machine_id(root: Path, uuid: str = "3f2a1c5e-0d4b-4c6a-9e8f-1a2b3c4d5e6f") -> str:
    made = context()
    run_hook("identity", root, dataclasses.replace(made, instance=dataclasses.replace(made.instance, uuid=uuid)))
    return (root / "etc/machine-id").read_text()


def test_the_machine_id_is_valid_and_read_only(tmp_path: Path) -> None:
    written = machine_id(tmp_path)
    assert len(written) == 33
    assert int(written, 16) != 0
    assert written == written.lower()
    assert stat.S_IMODE((tmp_path / "etc/machine-id").stat().st_mode) == 0o444


def test_a_reinstalled_instance_keeps_its_machine_id_and_another_has_another(tmp_path: Path) -> None:
    first = machine_id(tmp_path / write_tree(tmp_path, {"/a/etc": None}) / "a")
    assert machine_id(write_tree(tmp_path, {"/b/etc": None}) / "b") == first
    assert machine_id(tmp_path / "b", "4f2a1c5e-0d4b-4c6a-9e8f-1a2b3c4d5e6f") != first


def test_the_machine_id_does_not_show_the_instances_uuid(tmp_path: Path) -> None:
    assert "3f2a1c5e" not in machine_id(tmp_path)


def test_dbus_and_systemd_have_one_machine_id(tmp_path: Path) -> None:
    write_tree(tmp_path, {"/var/lib/dbus/machine-id": "another's\n"})
    machine_id(tmp_path)
    assert str((tmp_path / "var/lib/dbus/machine-id").readlink()) == "/etc/machine-id"


def test_the_random_seed_is_new_each_time_and_roots_alone(tmp_path: Path) -> None:
    write_tree(tmp_path, {SEED: "the image's seed"})
    machine_id(tmp_path)
    first = (tmp_path / SEED[1:]).read_bytes()
    machine_id(tmp_path)
    assert len(first) == 512
    assert (tmp_path / SEED[1:]).read_bytes() != first
    assert stat.S_IMODE((tmp_path / SEED[1:]).stat().st_mode) == 0o600


def test_leases_and_states_of_another_are_gone(tmp_path: Path) -> None:
    gone = [
        "/var/lib/dhcp/dhclient.eth0.leases",
        "/var/lib/dhcpcd/duid",
        "/var/lib/wicked/duid.xml",
        "/var/lib/NetworkManager/secret_key",
        "/var/lib/systemd/credential.secret",
        "/var/lib/cloud/instances/i-1/sem/config_ssh",
        "/etc/udev/rules.d/70-persistent-net.rules",
    ]
    kept = "/etc/udev/rules.d/70-site.rules"
    write_tree(tmp_path, {**dict.fromkeys(gone, "x"), "/var/lib/cloud/instance": "-> instances/i-1", kept: "x"})
    machine_id(tmp_path)
    left = snapshot(tmp_path)
    assert not {*gone, "/var/lib/cloud/instance", "/var/lib/cloud/instances"} & left.keys()
    assert kept in left


def test_an_iscsi_initiator_gets_a_name_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "etc/iscsi/initiatorname.iscsi"
    write_tree(tmp_path, {"/etc/iscsi/initiatorname.iscsi": "# why\nInitiatorName=iqn.1993-08.org.debian:01:abc\n"})
    own = machine_id(tmp_path)[:12]
    assert path.read_text() == f"# why\nInitiatorName=iqn.1993-08.org.debian:01:{own}\n"


def test_the_note_says_where_the_system_came_from_without_secrets(tmp_path: Path) -> None:
    made = context()
    assert made.manifest is not None
    definition = {"build": {"mirror": "http://me:secret@mirror.example.org/debian", "packages": ["sudo"]}}
    manifest = dataclasses.replace(made.manifest, definition=definition, tools={"mmdebstrap": "1.3.5"})
    run_hook("identity", tmp_path, dataclasses.replace(made, manifest=manifest))
    said = note(tmp_path)
    assert said["os"] == "osprovider+debian-12"
    assert (said["image"], said["image_key"]) == ("debian-12", "0" * 64)
    assert said["image_definition"]["build"]["mirror"] == "http://mirror.example.org/debian"
    assert said["image_tools"] == {"mmdebstrap": "1.3.5"}
    assert stat.S_IMODE((tmp_path / "etc/osprovider.json").stat().st_mode) == 0o644


def test_a_second_run_keeps_the_time_of_the_installation(tmp_path: Path) -> None:
    machine_id(tmp_path)
    path = tmp_path / "etc/osprovider.json"
    path.write_text(json.dumps({**note(tmp_path), "installed": "2026-01-01T00:00:00Z"}))
    machine_id(tmp_path)
    assert note(tmp_path)["installed"] == "2026-01-01T00:00:00Z"


def test_another_installations_note_is_replaced(tmp_path: Path) -> None:
    for old in ('{"image_key": "1", "installed": "2026-01-01T00:00:00Z"}', "[]", "no JSON"):
        write_tree(tmp_path, {"/etc/osprovider.json": old})
        machine_id(tmp_path)
        assert note(tmp_path)["installed"] > "2026-01-01T00:00:00Z"
