"""What programs of a build see of the node, and what they can leave behind."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from osprovider.errors import ToolError
from osprovider.images.builder.isolation import Fetching, run_isolated
from tests.support.http_server import Page, Server, serving
from tests.support.leftovers import no_leftovers


def said(*argv: str | Path, furnish: Path | None = None) -> list[str]:
    """What a program prints."""
    lines: list[str] = []
    run_isolated(argv, lines.append, furnish=furnish)
    return lines


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with the directories that are furnished."""
    for name in ("dev", "proc", "sys"):
        (tmp_path / "root" / name).mkdir(parents=True)
    return tmp_path / "root"


def test_a_program_sees_only_its_own_processes() -> None:
    pids = [int(name) for name in said("ls", "/proc") if name.isdigit()]
    assert pids == [1]


def test_a_program_does_not_see_the_nodes_name() -> None:
    assert said("hostname") == ["localhost"]


def test_a_program_sees_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example.net:3128")
    names = {line.partition("=")[0] for line in said("env")}
    assert names == {"PATH", "LC_ALL", "HOME", "DEBIAN_FRONTEND"}


def test_a_daemon_ends_with_the_program_that_started_it(tmp_path: Path) -> None:
    with no_leftovers([tmp_path]):
        said("sh", "-c", "setsid --fork sleep 1000 </dev/null >/dev/null 2>&1")


def test_a_failure_tells_what_the_program_said() -> None:
    with pytest.raises(ToolError, match="went wrong"):
        said("sh", "-c", "echo it went wrong; exit 3")


def test_a_furnished_tree_has_devices_and_processes_of_its_own(root: Path) -> None:
    assert said("ls", root / "dev", furnish=root) == sorted(
        ["fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"]
    )
    assert [name for name in said("ls", root / "proc", furnish=root) if name.isdigit()] == ["1"]
    assert said("ls", root / "sys", furnish=root) == []
    said("sh", "-c", f"echo lost > {root}/dev/null", furnish=root)


def test_a_furnished_tree_is_bare_afterwards(root: Path) -> None:
    said("touch", root / "dev/shm/file", furnish=root)
    assert [list((root / name).iterdir()) for name in ("dev", "proc", "sys")] == [[], [], []]


def test_the_nodes_kernel_cannot_be_set_from_a_furnished_tree(root: Path) -> None:
    setting = "sys/kernel/domainname"
    before = Path("/proc", setting).read_text()
    with pytest.raises(ToolError, match="Read-only file system"):
        said("sh", "-c", f"echo changed > {root}/proc/{setting}", furnish=root)
    assert Path("/proc", setting).read_text() == before


def test_the_nodes_shared_memory_is_hidden() -> None:
    name = f"osprovider-{os.getpid()}"
    shown = Path("/dev/shm", name)  # noqa: S108 - the name is this process' own
    shown.touch()
    try:
        assert said("ls", shown.parent) == []
    finally:
        shown.unlink()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on the node's loopback interface."""
    with serving() as made:
        made.pages["/file"] = Page(b"content")
        yield made


def test_a_program_has_no_network_but_its_own_loopback_interface() -> None:
    assert said("ls", "/proc/self/net/dev_snmp6") == ["lo"]
    listen = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    said(sys.executable, "-c", listen)


def test_a_program_does_not_reach_the_nodes_servers(server: Server) -> None:
    with pytest.raises(ToolError, match="Connection refused"):
        said(sys.executable, "-c", f"import urllib.request as r; r.urlopen('{server.url}/file')")
    assert server.requests == []


def test_a_program_does_not_reach_the_nodes_abstract_sockets() -> None:
    name = f"\0osprovider-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(name)
        listening.listen()
        connect = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})"
        with pytest.raises(ToolError, match="Connection refused"):
            said(sys.executable, "-c", connect)
        with socket.socket(socket.AF_UNIX) as ours:
            ours.connect(name)


def test_what_fetches_packages_reaches_the_nodes_network_and_nothing_else_does(server: Server, tmp_path: Path) -> None:
    fetch = ["wget", "--quiet", "--output-document=-", f"{server.url}/file"]
    lines: list[str] = []
    run_isolated(fetch, lines.append, fetching=Fetching(tmp_path))
    assert lines == ["content"]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ToolError):
        said(*fetch)
    other = f"import urllib.request as r; r.urlopen('{server.url}/file')"
    with pytest.raises(ToolError, match="Connection refused"):
        run_isolated([sys.executable, "-c", other], lines.append, fetching=Fetching(tmp_path))


def test_what_fetches_packages_uses_the_proxy(server: Server, tmp_path: Path) -> None:
    server.pages["http://mirror.example.org/file"] = Page(b"by proxy")
    lines: list[str] = []
    fetch = ["wget", "--quiet", "--output-document=-", "http://mirror.example.org/file"]
    run_isolated(fetch, lines.append, fetching=Fetching(tmp_path, server.url))
    assert lines == ["by proxy"]
    run_isolated(["env"], lines.append, fetching=Fetching(tmp_path, server.url))
    assert not any("proxy=" in line for line in lines)


def test_namespaces_are_the_programs_own() -> None:
    ours = {name: str(Path("/proc/self/ns", name).readlink()) for name in ("pid", "mnt", "ipc", "uts", "net")}
    theirs = dict(zip(ours, said("readlink", *(f"/proc/self/ns/{name}" for name in ours)), strict=True))
    assert {name for name in ours if ours[name] == theirs[name]} == set()
