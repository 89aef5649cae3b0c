"""Tars, unpacked: the same tree as GNU tar makes by itself, and nothing outside of it, whatever the archive is."""

from __future__ import annotations

import io
import itertools
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from osprovider.errors import ImageError, Terminated
from osprovider.images import streams
from osprovider.images.archive import unpack
from osprovider.images.archive.tar import Scanner
from osprovider.images.archive.tar_names import Names
from osprovider.images.archive.unpack import require_root, unpack_dump, unpack_tar
from tests.support import processes
from tests.support.image_files import make_dump
from tests.support.leftovers import no_leftovers
from tests.support.sparse import sparse_file
from tests.support.tar_members import ACCEPTED, END, REFUSED, member, pax, sealed
from tests.support.trees import populate, read_tree, scratch_filesystem

_SIZE = 128 << 20

_GNU = ("tar", "--create", "--numeric-owner")
_PAX = (*_GNU, "--format=pax", "--xattrs", "--xattrs-include=*", "--acls")

FORMATS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "ustar": (True, (*_GNU, "--format=ustar")),
    "gnu": (False, (*_GNU, "--format=gnu")),
    "gnu-sparse": (False, (*_GNU, "--format=gnu", "--sparse")),
    "oldgnu-sparse": (False, (*_GNU, "--format=oldgnu", "--sparse")),
    "gnu-totals": (False, (*_GNU, "--format=gnu", "--sparse", "--blocking-factor=1")),
    "pax": (False, _PAX),
    "pax-sparse-0.0": (False, (*_PAX, "--sparse", "--sparse-version=0.0")),
    "pax-sparse-0.1": (False, (*_PAX, "--sparse", "--sparse-version=0.1")),
    "pax-sparse-1.0": (False, (*_PAX, "--sparse", "--sparse-version=1.0")),
    "pax-global": (False, (*_PAX, "--pax-option=globexthdr.name=g,comment=a comment,SCHILY.dev=5")),
    "bsdtar-pax": (False, ("bsdtar", "--create", "--format=pax", "--numeric-owner", "--acls", "--xattrs")),
    "bsdtar-restricted": (False, ("bsdtar", "--create", "--numeric-owner")),
    "bsdtar-gnutar": (False, ("bsdtar", "--create", "--format=gnutar", "--numeric-owner")),
    "bsdtar-ustar": (True, ("bsdtar", "--create", "--format=ustar", "--numeric-owner")),
}
"""By name: whether only a modest tree fits into the format, and the command that makes an archive of it."""


@pytest.fixture
def filesystem(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a few trees."""
    with scratch_filesystem(tmp_path / "trees.img", tmp_path / "trees", _SIZE) as trees:
        yield trees


@pytest.fixture
def root(filesystem: Path) -> Path:
    """An empty directory in it, like the top of a file system that an image is unpacked into."""
    root = filesystem / "root"
    root.mkdir()
    return root


def _unpack(path: Path, root: Path) -> None:
    with streams.decompressed(path, "none", limit_bytes=1 << 40) as stream:
        unpack_tar(stream, root, name=str(path))


def _unpacked_alone(path: Path, alone: Path) -> Path:
    """What GNU tar makes of an archive by itself, as root."""
    alone.mkdir()
    words = ["--numeric-owner", "--same-permissions", "--acls", "--xattrs", "--xattrs-include=*", "--warning=none"]
    command: list[str | Path] = ["tar", *words, "--delay-directory-restore", "-x", "-f", path, "-C", alone]
    subprocess.run(command, check=True, capture_output=True)
    return alone


def _differences(found: Path, wanted: Path) -> list[str]:
    ours, theirs = read_tree(found), read_tree(wanted)
    return [
        f"{name!r}: {ours.get(name)} != {theirs.get(name)}"
        for name in ours.keys() | theirs.keys()
        if ours.get(name) != theirs.get(name)
    ]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_tree_is_the_one_that_tar_makes(kind: str, filesystem: Path, root: Path, tmp_path: Path) -> None:
    modest, words = FORMATS[kind]
    source, archive = filesystem / "source", tmp_path / "archive"
    source.mkdir()
    populate(source, modest=modest)
    subprocess.run([*words, "--file", archive, "--directory", source, "."], check=True, capture_output=True)
    _unpack(archive, root)
    assert _differences(root, _unpacked_alone(archive, filesystem / "alone")) == []


@pytest.mark.parametrize("kind", ["pax", "pax-sparse-1.0"])
def test_the_tree_is_the_one_that_was_packed(kind: str, filesystem: Path, root: Path, tmp_path: Path) -> None:
    source, archive = filesystem / "source", tmp_path / "archive"
    source.mkdir()
    populate(source)
    (source / "dev/same").unlink()  # tar packs the names of a device as so many devices
    words: list[str | Path] = [*FORMATS[kind][1], "--sparse", "--file", archive, "--directory", source, "."]
    subprocess.run(words, check=True, capture_output=True)
    _unpack(archive, root)
    assert _differences(root, source) == []


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_archives_of_python(kind: int, filesystem: Path, root: Path, tmp_path: Path) -> None:
    source, archive = filesystem / "source", tmp_path / "archive"
    source.mkdir()
    populate(source, modest=kind == tarfile.USTAR_FORMAT)
    (source / "home/user/hole").unlink()
    with tarfile.open(archive, "w", format=kind, pax_headers={"comment": "global"}) as tar:
        tar.add(source, ".")
    _unpack(archive, root)
    assert _differences(root, _unpacked_alone(archive, filesystem / "alone")) == []


def test_attributes_that_take_more_privileges_do_not_cost_a_file_its_others(
    filesystem: Path, root: Path, tmp_path: Path
) -> None:
    source, archive = filesystem / "source", tmp_path / "archive"
    (source / "etc").mkdir(parents=True)
    file = source / "etc/file"
    file.touch()
    subprocess.run(["setcap", "cap_net_raw+ep", file], check=True)
    for name in ("trusted.overlay.opaque", "security.selinux", "user.z"):
        os.setxattr(file, name, b"y")
    subprocess.run([*_PAX, "--file", archive, "--directory", source, "."], check=True, capture_output=True)
    _unpack(archive, root)
    assert set(os.listxattr(root / "etc/file")) == {"security.capability", "user.z"}


def test_whom_an_acl_names_is_one_of_the_images_accounts(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    who = {"passwd": b"root:x:0:0::/root:/bin/sh\nnews:x:4711:5::/:/bin/sh\n", "group": b"journal:x:4712:root\n"}
    text = b"user::rw-,user:news:r--,user:nobody-h:rwx,group::r--,group:journal:rwx,group:x:r-x:77,mask::r--,other::---"
    default = b"user::rwx\nuser:9:r-x\ngroup::r-x\nmask::r-x\nother::---\n"
    archive = [
        pax(("SCHILY.acl.access", text)) + member("etc/file", b"x", mode=0o640),
        pax(("SCHILY.acl.default", default)) + member("etc/", kind=b"5"),
        *(member(f"etc/{name}", content) for name, content in who.items()),
        member("etc/later", b"x", mode=0o600),
    ]
    (tmp_path / "archive").write_bytes(b"".join(archive) + END)
    _unpack(tmp_path / "archive", root)
    words = ["getfacl", "--numeric", "--omit-header", "--absolute-names"]
    found = subprocess.run([*words, root / "etc/file"], check=True, capture_output=True, text=True).stdout
    assert [line.partition("\t")[0] for line in found.split()[:99] if ":" in line and not line.startswith("#")] == [
        *("user::rw-", "user:4711:r--", "group::r--", "group:77:r-x", "group:4712:rwx", "mask::r--", "other::---"),
    ]
    assert "user nobody-h of its ACL is none of the image's, and left out" in capsys.readouterr().err
    assert os.listxattr(root / "etc") == ["system.posix_acl_default"]
    assert os.listxattr(root / "etc/later") == []


@pytest.mark.parametrize(
    "text", ["nonsense", "user::rwx,other:9:rwx", "user:9:rwx", "user:99999999999:rwx", "user::abc"]
)
def test_an_acl_that_is_none_is_refused(text: str, root: Path, tmp_path: Path) -> None:
    archive = member("etc/", kind=b"5") + pax(("SCHILY.acl.access", text.encode())) + member("etc/file", b"x") + END
    (tmp_path / "archive").write_bytes(archive)
    with pytest.raises(ImageError, match=r"archive: byte 1536: etc/file: .*ACL"):
        _unpack(tmp_path / "archive", root)


def test_links_that_lead_out_stay_as_they_are(root: Path, tmp_path: Path) -> None:
    up = "../../../../../../../../../etc/shadow"
    links = {"etc/mtab": "../proc/self/mounts", "etc/up": up, "etc/absolute": "/etc/passwd", "l": "nowhere"}
    archive = member("etc/", kind=b"5") + b"".join(member(name, kind=b"2", link=to) for name, to in links.items())
    (tmp_path / "archive").write_bytes(archive + END)
    _unpack(tmp_path / "archive", root)
    assert {name: os.readlink(root / name) for name in links} == links  # noqa: PTH115


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_archives(compression: streams.Compression, filesystem: Path, root: Path, tmp_path: Path) -> None:
    source, archive = filesystem / "source", tmp_path / "archive"
    source.mkdir()
    populate(source)
    words: list[str | Path] = [*_PAX, f"--{compression}", "--file", archive, "--directory", source, "."]
    subprocess.run(words, check=True, capture_output=True)
    with streams.decompressed(archive, compression, limit_bytes=1 << 40) as stream:
        unpack_tar(stream, root, name=str(archive))
    assert _differences(root, _unpacked_alone(archive, filesystem / "alone")) == []


# -- what is refused, and where nothing is written


@pytest.fixture
def canary(filesystem: Path) -> Iterator[Path]:
    """An empty directory for a tree, deep in others that must be afterwards as they were before."""
    outside = filesystem / "outside"
    root = outside / "a/b/c/root"
    root.mkdir(parents=True)
    for name in ("x", "a/x", "a/b/c/x", "a/etc/shadow"):
        (outside / name).parent.mkdir(exist_ok=True, parents=True)
        (outside / name).write_text("canary")
    before = _outside(outside)
    yield root
    assert _outside(outside) == before


def _outside(outside: Path) -> dict[bytes, object]:
    return {name: entry for name, entry in read_tree(outside).items() if not name.startswith(b"a/b/c/root")}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_writes_nothing_outside(what: str, canary: Path, tmp_path: Path) -> None:
    archive, message = REFUSED[what]
    (tmp_path / "archive").write_bytes(archive)
    with pytest.raises(ImageError, match=f"archive: .*{message}"), no_leftovers([tmp_path]):
        _unpack(tmp_path / "archive", canary)


@pytest.mark.parametrize("what", REFUSED)
def test_tar_itself_could_write_nothing_outside(what: str, canary: Path) -> None:
    with suppress(ImageError), unpack._running(unpack._TAR, canary, "archive") as unpacker:
        unpacker.write(REFUSED[what][0] + END)


@pytest.mark.parametrize("what", ACCEPTED)
def test_what_is_accepted_is_what_tar_takes_it_for(what: str, canary: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(ACCEPTED[what])
    _unpack(tmp_path / "archive", canary)
    assert _names(tmp_path / "archive") == _tree_names(canary)


class _Recorded(Names):
    """Keeps the members' places."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def add(self, kind: bytes, path: str, link: str) -> str:
        self.places.append(super().add(kind, path, link))
        return self.places[-1]


def _names(archive: Path) -> set[str]:
    """What the headers say that an archive holds."""
    scanner = Scanner("archive")
    scanner._names = names = _Recorded()
    with archive.open("rb") as file, Path(os.devnull).open("wb") as sink:
        read_fd, write_fd = os.pipe()
        content = file.read()
        thread = threading.Thread(target=_feed, args=(write_fd, content))
        thread.start()
        for _ in scanner.scan(read_fd, sink.fileno()):
            pass
        os.close(read_fd)
        thread.join()
    return {name for place in names.places for name in (place, *map(str, Path(place).parents))} - {"", "."}


def _feed(fd: int, content: bytes) -> None:
    with suppress(BrokenPipeError), os.fdopen(fd, "wb", buffering=0) as pipe:
        view = memoryview(content)
        while view:
            view = view[pipe.write(view) :]


def _tree_names(root: Path) -> set[str]:
    return {os.fsdecode(name) for name in read_tree(root)} - {"."}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(30))
def test_any_archive_is_unpacked_as_its_headers_say_or_refused(
    seed: int, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "_CPU_SECONDS", 10)
    rng = random.Random(seed)
    for turn in range(6):
        archive = bytearray(ACCEPTED[rng.choice(sorted(ACCEPTED))])
        for _ in range(rng.randrange(1, 4)):
            start = rng.randrange(len(archive) // 512) * 512
            header = archive[start : start + 512]
            place = rng.choice((rng.randrange(512), rng.randrange(100), rng.randrange(124, 136), 156, 257))
            header[place] = rng.choice((rng.randrange(256), *b"0123456789SLKxgD/.\0"))
            archive[start : start + 512] = sealed(header) if rng.random() < 0.8 else header
        (tmp_path / "archive").write_bytes(archive)
        root = canary / str(turn)
        root.mkdir()
        try:
            _unpack(tmp_path / "archive", root)
        except ImageError:
            continue
        assert _tree_names(root) == _names(tmp_path / "archive")


def test_a_sparse_file_without_end_is_told_of(root: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        etc = tarfile.TarInfo("etc")
        etc.type = tarfile.DIRTYPE
        tar.addfile(etc)
        info = tarfile.TarInfo("etc/bomb")
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "etc/bomb",
            "GNU.sparse.realsize": str(1 << 62),
        }
        info.size = 512
        tar.addfile(info, io.BytesIO(f"1\n{1 << 62}\n0\n".encode().ljust(512, b"\0")))
    with pytest.raises(ImageError, match=r"cannot be unpacked: .*etc/bomb: Cannot seek to 4611686018427387904"):
        _unpack(archive, root)


def test_a_bomb_is_limited(root: Path, tmp_path: Path) -> None:
    archive = tmp_path / "bomb.gz"
    header = member("etc/zeros", size=4 << 30)
    make = f"(cat; head -c {4 << 30} /dev/zero) | pigz -1"
    with archive.open("wb") as file:
        subprocess.run(["sh", "-c", make], input=member("etc/", kind=b"5") + header, stdout=file, check=True)
    with (
        pytest.raises(ImageError, match=r"bomb.gz: unpacks to more than 8\S* MiB \(8388608 bytes\)"),
        no_leftovers([tmp_path]),
        streams.decompressed(archive, "gzip", limit_bytes=8 << 20) as stream,
    ):
        unpack_tar(stream, root, name=str(archive))
    assert (root / "etc/zeros").stat().st_size <= 9 << 20


def test_a_file_system_without_room_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(member("etc/", kind=b"5") + member("etc/large", bytes(8 << 20)) + END)
    with (
        scratch_filesystem(tmp_path / "small.img", tmp_path / "small", 4 << 20) as small,
        pytest.raises(
            ImageError,
            match=r"archive: cannot be unpacked: tar: .*etc/large: .* \(the file system of \S+ MiB is full\)",
        ),
    ):
        _unpack(tmp_path / "archive", small)


def test_a_file_system_without_inodes_is_told_of(tmp_path: Path) -> None:
    files = b"".join(member(f"etc/{number}") for number in range(200))
    (tmp_path / "archive").write_bytes(member("etc/", kind=b"5") + files + END)
    with (
        scratch_filesystem(tmp_path / "small.img", tmp_path / "small", 16 << 20, "-N", "64") as small,
        pytest.raises(ImageError, match=r"No space left on device.* \(it holds more files than the \d+ that a file"),
    ):
        _unpack(tmp_path / "archive", small)


def test_what_fails_is_not_read_to_its_end(tmp_path: Path) -> None:
    read_fd, write_fd = os.pipe()

    def feed() -> None:
        with suppress(BrokenPipeError), os.fdopen(write_fd, "wb", buffering=0) as pipe:
            pipe.write(member("etc/", kind=b"5"))
            for number in itertools.count():
                pipe.write(member(f"etc/{number}"))

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        with (
            scratch_filesystem(tmp_path / "small.img", tmp_path / "small", 16 << 20, "-N", "64") as small,
            pytest.raises(ImageError, match=r"endless: cannot be unpacked: tar: .*No space left on device"),
        ):
            unpack_tar(streams.Stream(Path("endless"), io.BytesIO(), read_fd), small, name="endless")
    finally:
        os.close(read_fd)
        thread.join()


def test_what_would_take_all_memory_is_refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # tar keeps what it is told of directories until the end
    monkeypatch.setattr(unpack, "_MEMORY", 64 << 20)
    attribute = pax(("SCHILY.xattr.user.x", bytes(3 << 20)))
    with (tmp_path / "archive").open("wb") as file:
        file.write(member("etc/", kind=b"5"))
        file.writelines(attribute + member(f"etc/{number}/", kind=b"5") for number in range(40))
        file.write(END)
    with pytest.raises(ImageError, match="archive: cannot be unpacked: tar: memory exhausted"):
        _unpack(tmp_path / "archive", root)


def test_an_unpacker_that_crashes_is_told_of(root: Path) -> None:
    with (
        pytest.raises(ImageError, match="image: cannot be unpacked: sh was ended by signal 11"),
        unpack._running(["sh", "-c", "kill -SEGV $$"], root, "image"),
    ):
        pass


def test_an_attribute_without_room_is_told_of(filesystem: Path, root: Path, tmp_path: Path) -> None:
    # tar only warns of it, and ends well
    record = b"SCHILY.xattr.user.x=" + b"x" * 5000 + b"\n"
    archive = member("etc/", kind=b"5") + member("x", b"%d " % (len(record) + 5) + record, kind=b"x")
    (tmp_path / "archive").write_bytes(archive + member("etc/file", b"x") + END)
    with pytest.raises(ImageError, match=r"cannot be unpacked: tar: .*Cannot set 'user\.x' extended attribute"):
        _unpack(tmp_path / "archive", root)


@pytest.mark.parametrize("top", ["boot", "home"])
def test_a_tree_of_something_else_is_refused(top: str, filesystem: Path) -> None:
    (filesystem / "trees" / top / "etc").mkdir(parents=True)
    (filesystem / "trees/lost+found").mkdir()
    with pytest.raises(ImageError, match=rf"image: no root file system: its top holds {top}; make the tar of / itself"):
        require_root(filesystem / "trees", "image")
    (filesystem / "trees/usr").mkdir()
    require_root(filesystem / "trees", "image")


@pytest.mark.parametrize("names", [["disk.raw"], ["server.mf", "server.ovf", "server-disk1.vmdk"]])
def test_a_disk_image_in_a_tar_is_told_of(names: list[str], root: Path, tmp_path: Path) -> None:
    """As Debian and Google have theirs, and an OVA is."""
    (tmp_path / "archive").write_bytes(b"".join(member(name, b"x") for name in names) + END)
    _unpack(tmp_path / "archive", root)
    with pytest.raises(ImageError, match=rf"unpack it, and name the disk image in it as source \({names[-1]}\)"):
        require_root(root, "image")


@pytest.mark.parametrize("unpacker", [unpack_tar, unpack_dump])
def test_nothing_is_unpacked_where_a_link_leads_to(
    unpacker: Callable[..., None], filesystem: Path, tmp_path: Path
) -> None:
    # as /boot of a hostile root, where a dump of /boot comes next
    (filesystem / "outside").mkdir()
    (filesystem / "boot").symlink_to(filesystem / "outside")
    pipe = _Pipe(_beginning(unpacker, tmp_path))
    try:
        with pytest.raises(ImageError, match=r"pipe: cannot be unpacked: .*/boot is not a directory"):
            unpacker(pipe.stream(), filesystem / "boot", name="pipe")
    finally:
        pipe.close()
    assert os.listdir(filesystem / "outside") == []  # noqa: PTH208


# -- what is left of it all


class _Pipe:
    """A stream that never ends, of which the first bytes are there."""

    def __init__(self, content: bytes) -> None:
        self.read_fd, self.write_fd = os.pipe()
        os.write(self.write_fd, content)

    def stream(self) -> streams.Stream:
        return streams.Stream(Path("pipe"), io.BytesIO(), self.read_fd)

    def close(self) -> None:
        os.close(self.read_fd)
        os.close(self.write_fd)


@pytest.mark.parametrize("unpacker", [unpack_tar, unpack_dump])
def test_nothing_runs_on_after_a_signal(
    unpacker: Callable[..., None], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = _Pipe(_beginning(unpacker, tmp_path))

    def end(number: int, frame: object) -> None:
        raise Terminated(signal.Signals(number).name)

    def send() -> None:
        _wait_for_child(os.getpid())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    previous = signal.signal(signal.SIGUSR1, end)
    sender = threading.Thread(target=send)
    try:
        with no_leftovers([tmp_path]):
            sender.start()
            with pytest.raises(Terminated):
                unpacker(pipe.stream(), root, name="pipe")
            sender.join()
    finally:
        signal.signal(signal.SIGUSR1, previous)
        pipe.close()


def _beginning(unpacker: Callable[..., None], tmp_path: Path) -> bytes:
    """The beginning of an archive or dump."""
    if unpacker is unpack_tar:
        return member("etc/", kind=b"5") + member("etc/file", size=1 << 20)
    image = sparse_file(tmp_path / "source.img", 8 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    make_dump(image, tmp_path / "dump", "-z")
    return (tmp_path / "dump").read_bytes()[:11000]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("unpacker", [unpack_tar, unpack_dump])
def test_nothing_runs_on_after_our_own_end(
    unpacker: Callable[..., None], number: signal.Signals, root: Path, tmp_path: Path
) -> None:
    pipe = _Pipe(_beginning(unpacker, tmp_path))
    program = (
        "import io, sys; from pathlib import Path\nfrom osprovider.images import streams\n"
        "from osprovider.images.archive import unpack\n"
        f"stream = streams.Stream(Path('p'), io.BytesIO(), {pipe.read_fd})\n"
        f"unpack.{unpacker.__name__}(stream, Path({str(root)!r}), name='p')"
    )
    try:
        with no_leftovers([tmp_path]):
            process = subprocess.Popen([sys.executable, "-c", program], pass_fds=(pipe.read_fd,))
            _wait_for_child(process.pid)
            process.send_signal(number)
            assert process.wait() == -number
    finally:
        pipe.close()


def _wait_for_child(pid: int) -> None:
    """Until tar or restore runs, which bubblewrap starts last."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if {"tar", "restore"} & {processes.name(each) for each in processes.family(pid)}:
            return
        time.sleep(0.05)
    raise AssertionError("neither tar nor restore was started")


def test_unpackers_see_nothing_but_the_tree(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "marker"
    marker.write_text("secret")
    script = (
        f"cat >/dev/null; ls -a / >top; ls -A /etc /home /var /run /sys {marker} >seen 2>&1; "
        "tail -n +3 /proc/net/dev >net; grep -c . /proc/net/route >>net; echo /proc/[0-9]* >processes; true"
    )
    with unpack._running(["sh", "-c", script], root, "image") as unpacker:
        unpacker.write(b"x")
    assert "marker" not in (root / "top").read_text()
    assert (root / "seen").read_text().count("No such file or directory") == 5
    assert (root / "seen").read_text().splitlines()[-2:] == ["/etc:", "ld.so.cache"]
    assert [line.split(":")[0].strip() for line in (root / "net").read_text().splitlines()[:-1]] == ["lo"]
    assert len((root / "processes").read_text().split()) <= 3


def test_what_computes_without_end_is_ended(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "_CPU_SECONDS", 1)
    with (
        pytest.raises(ImageError, match="image: cannot be unpacked: sh computed for more than 1 s"),
        unpack._running(["sh", "-c", "while :; do :; done"], root, "image"),
    ):
        pass


def test_no_question_is_asked_on_a_terminal(root: Path) -> None:
    # a dump that makes restore(8) ask whether to go on, and a process that has a terminal
    master, slave = os.openpty()
    program = (
        "import fcntl, os, termios\nos.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "from pathlib import Path\nfrom osprovider.images.archive import unpack\n"
        "try:\n"
        "    ask = ['sh', '-c', 'cat >/dev/null; echo asked >/dev/tty']\n"
        f"    with unpack._running(ask, Path({str(root)!r}), 'x') as unpacker:\n"
        "        unpacker.write(b'x')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stdin=slave, capture_output=True, text=True, check=True)
    os.set_blocking(master, False)
    with pytest.raises(BlockingIOError):
        os.read(master, 100)
    os.close(master)
    os.close(slave)
    assert "/dev/tty: No such device or address" in done.stdout


def test_devices_are_made_as_they_are_in_the_archive(root: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(ACCEPTED["device"])
    _unpack(tmp_path / "archive", root)
    assert (root / "dev/sda").stat().st_rdev == os.makedev(8, 0)
    assert stat.S_ISBLK((root / "dev/sda").stat().st_mode)
