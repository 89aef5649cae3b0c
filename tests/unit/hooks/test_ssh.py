"""The hook ssh: new host keys of the types that the server reads, and the keys that may log in."""

from __future__ import annotations

import dataclasses
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from osprovider.config.model import User, Variant
from osprovider.errors import HookError
from tests.support.boot_context import run_hook
from tests.unit.hooks.trees import context, snapshot, write_tree

KEYS = ("ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two")
GUEST: dict[str, str | None] = {
    "/usr/sbin/sshd": "",
    "/etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\n#HostKey /etc/ssh/ssh_host_rsa_key\n",
    "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nadmin:x:1000:1001::/home/admin:/bin/bash\n",
    "/root": None,
    "/home/admin": None,
}
TYPES = {"rsa": "3072 (RSA)", "ecdsa": "256 (ECDSA)", "ed25519": "256 (ED25519)"}


def run(root: Path, scratch: Path, users: dict[str, User] | None = None) -> None:
    scratch.mkdir(exist_ok=True)
    for left in scratch.iterdir():
        left.unlink()
    run_hook("ssh", root, dataclasses.replace(context(variant=Variant(users=users or {})), scratch=scratch))


def host_keys(root: Path) -> set[str]:
    return {path.name for path in (root / "etc/ssh").glob("ssh_host_*")}


def test_there_is_a_new_key_of_every_type_and_no_old_one(tmp_path: Path) -> None:
    old = {f"/etc/ssh/ssh_host_{kind}_key{end}": "old" for kind in (*TYPES, "dsa") for end in ("", ".pub", "-cert.pub")}
    root = write_tree(tmp_path / "guest", {**GUEST, **old})
    run(root, tmp_path / "scratch")
    assert host_keys(root) == {f"ssh_host_{kind}_key{end}" for kind in TYPES for end in ("", ".pub")}
    for kind, described in TYPES.items():
        private = root / f"etc/ssh/ssh_host_{kind}_key"
        shown = subprocess.run(
            ["ssh-keygen", "-lf", private], check=True, capture_output=True, text=True
        ).stdout.split()
        assert f"{shown[0]} {shown[-1]}" == described
        assert shown[2] == "root@web1.example.org"
        public = subprocess.run(["ssh-keygen", "-yf", private], check=True, capture_output=True, text=True).stdout
        assert private.with_suffix(".pub").read_text().split()[:2] == public.split()[:2]
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
        assert stat.S_IMODE(private.with_suffix(".pub").stat().st_mode) == 0o644


def test_no_node_is_too_busy_to_make_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making a key always ends, and an instance is not to fail for a minute in which the node stands still."""
    communicate = subprocess.Popen.communicate

    def later_than_any_limit(process: Any, data: Any = None, timeout: float | None = None) -> Any:
        if timeout is not None:
            raise subprocess.TimeoutExpired(process.args, timeout)
        return communicate(process, data)

    monkeypatch.setattr(subprocess.Popen, "communicate", later_than_any_limit)
    root = write_tree(tmp_path / "guest", GUEST)
    run(root, tmp_path / "scratch")
    assert host_keys(root) == {f"ssh_host_{kind}_key{end}" for kind in TYPES for end in ("", ".pub")}


def test_two_instances_share_no_key(tmp_path: Path) -> None:
    publics = []
    for name in ("one", "two"):
        root = write_tree(tmp_path / name, GUEST)
        run(root, tmp_path / "scratch")
        publics += [path.read_text() for path in (root / "etc/ssh").glob("*.pub")]
    assert len(set(publics)) == 6


def test_only_keys_that_the_configuration_names_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dropin = '  hostkey=/etc/ssh/ssh_host_ed25519_key\nHostKey "/etc/keys/host_rsa"\nHostKey /etc/keys/mine\n'
    root = write_tree(tmp_path / "guest", {**GUEST, "/etc/ssh/sshd_config.d/50-site.conf": dropin})
    run(root, tmp_path / "scratch")
    assert host_keys(root) == {"ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"}
    assert (root / "etc/keys/host_rsa.pub").read_text().startswith("ssh-rsa ")
    assert "HostKey /etc/keys/mine of the guest: no telling" in capsys.readouterr().err


def test_where_a_group_reads_the_keys_it_gets_them(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "guest", {**GUEST, "/etc/group": "root:x:0:\nssh_keys:x:999:\n"})
    run(root, tmp_path / "scratch")
    status = (root / "etc/ssh/ssh_host_rsa_key").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o640, 999)


def test_a_guest_without_a_server_gets_no_host_keys(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "guest", {"/etc": None})
    run(root, tmp_path / "scratch")
    assert not (root / "etc/ssh").exists()


def test_authorised_keys_are_the_users_alone_and_those_there_stay(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "guest", {**GUEST, "/root/.ssh/authorized_keys": "ssh-rsa CCCC old\n" + KEYS[0]})
    (root / "root/.ssh").chmod(0o755)
    users = {"root": User(ssh_authorized_keys=KEYS), "admin": User(ssh_authorized_keys=KEYS[:1])}
    for _ in range(2):
        run(root, tmp_path / "scratch", users)
        assert (root / "root/.ssh/authorized_keys").read_text() == "\n".join(["ssh-rsa CCCC old", *KEYS, ""])
        seen = snapshot(root)
        assert seen["/root/.ssh"] == "/ 0700\n"
        assert seen["/home/admin/.ssh"] == "/ 0700 1000:1001\n"
        assert seen["/home/admin/.ssh/authorized_keys"] == f" 0600 1000:1001\n{KEYS[0]}\n"


@pytest.mark.parametrize("link", ["/home/admin/.ssh", "/home/admin/.ssh/authorized_keys"])
def test_keys_are_not_written_through_a_link_of_the_users(tmp_path: Path, link: str) -> None:
    root = write_tree(tmp_path / "guest", {**GUEST, link: "-> /etc"})
    with pytest.raises(HookError, match=f"{link} is a symbolic link in the guest"):
        run(root, tmp_path / "scratch", {"admin": User(ssh_authorized_keys=KEYS)})


def test_keys_of_an_account_that_is_not_there_are_refused(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "guest", GUEST)
    with pytest.raises(HookError, match=r"users.nina: there is no such account in the guest"):
        run(root, tmp_path / "scratch", {"nina": User(ssh_authorized_keys=KEYS)})


def test_keys_that_an_included_file_names_are_replaced(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path / "guest",
        {
            **GUEST,
            "/etc/ssh/sshd_config": 'Include "site/*.conf" /srv/ssh.conf\nInclude /etc/ssh/sshd_config\n',
            "/etc/ssh/site/keys.conf": "HostKey /srv/host_ed25519_key\n",
            "/srv/ssh.conf": "hostkey=/srv/host_rsa_key\n",
            "/srv/host_ed25519_key": "old",
            "/srv/host_rsa_key": "old",
        },
    )
    run(root, tmp_path / "scratch")
    assert {path.name for path in (root / "srv").glob("host_*")} == {
        f"host_{kind}_key{end}" for kind in ("ed25519", "rsa") for end in ("", ".pub")
    }
    assert "old" not in {path.read_text() for path in (root / "srv").glob("host_*_key")}


def test_a_missing_home_is_made_for_its_user_alone(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "guest", GUEST)
    (root / "root").rmdir()
    (root / "home/admin").rmdir()
    users = {name: User(ssh_authorized_keys=KEYS) for name in ("root", "admin")}
    run(root, tmp_path / "scratch", users)
    for home, owner in (("root", (0, 0)), ("home/admin", (1000, 1001))):
        status = (root / home).stat()
        assert (stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid)) == (0o700, owner)


def test_only_a_line_feed_ends_a_key(tmp_path: Path) -> None:
    kept = "ssh-ed25519 CCCC an\u2028ssh-ed25519 DDDD other\x0bone"
    root = write_tree(tmp_path / "guest", {**GUEST, "/root/.ssh/authorized_keys": f"{kept}\n"})
    run(root, tmp_path / "scratch", {"root": User(ssh_authorized_keys=KEYS)})
    assert (root / "root/.ssh/authorized_keys").read_text().split("\n") == [kept, *KEYS, ""]
