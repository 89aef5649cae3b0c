"""Hooks that the configuration names have to exist, whoever asks: create, verify or check."""

from __future__ import annotations

from pathlib import Path

import pytest

from osprovider.config.load import check_all, load
from osprovider.errors import ConfigurationError
from osprovider.paths import Directories

WEB1 = "web1.example.org"


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    """A site with a hook of its own beside two shipped ones."""
    for name, text in {
        "share/variants/debian-12.yaml": "image: debian-12\n",
        "share/images/debian-12.yaml": "build: {suite: bookworm}\n",
        "share/hooks/network": "",
        "share/hooks/grub": "",
        "share/hooks/directory/x": "",
        "site/hooks/own": "",
        "site/hooks/own.dpkg-old": "",
    }.items():
        write(tmp_path / name, text)
    return Directories(tmp_path / "site", tmp_path / "cache", tmp_path / "run", tmp_path / "share")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def refusal(directories: Directories, **parameters: str) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        load(directories, "debian-12", instance=WEB1, parameters=parameters)
    return str(refused.value).replace(f"{directories.config.parent}/", "").splitlines()


@pytest.mark.parametrize("file", ["defaults.yaml", "variants/debian-12.yaml", f"instances/{WEB1}.yaml"])
def test_a_hook_that_does_not_exist_is_named_at_its_place(directories: Directories, file: str) -> None:
    text = "image: debian-12\nhooks:\n  disable: [grub, netwrok]\n  order: {own: after girub, owm: before grub}\n"
    write(directories.config / file, text)
    expected = [
        f'site/{file}:3:19: there is no hook "netwrok"; did you mean network?',
        f'site/{file}:4:16: there is no hook "girub"; did you mean grub?',
        f'site/{file}:4:29: there is no hook "owm"; did you mean own?',
    ]
    assert refusal(directories) == expected
    assert [
        str(problem).replace(f"{directories.config.parent}/", "") for problem in check_all(directories)[0]
    ] == expected


def test_an_os_parameter_names_hooks_that_exist(directories: Directories) -> None:
    settings = load(directories, "debian-12", instance=None, parameters={"hooks_disable": "grub own"})
    assert settings.variant.hooks.disable == ("grub", "own")
    expected = 'OSP_HOOKS_DISABLE: there is no hook "directory"; there is grub, network and own'
    assert refusal(directories, hooks_disable="network,directory") == [expected]


@pytest.mark.parametrize("hooks", ["7", "{disable: 7, order: [a]}", "{disable: [7], order: {own: 7}}", "{}"])
def test_what_is_no_reference_is_left_to_the_schema(directories: Directories, hooks: str) -> None:
    write(directories.config / "defaults.yaml", f"hooks: {hooks}\n")
    assert not [problem for problem in check_all(directories)[0] if "no hook" in problem.message]
