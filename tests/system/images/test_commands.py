"""What ``osprovider image`` says of a template: the same words and the same data in every command."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import small_system
from tests.support.template import CHECKOUT
from tests.system.create.site import Site

SHORT = {"key", "directory", "created", "used", "filesystem", "occupied_bytes", "data_bytes"}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site with a definition that is not prepared yet."""
    site = Site(tmp_path, tmp_path / "cache")
    _, (path,) = small_system.make_image("tar.gz", tmp_path)
    site.write("images/small.yaml", f"source: {path}\n")
    return site


def answer(site: Site, *words: str) -> str:
    """What a command prints, which has to succeed."""
    done = subprocess.run(
        [CHECKOUT / "tools" / "osprovider", "image", *words],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **site.directories()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def data(site: Site, *words: str) -> Any:
    return json.loads(answer(site, *words, "--json"))


def test_a_template_is_the_same_data_in_every_command(site: Site) -> None:
    (built,) = data(site, "build", "small")
    assert set(built) == SHORT
    assert built["filesystem"]["type"] == "ext4"
    assert data(site, "pull", "small") == [built]
    (listed,) = [each for each in data(site, "list") if each["name"] == "small"]
    assert (listed["defined"], listed["templates"], listed["current"]) == (True, [built], [built["key"]])
    (shown,) = data(site, "show", "small")["templates"]
    assert {key: shown[key] for key in SHORT} == built
    sound = {"damage": None, "outdated": None, "removed": False}
    assert data(site, "verify", "small") == [
        {"name": "small", "key": built["key"], "directory": built["directory"], **sound}
    ]
    assert data(site, "remove", "small") == [built]


def test_a_file_is_pulled_in_one_go(site: Site) -> None:
    """It is read once where its digest is made beside."""
    pulled = site.command("image", "pull", "small")
    assert pulled.status == 0, pulled.said
    assert pulled.said.index("image small: unpack") < pulled.said.index("image small: verify")


@pytest.mark.parametrize("option", [[], ["--json"]])
@pytest.mark.parametrize("command", ["remove", "verify"])
def test_what_is_not_prepared_is_refused_alike(command: str, option: list[str], site: Site) -> None:
    outcome = site.command("image", command, "small", *option)
    assert outcome.status == 1
    assert (
        outcome.said == "osprovider: image small is not prepared on this node; `osprovider image list` shows what is\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["build", "small"],
        ["pull", "small"],
        ["export", "small", "small.tar", "--format", "tar"],
        ["capture", "disk", "--name", "own"],
        ["remove", "small"],
        ["verify"],
        ["prune"],
    ],
    ids=lambda words: words[0],
)
def test_who_is_not_root_is_told(words: list[str], site: Site) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # wherever the checkout lies
    done = subprocess.run(
        [*nobody, *reading, CHECKOUT / "tools" / "osprovider", "image", *words],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **site.directories()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "osprovider: only root can do this: call it with sudo, or from a shell of root's\n"


def test_names_of_any_length_are_listed_in_columns(site: Site) -> None:
    site.write(f"images/{'long-' * 8}name.yaml", "source: /nowhere\n")
    answer(site, "build", "small")
    lines = answer(site, "list").splitlines()
    assert {line.index(" not prepared") if "not prepared" in line else line.index(" ready ") for line in lines} == {44}


def test_a_template_that_no_instance_would_be_made_of_is_a_former_one(site: Site) -> None:
    definition = (site.config / "images/small.yaml").read_text()
    answer(site, "build", "small")
    site.write("images/small.yaml", "source: /nowhere\n")
    assert re.search(r"^small +former ", answer(site, "list"), re.MULTILINE)
    assert " (a former one), prepared " in answer(site, "show", "small")
    site.write("images/small.yaml", definition)
    assert re.search(r"^small +ready ", answer(site, "list"), re.MULTILINE)
    assert "former" not in answer(site, "show", "small")


def test_a_file_that_was_exported_is_told(site: Site, tmp_path: Path) -> None:
    said = answer(site, "export", "small", str(tmp_path / "small.tar"), "--format", "tar")
    path = Path(said.partition(" written, ")[0])
    assert path == tmp_path / "small.tar"
    assert path.stat().st_size > 0


@pytest.mark.parametrize(
    ("place", "kind", "reason"),
    [
        ("there.raw", "raw", "is there already; name another file, or use --force"),
        ("nowhere/small.raw", "raw", "cannot be written: no such file or directory; name a file in a directory"),
        (".", "tar", "is no plain file: name one"),
        ("-", "qcow2", "qcow2 is not written from its beginning to its end: name a file"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    place: str, kind: str, reason: str, site: Site, tmp_path: Path
) -> None:
    (tmp_path / "there.raw").write_text("mine")
    output = place if place == "-" else str(tmp_path / place)
    outcome = site.command("image", "export", "small", output, "--format", kind)
    assert outcome.status in {1, 2}
    assert outcome.said.count("\n") == 1, outcome.said
    assert reason in outcome.said
    assert [each["templates"] for each in data(site, "list") if each["name"] == "small"] == [[]]


@pytest.mark.parametrize("name", ["a disk.tar.zst", "disk\udcff.tar.zst"])
def test_a_capture_whose_definition_could_not_name_it_is_refused_before_the_disk_is_read(
    name: str, site: Site, tmp_path: Path
) -> None:
    outcome = site.command("image", "capture", "/nowhere", "--name", "own", "--output", str(tmp_path / name))
    assert outcome.status == 2
    assert outcome.said.startswith("osprovider: image own: source: "), outcome.said


def test_variants_that_share_a_template_have_it_made_once(site: Site) -> None:
    for filesystem in ("ext4", "xfs"):
        site.write(f"variants/{filesystem}.yaml", f"image: small\nlayout: {{filesystem: {filesystem}}}\n")
    said = site.command("image", "build", "small", "--force").said
    assert said.count("image small: unpack") == 1, said
    assert said.count("small is ready") == 1


def test_an_image_that_no_variant_uses_is_prepared_as_the_defaults_say(site: Site) -> None:
    (before,) = data(site, "build", "small")
    site.write("defaults.yaml", "layout: {filesystem: ext3}\n")
    (listed,) = [each for each in data(site, "list") if each["name"] == "small"]
    assert (listed["templates"], listed["current"]) == ([before], [])
    (built,) = data(site, "build", "small")
    assert built["filesystem"]["type"] == "ext3"
    (listed,) = [each for each in data(site, "list") if each["name"] == "small"]
    assert listed["current"] == [built["key"]]
    site.write("variants/own.yaml", "image: small\n")
    assert data(site, "build", "small") == [built]
    site.write("defaults.yaml", "layout: {filesystem: ext9}\n")
    refused = site.command("image", "build", "small")
    assert refused.status == 2
    assert 'defaults.yaml:1:22: layout.filesystem: "ext9" is not known here' in refused.said


def test_what_goes_is_told_once(site: Site) -> None:
    answer(site, "build", "small")
    site.write("cache.yaml", "max_size: 1MiB\n")
    said = site.command("image", "prune").said
    assert said.count("template small removed, ") == 1, said


def test_damage_that_is_seen_is_listed_and_pruned(site: Site) -> None:
    (built,) = data(site, "build", "small")
    (Path(built["directory"]) / "manifest.json").write_text("{")
    listed = site.command("image", "list")
    assert listed.status == 0
    assert f"warning: {built['directory']} cannot be used: not a manifest: " in listed.said
    (removed,) = data(site, "prune")
    assert (removed["kind"], removed["name"]) == ("template", built["key"])
    assert "cannot be used" not in site.command("image", "list").said
