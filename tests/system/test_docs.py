"""Every example of the documentation is run: commands at a site made of the document's files, hooks on a real tree."""

from __future__ import annotations

import argparse
import doctest
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from osprovider.config.model import Variant
from osprovider.config.parameters import parameter_tree
from osprovider.config.schema import bind
from osprovider.errors import Problem
from tests.support.documents import CHECKOUT, DOCUMENTS, Block, Command, blocks, commands
from tests.support.leftovers import no_leftovers
from tests.support.template import copy_cache, shared_cache
from tests.system.create.site import Outcome, Site, debugfs

GIB = 1 << 30
BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]

# What Ganeti 3.0's commands take, as far as the examples use it (gnt-instance(8), gnt-os(8)).
GANETI: dict[tuple[str, str], tuple[str, ...]] = {
    ("gnt-instance", "add"): ("-t", "-o", "-s", "-O", "--net"),
    ("gnt-instance", "reinstall"): ("-o", "-O", "--os-parameters-secret"),
    ("gnt-instance", "rename"): (),
    ("gnt-instance", "shutdown"): (),
    ("gnt-os", "diagnose"): (),
    ("gnt-os", "list"): (),
}
# What Ganeti makes of `ip=pool`: an address of the network's, and the network itself.
POOL = "ip=198.51.100.77,network_subnet=198.51.100.0/24,network_gateway=198.51.100.1"


@pytest.fixture
def bare_site(run_directory: Path, tmp_path: Path) -> Iterator[Site]:
    """A site as the package makes it, with the prepared image in a cache of its own."""
    shared = shared_cache(run_directory)
    with tempfile.TemporaryDirectory(dir=run_directory) as directory, no_leftovers([tmp_path]):
        site = Site(tmp_path, copy_cache(shared, Path(directory) / "cache"))
        shutil.rmtree(site.config / "subnets")
        shutil.copy(CHECKOUT / "packaging" / "defaults.yaml", site.config)
        yield site


def _write(site: Site, block: Block) -> None:
    """Put a block where its first line says."""
    if block.file:
        site.write(block.file, block.text)
        (site.config / block.file).chmod(0o755 if block.text.startswith("#!") else 0o644)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_do_and_print_what_the_document_says(document: Path, bare_site: Site) -> None:
    """From top to bottom, as a reader would: a command sees the files above it."""
    for block in blocks(document):
        _write(bare_site, block)
        if block.rule == "console":
            for command in commands(block):
                _RUNNERS[command.words[0]](bare_site, block, command)


def _run_osprovider(site: Site, block: Block, command: Command) -> None:
    words = list(command.words[1:])
    if "--instance" in words:  # there is no Ganeti here that could activate its disks: they are where we make them
        at = words.index("--instance")
        disk = site.disk(3 * GIB, name=words[at + 1])
        site.created(disk, nics=[{}])
        words[at : at + 2] = [str(disk)]
    _compare(site, block, command, site.command(*words))


def _compare(site: Site, block: Block, command: Command, outcome: Outcome) -> None:
    said = outcome.said
    assert outcome.status == 0, f"{block}: {' '.join(command.words)}: {said}"
    for here, installed in (
        (site.config, "/etc/ganeti/osprovider"),
        (site.cache, "/var/cache/ganeti-osprovider"),
        (CHECKOUT, "/usr/share/osprovider"),
    ):
        said = said.replace(str(here), installed)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if command.output and not doctest.OutputChecker().check_output(command.output, said, flags):
        pytest.fail(f"{block}: {' '.join(command.words)} is to print\n{command.output}\nbut prints\n{said}")


def _run_ganeti(site: Site, block: Block, command: Command) -> None:
    """Hold a command of Ganeti's against its options; plan what it would have us create."""
    program, action, *words = command.words
    assert (program, action) in GANETI, f"{block}: {program} {action}"
    parser = argparse.ArgumentParser(prog=str(block), exit_on_error=False, add_help=False, allow_abbrev=False)
    for option in GANETI[program, action]:
        parser.add_argument(option, action="append", default=[], dest=option.lstrip("-"))
    parser.add_argument("names", nargs="*")
    given = parser.parse_args(words)
    os_names = getattr(given, "o", [])
    for name in os_names:
        assert re.fullmatch(r"osprovider\+[\w.-]+", name), f"{block}: {name}"
    texts = [text for option in ("O", "os-parameters-secret") for text in getattr(given, option, [])]
    parameters = [pair for text in texts for pair in re.split(r"(?<!\\),", text)]
    problems: list[Problem] = []
    bind(Variant, parameter_tree(dict(pair.split("=", 1) for pair in parameters), problems), problems)
    assert not problems, str(block)
    if action == "add":
        nics = [re.sub(r"^\d+:", "", nic).replace("ip=pool", POOL) for nic in given.net]
        plan = [given.names[0], "--variant", os_names[0].partition("+")[2], "--disk", given.s[0]]
        plan += [word for nic in nics for word in ("--net", nic)]
        plan += [word for pair in parameters for word in ("--os-parameter", pair)]
        outcome = site.command("plan", *plan)
        assert outcome.status == 0, f"{block}: {outcome.said}"


def _run_make(site: Site, block: Block, command: Command) -> None:
    assert re.search(rf"(?m)^{command.words[1]}:", (CHECKOUT / "Makefile").read_text()), f"{block}: no such target"


def _run_apt(site: Site, block: Block, command: Command) -> None:
    assert command.words[1:] == ("install", "./dist/osprovider_*.deb"), f"{block}: {command.words}"


def _nothing(site: Site, block: Block, command: Command) -> None:
    """What takes an instance that runs; the end-to-end tests have one."""


def _elsewhere(site: Site, block: Block, command: Command) -> None:
    """What changes the node's own keyrings; the tests that build Ubuntu run it (`tests.support.ubuntu`)."""
    assert "--include=ubuntu-keyring" in block.text, str(block)


_RUNNERS: dict[str, Callable[[Site, Block, Command], None]] = {
    "osprovider": _run_osprovider,
    "gnt-instance": _run_ganeti,
    "gnt-os": _run_ganeti,
    "make": _run_make,
    "apt": _run_apt,
    "ssh": _nothing,
    "ping": _nothing,
    "mmdebstrap": _elsewhere,
    "install": _elsewhere,
    "rm": _elsewhere,
}


def _steps(said: str) -> list[str]:
    """The names of the steps in a log, without paths and keys."""
    lines = (line.partition(":")[0] for line in said.splitlines())
    return [re.sub(r"/\S+", "DISK", re.sub(r"\b[0-9a-f]{12}\b", "KEY", line)).strip() for line in lines]


def _in_order(wanted: list[str], found: list[str]) -> bool:
    rest = iter(found)
    return all(any(line == other for other in rest) for line in wanted)


def test_create_takes_the_steps_that_are_described_in_their_order(bare_site: Site) -> None:
    (block,) = (block for block in BLOCKS if block.rule == "text create")
    outcome = bare_site.created(bare_site.disk(3 * GIB), nics=[{}])
    wanted, found = _steps(block.text), _steps(outcome.said)
    assert _in_order(wanted, found), outcome.said
    assert set(found) - set(wanted) <= {f"hook {path.name}" for path in (CHECKOUT / "hooks").iterdir()}, outcome.said


def test_the_example_hooks_do_what_they_say(bare_site: Site) -> None:
    for block in blocks(CHECKOUT / "docs" / "hooks.md"):
        _write(bare_site, block)
    disk = bare_site.disk(3 * GIB)
    nics = [{"ip": "198.51.100.21", "network": "prod", "network_subnet": "198.51.100.0/24"}]
    outcome = bare_site.created(disk, variant="ordered", nics=nics)
    hooks = [block.file.partition("/")[2] for block in BLOCKS if block.file and block.file.startswith("hooks/")]
    assert len(hooks) >= 3
    for name in hooks:
        assert f"hook {name}" in outcome.said
    assert "inventory written for web1.example.org" in outcome.said
    assert debugfs(disk, "cat /etc/inventory/name") == "web1.example.org\n"
    assert '"hostname": "web1.example.org"' in debugfs(disk, "cat /etc/inventory/context.json")
    assert debugfs(disk, "cat /etc/motd") == (
        "This is web1.example.org.\n  nic0: 198.51.100.21/24\nAsk noc@example.org.\n"
    )
    assert debugfs(disk, "cat /etc/backup/key").startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert "Mode:  0600" in debugfs(disk, "stat /etc/backup/key")
