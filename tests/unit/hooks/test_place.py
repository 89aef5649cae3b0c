"""The hooks timezone and locale."""

from __future__ import annotations

from pathlib import Path

import pytest

from osprovider.config.model import System, Variant
from osprovider.errors import HookError
from tests.support.boot_context import run_hook
from tests.unit.hooks.trees import context, write_tree


def run(hook: str, root: Path, **system: str) -> None:
    run_hook(hook, root, context(variant=Variant(system=System(**system))))


def test_the_time_zone_is_a_link_and_debians_file(tmp_path: Path) -> None:
    zones = {"/usr/share/zoneinfo/Europe/Berlin": "TZif", "/etc/timezone": "Etc/UTC\n"}
    write_tree(tmp_path, {**zones, "/etc/localtime": "-> /usr/share/zoneinfo/Etc/UTC"})
    run("timezone", tmp_path, timezone="Europe/Berlin")
    assert str((tmp_path / "etc/localtime").readlink()) == "/usr/share/zoneinfo/Europe/Berlin"
    assert (tmp_path / "etc/timezone").read_text() == "Europe/Berlin\n"


def test_a_file_of_its_own_for_the_zone_is_not_made(tmp_path: Path) -> None:
    write_tree(tmp_path, {"/usr/share/zoneinfo/Europe/Berlin": "TZif", "/etc": None})
    run("timezone", tmp_path, timezone="Europe/Berlin")
    assert not (tmp_path / "etc/timezone").exists()


def test_a_zone_that_the_guest_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HookError, match="Europe/Berlin is not in the guest's /usr/share/zoneinfo"):
        run("timezone", tmp_path, timezone="Europe/Berlin")


def test_utc_needs_no_zones(tmp_path: Path) -> None:
    write_tree(tmp_path, {"/etc/localtime": "-> /usr/share/zoneinfo/Europe/Berlin"})
    run("timezone", tmp_path, timezone="Etc/UTC")
    assert not (tmp_path / "etc/localtime").is_symlink()


@pytest.mark.parametrize(
    ("path", "files"), [("etc/default/locale", {"/etc/debian_version": "12\n"}), ("etc/locale.conf", {})]
)
def test_the_locale_is_set_where_the_distribution_looks(
    tmp_path: Path, path: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path, {**files, f"/{path}": "# mine\nLANG=de_DE.UTF-8\nLC_TIME=en_DK.UTF-8\n"})
    for _ in range(2):
        run("locale", tmp_path, locale="C.UTF-8")
    assert (tmp_path / path).read_text() == "# mine\nLC_TIME=en_DK.UTF-8\nLANG=C.UTF-8\n"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("files", "warned"),
    [
        ({}, True),
        ({"/usr/lib/locale/locale-archive": "\0de_AT.utf8\0de_DE.utf8\0"}, False),
        ({"/usr/lib/locale/locale-archive": "\0de_DE.utf8.x\0"}, True),
        ({"/usr/lib/locale/de_DE.utf8": None}, False),
    ],
)
def test_a_locale_that_the_guest_lacks_is_mentioned(
    tmp_path: Path, files: dict[str, str | None], warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path, files)
    run("locale", tmp_path, locale="de_DE.UTF-8")
    assert ("de_DE.UTF-8: the guest's /usr/lib/locale lacks it" in capsys.readouterr().err) is warned
    assert (tmp_path / "etc/locale.conf").read_text() == "LANG=de_DE.UTF-8\n"
