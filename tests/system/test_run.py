"""Programs that are run: how they end, and that they end with us."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from osprovider.errors import ToolError
from osprovider.run import BASE_ENVIRONMENT, run, run_lines
from osprovider.sandbox import UNPACK_PRIVILEGES, confine
from tests.support.leftovers import no_leftovers

SLEEP = ("sleep", "600")


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("exit 255", 255),
        ("kill -TERM $$", -signal.SIGTERM),
        ("kill -KILL $$", -signal.SIGKILL),
        ("ulimit -c 0; kill -SEGV $$", -signal.SIGSEGV),
        ("ulimit -c 0; kill -FPE $$", -signal.SIGFPE),
        ("kill -PIPE $$", -signal.SIGPIPE),
    ],
)
def test_a_program_ends_as_it_does(script: str, status: int) -> None:
    assert run(["sh", "-c", script], check=False).status == status
    if status:
        with pytest.raises(ToolError) as failure:
            run_lines(["sh", "-c", script], lambda _: None)
        assert failure.value.status == status


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(ToolError, match="no-such-program: No such file or directory"):
        run(["no-such-program"])


def test_a_program_sees_what_is_meant_for_it_and_nothing_else() -> None:
    """A shell would drop the name that it could not use itself, which Ganeti gives to ``os-image``."""
    given = {"OSP_OS-IMAGE": "debian", "EMPTY": "", "LINES": "one\ntwo"}
    said = run(["env", "--null"], env=given).stdout.decode().rstrip("\0").split("\0")
    assert dict(line.split("=", 1) for line in said) == {**BASE_ENVIRONMENT, **given}


def test_arguments_are_passed_as_they_are() -> None:
    words = ["", "-n", "--", "a b", "$HOME", "`id`", "'", '"', "%s", "@ARGV", "é\udce9", "*"]
    said = run(["printf", "%s\\0", *words]).stdout
    assert said == "".join(f"{word}\0" for word in words).encode(errors="surrogateescape")


@pytest.mark.parametrize("privileges", [None, (), UNPACK_PRIVILEGES], ids=["not confined", "confined", "privileged"])
def test_nothing_is_left_where_we_are_killed_while_a_program_starts(
    privileges: tuple[str, ...] | None, tmp_path: Path
) -> None:
    """At any time of the 12 ms that it takes."""
    program = """
import os, signal, sys, time
from osprovider.run import run
for turn in range(600):
    child = os.fork()
    if not child:
        run(sys.argv[1:])
    time.sleep(turn * 20e-6)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""
    words = SLEEP if privileges is None else confine(SLEEP, privileges=privileges)
    with no_leftovers([tmp_path]):
        subprocess.run([sys.executable, "-c", program, *words], check=True)


def test_what_a_program_started_ends_with_us_too(tmp_path: Path) -> None:
    program = "import sys; from osprovider.run import run_lines; run_lines(sys.argv[1:], print)"
    script = "sleep 600 & sleep 600 & echo started; wait"
    with no_leftovers([tmp_path]):
        words = [sys.executable, "-u", "-c", program, "sh", "-c", script]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"started\n"
            parent.kill()


@pytest.mark.parametrize(
    "before",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    ],
)
def test_whatever_our_caller_does_with_signals_programs_fail_and_end_as_ever(before: str, tmp_path: Path) -> None:
    program = f"""
import signal, sys
{before}
from osprovider.run import run
from osprovider.scripts import guarded
sys.exit(guarded(lambda: run(["sh", "-c", sys.argv[1]]), debug=False))
"""
    words = [sys.executable, "-c", program]
    done = subprocess.run([*words, "exit 3"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr.partition(":")[2]) == (
        1,
        " sh failed with exit status 3: it said nothing (command: sh -c exit 3)\n",
    )
    started = tmp_path / "started"
    with no_leftovers([tmp_path]), subprocess.Popen([*words, f"touch {started}; exec sleep 600"]) as parent:
        while not started.exists() and parent.poll() is None:
            time.sleep(0.01)
        started.unlink()
        parent.kill()
