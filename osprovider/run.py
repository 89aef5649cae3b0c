"""Running other programs: one way, with an explicit environment, and an error that says what failed.

A program that we started ends when we do, so that a run ended by SIGKILL leaves nothing behind that still writes to a
disk. Each has a session of its own, in which a parent waits for it that outlives us for as long as it takes to kill all
that is in there: none of them asks anything on our terminal, and what it started ends with it.
Not for: shells; there is no shell anywhere.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from osprovider.errors import ToolError, reason_of
from osprovider.log import reporter

__all__ = ["BASE_ENVIRONMENT", "Completed", "kill", "run", "run_lines", "running"]

BASE_ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
    "DEBIAN_FRONTEND": "noninteractive",
}
"""What every program sees, and nothing of what we were called with."""

_TAIL_BYTES = 8192
# Runs a program as its child, and ends as that does. SIGTERM comes to it when we end, from setpriv(1); and where we
# were gone before that had asked for it (prctl(2), PR_SET_PDEATHSIG), it has another parent already and starts nothing.
# What it kills is the group of processes, whatever state they are in: bubblewrap's first child, for one, does not end
# with it before it is set up. It is perl, which is part of every Debian system; a shell would keep variables from the
# program that it could not name, as OSP_OS-IMAGE. By itself it ignores SIGFPE.
_PARENT = """
delete $ENV{PERL_SIGNALS};
$SIG{TERM} = sub { kill KILL => 0 };
exit if getppid != shift;
my $program = fork // die "fork: $!\\n";
if (!$program) { exec { $ARGV[0] } @ARGV; warn "$ARGV[0]: $!\\n"; exit 127 }
waitpid $program, 0;
my $signal = $? & 127;
@SIG{"TERM", "FPE"} = ("DEFAULT", "DEFAULT");
kill $signal, $$ if $signal;
exit($signal ? 128 + $signal : $? >> 8);
"""
_AT_ONCE = {"PERL_SIGNALS": "unsafe"}  # also where it comes just before perl waits (perlipc(1), "Deferred Signals")
_NOT_CONFINED = b"bwrap: "  # how bubblewrap begins to say why it cannot run a program; its status is 1 then
_PIPE_BYTES = 1 << 20  # as much as anybody may ask for (pipe-max-size of proc_sys_fs(5))


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ended well, or any way with ``check=False``.

    Attributes:
        status: the exit status; negative: the signal that ended it.
        stdout: all it printed.
        stderr: likewise.
    """

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """``stdout`` as text, without surrounding white space."""
        return self.stdout.decode(errors="replace").strip()


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
    check: bool = True,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run a program to its end.

    Args:
        argv: the program, found in :data:`BASE_ENVIRONMENT`'s PATH, and its arguments; never a secret among them.
        env: further environment variables.
        stdin: what it reads; at once end of file when None.
        cwd: where it runs; the root directory when None.
        timeout: in seconds, after which it is killed.
        check: raise when it fails; where its sandbox does, its status is no answer of its own, and raised anyway.
        pass_fds: descriptors that it inherits.

    Raises:
        ToolError: it failed, could not be found, or took longer than ``timeout``.
    """
    reads, pipe = _reads(stdin), subprocess.PIPE
    with _program(argv, env=env, cwd=cwd, stdin=reads, stderr=pipe, pass_fds=pass_fds) as process:
        try:
            stdout, stderr = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired as error:
            raise ToolError([str(word) for word in argv], -9, f"not done after {timeout:.0f} s") from error
    if process.returncode != 0 and (check or stderr.startswith(_NOT_CONFINED)):
        said = stderr[-_TAIL_BYTES:] or stdout[-_TAIL_BYTES:]
        raise ToolError([str(word) for word in argv], process.returncode, said.decode(errors="replace"))
    return Completed(process.returncode, stdout, stderr)


def run_lines(
    argv: Sequence[str | Path],
    on_line: Callable[[str], None],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> None:
    """Run a program that takes long, and hand each line that it prints, on either stream, to ``on_line``.

    Args:
        argv: as for :func:`run`.
        env: likewise.
        stdin: likewise; the program need not read it.
        on_line: called with each line as it comes, without its end.

    Raises:
        ToolError: it failed or could not be found; carries the last lines.
    """
    tail: deque[str] = deque(maxlen=20)
    stderr = subprocess.STDOUT
    with _program(argv, env=env, stdin=_reads(stdin), stderr=stderr) as process, _feeding(process, stdin):
        for raw in process.stdout or ():
            line = raw.decode(errors="replace").rstrip()
            tail.append(line)
            on_line(line)
        process.wait()
    if process.returncode != 0:
        raise ToolError([str(word) for word in argv], process.returncode, "\n".join(tail))


@contextmanager
def running(
    argv: Sequence[str | Path],
    *,
    stdin: int,
    stderr: int,
    stdout: int = subprocess.PIPE,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """A program of a pipeline; it is gone afterwards.

    Args:
        argv: as for :func:`run`.
        stdin: the descriptor that it reads.
        stderr: the descriptor of a file that gets what it says.
        stdout: the descriptor that it writes to; without one its standard output is the caller's to read.
        pass_fds: as for :func:`run`.

    Raises:
        ToolError: it could not be started.
    """
    with _program(
        argv, env=None, stdin=stdin, stderr=stderr, stdout=stdout, pass_fds=pass_fds, pipe_bytes=_PIPE_BYTES
    ) as process:
        yield process


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a program, and what it started; nobody need have waited for it yet.

    Args:
        process: from :func:`running`.
    """
    if process.returncode is None:  # so that the number is still its own
        os.killpg(process.pid, signal.SIGKILL)


def _reads(stdin: bytes | None) -> int:
    return subprocess.DEVNULL if stdin is None else subprocess.PIPE


@contextmanager
def _feeding(process: subprocess.Popen[bytes], data: bytes | None) -> Iterator[None]:
    """A thread that writes ``data`` to a program, which need not read it."""

    def feed() -> None:
        if process.stdin:
            with suppress(BrokenPipeError), process.stdin as stream:
                stream.write(data or b"")

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        kill(process)
        thread.join()


@contextmanager
def _program(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None,
    stdin: int,
    stderr: int,
    stdout: int = subprocess.PIPE,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    pipe_bytes: int = -1,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that was started; whatever happens, it is gone afterwards and its pipes are closed."""
    words = [str(word) for word in argv]
    reporter.debug(f"run: {' '.join(words)}")
    try:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", "perl", "-e", _PARENT, "--", str(os.getpid()), *words],
            env={**BASE_ENVIRONMENT, **(env or {}), **_AT_ONCE},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd or "/",
            pass_fds=pass_fds,
            pipesize=pipe_bytes,
            start_new_session=True,
        )
    except OSError as error:
        raise ToolError(words, 127, f"{error.filename}: {reason_of(error)}") from error
    try:
        yield process
    finally:
        kill(process)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()
