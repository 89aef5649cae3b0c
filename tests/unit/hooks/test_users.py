"""The hook users: accounts as useradd would make them, by editing files."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from osprovider.config.model import User, Variant
from osprovider.errors import HookError
from tests.support.boot_context import run_hook
from tests.unit.hooks.trees import changes, check_golden, context, snapshot, write_tree

HASH = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7"
TODAY = "20000"  # days since 1970: 2024-10-04
GUEST: dict[str, str | None] = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "/etc/shadow": "root::19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n",
    "/etc/group": "root:x:0:\nadm:x:4:\nsudo:x:27:\nusers:x:100:\nnogroup:x:65534:\n",
    "/etc/gshadow": "root:*::\nadm:*::\nsudo:*::\nusers:*::\nnogroup:*::\n",
    "/etc/subuid": "",
    "/etc/subgid": "",
    "/etc/login.defs": "# UID_MIN 5\nUID_MIN\t\t 1000\nUID_MAX 60000\nGID_MIN 1000\nGID_MAX 60000\nHOME_MODE 0750\n",
    "/etc/skel/.profile": "# profile\n",
    "/etc/skel/.config/app/settings": "colour=no\n",
    "/etc/sudoers.d/README": "",
    "/home": None,
    "/bin/bash": "",
    "/bin/zsh": "",
}
TWO = {
    "root": User(password_hash=HASH),
    "admin": User(  # noqa: S604
        password_hash=HASH,
        groups=("sudo", "adm"),
        shell="/bin/zsh",
        comment="The Admin",
        sudo="nopasswd",
    ),
    "jo.doe": User(groups=("users",), sudo="password"),
}


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: float(TODAY) * 86400 + 1)


def run(root: Path, users: dict[str, User]) -> None:
    run_hook("users", root, context(variant=Variant(users=users)))


def account(root: Path, file: str, name: str) -> list[str]:
    (line,) = [line for line in (root / "etc" / file).read_text().splitlines() if line.startswith(f"{name}:")]
    return line.split(":")


def test_accounts_are_made_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    write_tree(tmp_path, GUEST)
    before = snapshot(tmp_path)
    run(tmp_path, TWO)
    after = snapshot(tmp_path)
    check_golden("users", changes(before, after))
    run(tmp_path, TWO)
    assert snapshot(tmp_path) == after


@pytest.mark.parametrize("users", [{}, {"root": User()}])
def test_roots_password_is_locked_unless_a_hash_is_given(tmp_path: Path, users: dict[str, User]) -> None:
    write_tree(tmp_path, GUEST)
    run(tmp_path, users)
    assert account(tmp_path, "shadow", "root")[1:3] == ["*", TODAY]


def test_an_unchanged_password_keeps_its_date(tmp_path: Path) -> None:
    write_tree(tmp_path, {**GUEST, "/etc/shadow": f"root:{HASH}:19000:0:99999:7:::\n"})
    run(tmp_path, {"root": User(password_hash=HASH)})
    assert account(tmp_path, "shadow", "root")[2] == "19000"


def test_a_user_who_is_there_is_kept_and_brought_in_line(tmp_path: Path) -> None:
    files = {
        **GUEST,
        "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nadmin:x:1234:100:Old:/srv/admin:/bin/sh\n",
        "/etc/group": "sudo:x:27:other\nadm:x:4:admin\nusers:x:100:\n",
    }
    write_tree(tmp_path, files)
    run(tmp_path, {"admin": User(groups=("sudo",))})
    assert account(tmp_path, "passwd", "admin") == ["admin", "x", "1234", "100", "Old", "/srv/admin", "/bin/bash"]
    assert account(tmp_path, "group", "sudo")[3] == "other,admin"
    assert account(tmp_path, "group", "adm")[3] == "admin"
    assert not (tmp_path / "srv").exists()


def test_numbers_follow_the_highest_and_a_group_of_the_name_is_used(tmp_path: Path) -> None:
    files = {
        **GUEST,
        "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\none:x:1007:1007::/home/one:/bin/bash\n",
        "/etc/group": "root:x:0:\nadmin:x:50:\nother:x:1009:\n",
        "/etc/subuid": "one:100000:65536\n",
    }
    write_tree(tmp_path, files)
    run(tmp_path, {"admin": User(), "next": User()})
    assert account(tmp_path, "passwd", "admin")[2:4] == ["1008", "50"]
    assert account(tmp_path, "passwd", "next")[2:4] == ["1009", "1010"]
    assert (tmp_path / "etc/subuid").read_text() == "one:100000:65536\nadmin:165536:65536\nnext:231072:65536\n"


def test_when_the_highest_number_is_taken_the_lowest_free_one_is_used(tmp_path: Path) -> None:
    write_tree(tmp_path, {**GUEST, "/etc/passwd": "root:x:0:0::/root:/bin/bash\na:x:60000:0::/:/bin/sh\n"})
    run(tmp_path, {"admin": User()})
    assert account(tmp_path, "passwd", "admin")[2] == "1000"


def test_no_number_left_is_refused(tmp_path: Path) -> None:
    defs = "UID_MIN 1000\nUID_MAX 1000\n"
    files = {**GUEST, "/etc/login.defs": defs, "/etc/passwd": "root:x:0:0::/root:/bin/bash\na:x:1000:0::/:/bin/sh\n"}
    write_tree(tmp_path, files)
    with pytest.raises(HookError, match=r"/etc/passwd of the guest has no number left between 1000 and 1000"):
        run(tmp_path, {"admin": User()})


def test_lines_that_are_no_accounts_stay_where_they_are(tmp_path: Path) -> None:
    odd = "# mine\nroot:x:0:0:root:/root:/bin/bash\nbroken line\n+::::::\n"
    write_tree(tmp_path, {**GUEST, "/etc/passwd": odd})
    run(tmp_path, {"admin": User()})
    lines = (tmp_path / "etc/passwd").read_text().splitlines()
    assert lines == [*odd.splitlines()[:3], "admin:x:1000:1000::/home/admin:/bin/bash", "+::::::"]


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (User(groups=("docker", "sudo", "kvm")), "users.admin: docker and kvm: the guest has no such group"),
        (User(shell="/bin/fish"), "users.admin.shell /bin/fish is not in the guest"),  # noqa: S604
        (User(sudo="password"), r"users.admin.sudo: the guest has no sudo"),
    ],
)
def test_what_the_guest_lacks_is_refused_and_named(tmp_path: Path, user: User, message: str) -> None:
    write_tree(tmp_path, {path: content for path, content in GUEST.items() if "sudoers" not in path})
    before = snapshot(tmp_path)
    with pytest.raises(HookError, match=message):
        run(tmp_path, {"admin": user})
    assert snapshot(tmp_path) == before


def test_without_bash_the_default_shell_is_what_the_guest_has(tmp_path: Path) -> None:
    files = {path: content for path, content in GUEST.items() if "bash" not in path}
    write_tree(tmp_path, {**files, "/etc/passwd": "root:x:0:0:root:/root:/bin/ash\n"})
    run(tmp_path, {"root": User(), "admin": User()})
    assert account(tmp_path, "passwd", "root")[6] == "/bin/ash"
    assert account(tmp_path, "passwd", "admin")[6] == "/bin/sh"


def test_the_home_of_somebody_who_was_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(tmp_path, {**GUEST, "/home/admin/.profile": "mine"})
    run(tmp_path, {"admin": User()})
    assert (tmp_path / "home/admin/.profile").read_text() == "mine"
    assert "/home/admin is in the guest already" in capsys.readouterr().err


def test_sudo_is_taken_back(tmp_path: Path) -> None:
    write_tree(tmp_path, GUEST)
    run(tmp_path, TWO)
    assert stat.S_IMODE((tmp_path / "etc/sudoers.d/osprovider-jo_doe").stat().st_mode) == 0o440
    run(tmp_path, {**TWO, "jo.doe": User()})
    assert not (tmp_path / "etc/sudoers.d/osprovider-jo_doe").exists()


def test_a_guest_without_accounts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HookError, match="no /etc/passwd and /etc/shadow"):
        run(tmp_path, {})


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    # What Unicode, and str.splitlines(), take for the end of a line must not make an account out of a comment.
    odd = "jo:x:1000:1000:Jo\u2028eve:x:0:0:/:/bin/bash"
    lines = [odd.replace("\u2028", end) for end in ("\u2028", "\x85", "\x0b", "\x0c", "\x1c", "\r")]
    write_tree(tmp_path, GUEST)
    passwd = tmp_path / "etc/passwd"
    with passwd.open("a", newline="") as file:
        file.write("".join(f"{line}\n" for line in lines))
    before = passwd.read_bytes().split(b"\n")
    run(tmp_path, TWO)
    after = passwd.read_bytes().split(b"\n")
    assert [line for line in before if line not in after] == []
    assert len(after) == len(before) + 2


def test_a_last_line_without_an_end_gets_one(tmp_path: Path) -> None:
    write_tree(tmp_path, {**GUEST, "/etc/passwd": "root:x:0:0:root:/root:/bin/bash"})
    run(tmp_path, TWO)
    assert account(tmp_path, "passwd", "admin")[2] == "1000"
    assert account(tmp_path, "passwd", "root")[6] == "/bin/bash"


@pytest.mark.parametrize("users", [{}, TWO])
def test_a_guest_without_root_is_refused(tmp_path: Path, users: dict[str, User]) -> None:
    write_tree(tmp_path, {**GUEST, "/etc/passwd": "toor:x:0:0:root:/root:/bin/bash\n"})
    before = snapshot(tmp_path)
    with pytest.raises(HookError, match="no account root in /etc/passwd"):
        run(tmp_path, users)
    assert snapshot(tmp_path) == before


def test_odd_lines_of_subordinate_ids_are_left_alone(tmp_path: Path) -> None:
    odd = "jo:many:65536\nann:100000:65536\n"
    write_tree(tmp_path, {**GUEST, "/etc/subuid": odd})
    run(tmp_path, {"admin": User()})
    assert (tmp_path / "etc/subuid").read_text() == f"{odd}admin:165536:65536\n"


def test_a_link_in_skel_is_not_walked_in_circles(tmp_path: Path) -> None:
    write_tree(tmp_path, {**GUEST, "/etc/skel/a": "-> .", "/etc/skel/b": "-> ../skel"})
    run(tmp_path, {"admin": User()})
    assert {path.name for path in (tmp_path / "home/admin").iterdir()} == {".profile", ".config"}
