"""The documentation agrees with the code: examples, tables, links, lists of packages, messages, man pages."""

from __future__ import annotations

import functools
import inspect
import json
import re
import subprocess
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from osprovider.config import document as yaml_document
from osprovider.config.model import Cache, Image, InstanceFile, Subnet, Variant
from osprovider.config.schema import bind
from osprovider.customize.context import Context, ContextDisk, ContextPartition
from osprovider.customize.runner import executable_environment
from osprovider.errors import Problem
from osprovider.ganeti.hypervisor import SerialConsole
from osprovider.ganeti.request import Instance
from osprovider.guest.protocol import Guest
from osprovider.manifest import Manifest
from osprovider.nics import ResolvedNic
from tests.support.boot_context import boot_context
from tests.support.documents import CHECKOUT, DOCUMENTS, FILES, RULES, Block, anchors, blocks, commands, prose, table
from tools import man_pages, reference

DOCS = CHECKOUT / "docs"
BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
KINDS: dict[str, type] = {
    "cache.yaml": Cache,
    "defaults.yaml": Variant,
    "variants": Variant,
    "images": Image,
    "subnets": Subnet,
    "instances": InstanceFile,
}
PROGRAMS = {"osprovider", "gnt-instance", "gnt-os", "make", "apt", "ssh", "ping", "mmdebstrap", "install", "rm"}


def _of(rule: str) -> list[Block]:
    return [block for block in BLOCKS if block.rule == rule]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_rule_covers_every_block(block: Block) -> None:
    assert block.rule in RULES
    if block.rule in FILES:
        assert block.file, "its first line names no file of the site's"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_example_escapes_the_rules(document: Path) -> None:
    text = prose(document)
    assert "```" not in text, "a fence is not closed, or indented"
    assert not re.search(r"(?m)\n\n    \S", text), "a block by indentation, which no rule covers"
    files = [block.file for block in blocks(document) if block.file]
    assert len(set(files)) == len(files), "two blocks are the same file"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_list_of_sections_has_them_all_in_their_order(document: Path) -> None:
    text = prose(document)
    listed = re.findall(r"(?m)^- \[([^]]+)\]\(#", text)
    assert listed in ([], re.findall(r"(?m)^## (.+)$", text))


@pytest.mark.parametrize("block", _of("yaml"), ids=str)
def test_yaml_is_what_the_schema_allows(block: Block) -> None:
    problems: list[Problem] = []
    node = yaml_document.parse(block.text.encode(), str(block), problems)
    assert node is not None, problems
    assert block.file
    bind(KINDS[block.file.partition("/")[0]], node, problems)
    assert not problems


@pytest.mark.parametrize("block", _of("console"), ids=str)
def test_commands_are_of_programs_that_the_tests_know(block: Block) -> None:
    assert {command.words[0] for command in commands(block)} <= PROGRAMS


@pytest.mark.parametrize("path", reference.generated(), ids=lambda path: path.name)
def test_what_is_generated_is_fresh(path: Path) -> None:
    assert path.read_text() == reference.generated()[path], "run python3 -m tools.reference"


@pytest.mark.parametrize("block", _of("json manifest"), ids=str)
def test_the_manifest_is_one(block: Block) -> None:
    shown = json.loads(block.text)
    assert json.loads(Manifest.from_json(block.text).to_json()) | {"checksum": shown["checksum"]} == shown


@pytest.mark.parametrize("block", _of("json context"), ids=str)
def test_the_context_is_what_hooks_read(block: Block) -> None:
    shown = json.loads(block.text)
    problems: list[Problem] = []
    node = yaml_document.parse(json.dumps(shown["variant"]).encode(), str(block), problems)
    assert node is not None, problems
    variant = bind(Variant, node, problems)
    assert variant is not None, problems
    context = Context(
        event=shown["event"],
        instance=Instance(**shown["instance"]),
        hostname=shown["hostname"],
        variant=variant,
        nics=tuple(ResolvedNic(**nic) for nic in shown["nics"]),
        disks=tuple(_disk(disk) for disk in shown["disks"]),
        serial_console=SerialConsole(*shown["serial_console"]),
    )
    assert json.loads(json.dumps(context.to_json())) == shown


def _disk(shown: dict[str, Any]) -> ContextDisk:
    partitions = tuple(ContextPartition(**partition) for partition in shown["partitions"])
    return ContextDisk(**{**shown, "path": Path(shown["path"]), "partitions": partitions})


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(document)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        other = document.parent / name if name else document
        assert other.is_file(), target
        assert not anchor or anchor in anchors(other), target


def _words(document: Path, heading: str, column: int = 0) -> list[str]:
    """What stands in backticks in a column of a table."""
    return [word for row in table(document, heading) for word in re.findall(r"`([^`]+)`", row[column])]


def test_the_tables_of_hooks_and_templates_are_whole() -> None:
    hooks, templates = DOCS / "hooks.md", [path.name for path in (CHECKOUT / "templates").iterdir()]
    assert sorted(_words(hooks, "Shipped hooks")) == sorted(path.name for path in _files("hooks"))
    assert sorted(_words(hooks, "Templates")) == sorted(templates)


def _files(directory: str) -> list[Path]:
    return [path for path in (CHECKOUT / directory).iterdir() if path.is_file()]


def test_the_table_of_templates_names_the_hook_that_renders_each() -> None:
    for template, _, hook in table(DOCS / "hooks.md", "Templates"):
        assert template.strip("`") in (CHECKOUT / "hooks" / hook.strip("`")).read_text()


def test_the_table_of_the_guest_has_every_method() -> None:
    documented = {word.partition("(")[0] for word in _words(DOCS / "hooks.md", "The guest") if "(" in word}
    assert documented == {name for name in vars(Guest) if not name.startswith("_")}
    for word in _words(DOCS / "hooks.md", "The guest"):
        if found := re.fullmatch(r"(\w+)\((.*)\)", word):
            parameters = [name for name in inspect.signature(getattr(Guest, found[1])).parameters if name != "self"]
            assert [name.strip().rstrip("=") for name in found[2].split(",")] == parameters


def test_the_table_of_variables_is_what_executable_hooks_get() -> None:
    given = executable_environment(boot_context(), Path("/dev/loop0"), Path("/mnt"))
    documented = _words(DOCS / "hooks.md", "Hooks of instance-image and instance-debootstrap")
    assert {word for word in documented if word.isupper()} == set(given)


@pytest.mark.parametrize(("key", "heading"), [("isolation", "Isolation"), ("wipe", "What was on the disk before")])
def test_the_tables_of_isolation_and_wipe_have_every_word(key: str, heading: str) -> None:
    words = get_args(get_type_hints(Variant)[key])
    assert [row[0] for row in table(DOCS / "operation.md", heading)] == [f"`{word}`" for word in words]


@functools.cache
def _sources() -> str:
    """The code, with string literals that stand one below the other joined."""
    files = [*sorted((CHECKOUT / "osprovider").rglob("*.py")), *_files("hooks")]
    return re.sub(r"\"\s*\n\s*f?\"", "", "\n".join(path.read_text() for path in files))


# What may stand in the code where a message differs from time to time: a field of an f-string, or words.
_DIFFERS = r"(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|[^\"\n{}])*?"


@pytest.mark.parametrize("row", table(DOCS / "operation.md", "Troubleshooting"), ids=lambda row: row[0])
def test_messages_of_the_troubleshooting_table_are_real(row: list[str]) -> None:
    message = row[0].strip("`…")  # what comes before or after it may be anything, or nothing
    pattern = _DIFFERS.join(re.escape(piece) for piece in message.split("…"))
    assert re.search(pattern, _sources()) is not None, message


def test_packages_are_the_same_everywhere() -> None:
    control = (CHECKOUT / "debian" / "control").read_text()
    makefile = re.sub(r"\\\n\s*", "", (CHECKOUT / "Makefile").read_text())

    def field(name: str) -> set[str]:
        found = re.search(rf"(?m)^{name}:\n((?: .*\n)+)", control)
        assert found
        return set(re.findall(r"(?m)^ ([a-z0-9+.-]+)", found[1]))

    def made(name: str) -> set[str]:
        found = re.search(rf"(?m)^{name}_PACKAGES\s*:= (.*)$", makefile)
        assert found
        return set(found[1].split())

    document = DOCS / "dependencies.md"
    assert set(_words(document, "Always")) == field("Depends") | {"python3"}  # python3 comes by ${python3:Depends}
    assert set(_words(document, "For some")) == field("Recommends")
    assert set(_words(document, "Suggested")) == field("Suggests")
    assert made("NODE") == {*field("Depends"), *field("Recommends"), "python3"}
    building = {row[0]: set(re.findall(r"`([^`]+)`", row[1])) for row in table(document, "For building and testing")}
    assert list(building.values()) == [made("BUILD"), made("DEMO"), made("TEST")]


def test_python_packages_for_testing_are_named() -> None:
    text = (DOCS / "dependencies.md").read_text()
    for line in (CHECKOUT / "tools" / "requirements.txt").read_text().splitlines():
        name = re.match(r"[A-Za-z-]+", line)
        if name and not line.startswith("#"):
            assert name[0].removeprefix("types-") in text


PAGES = man_pages.pages()


@pytest.mark.parametrize("name", PAGES)
def test_man_pages_have_no_mistake(name: str, tmp_path: Path) -> None:
    page = tmp_path / name
    page.write_text(PAGES[name])
    done = subprocess.run(
        ["man", "--warnings=w", "--encoding=UTF-8", "--local-file", page],
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr
    title = name.removesuffix(".1")
    assert done.stdout.startswith(f"{title.upper()}(1)")
    headings = re.findall(r"(?m)^([A-Z][A-Z ]+)$", done.stdout)
    assert headings[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    assert headings[-2:] == ["EXIT STATUS", "SEE ALSO"]
    assert re.search(rf"\n {{7}}{title} - [a-z]", done.stdout)
    assert not re.search(r"\\[a-z&]|\bTEXT\b", done.stdout), "roff shows, or an option has no name for its value"


def test_every_command_has_a_man_page() -> None:
    from osprovider.cli.gathered import main

    expected = {"osprovider"}
    for name, command in main.commands.items():
        expected |= {f"osprovider-{name}", *(f"osprovider-{name}-{each}" for each in getattr(command, "commands", ()))}
    assert {page.removesuffix(".1") for page in PAGES} == expected
