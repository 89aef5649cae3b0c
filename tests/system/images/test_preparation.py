"""Preparations that are killed, run out of room, or meet a damaged source: nothing is left, and the next succeeds."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import small_system
from tests.support.leftovers import no_leftovers
from tests.support.memory import peak_of
from tests.support.tar_members import END, member
from tests.support.template import CHECKOUT, with_appliance
from tests.support.watching import watching
from tests.system.create.site import Outcome, Site, read_until

MIB = 1 << 20
COMMAND = CHECKOUT / "tools" / "osprovider"


@pytest.fixture
def site(tmp_path: Path, run_directory: Path) -> Iterator[Site]:
    """A site with an empty cache, but for the libguestfs appliance."""
    with tempfile.TemporaryDirectory(dir=run_directory) as directory, no_leftovers([tmp_path, Path(directory)]):
        yield Site(tmp_path, with_appliance(Path(directory) / "cache", run_directory))


@pytest.fixture(scope="module")
def original(run_directory: Path) -> Iterator[Callable[[str], Path]]:
    """The file of an image of that kind with 256 MiB of data, made once, and not to be changed."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            (place := Path(name) / str(len(made))).mkdir()
            made[kind] = make(kind, place, data_bytes=256 * MIB)
        return made[kind]

    with tempfile.TemporaryDirectory(dir=run_directory) as name:
        yield get


def make(kind: str, directory: Path, *, data_bytes: int = 0) -> Path:
    """Make an image of that kind, and return its file."""
    if kind == "raw.zst":
        _, (raw,) = small_system.make_image("raw", directory, data_bytes=data_bytes)
        subprocess.run(["zstd", "-q", "-1", "--rm", raw], check=True)
        return raw.with_name(f"{raw.name}.zst")
    _, (path,) = small_system.make_image(kind, directory, data_bytes=data_bytes)
    return path


def define(site: Site, kind: str, *, data_bytes: int = 0, **more: str) -> Path:
    """Define the image ``small`` of a new file of that kind, and return the file."""
    path = make(kind, site.directory, data_bytes=data_bytes)
    configure(site, path, **more)
    return path


def configure(site: Site, path: Path, **more: str) -> None:
    lines = {"source": str(path), **more}
    site.write("images/small.yaml", "".join(f"{key}: {value}\n" for key, value in lines.items()))


def sha256_of(path: Path) -> str:
    """As a definition states it."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def build(site: Site, *options: str) -> Outcome:
    return site.command("image", "build", "small", *options)


def built(site: Site, words: str = "") -> None:
    """Build, which has to succeed, to say the words, and to leave the template alone."""
    outcome = build(site)
    assert outcome.status == 0, outcome.said
    assert words in outcome.said
    assert [re.sub("^[0-9a-f]{64}", "KEY", name) for name in entries(site)] == ["KEY"]
    assert [path.suffix for path in (site.cache / "sources").iterdir()] == [".json"]


def entries(site: Site) -> list[str]:
    """What lies in the store."""
    templates = site.cache / "templates"
    return sorted(path.name for path in templates.iterdir()) if templates.exists() else []


# -- killed -----------------------------------------------------------------------------------------------------------

PHASES = [
    ("tar.gz", "verify"),
    ("tar.gz", "unpack tar.gzip"),
    ("tar.gz", "check and shrink"),
    ("tar.gz", "checksums"),
    ("dump", "unpack dump"),
    ("raw.zst", "raw.zstd to raw"),
    ("raw.zst", "look inside"),
    ("qcow2", "qcow2 to raw"),
    ("qcow2", "look inside\nstart the libguestfs appliance"),
]
"""What is prepared, and the step of which it is in the middle."""


def define_to_interrupt(site: Site, kind: str, path: Path) -> None:
    """Define an image that takes a while. One that has no checksum is read while it is unpacked.

    A qcow2 is looked into in the appliance.
    """
    site.write("defaults.yaml", "isolation: appliance\n" if kind == "qcow2" else "")
    configure(site, path, **({"checksums": sha256_of(path)} if kind == "dump" else {}))


def interrupted(site: Site, step: str, sign: signal.Signals) -> tuple[int, str]:
    """Send a signal to a preparation as soon as it says that it is at a step; returns its status and what it said.

    Where it was done before the signal came, it is tried again.
    """
    for _ in range(20):
        process = subprocess.Popen(
            [COMMAND, "image", "build", "small"],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **site.directories()},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        said = b""
        while f"image small: {step}".encode() not in said:
            chunk = os.read(process.stderr.fileno(), 1 << 16)
            assert chunk, said.decode()
            said += chunk
        process.send_signal(sign)
        said += process.stderr.read()
        process.stderr.close()
        if process.wait() != 0:
            return process.returncode, said.decode()
        shutil.rmtree(site.cache / "templates")
        shutil.rmtree(site.cache / "sources")
    raise AssertionError("it was always done before the signal came")


@pytest.mark.parametrize(("kind", "step"), PHASES)
def test_ended_in_the_middle_of_a_step_it_leaves_nothing_at_once_or_after_the_next_run(
    kind: str, step: str, site: Site, original: Callable[[str], Path]
) -> None:
    define_to_interrupt(site, kind, original(kind))
    with no_leftovers([site.directory, site.cache]):
        status, said = interrupted(site, step, signal.SIGTERM)
    assert status == 1, said
    assert said.splitlines()[-1] == "osprovider: ended by SIGTERM; everything taken was given back, run it again"
    assert entries(site) == []
    with no_leftovers([site.directory, site.cache]):
        status, said = interrupted(site, step, signal.SIGKILL)
    assert status == -signal.SIGKILL, said
    assert [re.sub("^[0-9a-f]{64}", "", name) for name in entries(site)] in ([], [".new"])
    built(site)


def start(site: Site) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, "image", "build", "small"],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **site.directories()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def halted(site: Site, step: str) -> Iterator[subprocess.Popen[str]]:
    """A preparation that stands still at a step; it goes on afterwards."""
    process = start(site)
    try:
        read_until(process, f"image small: {step}")
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("checks", [True, False])
@pytest.mark.parametrize("kind", ["tar.gz", "dump"])
def test_a_source_that_changes_while_it_is_unpacked_is_refused(kind: str, checks: bool, site: Site) -> None:
    path = define(site, kind, data_bytes=64 * MIB)
    if checks:
        configure(site, path, checksums=sha256_of(path))
    with halted(site, "unpack") as process:
        path.write_bytes(path.read_bytes()[: 32 * MIB])
    said, _ = process.communicate()
    assert process.returncode == 1, said
    assert said.splitlines()[-1] == f"osprovider: image small: {path} was changed while it was read; try again"
    assert entries(site) == []


def test_of_two_that_prepare_the_same_content_from_two_files_one_template_stays(site: Site) -> None:
    path = define(site, "tar.gz", data_bytes=16 * MIB)
    with halted(site, "unpack") as first:
        shutil.copyfile(path, other := path.with_name("other.tar.gz"))
        configure(site, other)
        second = start(site)
        read_until(second, "waiting for another osprovider that prepares image small")
    (said, _), (said_then, _) = first.communicate(), second.communicate()
    assert (first.returncode, second.returncode) == (0, 0), said + said_then
    assert "image small: is prepared already, of the same content from elsewhere\n" in said_then
    assert len(entries(site)) == 1
    assert len((site.cache / "history" / "small").read_text().split("\n")[1:]) == 1


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(site: Site) -> Path:
    """A tree with 256 MiB of data, and a file of 20 GiB of which 1 MiB is there."""
    tree = site.directory / "tree"
    small_system.lay_out(tree, data_bytes=256 * MIB)
    with (tree / "sparse").open("wb") as file:
        os.truncate(file.fileno(), 20 << 30)
        os.pwrite(file.fileno(), os.urandom(MIB), 10 << 30)
    return tree


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "tar.zst", "qcow2", "raw.zst"])
def test_it_takes_little_memory_however_large_the_image_is(kind: str, site: Site, large: Path) -> None:
    """With the virtual machine that looks into disks, which is the larger part, and emulated the larger one.

    The files of a program as large as QEMU, which the kernel can take back, come on top.
    """
    path = site.directory / f"large.{kind}"
    if kind.startswith("tar"):
        program = {"tar.gz": "gzip -1", "tar.xz": "xz -T0 -0 --block-size=3MiB", "tar.zst": "zstd -1"}[kind]
        subprocess.run(["tar", "--sparse", "-I", program, "-cf", path, "-C", large, "."], check=True)
    else:
        filesystem, disk = site.directory / "filesystem", site.directory / "disk"
        small_system.make_filesystem(large, filesystem, size_bytes=(20 if kind == "qcow2" else 4) << 30)
        small_system.make_disk(filesystem, disk)
        if kind == "qcow2":
            subprocess.run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", disk, path], check=True)
        else:
            subprocess.run(["zstd", "-q", "-1", disk, "-o", path], check=True)
    configure(site, path)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **site.directories()}
    words = [str(COMMAND), "image", "build", "small"]
    peak, done = peak_of(words, environment)
    assert done.returncode == 0, done.stderr
    assert peak.processes, "nothing was seen"
    assert peak.anonymous_bytes < 200 * MIB, peak.processes
    assert peak.bytes < (200 if kind.startswith("tar") else 250) * MIB, peak.processes


# -- many files -------------------------------------------------------------------------------------------------------


def test_a_tar_of_little_else_than_empty_files_has_room_for_them(site: Site) -> None:
    tree = site.directory / "tree"
    small_system.lay_out(tree)
    (tree / "many").mkdir()
    for number in range(60_000):
        (tree / f"many/{number}").touch()
    path = site.directory / "many.tar"
    subprocess.run(["tar", "-cf", path, "-C", tree, "."], check=True)
    shutil.rmtree(tree)
    configure(site, path)
    built(site, "image small: takes more than usual; once more, with room for ")


def test_so_has_what_was_compressed_to_next_to_nothing(site: Site) -> None:
    tree = site.directory / "tree"
    small_system.lay_out(tree)
    path = site.directory / "zeros.tar.zst"
    with (tree / "zeros").open("wb") as file:
        for _ in range(600):
            file.write(bytes(MIB))
    subprocess.run(["tar", "-I", "zstd -q -1", "-cf", path, "-C", tree, "."], check=True)
    shutil.rmtree(tree)
    configure(site, path)
    built(site, "image small: takes more than usual; once more, with room for ")


# -- old systems ------------------------------------------------------------------------------------------------------


def test_features_that_a_system_does_not_know_are_taken_out_of_what_was_filled(site: Site) -> None:
    tree = site.directory / "tree"
    small_system.lay_out(tree)
    (tree / "etc/os-release").write_text("ID=debian\nVERSION_ID=6\n")
    path = site.directory / "old.tar"
    subprocess.run(["tar", "-cf", path, "-C", tree, "."], check=True)
    configure(site, path)
    built(site)
    (key,) = entries(site)
    header = ["dumpe2fs", "-h", str(site.cache / "templates" / key / "template.img")]
    said = subprocess.run(header, check=True, capture_output=True, text=True).stdout
    features = re.findall(r"(?m)^Filesystem features: +(.*)$", said)[0].split()
    assert {"has_journal", "extent"} <= set(features)
    assert not {"metadata_csum", "64bit"} & set(features)


# -- disk space -------------------------------------------------------------------------------------------------------


@contextmanager
def watched_space(directory: Path) -> Iterator[dict[str, int]]:
    """Note what lies in a directory when that occupies most, while the body runs: bytes by path.

    A file that is renamed meanwhile counts once.
    """
    most: dict[str, int] = {}

    def look() -> None:
        with suppress(OSError):  # files come and go
            found = {status.st_ino: (str(path), status.st_blocks * 512) for path, status in statuses(directory)}
            now = dict(found.values())
            if sum(now.values()) > sum(most.values()):
                most.clear()
                most.update(now)

    with watching(look, 0.01):
        yield most


def statuses(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    return ((path, path.lstat()) for path in directory.rglob("*"))


@pytest.mark.parametrize("kind", ["tar.gz", "dump", "raw", "raw.zst", "qcow2"])
def test_no_second_copy_lies_beside_the_template_while_it_is_made(
    kind: str, site: Site, original: Callable[[str], Path]
) -> None:
    configure(site, original(kind))
    with watched_space(site.cache / "templates") as most:
        built(site)
    (key,) = entries(site)
    made = sum(path.stat().st_blocks * 512 for path in (site.cache / "templates" / key).iterdir())
    assert made > 256 * MIB
    # Of a file system that is made here, there is a new journal of 64 MiB of zeros, which are given back.
    assert sum(most.values()) < made + 96 * MIB, most


@pytest.mark.parametrize("kind", ["tar.gz", "dump", "raw"])
def test_a_template_takes_the_room_of_its_data(kind: str, site: Site) -> None:
    """And not of the zeros that a journal is made of, or an image was full of."""
    path = define(site, kind, data_bytes=16 * MIB)
    if kind == "raw":
        subprocess.run(["fallocate", "--length", str(path.stat().st_size), path], check=True)
    said = build(site, "--json").said
    (made,) = json.loads(said[said.index("[\n") :])
    assert made["occupied_bytes"] < made["data_bytes"] + 2 * MIB


def test_a_raw_image_shares_its_blocks_where_the_file_system_can(site: Site) -> None:
    store = site.directory / "xfs"
    volume = site.directory / "xfs.img"
    with volume.open("wb") as file:
        os.truncate(file.fileno(), 2 << 30)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", volume], check=True)
    store.mkdir()
    subprocess.run(["mount", "-o", "loop", volume, store], check=True)
    try:
        (store / "cache").mkdir()
        (store / "cache/appliance").symlink_to((site.cache / "appliance").readlink())
        site.cache = store / "cache"
        image = define(site, "raw", data_bytes=256 * MIB)
        shutil.move(image, store / "small.raw")
        configure(site, store / "small.raw")
        before = shutil.disk_usage(store).free
        built(site)
        assert before - shutil.disk_usage(store).free < 64 * MIB
    finally:
        subprocess.run(["umount", store], check=True)


# -- no room ----------------------------------------------------------------------------------------------------------


@contextmanager
def small_cache(site: Site, size: str) -> Iterator[Path]:
    """Put the templates on a file system of their own."""
    templates = site.cache / "templates"
    templates.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", templates], check=True)
    try:
        yield templates
    finally:
        subprocess.run(["umount", templates], check=True)


@pytest.mark.parametrize("kind", ["tar.gz", "dump", "raw", "qcow2", "raw.zst"])
def test_a_cache_that_fills_is_said_in_one_line_and_nothing_stays(kind: str, site: Site) -> None:
    define(site, kind, data_bytes=600 * MIB)
    with small_cache(site, "560m") as templates:
        outcome = build(site)
        assert outcome.status == 1
        assert outcome.last_line.startswith(
            f"osprovider: image small: the cache directory {site.cache} has too little space: 560 MiB are free, and "
            "preparing it needs more than 560 MiB; make room"
        )
        assert "Traceback" not in outcome.said
        assert list(templates.iterdir()) == []
    assert list((site.cache / "sources").glob("*[!n]")) == []  # nothing but what is known of the source, in JSON


def test_a_cache_that_is_full_from_the_start_is_said_before_the_work(site: Site) -> None:
    define(site, "tar.gz")
    with small_cache(site, "100m"):
        outcome = build(site)
    assert outcome.status == 1
    assert "has too little space: 100 MiB are free, and preparing it needs at least 512 MiB" in outcome.last_line
    assert "unpack" not in outcome.said


@pytest.mark.parametrize("kind", ["tar.gz", "raw"])
def test_an_image_that_unpacks_to_more_than_it_may_is_refused(kind: str, site: Site) -> None:
    path = define(site, kind, data_bytes=64 * MIB, max_size="32MiB")
    outcome = build(site)
    assert outcome.status == 1
    assert "raise its max_size" in outcome.last_line, outcome.said
    assert str(path) in outcome.last_line or "image small" in outcome.last_line
    assert entries(site) == []


def test_a_system_that_cannot_be_understood_is_said_with_the_images_name(site: Site) -> None:
    path = site.directory / "image.tar"
    path.write_bytes(member("etc/", kind=b"5") + member("etc/os-release", kind=b"6") + END)
    configure(site, path)
    outcome = build(site)
    assert outcome.status == 1
    message = "osprovider: image small: cannot read /etc/os-release in the guest: it is a FIFO, not a regular file"
    assert outcome.last_line == message
    assert entries(site) == []


# -- damaged sources --------------------------------------------------------------------------------------------------


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """Change a bit in the middle."""
    with path.open("r+b") as file:
        offset = path.stat().st_size // 2
        (byte,) = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([byte ^ 1]), offset)


def empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize(
    ("kind", "damages"),
    [
        ("tar.gz", [cut_off, flip, empty]),
        ("tar.zst", [cut_off, flip]),
        ("dump", [cut_off]),
        ("raw.zst", [cut_off, flip]),
        ("qcow2", [cut_off, empty]),
        ("raw", [cut_off]),
    ],
)
def test_a_damaged_source_stays_nowhere_and_a_whole_one_is_prepared_after_it(
    kind: str, damages: list[Callable[[Path], None]], site: Site
) -> None:
    path = define(site, kind, data_bytes=4 * MIB)
    whole = path.read_bytes()
    for damage in damages:
        damage(path)
        outcome = build(site)
        assert outcome.status == 1, outcome.said
        assert outcome.last_line.startswith("osprovider: "), outcome.said
        assert str(path) in outcome.last_line or "image small: " in outcome.last_line
        assert "Traceback" not in outcome.said
        assert entries(site) == []
        path.write_bytes(whole)
    built(site)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("kind", ["tar.gz", "dump", "qcow2", "raw.zst"])
def test_a_source_with_another_checksum_is_not_even_looked_at(kind: str, algorithm: str, site: Site) -> None:
    digits = "0" * (64 if algorithm == "sha256" else 128)
    path = define(site, kind, checksums=f"{algorithm}:{digits}")
    outcome = build(site)
    assert outcome.status == 1
    assert f"{path}: has {algorithm} " in outcome.last_line
    assert f"should have {digits}" in outcome.last_line
    assert not re.search("unpack|to raw|look inside", outcome.said)
    assert entries(site) == []
    assert not list((site.cache / "sources").glob("*"))


@pytest.mark.parametrize("damage", [cut_off, flip])
def test_of_a_damaged_source_it_is_the_checksum_that_is_told(damage: Callable[[Path], None], site: Site) -> None:
    path = define(site, "tar.gz", data_bytes=MIB)
    configure(site, path, checksums=sha256_of(path))
    damage(path)
    outcome = build(site)
    assert outcome.status == 1
    assert f"{path}: has sha256 " in outcome.last_line
    assert entries(site) == []


def test_a_preparation_that_fails_leaves_the_template_of_before(site: Site) -> None:
    path = define(site, "tar.gz", data_bytes=MIB)
    built(site)
    before = entries(site)
    whole, status = path.read_bytes(), path.stat()
    flip(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # so that it is still taken for the same
    outcome = build(site, "--force")
    assert outcome.status == 1
    assert entries(site) == before
    path.write_bytes(whole)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    outcome = build(site)
    assert outcome.status == 0
    assert "unpack" not in outcome.said


# -- damaged templates ------------------------------------------------------------------------------------------------


def test_a_flipped_bit_of_a_template_is_found_and_the_template_made_again(site: Site) -> None:
    define(site, "tar.gz", data_bytes=MIB)
    built(site)
    (key,) = entries(site)
    flip(site.cache / "templates" / key / "template.img")
    outcome = site.command("image", "verify", "small")
    assert outcome.status == 1
    assert re.search(r"(?m)^small +" + key[:12] + r"  damaged and removed: .*byte \d+", outcome.said), outcome.said
    assert "1 of 1 templates" in outcome.last_line
    assert entries(site) == []
    built(site)
    outcome = site.command("image", "verify")
    assert outcome.status == 0, outcome.said
    assert f"{key[:12]}  whole" in outcome.said


# -- what is in use ---------------------------------------------------------------------------------------------------


def test_neither_pruning_nor_the_cap_takes_what_a_create_copies(site: Site, original: Callable[[str], Path]) -> None:
    configure(site, original("tar.gz"))
    site.write(
        "variants/small.yaml",
        "image: small\nboot: {loader: none}\nnetwork: {renderer: none}\nhooks: {disable: [users]}\n",
    )
    built(site)
    (used,) = entries(site)
    disk = site.disk(2 << 30)
    with site.waiting():
        process = site.start("create", site.environment(disk, variant="small"))
        try:
            said = read_until(process, "copy image")
            process.send_signal(signal.SIGSTOP)
            assert site.command("image", "prune", "--all-unused").said == "nothing to remove\n"
            site.write("cache.yaml", "max_size: 1MiB\n")
            _, (other,) = small_system.make_image("tar.zst", site.directory)
            site.write("images/other.yaml", f"source: {other}\n")
            outcome = site.command("image", "build", "other")
            assert outcome.status == 0, outcome.said
            assert "what is left is in use" in outcome.said
            assert used in entries(site)
        finally:
            process.send_signal(signal.SIGCONT)
    rest, _ = process.communicate()
    assert process.returncode == 0, said + rest
    assert [removed for removed in site.command("image", "prune").said.splitlines() if "small removed" in removed]
    assert used not in entries(site)
