"""What the guest protocol promises, kept by both backends, on guests whose owner means harm."""

# ruff: noqa: PTH115, PTH208, PTH211 (what a link says to the letter, and names, is what the system's calls tell)

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from osprovider.errors import GuestError
from osprovider.guest.protocol import Guest
from tests.support.sparse import sparse_file
from tests.system.guest.backends import Root

BEYOND = os.fsdecode(b"caf\xe9")  # a name in Latin-1, as no UTF-8 decodes


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def owner_of(path: Path) -> tuple[int, int]:
    return path.lstat().st_uid, path.lstat().st_gid


# --- room


def test_a_file_for_swap_has_all_its_blocks_and_is_roots_alone(root: Root) -> None:
    (root.path / "elsewhere").write_text("stays\n")
    (root.path / "swap").symlink_to("elsewhere")
    root.guest.allocate("/swap", 3 << 20, head=b"head")
    root.guest.allocate("/below/swap", 1 << 20, written=True)
    status = (root.path / "swap").lstat()
    assert (status.st_size, mode_of(root.path / "swap"), owner_of(root.path / "swap")) == (3 << 20, 0o600, (0, 0))
    assert status.st_blocks * 512 >= 3 << 20
    assert (root.path / "swap").read_bytes() == b"head".ljust(3 << 20, b"\0")
    assert (root.path / "below/swap").read_bytes() == bytes(1 << 20)
    assert (root.path / "elsewhere").read_text() == "stays\n"


def test_without_room_for_all_of_it_nothing_changes(root: Root) -> None:
    (root.path / "swap").write_text("old\n")
    with pytest.raises(GuestError, match="cannot make /swap in the guest: the guest's file system is full"):
        root.guest.allocate("/swap", 1 << 30)
    assert os.listdir(root.path) == ["swap"]
    assert (root.path / "swap").read_text() == "old\n"


# --- links


def test_an_absolute_link_reaches_the_guests_own_file(root: Root) -> None:
    (root.path / "etc").mkdir()
    (root.path / "etc/passwd").write_text("the guest's\n")
    (root.path / "etc/alias").symlink_to("/etc/passwd")
    assert root.guest.read_text("/etc/alias") == "the guest's\n"
    root.guest.write("/etc/alias", "changed\n")
    assert (root.path / "etc/passwd").read_text() == "changed\n"
    assert root.guest.is_symlink("/etc/alias")


def test_climbing_stops_at_the_guests_root(root: Root) -> None:
    (root.path / "etc").mkdir()
    (root.path / "etc/passwd").write_text("the guest's\n")
    (root.path / "etc/climb").symlink_to("../../../../../../etc/passwd")
    assert root.guest.read_text("/etc/climb") == "the guest's\n"
    assert root.guest.read_text("/../../../etc/passwd") == "the guest's\n"
    root.guest.write("/../../fresh", "inside")
    assert (root.path / "fresh").read_text() == "inside"


def test_a_directory_that_links_out_leads_to_the_guests_own(root: Root, outside: Path) -> None:
    (root.path / "etc").symlink_to(outside)
    assert not root.guest.exists("/etc/secret")
    root.guest.write("/etc/secret", "harm")
    root.guest.mkdir("/etc/below")
    root.guest.symlink("harm", "/etc/link")
    assert root.guest.is_symlink("/etc")
    inside = root.path / str(outside).lstrip("/")
    assert (inside / "secret").read_text() == "harm"
    assert sorted(root.guest.glob("/etc/*")) == ["/etc/below", "/etc/link", "/etc/secret"]
    root.guest.remove("/etc/secret")
    root.guest.chmod("/etc/below", 0o700)
    assert not (inside / "secret").exists()
    assert mode_of(inside / "below") == 0o700


def test_a_file_that_links_out_is_not_changed(root: Root, outside: Path) -> None:
    (root.path / "hostname").symlink_to(outside / "secret")
    with pytest.raises(GuestError, match="no such file"):
        root.guest.read("/hostname")
    with pytest.raises(GuestError, match="no such file"):
        root.guest.chmod("/hostname", 0o777)
    with pytest.raises(GuestError, match="no such file"):
        root.guest.chown("/hostname", 1, 1)
    root.guest.write("/hostname", "web1\n")
    assert (root.path / str(outside / "secret").lstrip("/")).read_text() == "web1\n"


def test_links_that_go_in_circles_are_told(root: Root) -> None:
    (root.path / "a").symlink_to("b")
    (root.path / "b").symlink_to("/a")
    (root.path / "self").symlink_to("self/below")
    for path in ("/a", "/self", "/self/x"):
        assert not root.guest.exists(path)
        assert not root.guest.is_directory(path)
        for action in (
            partial(root.guest.read, path),
            partial(root.guest.write, path, ""),
            partial(root.guest.mkdir, path),
        ):
            with pytest.raises(GuestError, match="symbolic links"):
                action()
    assert root.guest.is_symlink("/a")
    root.guest.remove("/a")
    assert not root.guest.is_symlink("/a")


def test_a_dangling_link_is_written_through_and_stays(root: Root) -> None:
    (root.path / "etc").mkdir()
    (root.path / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    assert not root.guest.exists("/etc/resolv.conf")
    assert root.guest.is_symlink("/etc/resolv.conf")
    root.guest.write("/etc/resolv.conf", "nameserver 198.51.100.53\n")
    assert (root.path / "etc/resolv.conf").readlink() == Path("../run/systemd/resolve/stub-resolv.conf")
    assert (root.path / "run/systemd/resolve/stub-resolv.conf").read_text() == "nameserver 198.51.100.53\n"
    assert mode_of(root.path / "run/systemd/resolve") == 0o755


def test_a_parent_that_is_a_dangling_link_is_made_where_it_points(root: Root) -> None:
    (root.path / "var").mkdir()
    (root.path / "var/run").symlink_to("/run/../run/here")
    root.guest.write("/var/run/network/interfaces", "lo\n")
    assert (root.path / "run/here/network/interfaces").read_text() == "lo\n"
    assert root.guest.is_symlink("/var/run")


def test_the_links_of_proc_are_no_way_out(root: Root, outside: Path) -> None:
    (root.path / "door").symlink_to(f"/proc/self/cwd{outside}/secret")
    assert not root.guest.exists("/door")
    root.guest.write("/door", "harm")
    assert (root.path / f"proc/self/cwd{outside}/secret").read_text() == "harm"


# --- what is no regular file


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_character_device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero


def make_block_device(path: Path) -> None:
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 0))


def make_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


@pytest.mark.parametrize("make", [make_fifo, make_character_device, make_block_device, make_socket])
def test_a_special_file_is_neither_opened_nor_replaced_but_can_be_removed(
    root: Root, make: Callable[[Path], None]
) -> None:
    make(root.path / "hostname")
    before = (root.path / "hostname").lstat()
    assert root.guest.exists("/hostname")
    assert not root.guest.is_directory("/hostname")
    with pytest.raises(GuestError, match=r"/hostname .* not a regular file"):
        root.guest.read("/hostname")
    with pytest.raises(GuestError, match=r"/hostname .* not a regular file"):
        root.guest.write("/hostname", "web1")
    after = (root.path / "hostname").lstat()
    assert (after.st_ino, after.st_mode, after.st_rdev) == (before.st_ino, before.st_mode, before.st_rdev)
    root.guest.chmod("/hostname", 0o640)
    root.guest.chown("/hostname", 3, 4)
    assert (mode_of(root.path / "hostname"), owner_of(root.path / "hostname")) == (0o640, (3, 4))
    root.guest.remove("/hostname")
    assert not root.guest.exists("/hostname")


def test_a_directory_in_a_files_place_is_told_and_left(root: Root) -> None:
    (root.path / "etc/hostname").mkdir(parents=True)
    (root.path / "etc/hostname/kept").touch()
    for action in (
        partial(root.guest.read, "/etc/hostname"),
        partial(root.guest.write, "/etc/hostname", "web1"),
        partial(root.guest.write, "/etc/hostname/", "web1"),
        partial(root.guest.symlink, "x", "/etc/hostname"),
    ):
        with pytest.raises(GuestError, match=r"/etc/hostname.*is a directory"):
            action()
    assert sorted(os.listdir(root.path / "etc")) == ["hostname"]
    assert (root.path / "etc/hostname/kept").exists()


def test_a_file_in_a_directorys_place_is_told_and_left(root: Root) -> None:
    (root.path / "etc").write_text("a file")
    assert not root.guest.exists("/etc/hostname")
    assert root.guest.glob("/etc/*") == []
    root.guest.remove("/etc/hostname")
    for action in (partial(root.guest.write, "/etc/hostname", "web1"), partial(root.guest.mkdir, "/etc/network")):
        with pytest.raises(GuestError, match=r"/etc/.*not a directory"):
            action()
    with pytest.raises(GuestError, match="a file is in its place"):
        root.guest.mkdir("/etc")
    assert (root.path / "etc").read_text() == "a file"


# --- names and content


def test_names_that_are_not_utf8_come_and_go_unchanged(root: Root) -> None:
    root.guest.write(f"/{BEYOND}/{BEYOND}.conf", "x")
    root.guest.symlink(BEYOND, f"/to-{BEYOND}")
    assert sorted(os.listdir(os.fsencode(root.path))) == [b"caf\xe9", b"to-caf\xe9"]
    assert os.readlink(os.fsencode(root.path / f"to-{BEYOND}")) == b"caf\xe9"
    assert root.guest.glob("/to-*/*") == [f"/to-{BEYOND}/{BEYOND}.conf"]
    assert root.guest.read(f"/to-{BEYOND}/{BEYOND}.conf") == b"x"
    root.guest.remove(f"/{BEYOND}")
    assert root.guest.glob("/*") == [f"/to-{BEYOND}"]


def test_the_longest_name_works_and_a_longer_one_is_told(root: Root) -> None:
    name = "n" * 255
    root.guest.write(f"/{name}", "x")
    assert root.guest.read(f"/{name}") == b"x"
    assert not root.guest.exists(f"/{name}n")
    root.guest.remove(f"/{name}n")
    with pytest.raises(GuestError, match="too long"):
        root.guest.write(f"/{name}n", "x")
    assert os.listdir(root.path) == [name]


def test_an_error_is_one_line_that_names_the_path(root: Root) -> None:
    with pytest.raises(GuestError) as caught:
        root.guest.read(f"/new\nline/{BEYOND}")
    assert str(caught.value) == r"cannot read '/new\nline/caf\udce9' in the guest: no such file or directory"


@pytest.mark.parametrize("path", ["etc/hostname", "", "/etc\0/hostname"])
def test_a_path_that_is_none_of_a_guest_is_refused(root: Root, path: str) -> None:
    guest = root.guest
    for action in (guest.read, guest.exists, guest.is_symlink, guest.glob, guest.remove, guest.mkdir):
        with pytest.raises(GuestError, match="paths are absolute"):
            action(path)


def test_every_byte_comes_back(root: Root) -> None:
    content = bytes(range(256)) * 3
    root.guest.write("/bytes", content)
    assert root.guest.read("/bytes") == content
    root.guest.write("/copy", root.guest.read_text("/bytes"))
    assert (root.path / "copy").read_bytes() == content
    root.guest.write("/bytes", "")
    assert root.guest.read("/bytes") == b""


def test_the_largest_file_is_read_and_a_larger_one_refused(root: Root) -> None:
    content = os.urandom(1 << 20) * 16
    root.guest.write("/large", content)
    assert root.guest.read("/large") == content
    root.guest.write("/larger", content + b"x")
    assert (root.path / "larger").read_bytes() == content + b"x"
    with pytest.raises(GuestError, match="larger than 16 MiB"):
        root.guest.read("/larger")


def test_a_sparse_file_costs_no_memory(root: Root) -> None:
    sparse_file(root.path / "sparse", 1 << 40)
    with pytest.raises(GuestError, match="larger than 16 MiB"):
        root.guest.read("/sparse")
    root.guest.write("/sparse", "small")
    assert root.guest.read("/sparse") == b"small"


# --- writing


def test_a_new_file_is_roots_whatever_the_umask_and_its_directory_say(root: Root) -> None:
    (root.path / "srv").mkdir()
    os.chown(root.path / "srv", 5, 6)
    (root.path / "srv").chmod(0o2775)
    umask = os.umask(0o077)
    try:
        root.guest.write("/srv/a/b/file", "x")
        root.guest.symlink("file", "/srv/a/link")
        root.guest.mkdir("/srv/made", mode=0o1777, owner=(7, 8))
    finally:
        os.umask(umask)
    found = {name: (mode_of(root.path / name), owner_of(root.path / name)) for name in ("srv/a", "srv/a/b", "srv/made")}
    assert found == {"srv/a": (0o755, (0, 0)), "srv/a/b": (0o755, (0, 0)), "srv/made": (0o1777, (7, 8))}
    assert (mode_of(root.path / "srv/a/b/file"), owner_of(root.path / "srv/a/b/file")) == (0o644, (0, 0))
    assert owner_of(root.path / "srv/a/link") == (0, 0)


def test_an_existing_file_keeps_its_mode_and_owner_unless_told_otherwise(root: Root) -> None:
    (root.path / "shadow").write_text("old")
    os.chown(root.path / "shadow", 0, 42)
    (root.path / "shadow").chmod(0o4640)
    root.guest.write("/shadow", "new")
    assert (mode_of(root.path / "shadow"), owner_of(root.path / "shadow")) == (0o4640, (0, 42))
    root.guest.write("/shadow", "new", mode=0o600)
    assert (mode_of(root.path / "shadow"), owner_of(root.path / "shadow")) == (0o600, (0, 42))
    root.guest.write("/shadow", "new", owner=(1, 2))
    assert (mode_of(root.path / "shadow"), owner_of(root.path / "shadow")) == (0o600, (1, 2))


def test_a_write_leaves_the_old_file_whole_for_who_reads_it(root: Root) -> None:
    (root.path / "file").write_text("old")
    (root.path / "other-name").hardlink_to(root.path / "file")
    with (root.path / "file").open() as reader:
        root.guest.write("/file", "new")
        assert reader.read() == "old"
    assert (root.path / "other-name").read_text() == "old"
    assert root.guest.read("/file") == b"new"
    assert sorted(os.listdir(root.path)) == ["file", "other-name"]


def test_what_changed_through_one_name_of_a_hard_link_is_seen_through_the_other(root: Root) -> None:
    (root.path / "a").write_text("x")
    (root.path / "b").hardlink_to(root.path / "a")
    assert root.guest.glob("/*") == ["/a", "/b"]
    root.guest.chmod("/a", 0o600)
    root.guest.write("/b", "y")
    assert mode_of(root.path / "b") == 0o600


def test_a_label_stays_with_the_file(root: Root) -> None:
    file = root.path / "file"
    file.touch()
    os.setxattr(file, "security.selinux", b"system_u:object_r:etc_t:s0\0")
    os.setxattr(file, "user.note", b"a note")
    root.guest.write("/file", "new", mode=0o600, owner=(1, 1))
    assert sorted(os.listxattr(file)) == ["security.selinux", "user.note"]
    assert os.getxattr(file, "security.selinux") == b"system_u:object_r:etc_t:s0\0"
    assert os.getxattr(file, "user.note") == b"a note"


def test_capabilities_go_with_the_content_that_they_were_given_to(prepared: Root) -> None:
    prepared.guest.write("/capable", "new")
    assert os.listxattr(prepared.path / "capable") == []


@pytest.mark.parametrize("name", ["listed", "binary"])
def test_an_attribute_is_kept_or_the_write_refused(prepared: Root, name: str) -> None:
    def attributes() -> dict[str, bytes]:
        return {key: os.getxattr(prepared.path / name, key) for key in os.listxattr(prepared.path / name)}

    names, before, mode = os.listdir(prepared.path), attributes(), mode_of(prepared.path / name)
    refusal = ""
    try:
        prepared.guest.write(f"/{name}", "new")
    except GuestError as error:
        refusal = str(error)
    assert (prepared.path / name).read_text() == ("old" if "cannot be kept in the appliance" in refusal else "new")
    assert (attributes(), mode_of(prepared.path / name)) == (before, mode)
    assert os.listdir(prepared.path) == names


def test_an_access_list_goes_where_a_mode_is_given(prepared: Root) -> None:
    prepared.guest.write("/listed", "new", mode=0o640)
    assert os.listxattr(prepared.path / "listed") == []
    assert mode_of(prepared.path / "listed") == 0o640


def test_a_replaced_file_gets_no_access_list_from_its_directory(prepared: Root) -> None:
    prepared.guest.write("/inheriting/file", "new")
    assert os.listxattr(prepared.path / "inheriting/file") == []
    assert mode_of(prepared.path / "inheriting/file") == 0o644


# --- looking


def test_glob_matches_as_a_shell_does(root: Root) -> None:
    for name in ("b.conf", "a.conf", ".hidden.conf", "c.txt", "[x].conf"):
        (root.path / "etc" / name).parent.mkdir(exist_ok=True)
        (root.path / "etc" / name).touch()
    (root.path / "link").symlink_to("/etc")
    (root.path / "etc/dangling.conf").symlink_to("/nowhere")
    guest = root.guest
    assert guest.glob("/etc/*.conf") == ["/etc/[x].conf", "/etc/a.conf", "/etc/b.conf", "/etc/dangling.conf"]
    assert guest.glob("/etc/.*.conf") == ["/etc/.hidden.conf"]
    assert guest.glob("/l*/[ab].con?") == ["/link/a.conf", "/link/b.conf"]
    assert guest.glob("/etc/[[]x].conf") == ["/etc/[x].conf"]
    assert guest.glob("/*/c.txt") == ["/etc/c.txt", "/link/c.txt"]
    assert guest.glob("/etc/dangling.conf") == ["/etc/dangling.conf"]
    assert guest.glob("/etc/nothing") == guest.glob("/none/*") == guest.glob("/etc/a.conf/*") == []
    assert guest.glob("/") == ["/"]


def test_kinds_are_told_apart(root: Root) -> None:
    (root.path / "directory").mkdir()
    (root.path / "file").touch()
    (root.path / "to-directory").symlink_to("/directory")
    guest = root.guest
    assert [guest.exists(path) for path in ("/", "/file", "/to-directory/.", "/missing", "/file/x")] == [
        *(True, True, True),
        *(False, False),
    ]
    assert [guest.is_directory(path) for path in ("/", "/directory", "/to-directory", "/file", "/missing")] == [
        *(True, True, True),
        *(False, False),
    ]
    assert [guest.is_symlink(path) for path in ("/to-directory", "/to-directory/", "/directory", "/missing")] == [
        *(True, True),
        *(False, False),
    ]


# --- removing, directories, links, modes


def test_removing_a_tree_follows_no_link(root: Root, outside: Path) -> None:
    (root.path / "kept").mkdir()
    (root.path / "kept/file").touch()
    (root.path / "tree/deep/deeper").mkdir(parents=True)
    (root.path / "tree/deep/out").symlink_to(outside)
    (root.path / "tree/deep/beside").symlink_to("/kept")
    os.mkfifo(root.path / "tree/deep/fifo")
    (root.path / "tree/deep").chmod(0)
    root.guest.remove("/tree/")
    assert os.listdir(root.path) == ["kept"]
    (root.path / "link").symlink_to("/kept")
    root.guest.remove("/link/")
    assert os.listdir(root.path) == ["kept"]
    assert (root.path / "kept/file").exists()


def test_removing_what_is_not_there_is_no_error(root: Root) -> None:
    for path in ("/missing", "/missing/below", "/missing/"):
        root.guest.remove(path)


@pytest.mark.parametrize("path", ["/", "/..", "/etc/..", "/etc/."])
def test_the_root_is_not_removed(root: Root, path: str) -> None:
    (root.path / "etc").mkdir()
    with pytest.raises(GuestError, match="cannot remove"):
        root.guest.remove(path)
    assert os.listdir(root.path) == ["etc"]


def test_a_tree_deeper_than_a_path_can_tell_is_removed(prepared: Root) -> None:
    prepared.guest.remove(f"/{'n' * 200}")
    assert prepared.guest.glob("/nnn*") == []
    assert prepared.guest.exists("/inheriting")


def test_an_existing_directory_is_left_as_it_is(root: Root) -> None:
    (root.path / "etc").mkdir()
    os.chown(root.path / "etc", 1, 2)
    (root.path / "etc").chmod(0o700)
    root.guest.mkdir("/etc/", mode=0o755, owner=(3, 4))
    assert (mode_of(root.path / "etc"), owner_of(root.path / "etc")) == (0o700, (1, 2))


def test_a_directory_is_made_where_a_dangling_link_points(root: Root) -> None:
    (root.path / "srv").symlink_to("data/srv")
    root.guest.mkdir("/srv", mode=0o750, owner=(1, 2))
    assert (mode_of(root.path / "data/srv"), owner_of(root.path / "data/srv")) == (0o750, (1, 2))
    assert mode_of(root.path / "data") == 0o755


def test_a_link_takes_the_place_of_a_file_or_link(root: Root) -> None:
    (root.path / "etc").mkdir()
    (root.path / "etc/localtime").write_text("a copy")
    root.guest.symlink("/usr/share/zoneinfo/Etc/UTC", "/etc/localtime")
    root.guest.symlink("../usr/share/zoneinfo/Europe/Berlin", "/etc/localtime")
    assert os.readlink(root.path / "etc/localtime") == "../usr/share/zoneinfo/Europe/Berlin"
    root.guest.symlink("/dev/null", "/etc/systemd/system/x.service")
    assert os.readlink(root.path / "etc/systemd/system/x.service") == "/dev/null"
    assert os.listdir(root.path / "etc/systemd/system") == ["x.service"]


def test_modes_and_owners_are_set_through_links(root: Root) -> None:
    (root.path / "target").touch()
    (root.path / "link").symlink_to("/target")
    root.guest.chown("/link", 12345, 4000000000)
    root.guest.chmod("/link", 0o6711)
    assert (mode_of(root.path / "target"), owner_of(root.path / "target")) == (0o6711, (12345, 4000000000))
    root.guest.chown("/link", 0, 0)
    assert mode_of(root.path / "target") == 0o711  # chown(2) takes set-user-ID away
    assert owner_of(root.path / "link") == (0, 0)


# --- overlays


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """A site's overlay: dot files, links, an executable, a name that is not UTF-8, owners of the site's own."""
    tree = tmp_path / "overlay"
    (tree / "lib/systemd/system").mkdir(parents=True)
    (tree / "lib/systemd/system/x.service").write_text("[Unit]\n")
    (tree / "etc/.hidden").mkdir(parents=True)
    (tree / "etc/.hidden/.file").write_text("dot")
    (tree / "etc/localtime").write_text("a copy")
    (tree / "etc/odd").symlink_to("./there//")
    os.symlink("./there//", tree / "etc/odder")
    (tree / "etc/absolute").symlink_to("/etc/passwd")
    (tree / "usr/local/bin").mkdir(parents=True)
    (tree / "usr/local/bin/tool").write_text("#!/bin/sh\n")
    (tree / "usr/local/bin/tool").chmod(0o755)
    (tree / "etc/secret").write_text("s")
    (tree / "etc/secret").chmod(0o600)
    (tree / f"etc/{BEYOND}").write_text("x")
    (tree / "big").write_bytes(os.urandom(1 << 20) * 17)
    (tree / "etc/private").mkdir()
    (tree / "etc/private").chmod(0o700)
    for path in (tree, *tree.rglob("*")):
        os.chown(path, 1000, 1000, follow_symlinks=False)
    return tree


def test_an_overlay_is_laid_over_the_guest(root: Root, overlay: Path) -> None:
    (root.path / "usr/lib").mkdir(parents=True)
    (root.path / "usr/share").mkdir()
    (root.path / "usr/share/UTC").write_text("the zone")
    (root.path / "lib").symlink_to("usr/lib")
    (root.path / "etc").mkdir(mode=0o711)
    (root.path / "etc/localtime").symlink_to("/usr/share/UTC")
    (root.path / "etc/kept").touch()
    root.guest.copy_in(overlay, "/")
    assert os.readlink(root.path / "lib") == "usr/lib"
    assert (root.path / "usr/lib/systemd/system/x.service").read_text() == "[Unit]\n"
    assert (root.path / "usr/share/UTC").read_text() == "the zone"
    assert (root.path / "etc/localtime").read_text() == "a copy"
    assert (root.path / "etc/.hidden/.file").read_text() == "dot"
    assert os.readlink(root.path / "etc/odder") == "./there//"
    assert os.readlink(root.path / "etc/absolute") == "/etc/passwd"
    assert (root.path / f"etc/{BEYOND}").read_text() == "x"
    assert (root.path / "big").read_bytes() == (overlay / "big").read_bytes()
    assert (root.path / "etc/kept").exists()
    assert [mode_of(root.path / name) for name in ("etc", "etc/private", "etc/secret", "usr/local/bin/tool")] == [
        *(0o711, 0o700),
        *(0o600, 0o755),
    ]
    assert {owner_of(path) for path in root.path.rglob("*")} == {(0, 0)}


def test_an_overlay_goes_where_the_guests_links_lead_inside(root: Root, overlay: Path, outside: Path) -> None:
    (root.path / "etc").symlink_to(outside)
    root.guest.copy_in(overlay, "/opt/site")
    root.guest.copy_in(overlay / "etc", "/etc")
    assert (root.path / "opt/site/etc/secret").read_text() == "s"
    assert (root.path / str(outside).lstrip("/") / "secret").read_text() == "s"


def test_an_overlay_with_a_special_file_is_refused_by_name(root: Root, tmp_path: Path) -> None:
    (tmp_path / "overlay").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "overlay/socket"))
    with pytest.raises(GuestError, match=r"overlay/socket .* no file, directory or link"):
        root.guest.copy_in(tmp_path / "overlay", "/")


def test_an_overlay_that_is_missing_is_told(root: Root, tmp_path: Path) -> None:
    with pytest.raises(GuestError, match=r"cannot copy .*/overlay into the guest: no such file"):
        root.guest.copy_in(tmp_path / "overlay", "/")


def test_an_overlay_that_does_not_fit_the_guest_is_told(root: Root, tmp_path: Path) -> None:
    (tmp_path / "overlay/etc").mkdir(parents=True)
    (tmp_path / "overlay/etc/hostname").touch()
    (root.path / "etc/hostname").mkdir(parents=True)
    with pytest.raises(GuestError, match=r"/etc/hostname.*is a directory"):
        root.guest.copy_in(tmp_path / "overlay", "/")


def test_it_is_the_protocol(root: Root) -> None:
    guest: Guest = root.guest
    assert guest.exists("/")
