"""Which files are hooks."""

import re
from pathlib import Path

import pytest

from osprovider.config import model
from osprovider.customize.hooks import discover, refuse_programs, select
from osprovider.errors import ConfigurationError, HookError
from osprovider.paths import Directories

PYTHON = "def run(guest, context):\n    pass\n"


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    for name in ("config", "shipped"):
        (tmp_path / name / "hooks").mkdir(parents=True, mode=0o755)
    return Directories(tmp_path / "config", tmp_path / "cache", tmp_path / "run", tmp_path / "shipped")


def put(directory: Path, name: str, content: str, mode: int = 0o644) -> Path:
    path = directory / "hooks" / name
    path.write_text(content)
    path.chmod(mode)
    return path


def test_python_needs_no_execute_bit_and_anything_else_does(directories: Directories) -> None:
    put(directories.config, "python", PYTHON)
    put(directories.config, "shell", "#!/bin/sh\n", 0o755)
    kinds = {name: hook.kind for name, hook in discover(directories).items()}
    assert kinds == {"python": "python", "shell": "executable"}


def test_a_site_file_takes_the_place_of_a_shipped_one(directories: Directories) -> None:
    put(directories.shipped, "network", PYTHON)
    put(directories.shipped, "ssh", PYTHON)
    own = put(directories.config, "network", "#!/bin/sh\n", 0o755)
    hooks = discover(directories)
    assert (hooks["network"].path, hooks["network"].shipped) == (own, False)
    assert hooks["ssh"].shipped


@pytest.mark.parametrize("name", ["README.md", "network~", ".network.swp", "#network#", "network.dpkg-old", "a b"])
def test_backups_and_documents_are_no_hooks(directories: Directories, name: str) -> None:
    put(directories.config, name, "no hook at all")
    assert discover(directories) == {}


def test_headers_say_order_and_events(directories: Directories) -> None:
    header = "#!/bin/sh\n# My hook.\n# after: network, fstab\n# before: ssh\n# after: users\n# events: create rename\n"
    put(directories.config, "mine", header, 0o755)
    hook = discover(directories)["mine"]
    assert hook.after == {"network", "fstab", "users"}
    assert hook.before == {"ssh"}
    assert hook.events == {"create", "rename"}


def test_without_a_header_a_hook_runs_at_create(directories: Directories) -> None:
    put(directories.config, "mine", PYTHON)
    hook = discover(directories)["mine"]
    assert not hook.after | hook.before
    assert hook.events == {"create"}


def test_an_unknown_event_is_refused_at_its_line(directories: Directories) -> None:
    path = put(directories.config, "mine", "# events: creat\n" + PYTHON)
    with pytest.raises(ConfigurationError, match=f"{path}:1:1: events are create and rename, not 'creat'"):
        discover(directories)


def test_all_that_is_wrong_is_said_at_once(directories: Directories) -> None:
    put(directories.config, "forgotten", "#!/bin/sh\n")
    put(directories.config, "open", PYTHON, 0o664)
    with pytest.raises(ConfigurationError) as error:
        discover(directories)
    assert [Path(problem.file).name for problem in error.value.problems] == ["forgotten", "open"]
    assert "chmod +x" in error.value.problems[0].message
    assert "mode 0664" in error.value.problems[1].message


def test_a_directory_that_others_can_write_is_refused(directories: Directories) -> None:
    (directories.config / "hooks").chmod(0o777)
    with pytest.raises(ConfigurationError, match="mode 0777"):
        discover(directories)


def test_a_link_is_judged_by_the_file_it_points_to(directories: Directories, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.sh"
    elsewhere.write_text("#!/bin/sh\n")
    elsewhere.chmod(0o755)
    (directories.config / "hooks" / "mine").symlink_to(elsewhere)
    assert discover(directories)["mine"].kind == "executable"
    elsewhere.chmod(0o757)
    with pytest.raises(ConfigurationError, match="others"):
        discover(directories)


def test_a_dangling_link_is_named(directories: Directories) -> None:
    (directories.config / "hooks" / "mine").symlink_to("/nowhere")
    with pytest.raises(ConfigurationError, match=r"hooks/mine: cannot be read: no such file"):
        discover(directories)


def test_without_the_directories_there_are_no_hooks(tmp_path: Path) -> None:
    assert discover(Directories(tmp_path / "a", tmp_path / "b", tmp_path / "c", tmp_path / "d")) == {}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("def run(guest, context)\n    pass\n", ":1:24: is not Python: expected ':'"),
        ("def run(guest, context):\n    pass\n\0", ": is not Python: source code string cannot contain"),
        ("def run(guest, context):\n    pass\nreturn\n", ":3:1: is not Python: 'return' outside function"),
        ('"""\ndef run(guest, context):\n"""\n', ": does not define run(guest, context)"),
        ("def run(guest):\n    pass\n", ":1:1: run takes other arguments than (guest, context)"),
        ("def run(guest, context, disk):\n    pass\n", ":1:1: run takes other arguments than (guest, context)"),
        ("def run(guest, context, *, disk):\n    pass\n", ":1:1: run takes other arguments than (guest, context)"),
        (PYTHON + "def prepare():\n    pass\n", ":3:1: prepare takes other arguments than (context)"),
        ("#!/usr/local/bin/pyton\n", ":1:3: '/usr/local/bin/pyton' is not there: install it, or correct the line"),
        ("#!/bin/sh\r\n", ":1:3: '/bin/sh\\r' is not there: "),
        ("#! /usr/bin/env -S pyton -I\n", None),
        ("#!/usr/bin/env pyton\n", ":1:3: 'pyton' is not there: "),
        ("#!/usr/bin/env sh\n", None),
        ("#!/bin/sh -e\n", None),
        ("#!\n", ":1:1: names no interpreter: begin with #!/bin/sh or the like, or define run(guest, context)"),
        ("#!sh\n", ":1:1: names no interpreter: "),
        ("def rum(guest, context):\n    pass\n", ":1:1: names no interpreter: "),
        ("\x7fELF", None),
        ("def run(guest, context, *others):\n    pass\n", None),
        ("def run(*both):\n    pass\n", None),
        ("def run(guest, context, disk=0, *, more=1):\n    pass\ndef prepare(context, /):\n    pass\n", None),
        ("def run(guest, context, wrong):\n    pass\ndef run(guest, context):\n    pass\n", None),
        ("import functools\n@functools.cache\ndef run(anything):\n    pass\n", None),
    ],
)
def test_what_cannot_run_is_refused_unless_it_is_left_out(
    directories: Directories, content: str, problem: str | None
) -> None:
    path = put(directories.config, "mine", content, 0o755)
    assert select(directories, model.Hooks(disable=("mine",)), "create") == ()
    assert select(directories, model.Hooks(), "rename") == ()
    if problem is None:
        assert [hook.name for hook in select(directories, model.Hooks(), "create")] == ["mine"]
        return
    with pytest.raises(ConfigurationError, match=re.escape(f"{path}{problem}")):
        select(directories, model.Hooks(), "create")


def test_a_program_cannot_change_a_guest_that_is_not_mounted(directories: Directories) -> None:
    path = put(directories.config, "two", "#!/bin/sh\n", 0o755)
    put(directories.config, "one", PYTHON)
    chosen = select(directories, model.Hooks(), "create")
    with pytest.raises(HookError, match=f"^hook {path} is a program"):
        refuse_programs(chosen)
    refuse_programs(chosen[:1])
