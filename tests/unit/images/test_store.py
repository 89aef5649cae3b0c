"""The template store, with a builder that makes tiny templates in an instant."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import shutil
import signal
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from osprovider.config.model import BootstrapBuild, Image, Layout, Repository, Variant
from osprovider.errors import ImageError, NodeError
from osprovider.images import history, packages, prepare
from osprovider.images.pruning import prune
from osprovider.images.recipe import Recipe
from osprovider.images.store import Store
from osprovider.manifest import MANIFEST_FORMAT, Extent, Filesystem, Manifest
from osprovider.paths import Directories
from tests.support.manifests import manifest

_FORK = multiprocessing.get_context("fork")
_SIZE = 8192

BUILD = BootstrapBuild(suite="bookworm", packages=("openssh-server", "acl"))
IMAGE = Image(build=BUILD)
VARIANT = Variant(image="debian-12")


class Builder:
    """Stands in for `prepare`; notes each build in a file, so that those of other processes count as well.

    Attributes:
        pause: called in the middle of a build.
        content: of the templates.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self.pause: Callable[[], object] = lambda: None
        self.content = b"data" * 1024 + bytes(_SIZE - 4096)

    def __call__(self, recipe: Recipe, key: str, image: Path, scratch: Path, *_: object) -> Manifest:
        """Make a template: a block of data, then zeros."""
        with self._log.open("a") as log:
            log.write(f"{recipe.image}\n")
        (scratch / "half-made").write_text("")
        self.pause()
        (scratch / "half-made").unlink()
        image.write_bytes(self.content)
        data = len(self.content.rstrip(b"\0"))
        return manifest(
            key=key,
            image=recipe.image,
            size_bytes=len(self.content),
            filesystem=Filesystem("ext4", "uuid", "", 4096, len(self.content), len(self.content)),
            extents=(Extent(0, data, zlib.crc32(self.content[:data])),),
            definition=recipe.to_json(),
            packages_crc32=packages.save((), scratch),
        )

    @property
    def builds(self) -> int:
        """How often it was called, by any process."""
        return len(self._log.read_text().splitlines()) if self._log.exists() else 0


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    stand_in = Builder(tmp_path / "builds")
    monkeypatch.setattr(prepare, "prepare", stand_in)
    return stand_in


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    return Directories(tmp_path / "etc", tmp_path / "cache", tmp_path / "run", tmp_path / "share")


@pytest.fixture
def store(directories: Directories, builder: Builder) -> Store:
    return Store(directories)


def entries(directories: Directories) -> list[str]:
    return sorted(path.name for path in (directories.cache / "templates").iterdir())


def open_once(store: Store, name: str = "debian-12") -> int:
    """The inode of the template that is opened."""
    with store.opened(name, IMAGE, VARIANT) as template:
        return os.fstat(template.fd).st_ino


def test_a_missing_template_is_made_and_then_found(store: Store, builder: Builder) -> None:
    first = open_once(store)
    assert open_once(store) == first
    assert builder.builds == 1


def test_a_template_can_be_read_while_it_is_open_and_is_closed_afterwards(store: Store) -> None:
    with store.opened("debian-12", IMAGE, VARIANT) as template:
        assert os.pread(template.fd, 2 * _SIZE, 0) == b"data" * 1024 + bytes(_SIZE - 4096)
        assert template.manifest.image == "debian-12"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(template.fd)


def test_looking_up_makes_nothing(store: Store, directories: Directories) -> None:
    key, manifest = store.look_up("debian-12", IMAGE, VARIANT)
    assert manifest is None
    assert not directories.cache.exists()
    open_once(store)
    key_then, manifest = store.look_up("debian-12", IMAGE, VARIANT)
    assert key_then == key
    assert manifest is not None
    assert manifest.key == key


@pytest.mark.parametrize(
    ("name", "image", "variant"),
    [
        ("other", IMAGE, VARIANT),
        ("debian-12", dataclasses.replace(IMAGE, build=dataclasses.replace(BUILD, suite="trixie")), VARIANT),
        ("debian-12", dataclasses.replace(IMAGE, build=dataclasses.replace(BUILD, tool="debootstrap")), VARIANT),
        ("debian-12", IMAGE, Variant(image="debian-12", layout=Layout(filesystem="ext3"))),
        ("debian-12", IMAGE, Variant(image="debian-12", packages=("nginx",))),
    ],
)
def test_what_the_result_depends_on_changes_the_key(store: Store, name: str, image: Image, variant: Variant) -> None:
    assert store.look_up(name, image, variant)[0] != store.look_up("debian-12", IMAGE, VARIANT)[0]


@pytest.mark.parametrize(
    ("image", "variant"),
    [
        (dataclasses.replace(IMAGE, description="another"), VARIANT),
        (
            dataclasses.replace(IMAGE, build=dataclasses.replace(BUILD, packages=("acl", "openssh-server"))),
            VARIANT,
        ),
        (IMAGE, Variant(image="debian-12", packages=("acl",))),
        (IMAGE, Variant(image="debian-12", layout=Layout(grow=False))),
        (IMAGE, Variant(image="debian-12", layout=Layout(filesystem="xfs"))),
        (IMAGE, Variant(image="debian-12", layout=Layout(filesystem="btrfs"))),
    ],
)
def test_what_the_result_does_not_depend_on_leaves_the_key(store: Store, image: Image, variant: Variant) -> None:
    assert store.look_up("debian-12", image, variant)[0] == store.look_up("debian-12", IMAGE, VARIANT)[0]


def test_other_trusted_keys_change_the_key(tmp_path: Path) -> None:
    build = BootstrapBuild(suite="bookworm", keyring="archive.gpg")
    keys = set()
    for site in ("one", "two", "none"):
        (tmp_path / site / "keys").mkdir(parents=True)
        if site != "none":
            (tmp_path / site / "keys" / "archive.gpg").write_text(site)
        keys.add(Recipe.of("debian-12", Image(build=build), VARIANT, site=tmp_path / site).key())
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("file", "build"),
    [
        ("debs/a.deb", {"debs": ("a.deb",)}),
        ("scripts/a", {"scripts": ("a",)}),
        ("keys/a.gpg", {"repositories": {"a": Repository(url="https://h.example", suite="x", keyring="a.gpg")}}),
    ],
)
def test_a_file_that_the_definition_names_is_in_the_key_by_its_content(
    file: str, build: dict[str, Any], tmp_path: Path
) -> None:
    image = Image(build=BootstrapBuild(suite="bookworm", **build))
    path = tmp_path / file
    path.parent.mkdir()
    keys = [Recipe.of("web", image, VARIANT, site=tmp_path).key()]
    for content in ("one", "two", "one"):
        path.write_text(content)
        keys.append(Recipe.of("web", image, VARIANT, site=tmp_path).key())
    assert keys[1] == keys[3]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    "damage", ["cut off", "no image", "no manifest", "no JSON", "a flipped bit", "other format", "other key"]
)
def test_a_damaged_template_is_made_again(
    damage: str, store: Store, builder: Builder, directories: Directories, capsys: pytest.CaptureFixture[str]
) -> None:
    open_once(store)
    directory = directories.cache / "templates" / entries(directories)[0]
    manifest = directory / "manifest.json"
    if damage == "cut off":
        os.truncate(directory / "template.img", _SIZE // 2)
    elif damage == "no image":
        (directory / "template.img").unlink()
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "no JSON":
        manifest.write_text('{"format": 1, ')
    elif damage == "a flipped bit":
        text = bytearray(manifest.read_bytes())
        text[text.index(b'"uuid": "') + 9] ^= 1
        manifest.write_bytes(text)
    elif damage == "other format":
        manifest.write_text(manifest.read_text().replace(f'"format": {MANIFEST_FORMAT}', '"format": 0'))
    else:
        manifest.write_text(manifest.read_text().replace(directory.name, "0" * 64))
    open_once(store)
    assert builder.builds == 2
    what = "was made by another version" if damage == "other format" else "is damaged ("
    assert f"{directory} {what}" in capsys.readouterr().err


def test_an_invalidated_template_is_made_again(store: Store, builder: Builder) -> None:
    open_once(store)
    store.invalidate_opened()
    open_once(store)
    assert builder.builds == 2


def test_a_template_that_another_process_made_again_is_not_invalidated(
    store: Store, builder: Builder, directories: Directories
) -> None:
    open_once(store)
    other = Store(directories)
    other.build("debian-12", IMAGE, VARIANT, force=True)
    store.invalidate_opened()
    assert builder.builds == 2
    open_once(store)
    assert builder.builds == 2


def test_building_again_is_done_on_demand_only(store: Store, builder: Builder) -> None:
    store.build("debian-12", IMAGE, VARIANT)
    first = open_once(store)
    store.build("debian-12", IMAGE, VARIANT)
    assert builder.builds == 1
    store.build("debian-12", IMAGE, VARIANT, force=True)
    assert builder.builds == 2
    assert open_once(store) != first


def test_the_old_template_serves_while_a_new_one_is_made(
    store: Store, builder: Builder, directories: Directories
) -> None:
    old = open_once(store)
    builder.pause = signal.pause
    process = _FORK.Process(target=store.build, args=("debian-12", IMAGE, VARIANT), kwargs={"force": True}, daemon=True)
    process.start()
    try:
        wait_until(lambda: any(name.endswith(".new") for name in entries(directories)))
        assert open_once(store) == old
    finally:
        process.kill()
        process.join()


def test_a_template_that_is_replaced_is_there_at_every_moment(
    store: Store, builder: Builder, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes to remove the old one, and whatever happens meanwhile."""
    open_once(store)
    builder.content = b"new!" * 1024 + bytes(_SIZE - 4096)
    remove = shutil.rmtree

    def remove_or_die(path: Path, *, ignore_errors: bool) -> None:
        if (path / "manifest.json").exists():
            os._exit(1)
        remove(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", remove_or_die)
    process = _FORK.Process(target=store.build, args=("debian-12", IMAGE, VARIANT), kwargs={"force": True})
    process.start()
    process.join()
    monkeypatch.undo()
    assert process.exitcode == 1
    (info,) = store.list()
    assert (info.directory / "template.img").read_bytes() == builder.content
    assert store.verify()[0].damage is None
    assert entries(directories) == [info.manifest.key]


def test_a_template_that_is_replaced_while_it_is_looked_at_is_not_taken_for_damaged(
    store: Store, builder: Builder, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which pruning would make away with the new one."""
    open_once(store)
    builder.content = b"new!" * 1024 + bytes(_SIZE)
    read, others = Manifest.from_json, [Store(directories)]

    def read_slowly(text: bytes) -> Manifest:
        if others:
            others.pop().build("debian-12", IMAGE, VARIANT, force=True)
        return read(text)

    monkeypatch.setattr(Manifest, "from_json", read_slowly)
    assert store.unusable() == ()
    (info,) = store.list()
    assert info.manifest.size_bytes == len(builder.content)


def test_packages_are_those_of_the_template_that_they_are_said_to_be_of(
    store: Store, builder: Builder, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is replaced between the one file and the other."""
    open_once(store)
    package = packages.Package("deb", "acl", "2", "amd64")

    def build(*given: Any) -> Manifest:
        return dataclasses.replace(builder(*given), packages=1, packages_crc32=packages.save([package], given[3]))

    load, others = packages.load, [Store(directories)]

    def load_slowly(directory: Path, made: Manifest) -> tuple[packages.Package, ...]:
        if others:
            others.pop().build("debian-12", IMAGE, VARIANT, force=True)
        return load(directory, made)

    monkeypatch.setattr(prepare, "prepare", build)
    monkeypatch.setattr(packages, "load", load_slowly)
    found = store.listed(entries(directories)[0])
    assert found is not None
    assert (found[0].manifest.packages, found[1]) == (1, (package,))
    assert store.listed("0" * 64) is None


@pytest.fixture
def removed_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Removals that wait until a template is in its place, and take it away as soon as it is."""
    waiting: list[str] = []

    def remove(*_: object) -> None:
        if waiting:
            store.remove(waiting.pop())

    monkeypatch.setattr(history, "note", remove)
    return waiting


def test_a_template_that_is_removed_as_soon_as_it_is_there_is_made_again(
    store: Store, builder: Builder, removed_at_once: list[str]
) -> None:
    removed_at_once.append("debian-12")
    open_once(store)
    assert builder.builds == 2


def test_of_a_template_that_was_built_and_removed_that_is_said(store: Store, removed_at_once: list[str]) -> None:
    removed_at_once.append("debian-12")
    with pytest.raises(ImageError, match=r"something removed its template from .*; try again"):
        store.build("debian-12", IMAGE, VARIANT, force=True)


def test_the_list_is_by_image(store: Store) -> None:
    for name in ("debian-13", "debian-12"):
        open_once(store, name)
    infos = store.list()
    assert [info.manifest.image for info in infos] == ["debian-12", "debian-13"]
    assert all(info.directory.name == info.manifest.key for info in infos)


def test_removing_takes_the_templates_of_one_image(store: Store, directories: Directories) -> None:
    for name in ("debian-13", "debian-12"):
        open_once(store, name)
    removed = store.remove("debian-12")
    assert [info.manifest.image for info in removed] == ["debian-12"]
    assert [info.manifest.image for info in store.list()] == ["debian-13"]
    assert len(entries(directories)) == 1
    assert store.remove("debian-12") == ()


def test_an_empty_store_lists_and_removes_nothing(store: Store) -> None:
    assert store.list() == ()
    assert store.remove("debian-12") == ()


def test_removing_waits_for_who_uses_the_template(store: Store, directories: Directories) -> None:
    open_once(store)
    now = _FORK.Event()

    def remove_then() -> None:
        now.wait()
        store.remove("debian-12")

    # Forked before the template is opened: a fork's copy of our descriptor would hold the lock as well.
    process = _FORK.Process(target=remove_then, daemon=True)
    process.start()
    with store.opened("debian-12", IMAGE, VARIANT):
        now.set()
        process.join(0.2)
        assert process.is_alive()
        assert len(entries(directories)) == 1
    process.join()
    assert entries(directories) == []


def test_many_at_once_make_it_once_and_the_others_say_that_they_wait(
    store: Store, builder: Builder, directories: Directories, capfd: pytest.CaptureFixture[str]
) -> None:
    waits, said, others_wait = "waiting for another osprovider that prepares image debian-12\n", "", _FORK.Event()

    def all_others_wait() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return said.count(waits) == 7

    builder.pause = others_wait.wait
    processes = [_FORK.Process(target=open_once, args=(Store(directories),), daemon=True) for _ in range(8)]
    for process in processes:
        process.start()
    wait_until(all_others_wait)
    others_wait.set()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert builder.builds == 1
    assert len(entries(directories)) == 1
    assert all_others_wait()


def test_different_images_are_made_at_the_same_time(builder: Builder, directories: Directories) -> None:
    builder.pause = signal.pause
    names = ("debian-12", "debian-13")
    processes = [_FORK.Process(target=open_once, args=(Store(directories), name), daemon=True) for name in names]
    for process in processes:
        process.start()
    try:
        wait_until(lambda: builder.builds == 2)
    finally:
        for process in processes:
            process.kill()
            process.join()


@pytest.fixture
def killed(store: Store, builder: Builder, directories: Directories) -> Path:
    """What a builder left that was killed."""
    builder.pause = signal.pause
    process = _FORK.Process(target=open_once, args=(store, "killed"), daemon=True)
    process.start()
    wait_until(lambda: builder.builds == 1)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    builder.pause = lambda: None
    [name] = entries(directories)
    assert name.endswith(".new")
    return directories.cache / "templates" / name


def test_a_dead_builders_leftovers_go_with_the_next_use_of_any_image(store: Store, killed: Path) -> None:
    open_once(store, "another")
    assert not killed.exists()


def test_a_dead_builders_image_is_made_anew(store: Store, builder: Builder, killed: Path) -> None:
    open_once(store, "killed")
    assert not killed.exists()
    assert builder.builds == 2


def test_a_living_builders_work_is_left_alone(store: Store, builder: Builder, directories: Directories) -> None:
    builder.pause = signal.pause
    process = _FORK.Process(target=open_once, args=(store, "slow"), daemon=True)
    process.start()
    try:
        wait_until(lambda: builder.builds == 1)
        builder.pause = lambda: None
        open_once(store, "quick")
        assert [name[64:] for name in entries(directories) if "." in name] == [".new"]
    finally:
        process.kill()
        process.join()


def test_a_removal_that_was_killed_half_way_is_completed(store: Store, directories: Directories) -> None:
    open_once(store)
    [key] = entries(directories)
    templates = directories.cache / "templates"
    (templates / key).rename(templates / f"{key}.gone")
    assert store.list() == ()
    open_once(store)
    assert entries(directories) == [key]


def test_a_build_that_fails_leaves_nothing(
    store: Store, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Manifest:
        raise ImageError("image debian-12: the mirror is gone")

    monkeypatch.setattr(prepare, "prepare", fail)
    with pytest.raises(ImageError, match="the mirror is gone"):
        open_once(store)
    assert entries(directories) == []


def test_a_disk_that_is_full_at_last_is_said(
    store: Store, builder: Builder, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*given: Any) -> Manifest:
        (given[3] / "manifest.json").symlink_to("/dev/full")
        return builder(*given)

    monkeypatch.setattr(prepare, "prepare", build)
    with pytest.raises(NodeError, match=r"/templates/\w+\.new: no space left on device; the cache directory .* has to"):
        open_once(store)
    assert entries(directories) == []


@pytest.mark.parametrize("name", ["copy.tar", "notes", "notes.new"])
def test_a_file_of_somebody_elses_is_left_alone(name: str, store: Store, directories: Directories) -> None:
    open_once(store)
    strange = directories.cache / "templates" / name
    strange.write_text("somebody's")
    open_once(store)
    assert len(store.list()) == 1
    assert store.unusable() == ()
    assert prune(directories, unused=True) != ()
    assert strange.read_text() == "somebody's"


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in itertools.repeat(None, 12_000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that")
