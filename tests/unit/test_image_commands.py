"""``osprovider image`` as far as it needs neither root nor a template."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pty
import re
import struct
import subprocess
import tarfile

import pytest
import yaml

from tests.unit.test_cli import CHECKOUT, Command, command

__all__ = ["command"]  # the fixture


@pytest.mark.parametrize("group", ["", "image", "variant"])
def test_a_list_of_commands_says_what_each_does_to_the_end_of_the_sentence(command: Command, group: str) -> None:
    said = command.answer(*group.split(), "--help")
    lines = said.partition("Commands:\n")[2].splitlines()
    assert lines
    assert [line for line in lines if not line.endswith(".") or line.endswith("...")] == []


def test_a_name_that_is_none_is_refused_in_a_line_that_can_be_read(command: Command) -> None:
    refusals = {command.refusal("image", word, "xyz") for word in ("build", "pull", "remove", "sbom", "show", "verify")}
    [said] = refusals
    assert said.startswith('osprovider: NAME: there is no image "xyz" in etc/images or ')
    assert re.search(r"; there is almalinux-10, (\S+, ){14}\S+ and \d+ more\n$", said), said
    assert command.refusal("variant", "show", "xyz").startswith('osprovider: NAME: there is no variant "xyz" in ')
    assert "did you mean debian-12?" in command.refusal("image", "build", "debian12")


def test_no_image_is_written_to_a_terminal(command: Command) -> None:
    here, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [CHECKOUT / "tools" / "osprovider", "image", "export", "debian-12", "-", "--format", "raw"],
            env=command.environment,
            stdout=terminal,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(here)
        os.close(terminal)
    assert (done.returncode, done.stderr) == (
        2,
        "osprovider: standard output is a terminal: name a file, or lead it into a pipe\n",
    )


def test_a_cache_with_nothing_to_verify_is_said(command: Command) -> None:
    assert command.answer("image", "verify") == "no image is prepared on this node\n"
    assert command.answer("image", "verify", "--json") == "[]\n"


def test_images_are_listed_whatever_is_wrong_with_the_variants(command: Command) -> None:
    command.write("defaults.yaml", "key: 1\n")
    assert "debian-12            not prepared\n" in command.answer("image", "list")


# -- add --------------------------------------------------------------------------------------------------------------


RAW = bytes(510) + b"\x55\xaa" + bytes(512)
"""A disk with a boot sector, as far as anybody looks who only adds it."""

DUMP = struct.pack("<I20xI", 1, 60012).ljust(1024, b"\0")
"""The first record of a dump, likewise."""


def archive() -> bytes:
    """A tar, compressed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("etc"))
    return buffer.getvalue()


def definitions(command: Command) -> list[str]:
    """The site's own."""
    return sorted(path.name for path in (command.config / "images").glob("*"))


def test_a_file_is_added_with_the_checksum_that_it_has(command: Command) -> None:
    (command.directory / "golden.img").write_bytes(RAW)
    said = command.answer("image", "add", "golden.img", "--name", "golden", "--json")
    definition = json.loads(said)["definition"]
    assert definition == {
        "source": f"{command.directory}/golden.img",
        "checksums": f"sha256:{hashlib.sha256(RAW).hexdigest()}",
    }
    assert yaml.safe_load((command.config / "images/golden.yaml").read_text()) == definition


def test_what_instance_image_left_is_added_by_its_old_name(command: Command) -> None:
    (command.directory / "old-amd64.tar.gz").write_bytes(content := archive())
    said = command.answer("image", "add", "old-amd64", "--name", "old", "--json")
    assert json.loads(said)["definition"] == {
        "source": f"{command.directory}/old-amd64",
        "checksums": f"sha256:{hashlib.sha256(content).hexdigest()}",
    }


@pytest.mark.parametrize("source", ["http://images.example.org/golden.img", "pair"])
def test_what_will_not_be_verified_is_said(command: Command, source: str) -> None:
    for part in ("root", "boot"):
        (command.directory / f"pair-{part}.dump").write_bytes(DUMP)
    done = command.run("image", "add", source, "--name", "golden")
    assert done.returncode == 0
    assert done.stderr.startswith("warning: image golden will not be verified: whoever can change ")


def test_what_an_address_may_have_of_a_secret_is_not_shown(command: Command) -> None:
    url = "https://images.example.org/golden.img?token=secret"
    lists = ("--checksums", "https://images.example.org/SUMS?token=secret", "--signature", "SUMS.sig?token=secret")
    assert "token" not in command.run("image", "add", url, "--name", "golden").stderr
    command.answer("image", "add", url, "--name", "golden", "--force", *lists, "--keyring", "golden.asc")
    said = command.answer("image", "show", "golden")
    assert "source       https://images.example.org/golden.img\n" in said
    assert "token" not in said


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("missing.img", "image golden: there is no missing.img, and no missing.img-root.dump or the like"),
        ("", "image golden: . is no regular file: name the image's file"),
        ("etc", "image golden: etc is no regular file: name the image's file"),
        ("/dev/null", "image golden: /dev/null is no regular file: name the image's file"),
        ("ftp://images.example.org/golden.img", 'image golden: source: "ftp://images.example.org/golden.img" cannot'),
        ("https://", 'image golden: source: "https://" names no server'),
        ("https:///golden.img", 'image golden: source: "https:///golden.img" names no server'),
    ],
)
def test_what_is_no_file_of_an_image_is_not_added(command: Command, source: str, reason: str) -> None:
    said = command.refusal("image", "add", source, "--name", "golden").replace(str(command.directory), ".")
    assert said.startswith(f"osprovider: {reason}")
    assert definitions(command) == []


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        (b"image", (), "nothing known (it begins with 69 6d 61 67 65): an image is a disk or file system"),
        (b"", (), "empty, 0 bytes"),
        (b"<!DOCTYPE html>", (), "a web page: the address is wrong"),
        (RAW, ("--format", "qcow2"), "is raw, and the definition says qcow2: correct its format, or the source"),
    ],
)
def test_what_is_no_image_is_not_added(command: Command, content: bytes, options: tuple[str, ...], reason: str) -> None:
    (command.directory / "golden.img").write_bytes(content)
    done = command.run("image", "add", "golden.img", "--name", "golden", *options)
    assert done.returncode == 1
    assert done.stderr.startswith(f"osprovider: {command.directory}/golden.img: {reason}"), done.stderr
    assert definitions(command) == []


def test_what_a_definition_must_not_say_is_refused_without_a_place_in_a_file_that_is_not_there(
    command: Command,
) -> None:
    (command.directory / "golden.img").write_bytes(RAW)
    done = command.run("image", "add", "golden.img", "--name", "golden", "--max-size", "12")
    assert done.returncode == 2
    assert 'osprovider: image golden: max_size: "12" does not fit; write a number' in done.stderr
    assert definitions(command) == []


@pytest.mark.parametrize("words", ["1e9", ".5e3", "0o17", "0x1F", "yes", "~", "2026-01-01", "12 of 20"])
def test_words_that_look_like_something_else_are_words(command: Command, words: str) -> None:
    url = "https://images.example.org/golden.img"
    command.answer("image", "add", url, "--name", "golden", "--description", words)
    shown = json.loads(command.answer("image", "show", "golden", "--json"))
    assert shown["definition"]["description"] == words


@pytest.mark.parametrize("key", ["source", "description"])
def test_what_is_not_utf_8_is_refused_as_that_before_the_file_is_read(command: Command, key: str) -> None:
    file = "golden\udcff.img" if key == "source" else "golden.img"
    (command.directory / file).write_bytes(RAW)
    words = "A\udcff" if key == "description" else "A"
    said = command.refusal("image", "add", file, "--name", "golden", "--description", words)  # in one line
    assert re.fullmatch(rf'osprovider: image golden: {key}: ".*" is not UTF-8; .*\n', said), said
    assert definitions(command) == []


def test_a_path_that_no_definition_takes_is_refused_before_the_file_is_read(command: Command) -> None:
    (command.directory / "a golden.img").write_bytes(RAW)
    said = command.refusal("image", "add", "a golden.img", "--name", "golden")  # in one line: no step was said
    assert "does not fit; write an absolute path without spaces and letters beyond ASCII" in said


@pytest.mark.parametrize(
    ("name", "reason"), [("Bad name", "does not fit"), ("debian-12", "there is an image debian-12")]
)
def test_a_name_that_cannot_be_is_refused_before_the_file_is_read(command: Command, name: str, reason: str) -> None:
    (command.directory / "golden.img").write_bytes(RAW)
    assert reason in command.refusal("image", "add", "golden.img", "--name", name)  # in one line: no step was said
    assert definitions(command) == []


@pytest.mark.parametrize(
    "words", [["--debug", "image", "show", "x"], ["image", "show", "--debug", "x"], ["image", "show", "x", "--debug"]]
)
def test_more_is_said_wherever_debug_stands(command: Command, words: list[str]) -> None:
    done = command.run(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1].startswith('osprovider: NAME: there is no image "x"')


def test_what_comes_after_two_dashes_is_no_option(command: Command) -> None:
    assert command.refusal("image", "show", "--", "--debug").startswith('osprovider: NAME: there is no image "--debug"')


# -- output -----------------------------------------------------------------------------------------------------------


def test_a_terminal_that_lacks_a_letter_gets_the_others(command: Command) -> None:
    command.write("images/golden.yaml", "description: Ganeti → 東京 é\nsource: /golden.img\n")
    done = subprocess.run(
        ["/usr/bin/python3", "-c", "from osprovider.cli import main; main()", "image", "show", "golden"],
        env={**command.environment, "PYTHONPATH": str(CHECKOUT), "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert done.stderr == b""
    assert done.stdout.decode("latin-1").startswith("golden: Ganeti ? ?? é\n")


@pytest.mark.parametrize(
    ("definition", "problem"),
    [
        ("", "1:1: the image says nothing of where it comes from"),
        ("source: golden.img\n", "1:9: source: golden.img is relative; write an absolute path"),
        ("source: /golden.img\nchecksums: SUMS\nsignature: SUMS.sig\n", "3:12: signature and keyring belong together"),
    ],
)
@pytest.mark.parametrize("words", ["show", "build", "pull"])
def test_a_definition_that_contradicts_itself_is_refused_by_every_command(
    command: Command, words: str, definition: str, problem: str
) -> None:
    command.write("images/golden.yaml", definition)
    assert f"etc/images/golden.yaml:{problem}" in command.refusal("image", words, "golden")


# -- show -------------------------------------------------------------------------------------------------------------


def test_a_long_history_is_shown_by_its_end(command: Command) -> None:
    made = {"key": "0" * 64, "system": "Debian", "packages": 1, "data_bytes": 1, "digest": None, "verified": None}
    lines = [json.dumps({**made, "created": f"2026-01-01T00:00:{second:02}Z"}) for second in range(30)]
    history = command.directory / "cache/history/debian-12"
    history.parent.mkdir(parents=True)
    history.write_text("".join(f"{line}\n" for line in lines))
    said = command.answer("image", "show", "debian-12").partition("history, the last 20 of 30\n")[2].splitlines()
    assert [line.split()[0][-3:] for line in said] == [f"{second}Z" for second in range(10, 30)]
    assert len(json.loads(command.answer("image", "show", "debian-12", "--json"))["history"]) == 30


# -- prune ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", ["-1", "nan", "soon"])
def test_days_that_are_none_are_refused(command: Command, days: str) -> None:
    assert command.refusal("image", "prune", "--older-than", days).startswith("osprovider: invalid value for '--older")


# -- variants ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [("image", "build", "debian-12"), ("image", "pull", "debian-12-cloud"), ("plan", "w1.example.org")]
)
@pytest.mark.parametrize("name", ["nosuch", "../../nosuch", "No such", ""])
def test_a_variant_that_is_none_is_told_by_the_option_that_named_it(
    command: Command, words: tuple[str, ...], name: str
) -> None:
    said = command.refusal(*words, "--variant", name)
    assert said.startswith("osprovider: --variant: ")
    assert "OS_VARIANT" not in said


def test_packages_that_an_image_of_others_does_not_get_are_told(command: Command) -> None:
    command.write("images/golden.yaml", "source: /golden.img\n")
    command.write("variants/web.yaml", "image: golden\npackages: [nginx, php-fpm]\n")
    note = "note        image golden is not built here, so the variant's packages are not added: nginx php-fpm"
    assert f"  {note}\n" in command.answer("plan", "web1.example.org", "--variant", "web")
    command.write("variants/web.yaml", "image: debian-12\npackages: [nginx]\n")
    assert "not added" not in command.answer("plan", "web1.example.org", "--variant", "web")


def test_which_template_is_meant_has_to_be_said_also_before_its_source_is_there(command: Command) -> None:
    command.write("images/golden.yaml", "source: /golden.tar\n")
    for kind in ("ext3", "ext4"):
        command.write(f"variants/{kind}.yaml", f"image: golden\nlayout: {{filesystem: {kind}}}\n")
    assert command.refusal("image", "sbom", "golden") == (
        "osprovider: the variants of image golden have different templates: say which by --variant\n"
    )
    assert "is not prepared" in command.refusal("image", "sbom", "golden", "--variant", "ext3")


def test_a_variant_without_an_image_is_not_said_to_have_one(command: Command) -> None:
    command.write("variants/own.yaml", "image: none\n")
    assert command.refusal("image", "build", "debian-12", "--variant", "own") == (
        "osprovider: variant own has no image, so not debian-12 either\n"
    )
    assert command.refusal("image", "build", "debian-12", "--variant", "debian-13") == (
        "osprovider: variant debian-13 has image debian-13, and not debian-12\n"
    )


def test_a_broken_variant_does_not_keep_images_from_being_used(command: Command) -> None:
    command.write("variants/broken.yaml", "image: debian-12\nkey: 1\n")
    assert command.run("image", "sbom", "debian-12").stderr == (
        "warning: variant broken is left out: its configuration has problems (osprovider check)\n"
        "osprovider: image debian-12 is not prepared on this node; `osprovider image list` shows what is\n"
    )
