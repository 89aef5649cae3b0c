"""The cache of images looks after itself: what is damaged is found, what nobody needs goes, what is in use stays."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from osprovider.config.model import Image
from osprovider.errors import ConfigurationError
from osprovider.images import history
from osprovider.images.pruning import prune
from osprovider.images.sources.cache import Pin, SourceCache
from osprovider.images.store import Store
from osprovider.manifest import MANIFEST_FORMAT, Manifest
from osprovider.paths import Directories
from tests.support.disk_images import flip
from tests.unit.images.test_store import _FORK, IMAGE, VARIANT, Builder, builder, directories, entries, open_once, store

__all__ = ["builder", "directories", "store"]  # the fixtures

MIB = 1 << 20
DAY = 86400


@pytest.fixture
def large(builder: Builder) -> Builder:
    """A builder whose templates take a MiB."""
    builder.content = b"data" * (MIB // 4)
    return builder


@pytest.fixture
def busy(large: Builder, store: Store) -> Iterator[ExitStack]:
    """Where templates are entered that are in use during the test."""
    with ExitStack() as stack:
        yield stack


def cap(directories: Directories, size: str) -> None:
    """Let the cache take that much."""
    directories.config.mkdir(exist_ok=True)
    (directories.config / "cache.yaml").write_text(f"max_size: {size}\n")


def names(store: Store) -> list[str]:
    """The images that are prepared."""
    return [info.manifest.image for info in store.list()]


def aged(store: Store, name: str, days: float) -> None:
    """Make a template, and have it that old."""
    open_once(store, name)
    (directory,) = (info.directory for info in store.list() if info.manifest.image == name)
    os.utime(directory, (time.time() - days * DAY,) * 2)


def template(directories: Directories) -> Path:
    """The one template's image."""
    [key] = entries(directories)
    return directories.cache / "templates" / key / "template.img"


# -- last use --------------------------------------------------------------------------------------------------------


def test_a_use_is_noted_and_a_look_is_not(store: Store) -> None:
    aged(store, "debian-12", 3)
    store.look_up("debian-12", IMAGE, VARIANT)
    [before] = store.list()
    assert before.used < time.time() - 2 * DAY
    open_once(store)
    [after] = store.list()
    assert after.used > before.used + 2 * DAY


def test_a_template_is_used_from_a_cache_that_cannot_be_written(store: Store, directories: Directories) -> None:
    inode = open_once(store)
    key = template(directories).parent
    key.chmod(0o555)
    try:
        assert open_once(store) == inode
    finally:
        key.chmod(0o755)


# -- eviction --------------------------------------------------------------------------------------------------------


def test_the_least_recently_used_goes_first(store: Store, large: Builder, directories: Directories) -> None:
    for name, days in (("old", 1), ("oldest", 3), ("older", 2)):
        aged(store, name, days)
    cap(directories, "3MiB")
    open_once(store, "new")
    assert names(store) == ["new", "old"]  # each takes a little more than a MiB
    open_once(store, "newest")
    assert names(store) == ["new", "newest"]


def test_a_warm_use_evicts_nothing(store: Store, large: Builder, directories: Directories) -> None:
    for name in ("a", "b", "c"):
        open_once(store, name)
    cap(directories, "1MiB")
    open_once(store, "a")
    assert names(store) == ["a", "b", "c"]


def test_what_is_in_use_stays(busy: ExitStack, store: Store, directories: Directories) -> None:
    aged(store, "oldest", 3)
    aged(store, "old", 2)
    busy.enter_context(store.opened("oldest", IMAGE, VARIANT))
    (info,) = (info for info in store.list() if info.manifest.image == "oldest")
    os.utime(info.directory, (0, 0))
    cap(directories, "3MiB")
    open_once(store, "new")
    assert names(store) == ["new", "oldest"]


def test_what_is_being_prepared_stays(store: Store, large: Builder, directories: Directories) -> None:
    aged(store, "old", 3)
    large.pause = signal.pause
    process = _FORK.Process(target=store.build, args=("old", IMAGE, VARIANT), kwargs={"force": True}, daemon=True)
    process.start()
    try:
        while large.builds < 2:
            time.sleep(0.01)
        large.pause = lambda: None
        cap(directories, "1MiB")
        open_once(store, "new")
        assert names(store) == ["new", "old"]
    finally:
        process.kill()
        process.join()


def test_what_is_larger_than_the_cache_may_be_is_kept_for_its_use_and_said(
    store: Store, large: Builder, directories: Directories, capsys: pytest.CaptureFixture[str]
) -> None:
    cap(directories, "512KiB")
    inode = open_once(store)
    assert open_once(store) == inode
    assert large.builds == 1
    said = capsys.readouterr().err
    assert "warning: the cache takes 1.0 MiB, and max_size in cache.yaml is 512KiB" in said
    open_once(store, "another")
    assert names(store) == ["another"]


def test_many_images_at_once_in_too_small_a_cache_are_all_made_once(
    store: Store, large: Builder, directories: Directories
) -> None:
    cap(directories, "1MiB")
    large.pause = partial(time.sleep, 0.1)
    processes = [_FORK.Process(target=open_once, args=(store, f"image-{n}"), daemon=True) for n in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    assert large.builds == 6


def test_a_mistake_in_cache_yaml_is_said_before_the_work(
    store: Store, builder: Builder, directories: Directories
) -> None:
    cap(directories, "lots")
    with pytest.raises(ConfigurationError, match=r"cache\.yaml:1:11: max_size: "):
        open_once(store)
    assert builder.builds == 0


# -- pruning ---------------------------------------------------------------------------------------------------------


def test_pruning_keeps_the_cache_as_large_as_it_may_be(store: Store, large: Builder, directories: Directories) -> None:
    for name, days in (("a", 1), ("b", 2)):
        aged(store, name, days)
    assert prune(directories) == ()
    cap(directories, "2MiB")
    assert [removed.name for removed in prune(directories)] == ["b"]
    assert names(store) == ["a"]


def test_pruning_takes_what_was_not_used_for_long(store: Store, directories: Directories) -> None:
    for name, days in (("a", 1), ("b", 40)):
        aged(store, name, days)
    [removed] = prune(directories, older_than_days=30)
    assert (removed.kind, removed.name) == ("template", "b")
    assert removed.freed_bytes >= 4096
    assert names(store) == ["a"]


def test_pruning_all_that_is_unused_leaves_what_is_in_use(
    busy: ExitStack, store: Store, directories: Directories
) -> None:
    open_once(store, "unused")
    busy.enter_context(store.opened("used", IMAGE, VARIANT))
    assert [removed.name for removed in prune(directories, unused=True)] == ["unused"]
    assert names(store) == ["used"]


def left_by_another_version(store: Store, directories: Directories) -> str:
    """Make a template that this version does not know; returns its key."""
    open_once(store, "left")
    [info] = [info for info in store.list() if info.manifest.image == "left"]
    manifest = info.directory / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 1}))
    return info.manifest.key


def test_pruning_takes_what_another_version_left_and_says_so(store: Store, directories: Directories) -> None:
    key = left_by_another_version(store, directories)
    [removed] = prune(directories)
    assert (removed.kind, removed.name) == ("template", key)
    assert removed.freed_bytes >= 4096
    assert entries(directories) == []


def test_what_another_version_left_goes_first(store: Store, large: Builder, directories: Directories) -> None:
    left = left_by_another_version(store, directories)
    aged(store, "old", 3)
    cap(directories, "3MiB")
    open_once(store, "new")
    assert names(store) == ["new", "old"]
    assert left not in entries(directories)


def test_what_another_version_left_is_not_said_at_each_use(
    store: Store, directories: Directories, capsys: pytest.CaptureFixture[str]
) -> None:
    key = left_by_another_version(store, directories)
    cap(directories, "1GiB")
    open_once(store, "new")
    assert names(store) == ["new"]
    [left] = store.unusable()
    assert (left.directory.name, left.reason) == (
        key,
        f"made by another version of osprovider: its manifest has format 1, and this one knows {MANIFEST_FORMAT}",
    )
    assert key not in capsys.readouterr().err


PIN = Pin("https://cloud.example.org/disk.raw", f"sha256:{'0' * 64}", 1, "nothing")


def pins(directories: Directories) -> list[str]:
    return sorted(path.name for path in (directories.cache / "sources").iterdir())


def test_pruning_takes_the_pins_of_sources_that_no_definition_has(directories: Directories) -> None:
    defined = Image(source="https://cloud.example.org/disk.raw")
    cache = SourceCache(directories)
    cache.save_pin(defined, PIN)
    cache.save_pin(dataclasses.replace(defined, checksums="SHA256SUMS"), PIN)
    images = directories.config / "images"
    images.mkdir(parents=True)
    (images / "cloud.yaml").write_text(f"source: {defined.source}\n")
    (directories.cache / "sources" / "somebodys.json").write_text("")
    before = pins(directories)
    [removed] = prune(directories)
    assert removed.kind == "pin"
    assert cache.pin(defined) == PIN
    assert {*before} - {*pins(directories)} == {removed.name}
    assert prune(directories) == ()
    (images / "cloud.yaml").unlink()
    assert [each.kind for each in prune(directories)] == ["pin"]
    assert pins(directories) == ["somebodys.json"]


def test_pins_stay_while_a_definition_cannot_be_read(directories: Directories) -> None:
    """Nobody knows then which source it is meant to have."""
    SourceCache(directories).save_pin(Image(source="https://cloud.example.org/disk.raw"), PIN)
    images = directories.config / "images"
    images.mkdir(parents=True)
    (images / "cloud.yaml").write_text("sauce: https://cloud.example.org/disk.raw\n")
    assert prune(directories) == ()


# -- verifying -------------------------------------------------------------------------------------------------------


def test_what_another_version_left_is_no_damage(store: Store, directories: Directories) -> None:
    key = left_by_another_version(store, directories)
    [verdict] = store.verify()
    assert (verdict.directory.name, verdict.image, verdict.damage, verdict.removed) == (key, "left", None, False)
    assert (
        verdict.outdated
        == f"made by another version of osprovider: its manifest has format 1, and this one knows {MANIFEST_FORMAT}"
    )
    assert key in entries(directories)
    assert store.verify("another") == ()
    assert [each.outdated is not None for each in store.verify("left")] == [True]


def test_a_whole_template_is_found_whole(store: Store, builder: Builder, directories: Directories) -> None:
    open_once(store)
    [verdict] = store.verify()
    assert (verdict.directory, verdict.image, verdict.damage) == (template(directories).parent, "debian-12", None)
    assert not verdict.removed


@pytest.mark.parametrize(
    ("offset", "damage"),
    [
        (17, "the checksum of the 4096 bytes from byte 0 on is wrong"),
        (4095, "the checksum of the 4096 bytes from byte 0 on is wrong"),
        (4096, "byte 4096 is not zero, and no extent has it"),
        (MIB + 4099, f"byte {MIB + 4099} is not zero, and no extent has it"),
        (3 * MIB - 1, f"byte {3 * MIB - 1} is not zero, and no extent has it"),
    ],
)
def test_a_flipped_bit_is_found_and_the_template_made_again(
    offset: int, damage: str, store: Store, builder: Builder, directories: Directories
) -> None:
    builder.content = b"data" * 1024 + bytes(3 * MIB - 4096)
    open_once(store)
    flip(template(directories), offset)
    [verdict] = store.verify()
    assert (verdict.damage, verdict.removed) == (damage, True)
    assert entries(directories) == []
    assert store.verify() == ()
    open_once(store)
    assert builder.builds == 2


def test_a_hole_that_is_one_is_read_as_zeros(store: Store, builder: Builder, directories: Directories) -> None:
    builder.content = b"data" * 1024 + bytes(3 * MIB - 4096)
    open_once(store)
    image = template(directories)
    os.truncate(image, 4096)
    os.truncate(image, 3 * MIB)
    assert [verdict.damage for verdict in store.verify()] == [None]
    flip(image, 2 * MIB)
    assert [verdict.damage for verdict in store.verify()] == [f"byte {2 * MIB} is not zero, and no extent has it"]


@pytest.mark.parametrize("name", ["extents", "metadata"])
@pytest.mark.parametrize(
    ("extents", "damage"),
    [
        ([[0, 4096, 0], [0, 4096, 0]], "its manifest: the extent at byte 0 overlaps the one before"),
        ([[0, 4095, 0]], "its manifest: the extent at byte 0 is not of whole blocks"),
        ([[4096, 8192, 0]], "its manifest: an extent ends at byte 12288, and the template at 8192"),
    ],
)
def test_extents_that_cannot_be_are_damage(
    name: str, extents: list[list[int]], damage: str, store: Store, builder: Builder, directories: Directories
) -> None:
    open_once(store)
    manifest = template(directories).with_name("manifest.json")
    rewrite(manifest, {name: extents})
    assert [verdict.damage for verdict in store.verify()] == [damage]
    assert entries(directories) == []


def rewrite(path: Path, changes: dict[str, list[list[int]]]) -> None:
    """Have a manifest say something else, with the right checksum."""
    path.write_text(Manifest.from_json(json.dumps(json.loads(path.read_text()) | changes)).to_json())


def test_a_wrong_checksum_of_metadata_is_damage(store: Store, builder: Builder, directories: Directories) -> None:
    open_once(store)
    manifest = template(directories).with_name("manifest.json")
    rewrite(manifest, {"metadata": [[4096, 4096, 1]]})
    damage = "its manifest: the checksum of the metadata from byte 4096 on is wrong"
    assert [verdict.damage for verdict in store.verify()] == [damage]


def test_a_flipped_bit_of_a_manifest_is_damage(store: Store, builder: Builder, directories: Directories) -> None:
    open_once(store)
    manifest = template(directories).with_name("manifest.json")
    text = bytearray(manifest.read_bytes())
    text[text.index(b'"uuid": "') + 9] ^= 1
    manifest.write_bytes(text)
    [verdict] = store.verify()
    assert (verdict.image, verdict.damage) == ("debian-12", "the checksum of manifest.json is wrong")
    assert entries(directories) == []


def test_a_flipped_bit_of_the_list_of_packages_is_damage(
    store: Store, builder: Builder, directories: Directories
) -> None:
    open_once(store)
    flip(template(directories).with_name("packages.json"), 2)
    [verdict] = store.verify()
    assert (verdict.image, verdict.damage) == ("debian-12", "the checksum of packages.json is wrong")
    assert entries(directories) == []


def test_a_list_of_packages_that_is_gone_is_damage(store: Store, builder: Builder, directories: Directories) -> None:
    open_once(store)
    template(directories).with_name("packages.json").unlink()
    [verdict] = store.verify()
    assert verdict.damage == "packages.json cannot be read: no such file or directory"
    assert entries(directories) == []


def test_what_has_no_manifest_is_damaged(store: Store, builder: Builder, directories: Directories) -> None:
    open_once(store)
    template(directories).with_name("manifest.json").unlink()
    [verdict] = store.verify()
    assert (verdict.image, verdict.damage) == (None, "manifest.json or template.img is missing")
    assert entries(directories) == []


def test_damage_is_said_where_it_cannot_be_removed(
    store: Store, builder: Builder, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_once(store)
    flip(template(directories), 17)
    # A stand-in for a file system that the kernel made read-only because of errors.
    monkeypatch.setattr(Path, "rename", _refuse)
    [verdict] = store.verify()
    assert verdict.damage == "the checksum of the 4096 bytes from byte 0 on is wrong"
    assert not verdict.removed


def _refuse(path: Path, _target: Path) -> Path:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


def test_one_images_templates_are_verified_on_demand(store: Store, builder: Builder) -> None:
    for name in ("a", "b"):
        open_once(store, name)
    assert [verdict.image for verdict in store.verify("b")] == ["b"]


def test_a_template_is_verified_while_it_is_used(busy: ExitStack, store: Store, directories: Directories) -> None:
    busy.enter_context(store.opened("debian-12", IMAGE, VARIANT))
    assert [verdict.damage for verdict in store.verify()] == [None]


# -- history ---------------------------------------------------------------------------------------------------------


def test_the_history_outlives_the_templates(store: Store, builder: Builder, directories: Directories) -> None:
    open_once(store)
    store.remove("debian-12")
    open_once(store)
    first, second = history.entries(directories, "debian-12")
    assert first == second
    assert (first.system, first.packages, first.digest) == ("Debian GNU/Linux 12 (bookworm)", 200, None)
    assert history.entries(directories, "debian-13") == ()


def test_the_history_tells_one_build_from_another(store: Store, directories: Directories) -> None:
    """So that one can see whether a mirror had brought anything."""
    made = template_manifest(store)
    for digest in ("sha256:11", "sha256:22"):
        history.note(directories, dataclasses.replace(made, digest=digest))
    assert [entry.digest for entry in history.entries(directories, "debian-12")] == [None, "sha256:11", "sha256:22"]


def template_manifest(store: Store) -> Manifest:
    """Of a template that is made for it."""
    open_once(store)
    [info] = store.list()
    return info.manifest


def test_a_line_that_was_cut_off_does_not_hide_the_others(store: Store, directories: Directories) -> None:
    made = template_manifest(store)
    with (directories.cache / "history" / "debian-12").open("a") as file:
        file.write('\n{"prepared": ')
    history.note(directories, made)
    assert len(history.entries(directories, "debian-12")) == 2
