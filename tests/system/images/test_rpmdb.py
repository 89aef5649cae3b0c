"""The packages of rpm databases: of one that rpm itself wrote, of the same in other kinds, and of broken ones."""

from __future__ import annotations

import os
import re
import sqlite3
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from osprovider.images import packages
from osprovider.images.packages import Package
from tests.support.guests import directory_guest

SPEC = """\
Name: {name}
Version: 1.2
Release: 3.fc43
{epoch}
Summary: a test
License: GPL-2.0-or-later AND MIT
BuildArch: noarch
%description
{text}
%files
"""

FOUND = (
    Package("rpm", "large", "1.2-3.fc43", "noarch", "large", "GPL-2.0-or-later AND MIT"),
    Package("rpm", "small", "4:1.2-3.fc43", "noarch", "small", "GPL-2.0-or-later AND MIT"),
)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What rpm writes where it installs two packages, one with a header of several pages."""
    top = tmp_path_factory.mktemp("rpm")
    for name, epoch, text in (("small", "Epoch: 4", "x"), ("large", "", "word " * 4000)):
        spec = top / f"{name}.spec"
        spec.write_text(SPEC.format(name=name, epoch=epoch, text=text))
        subprocess.run(["rpmbuild", "--quiet", f"-D_topdir {top}/top", "-bb", spec], check=True, capture_output=True)
    root = top / "root"
    built = sorted(top.glob("top/RPMS/noarch/*.rpm"))
    words = ["rpm", "--root", str(root), "--dbpath=/var/lib/rpm", "-D_db_backend sqlite"]
    root.mkdir()
    subprocess.run([*words, "--initdb"], check=True, capture_output=True)
    subprocess.run([*words, "--nodeps", "--justdb", "--install", *map(str, built)], check=True, capture_output=True)
    return root / "var/lib/rpm/rpmdb.sqlite"


@pytest.fixture(scope="module")
def headers(database: Path) -> list[bytes]:
    """The headers in it."""
    connection = sqlite3.connect(database)
    found = [row[0] for row in connection.execute("SELECT blob FROM Packages ORDER BY hnum")]
    connection.close()
    assert len(found) == 2
    assert max(map(len, found)) > 3 * 4096
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/var/lib/rpm").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def read(root: Path, tmp_path: Path) -> Iterator[Callable[[], tuple[Package, ...]]]:
    """Reads the packages of the system at ``root``."""
    with directory_guest(root) as guest:
        yield lambda: packages.read(guest, tmp_path, "test")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_sqlite(database: Path, root: Path, read: Callable[[], object]) -> None:
    (root / "var/lib/rpm/rpmdb.sqlite").write_bytes(database.read_bytes())
    assert read() == FOUND


def test_sqlite_where_it_is_now(database: Path, root: Path, read: Callable[[], object]) -> None:
    (root / "usr/lib/sysimage/rpm").mkdir(parents=True)
    (root / "usr/lib/sysimage/rpm/rpmdb.sqlite").write_bytes(database.read_bytes())
    (root / "var/lib/rpm").rmdir()
    (root / "var/lib/rpm").symlink_to("../../usr/lib/sysimage/rpm")
    assert read() == FOUND


def berkeley(headers: list[bytes], path: Path) -> None:
    """Have Berkeley DB make a hash, as rpm did: header by number, and the last number under 0."""
    lines = ["VERSION=3", "format=bytevalue", "type=hash", "db_pagesize=4096", "HEADER=END"]
    for number, value in enumerate([struct.pack("<I", len(headers)), *headers]):
        lines += [f" {struct.pack('<I', number).hex()}", f" {value.hex()}"]
    text = "\n".join([*lines, "DATA=END", ""])
    subprocess.run(["db5.3_load", path], input=text.encode(), check=True)


def test_berkeley_db(headers: list[bytes], root: Path, read: Callable[[], object]) -> None:
    berkeley(headers, root / "var/lib/rpm/Packages")
    assert read() == FOUND


def ndb(headers: list[bytes], path: Path) -> None:
    """Lay out rpm's own kind of database (lib/backend/ndb/rpmpkg.c), which Debian's rpm does not write."""
    slots, blobs = b"", b""
    for number, header in enumerate(headers, 1):
        blob = struct.pack("<4sIII", b"BlbS", number, 1, len(header)) + header
        blob += bytes(-(len(blob) + 12) % 16) + struct.pack("<II4s", 0, len(header), b"BlbE")
        slots += struct.pack("<4sIII", b"Slot", number, (4096 + len(blobs)) // 16, len(blob) // 16)
        blobs += blob
    empty = struct.pack("<4sIII", b"Slot", 0, 0, 0)
    head = struct.pack("<4sIIII12x", b"RpmP", 0, 1, 1, len(headers) + 1) + slots
    path.write_bytes(head + empty * ((4096 - len(head)) // 16) + blobs)


def test_ndb(headers: list[bytes], root: Path, read: Callable[[], object]) -> None:
    ndb(headers, root / "var/lib/rpm/Packages.db")
    assert read() == FOUND


def test_keys_that_are_trusted_are_no_packages(headers: list[bytes], root: Path, read: Callable[[], object]) -> None:
    ndb(
        [header_of(name="gpg-pubkey", version="1", release="2", arch="(none)"), *headers],
        root / "var/lib/rpm/Packages.db",
    )
    assert read() == FOUND


def header_of(**fields: str) -> bytes:
    """A header with these strings alone."""
    tags = {"name": 1000, "version": 1001, "release": 1002, "arch": 1022}
    index, data = b"", b""
    for name, value in fields.items():
        index += struct.pack(">IIII", tags[name], 6, len(data), 1)
        data += value.encode() + b"\0"
    return struct.pack(">II", len(fields), len(data)) + index + data


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("rpmdb.sqlite", b"", "no rpm database that is known: it begins with"),
        ("rpmdb.sqlite", b"SQLite format 3\0", "DatabaseError|OperationalError"),
        ("rpmdb.sqlite", b"SQLite format 3\0" + bytes(range(256)) * 64, "DatabaseError|OperationalError"),
        ("Packages", b"what is this", "no rpm database that is known: it begins with 77686174"),
        ("Packages.db", struct.pack("<4sIIII12x", b"RpmP", 0, 1, 1, 2) + struct.pack("<4sIII", b"Slot", 1, 1, 1), ""),
        ("Packages", bytes(12) + (0x061561).to_bytes(4, "little") + bytes(4) + b"\xff" * 52, "pages of 4294967295"),
    ],
)
def test_a_broken_database_is_warned_of_and_keeps_nobody_from_the_image(
    name: str,
    content: bytes,
    cause: str,
    root: Path,
    read: Callable[[], object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (root / "var/lib/rpm" / name).write_bytes(content)
    assert read() == ()
    said = capsys.readouterr().err
    assert f"warning: image test: packages are not listed, since /var/lib/rpm/{name} cannot be read: " in said
    assert re.search(cause, said), said


def test_every_cut_off_and_flipped_database_ends_well(
    headers: list[bytes], database: Path, root: Path, read: Callable[[], object]
) -> None:
    place = root / "var/lib/rpm"
    berkeley(headers, place / "Packages")
    ndb(headers, place / "Packages.db")
    (place / "rpmdb.sqlite").write_bytes(database.read_bytes())
    for name in ("rpmdb.sqlite", "Packages.db", "Packages"):  # each one hides the next
        whole = (place / name).read_bytes()
        for offset in (0, 5, 12, 13, 20, 25, 100, 4096, 4096 + 25, 8192, len(whole) - 1):
            for broken in (whole[:offset], whole[:offset] + bytes([whole[offset] ^ 0xFF]) + whole[offset + 1 :]):
                (place / name).write_bytes(broken)
                assert isinstance(read(), tuple)
        (place / name).unlink()


def test_a_view_without_an_end_is_not_followed(
    root: Path, read: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    connection = sqlite3.connect(root / "var/lib/rpm/rpmdb.sqlite")
    endless = "WITH RECURSIVE n(x) AS (VALUES(1) UNION ALL SELECT x + 1 FROM n) SELECT zeroblob(8) AS blob FROM n"
    connection.execute(f"CREATE VIEW Packages AS {endless}")
    connection.commit()
    connection.close()
    assert read() == ()
    assert "it has no table of packages" in capsys.readouterr().err


def test_a_name_without_an_end_is_not_read_to_it(
    root: Path, read: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    ndb([header_of(name="x" * (1 << 20), version="1", release="2", arch="noarch")], root / "var/lib/rpm/Packages.db")
    assert read() == ()
    assert "does not end" in capsys.readouterr().err


def test_a_fifo_in_place_of_a_database_is_not_waited_for(
    root: Path, read: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(root / "var/lib/rpm/Packages")
    assert read() == ()
    assert "no regular file" in capsys.readouterr().err
