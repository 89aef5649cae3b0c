"""The libguestfs appliance: it starts on every node, says what went wrong, and is gone with whoever used it."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from osprovider import linux
from osprovider.disk.loop import loop_device
from osprovider.errors import GuestError
from osprovider.guest import appliance as module
from osprovider.guest.appliance import appliance
from osprovider.guest.mounting import Volume
from osprovider.paths import Directories
from tests.support import processes
from tests.support.leftovers import no_leftovers, snapshot
from tests.support.memory import watched
from tests.support.sparse import sparse_file
from tests.system.guest.backends import fsck, make_image
from tests.system.guest.namespace import in_namespace


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Whatever a test does, no process, mount or file of an appliance stays."""
    with no_leftovers([tmp_path], contents=[tmp_path / "run"]):
        yield


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_image(tmp_path / "image", size_mib=16)


def users_of(image: Path) -> dict[int, str]:
    """The processes that have a file open, and their command lines."""
    found = {}
    for directory in processes.directories():
        with suppress(OSError):  # ended since it was listed
            if any(_is(link, image) for link in (directory / "fd").iterdir()):
                found[int(directory.name)] = (directory / "cmdline").read_text()
    return found


def _is(link: Path, image: Path) -> bool:
    with suppress(OSError):  # closed since it was listed
        return link.samefile(image)
    return False


def test_a_read_only_guest_is_not_written(image: Path, directories: Directories) -> None:
    before = image.read_bytes()
    with appliance([Volume(image, "ext4")], directories, read_only=True) as guest:
        assert guest.is_directory("/lost+found")
        with pytest.raises(GuestError, match=r"cannot write /x in the guest: .* read-only"):
            guest.write("/x", "x")
    assert image.read_bytes() == before


def test_secrets_are_in_no_command_line_and_other_tenants_of_tmp_see_nothing(
    image: Path, directories: Directories
) -> None:
    tmp = Path("/tmp")  # noqa: S108
    before = set(tmp.glob("*guestfs*"))
    with appliance([Volume(image, "ext4")], directories) as guest:
        guest.write("/etc/shadow", "root:the-secret-hash", mode=0o600)
        assert set(tmp.glob("*guestfs*")) == before
        lines = users_of(image).values()
        assert any("qemu" in line for line in lines)
        assert not any("the-secret-hash" in line for line in lines)
    fsck(image)


def member_of_an_array(image: Path) -> None:
    """Say, at its end, that a file is half of a mirror: MD's superblock 1.0 (Linux' include/uapi/linux/raid/md_p.h)."""
    sectors = image.stat().st_size // 512
    start = (sectors - 16) & ~7
    array = struct.pack(
        "<4I16s32sQIIQ10I", 0xA92B4EFC, 1, 0, 0, b"A" * 16, b"elsewhere:0", 0, 1, 0, start, 0, 2, *[0] * 8
    )
    member = struct.pack("<QQQQII16sBBHI", 0, start, start, 0, 0, 0, b"B" * 16, 0, 0, 0, 0)
    state = struct.pack("<QQQII32x2H", 0, 1, (1 << 64) - 1, 0, 2, 0, 1)
    block = bytearray(array + member + state)
    total = sum(struct.unpack("<65I", block))
    struct.pack_into("<I", block, 216, (total + (total >> 32)) & 0xFFFFFFFF)
    with image.open("r+b") as file:
        file.seek(start * 512)
        file.write(block)


def test_what_a_disk_says_to_be_part_of_is_not_put_together(tmp_path: Path, directories: Directories) -> None:
    image = make_image(tmp_path / "image", size_mib=16)
    os.truncate(image, 17 << 20)
    member_of_an_array(image)
    found = subprocess.run(["mdadm", "--examine", image], check=True, capture_output=True, text=True).stdout
    assert "- correct" in found
    with appliance([Volume(image, "ext4")], directories) as guest:
        guest.write("/file", "x")


def test_what_cannot_be_mounted_is_told(tmp_path: Path, directories: Directories) -> None:
    (tmp_path / "zeros").write_bytes(bytes(1 << 20))
    with pytest.raises(GuestError, match=r"appliance with /.*/zeros: .*mount") as caught:  # noqa: SIM117
        with appliance([Volume(tmp_path / "zeros", "ext4")], directories):
            raise AssertionError
    assert "\n" not in str(caught.value)


def test_what_cannot_be_a_guest_is_refused_before_the_start(tmp_path: Path, directories: Directories) -> None:
    with (
        pytest.raises(GuestError, match="missing: there is no such"),
        appliance([Volume(tmp_path / "missing", "ext4")], directories),
    ):
        raise AssertionError
    with pytest.raises(GuestError, match="ntfs, is none of"), appliance([Volume(tmp_path, "ntfs")], directories):
        raise AssertionError


def test_what_the_device_lost_is_told(tmp_path: Path, directories: Directories) -> None:
    """The device is a file on a file system that has no room for it, as a thin pool may have none."""

    def use() -> str:
        linux.mount("tmpfs", str(tmp_path), "tmpfs", linux.MountFlag(0), "size=6m")
        image = make_image(tmp_path / "image", size_mib=64)
        with pytest.raises(GuestError) as caught, appliance([Volume(image, "ext4")], directories) as guest:
            guest.write("/big", os.urandom(16 << 20))
        return str(caught.value)

    assert "lost what was written to the guest" in in_namespace(use)


def test_a_file_that_is_kept_open_is_told(image: Path, directories: Directories) -> None:
    def keep() -> None:
        with appliance([Volume(image, "ext4")], directories) as guest:
            guest.write("/file", "x")
            kept.append(os.open("file", os.O_RDONLY, dir_fd=guest._root))

    kept: list[int] = []
    with pytest.raises(GuestError, match="a file of the guest is still open"):
        keep()
    with suppress(OSError):  # what it led to is gone
        os.close(kept[0])


def test_an_appliance_that_dies_is_the_cause_that_is_told(image: Path, directories: Directories) -> None:
    def use() -> None:
        with appliance([Volume(image, "ext4")], directories) as guest:
            (qemu,) = (pid for pid, line in users_of(image).items() if "qemu" in line)
            os.kill(qemu, signal.SIGKILL)
            for number in range(10):
                guest.write(f"/{number}", "x")

    with pytest.raises(GuestError, match=r"the libguestfs appliance with .*: QEMU ended unexpectedly"):
        use()


def test_an_appliance_that_is_not_done_with_in_time_is_ended(
    image: Path, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use() -> None:
        with appliance([Volume(image, "ext4")], directories) as guest:
            while True:
                guest.exists("/lost+found")

    monkeypatch.setattr(module, "_USE_SECONDS", 0.1)
    with pytest.raises(GuestError, match="was not done with after"):
        use()


def test_where_an_appliance_hangs_is_said(
    image: Path, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = module._launched

    def stopped(*args: Any, **options: Any) -> Any:
        server = launched(*args, **options)
        (qemu,) = (pid for pid, line in users_of(image).items() if "qemu" in line)
        os.kill(qemu, signal.SIGSTOP)
        monkeypatch.setattr(module, "_MOUNT_SECONDS", 3.0)
        return server

    def use() -> None:
        with appliance([Volume(image, "ext4", uuid=str(uuid4()), grow=True)], directories):
            pass

    monkeypatch.setattr(module, "_launched", stopped)
    with pytest.raises(GuestError, match=r"is not mounted after 3 s; it stopped at: (check|give|grow|mount) "):
        use()
    assert users_of(image) == {}


def test_an_appliance_that_hangs_while_it_boots_is_started_once_more(
    image: Path, directories: Directories, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # No appliance starts as quickly as this.
    monkeypatch.setattr(module, "_EMULATED_SECONDS", (0.01, 300.0))
    with appliance([Volume(image, "ext4")], directories) as guest:
        guest.write("/etc/hostname", "web1\n")
    assert "is not launched after 0 s; trying once more" in capfd.readouterr().err
    fsck(image)
    monkeypatch.setattr(module, "_EMULATED_SECONDS", (0.01, 0.01))
    with pytest.raises(GuestError, match="is not launched after 0 s"), appliance([Volume(image, "ext4")], directories):
        pass
    assert users_of(image) == {}


def test_an_appliance_that_has_too_little_memory_to_boot_gets_more(
    image: Path, directories: Directories, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "memory_mib", lambda _volumes: 40)
    with appliance([Volume(image, "ext4")], directories) as guest:
        guest.write("/etc/hostname", "web1\n")
    # Once, though KVM, where it is offered and fails, was tried with either.
    assert capfd.readouterr().err.count("with 256 MiB of memory it was launched") == 1
    fsck(image)


def test_file_systems_of_terabytes_take_as_little_memory(tmp_path: Path, directories: Directories) -> None:
    """The check of such an ext4 takes more than its machine has: it swaps."""
    ext4, xfs = tmp_path / "ext4", tmp_path / "xfs"
    for path, command in (
        (ext4, ["mkfs.ext4", "-q", "-F", "-J", "size=16"]),
        (xfs, ["mkfs.xfs", "-q", "-l", "size=64m"]),
    ):
        sparse_file(path, 2 << 40)
        subprocess.run([*command, path], check=True)
    root = Volume(ext4, "ext4", uuid=str(uuid4()))
    with (
        watched(os.getpid()) as peak,
        appliance([root, Volume(xfs, "xfs", mount="/srv", uuid=str(uuid4()), grow=True)], directories) as guest,
    ):
        guest.write("/etc/hostname", "web1\n")
        guest.write("/srv/data", os.urandom(8 << 20))
    machine = max(size for process, size in peak.processes.items() if "qemu-system" in process)
    assert machine < 200 << 20


def test_kvm_that_does_not_work_is_found_out_once(
    image: Path, tmp_path: Path, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    node = Directories(cache=directories.cache, run=tmp_path / "run")
    # No appliance starts as quickly as this, so that the first try always fails.
    monkeypatch.setattr(module, "_KVM_SECONDS", 0.01)
    monkeypatch.setattr(module, "_KVM", Path("/dev/null"))
    with appliance([Volume(image, "ext4")], node) as guest:
        guest.write("/etc/hostname", "web1\n")
    note = node.run / "kvm-fails"
    assert "is not launched after" in note.read_text()
    note.write_text("unchanged")
    with appliance([Volume(image, "ext4")], node, read_only=True) as guest:
        assert guest.read("/etc/hostname") == b"web1\n"
    assert note.read_text() == "unchanged"
    note.unlink()


@pytest.mark.parametrize("moment", ["started", "written", "hanging"])
def test_a_killed_process_takes_the_appliance_with_it(image: Path, directories: Directories, moment: str) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from osprovider.guest.appliance import appliance; from osprovider.guest.mounting import Volume\n"
        "from osprovider.paths import Directories\n"
        "image, cache, run = map(Path, sys.argv[1:])\n"
        "print('started', flush=True)\n"
        "with appliance([Volume(image, 'ext4')], Directories(cache=cache, run=run)) as guest:\n"
        "    guest.write('/file', 'x'); print('written', flush=True)\n"
        "    while True: time.sleep(0.01); guest.exists(f'/{time.monotonic()}')\n"
    )
    command = [sys.executable, "-c", code, str(image), str(directories.cache), str(directories.run)]
    others = snapshot([]).processes
    # As Ganeti calls an OS script: without HOME and most else.
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={"PATH": os.defpath}, cwd=Path.cwd()) as process:
        assert process.stdout is not None
        while process.stdout.readline() != ("started\n" if moment == "started" else "written\n").encode():
            assert process.poll() is None
        end = time.monotonic() + 300  # the appliance may have to be built
        while not any("qemu" in line for line in users_of(image).values()):
            assert time.monotonic() < end
            time.sleep(0.05)
        qemus = [pid for pid, line in users_of(image).items() if "qemu" in line]
        if moment == "hanging":
            os.kill(qemus[0], signal.SIGSTOP)
            time.sleep(1)  # until it is asked for a file
        process.kill()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.kill(qemus[0], signal.SIGKILL)
            raise
    end = time.monotonic() + 60
    while snapshot([]).processes - others and time.monotonic() < end:
        time.sleep(0.02)
    assert users_of(image) == {}


def test_what_is_written_to_an_overlay_is_packed_and_lost(image: Path, directories: Directories) -> None:
    before = image.read_bytes()
    with (image.with_name("packed")).open("w+b") as packed:
        with appliance([Volume(image, "ext4")], directories, overlay=True, archive=packed.fileno()) as guest:
            guest.write("/written", "once")
        assert image.read_bytes() == before
        words = ["tar", "--extract", "--to-stdout", "--file=-", "./written"]
        packed.seek(0)
        assert subprocess.run(words, stdin=packed, capture_output=True, check=True).stdout == b"once"


def test_a_trimmed_guest_gives_back_what_it_does_not_use(image: Path, directories: Directories, tmp_path: Path) -> None:
    (large := tmp_path / "large").write_bytes(os.urandom(4 << 20))
    subprocess.run(["debugfs", "-w", "-R", f"write {large} large", image], check=True, capture_output=True)
    used = image.stat().st_blocks
    with loop_device(image) as loop, appliance([Volume(loop, "ext4")], directories, trim=True) as guest:
        assert guest.exists("/large")
        guest.remove("/large")
    assert image.stat().st_blocks <= used - (4 << 20) // 512
    fsck(image)


def test_packing_to_a_pipe_that_nobody_reads_any_more_fails(image: Path, directories: Directories) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        with (
            pytest.raises(GuestError, match="the libguestfs appliance with"),
            appliance([Volume(image, "ext4")], directories, overlay=True, archive=write),
        ):
            pass
    finally:
        os.close(write)
