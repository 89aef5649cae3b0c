"""The ``osprovider`` command as far as it needs neither root nor a template."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from osprovider.cli.gathered import main
from tests.support.sparse import sparse_file

CHECKOUT = Path(__file__).resolve().parents[2]
PLAN = ("plan", "web1.example.org", "--variant", "debian-12")


class Command:
    """The command, on a site's configuration in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "etc"
        self.config.mkdir()

    def write(self, name: str, text: str) -> Path:
        """Write a configuration file."""
        path = self.config / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    @property
    def environment(self) -> dict[str, str]:
        """What it runs with."""
        return {
            "PATH": "/usr/bin:/bin",
            "OSPROVIDER_CONFIG_DIR": str(self.config),
            "OSPROVIDER_CACHE_DIR": str(self.directory / "cache"),
            "OSPROVIDER_RUN_DIR": str(self.directory / "run"),
        }

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            [CHECKOUT / "tools" / "osprovider", *words],
            env=self.environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )

    def answer(self, *words: str) -> str:
        """What it prints, when it has to succeed."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refusal(self, *words: str) -> str:
        """The one line with which it refuses."""
        done = self.run(*words)
        assert done.returncode in {1, 2}
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.replace(f"{self.directory}/", "")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.mark.parametrize("size", ["20G", "20g", "20GiB", "20480M"])
def test_a_disk_of_which_the_size_is_given_is_shown_by_its_size(command: Command, size: str) -> None:
    assert "  disk        20 GiB, gpt " in command.answer(*PLAN, "--disk", size)
    plan = json.loads(command.answer(*PLAN, "--disk", size, "--json"))
    assert plan["disk"] is None
    assert plan["disk_size_bytes"] == 20 << 30


def test_a_disk_that_is_given_by_its_path_is_looked_at(command: Command) -> None:
    disk = command.directory / "disk"
    disk.touch()
    sparse_file(disk, 3 << 30)
    assert f"  disk        {disk}, 3.0 GiB, gpt " in command.answer(*PLAN, "--disk", "disk")


def test_a_path_where_no_disk_is_is_refused(command: Command) -> None:
    assert "20Q: does not exist" in command.refusal(*PLAN, "--disk", "./20Q")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--disk", "20Q"), '--disk: "20Q" is neither a size, such as 20G, nor a file or a device'),
        (("--disk", "20"), '--disk: "20" is neither a size, such as 20G, nor a file or a device'),
        (("--disk", "1K"), "--disk: 1K is less than 1 MiB; write a size such as 20G"),
        (("--net", "198.51.100.21"), '--net: "198.51.100.21" is not NAME=VALUE, such as ip=198.51.100.21,link=br0'),
        (("-O", "wipe"), '--os-parameter: "wipe" is not NAME=VALUE, such as wipe=zero'),
        (("-H", "acpi"), '--hypervisor-parameter: "acpi" is not NAME=VALUE, such as kernel_path=/boot/vmlinuz'),
        (("--hypervisor", "kmv"), "invalid value for '--hypervisor': 'kmv' is not one of 'kvm', 'xen-pvm', "),
    ],
)
def test_a_word_that_says_nothing_is_told_with_its_option(command: Command, words: tuple[str, ...], said: str) -> None:
    assert command.refusal(*PLAN, *words).startswith(f"osprovider: {said}")


def test_a_disk_of_which_the_size_is_given_is_refused_by_its_size(command: Command) -> None:
    said = command.refusal(*PLAN, "--disk", "100M")
    assert said.startswith("osprovider: disk 0 is too small: it has 100 MiB and the image needs 132 MiB beside its own")


@pytest.mark.parametrize(
    ("variant", "options", "how"),
    [
        ("image: debian-12\n", (), "under bios and uefi, by grub"),
        ("image: debian-12\nlayout: {table: none}\n", ("--hypervisor", "lxc"), "by what the hypervisor brings"),
        ("image: debian-12\nboot: {loader: none}\n", (), "by what the image brings, if anything: boot.loader is none"),
        ("image: debian-12\nlayout: {firmware: []}\n", (), "by nothing: layout.firmware is empty"),
        ("image: debian-12-cloud\n", (), "as the image is made, which is known once it is prepared"),
    ],
)
def test_a_plan_says_how_the_instance_boots(command: Command, variant: str, options: tuple[str, ...], how: str) -> None:
    command.write("variants/own.yaml", variant)
    assert f"  boots       {how}\n" in command.answer(*PLAN[:2], "--variant", "own", *options)


BROKEN = "".join(f"key{number}: 1\n" for number in range(30))


def test_check_says_all_problems(command: Command) -> None:
    command.write("variants/broken.yaml", f"image: debian-12\n{BROKEN}")
    done = command.run("check")
    assert done.returncode == 2
    assert done.stderr.count("there is no key") == 30
    assert done.stderr.count("\n") == 30


def test_a_broken_variant_does_not_hide_the_others(command: Command) -> None:
    command.write("variants/broken.yaml", "image: debian-12\nkey: 1\n")
    command.write("variants/a-name-longer-than-its-column.yaml", "image: debian-12\n")
    done = command.run("variant", "list")
    assert done.returncode == 2
    assert "a-name-longer-than-its-column debian-12\n" in done.stdout
    assert 'broken.yaml:2:1: there is no key "key" here' in done.stderr
    listed = json.loads(command.run("variant", "list", "--json").stdout)
    assert {"name": "debian-12", "image": "debian-12"}.items() <= next(
        each for each in listed if each["name"] == "debian-12"
    ).items()
    command.write("defaults.yaml", "key: 1\n")
    assert command.run("variant", "list").stderr.count("there is no key") == 2


def test_a_list_in_place_of_a_map_is_one_problem(command: Command) -> None:
    command.write("variants/list.yaml", "- image\n")
    assert "etc/variants/list.yaml:1:1: must be a map, not a list" in command.refusal("check")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("hooks/motd", "import os\ndef run(guest, context)\n    pass\n", "2:24: is not Python: expected ':'"),
        ("hooks/motd", "def run(guest, context):\n    pass\n\0", " is not Python: source code string cannot contain"),
        ("templates/motd.j2", "a\n{{ b\n", "2: is no template: unexpected end of template, expected 'end of print"),
        ("templates/motd.j2", "a\n{% fi %}\n", "2: is no template: Encountered unknown tag 'fi'"),
    ],
)
def test_check_finds_a_mistake_in_what_is_not_yaml(command: Command, name: str, content: str, said: str) -> None:
    command.write(name, content)
    refusal = command.refusal("check")
    assert refusal.startswith(f"osprovider: etc/{name}:{said}")
    assert not refusal.endswith(".\n")


def test_check_warns_where_there_is_no_configuration_of_the_sites(command: Command) -> None:
    command.config.rmdir()
    done = command.run("check")
    assert done.returncode == 0
    assert done.stderr == (
        f"warning: there is no {command.config}: nothing of the site's is checked, but what is shipped\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("chekc",), 'there is no command "chekc"; did you mean check?; see osprovider --help\n'),
        (("image", "biuld"), 'there is no command "biuld"; did you mean build?; see osprovider image --help\n'),
        (("schema", "x"), "invalid value for 'KIND': 'x' is not one of 'cache', 'image', 'instance', "),
        (("image", "prune", "--older-than", "x"), "invalid value for '--older-than': 'x' is not a valid number; see "),
        (("image", "list", "--jsno"), "no such option: --jsno; did you mean --json?; see osprovider image list --help"),
    ],
)
def test_a_wrong_word_is_refused_with_the_right_one(command: Command, words: tuple[str, ...], said: str) -> None:
    assert command.refusal(*words).startswith(f"osprovider: {said}")


@pytest.mark.parametrize("content", [b"A=\xff\nB", b"\0" * 100, b"A=" + b"x" * (2 << 20)])
def test_a_file_that_holds_no_environment_is_refused(command: Command, content: bytes) -> None:
    (command.directory / "environment").write_bytes(content)
    assert "NAME=VALUE" in command.refusal("plan", "--environment", "environment")


@pytest.mark.parametrize("words", [["web1.example.org"], ["--disk", "20G"], ["-O", "wipe=zero"], ["--reinstall"]])
def test_what_the_environment_says_is_not_said_twice(command: Command, words: list[str]) -> None:
    said = command.refusal("plan", "--environment", "/dev/null", *words)
    assert said == "osprovider: --environment says all of it: leave INSTANCE and the options for it out\n"


def test_a_variant_comes_from_the_defaults_and_its_own_file(command: Command) -> None:
    command.write("subnets/lab.yaml", "networks: [198.51.100.0/24]\n")
    command.write("images/mine.yaml", "build: {suite: bookworm}\n")
    defaults = command.write("defaults.yaml", "wipe: zero\n")
    variant = command.write("variants/web.yaml", "image: mine\n")
    first = command.answer("variant", "show", "web").partition("\n")[0]
    assert first == f"# variant web, from the built-in defaults, {defaults}, {variant}"
    assert json.loads(command.answer("variant", "show", "web", "--json"))["files"] == [str(defaults), str(variant)]


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_a_variant_is_shown_without_its_password_hashes(command: Command, option: list[str]) -> None:
    password_hash = f"$6$saltsalt${'A' * 86}"
    command.write("defaults.yaml", f"users: {{root: {{password_hash: '{password_hash}'}}}}\n")
    shown = command.answer("variant", "show", "debian-12", *option)
    assert password_hash not in shown
    assert "(hidden)" in shown


def test_check_finds_a_variant_that_orders_hooks_in_a_circle(command: Command) -> None:
    command.write("variants/web.yaml", "image: debian-12\nhooks: {order: {users: after ssh}}\n")
    assert "their order is a circle" in command.refusal("check")


def test_check_finds_a_hook_that_does_not_exist(command: Command) -> None:
    command.write("defaults.yaml", "hooks: {disable: [nettwork]}\n")
    assert command.refusal("check") == (
        'osprovider: etc/defaults.yaml:1:19: there is no hook "nettwork"; did you mean network?\n'
    )


@pytest.mark.parametrize("parameter", ["image=none", "os-image=file:///root/image"])
def test_nics_do_not_matter_where_the_disk_is_left_alone(command: Command, parameter: str) -> None:
    shown = command.answer(*PLAN, "--net", "ip=198.51.100.21", "--os-parameter", parameter)
    assert shown.endswith("the disks are left alone\n")


def test_a_name_that_no_host_can_have_is_refused(command: Command) -> None:
    name = f"{'a' * 50}.{'b' * 50}.example.org"
    assert "has 113 characters, and a host's name has 64 at most" in command.refusal("plan", name, *PLAN[2:])
    assert f"  hostname    {'a' * 50}\n" in command.answer("plan", name, *PLAN[2:], "-O", "hostname=short")


def test_a_choice_that_is_missing_is_told_in_one_line(command: Command) -> None:
    said = command.refusal("image", "export", "debian-12", "x.raw")
    assert said == (
        "osprovider: missing option '--format', one of raw, qcow2, tar; see osprovider image export --help\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", "x"), "wrong arguments: x; write: none (create --help tells more)"),
        (("verify",), "wrong arguments: none; write: parameters (verify --help tells more)"),
    ],
)
def test_a_script_tells_of_a_wrong_argument_in_one_line(words: tuple[str, ...], said: str) -> None:
    script = CHECKOUT / "scripts" / words[0]
    done = subprocess.run([script, *words[1:]], env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"osprovider: {said}\n")


def commands(group: click.Group, *words: str) -> Iterator[tuple[str, ...]]:
    """The words of every command beneath a group."""
    for name, command in group.commands.items():
        yield (*words, name)
        if isinstance(command, click.Group):
            yield from commands(command, *words, name)


@pytest.mark.parametrize("words", list(commands(main)), ids=" ".join)
def test_a_command_is_found_without_all_the_others(words: tuple[str, ...]) -> None:
    show = "sys.modules['osprovider.cli.main'].leave = lambda _: print(*sys.modules)"
    call = f"import sys; from osprovider.cli import main; {show}; main()"
    done = subprocess.run(
        ["/usr/bin/python3", "-c", call, *words, "--help"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    shown, _, imported = done.stdout.rstrip().rpartition("\n")
    assert shown.startswith(f"Usage: -c {' '.join(words)} ")
    is_group = "Commands:" in shown
    assert ("osprovider.cli.gathered" in imported.split()) == is_group
