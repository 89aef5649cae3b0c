"""What every OS script owes Ganeti, whichever it is: its usage, its exit status, and an error that fits in a job log.

The scripts in ``scripts/`` call :func:`main`; what they do is in :mod:`osprovider.deploy` and beside it.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from osprovider.errors import OsproviderError, Terminated, UsageError, reason_of
from osprovider.ganeti.request import Request, Script
from osprovider.log import reporter
from osprovider.paths import Directories
from osprovider.process import settled
from osprovider.signals import terminable

__all__ = ["guarded", "main"]

# Ganeti shows the last 20 lines of a failed script's log (InstanceOsAdd in lib/backend.py): the cause has to be there.
_MOST_LINES = 18
_SWITCH_SECONDS = 0.0005
_OBJECTS_BETWEEN_COLLECTIONS = 100_000

_USAGE = {
    Script.CREATE: "create [--debug] [--preserve-on-error]: install the instance that the environment describes",
    Script.IMPORT: "import [--debug]: restore a disk of an instance from standard input",
    Script.EXPORT: "export [--debug]: write a disk of an instance to standard output",
    Script.RENAME: "rename [--debug]: give the instance that the environment describes its new name",
    Script.VERIFY: "verify [--debug] parameters: check the values of the OS parameters in the environment",
}


def main(name: str, arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run one OS script.

    Args:
        name: the script's file name.
        arguments: without the script itself; the process's own when None.
        environ: Ganeti's variables; the process's own when None.

    Returns:
        the exit status: 0 done, 1 failed, 2 wrong use or configuration.
    """
    script = Script(name)
    words = list(sys.argv[1:] if arguments is None else arguments)

    def work() -> None:
        if {"-h", "--help"} & set(words):
            print(_usage(script), flush=True)
            return
        options = {"--debug"} | ({"--preserve-on-error"} if script is Script.CREATE else set())
        expected = ["parameters"] if script is Script.VERIFY else []
        rest = [word for word in words if word not in options]
        if rest != expected:
            words_said, words_wanted = (" ".join(each) or "none" for each in (rest, expected))
            raise UsageError(f"wrong arguments: {words_said}; write: {words_wanted} ({script.value} --help tells more)")
        _carry_out(script, dict(os.environ if environ is None else environ), preserve="--preserve-on-error" in words)

    return guarded(work, debug="--debug" in words, most_lines=_MOST_LINES)


def guarded(work: Callable[[], None], *, debug: bool, most_lines: int = sys.maxsize) -> int:
    """Call ``work`` so that signals unwind it and errors become a message and an exit status.

    Args:
        work: a function without arguments.
        debug: say what is run, and show a traceback when it fails.
        most_lines: of an error.
    """
    reporter.verbose = debug
    # Threads that copy ask for Python's lock after each system call; while another imports, that took them 5 ms a time.
    sys.setswitchinterval(_SWITCH_SECONDS)
    # Importing makes many objects and no garbage: looking for some all the time took 5 ms.
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    with settled():
        try:
            with terminable():
                work()
        except (SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            if debug:
                import traceback

                traceback.print_exc(file=reporter.stream)
            return _show_error(error, most_lines)
    return 0


def _show_error(error: BaseException, most_lines: int) -> int:
    """Say why the work ended, in a few lines with the cause last.

    Returns:
        the exit status.
    """
    if isinstance(error, Terminated):
        reporter.error(f"{error}; everything taken was given back, run it again")
        return 1
    if isinstance(error, OsproviderError):
        lines = str(error).splitlines()
        if len(lines) > most_lines:
            reporter.error(f"{len(lines)} problems, the first {most_lines} of them (osprovider check says all):")
        for line in lines[:most_lines]:
            reporter.error(line)
        return error.exit_code
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        reporter.error(f"{where}{reason_of(error)}")
        return 1
    reporter.error(f"this is a bug in osprovider: {type(error).__name__}: {error}; run with --debug for more")
    return 1


def _usage(script: Script) -> str:
    return (
        f"usage: {_USAGE[script]}.\n"
        "Ganeti calls it with the variables of ganeti-os-interface(7). Exit status: 0 done, 1 failed, "
        "2 wrong use or configuration."
    )


def _carry_out(script: Script, environ: Mapping[str, str], *, preserve: bool) -> None:
    from osprovider.config.parameters import PARAMETERS
    from osprovider.ganeti.environment import parse

    request = parse(script, environ, PARAMETERS)
    if request.debug_level > 0:
        reporter.verbose = True
    directories = Directories.from_environment(environ)
    if script is Script.VERIFY:
        _verify(request, directories)
    elif script is Script.CREATE:
        from osprovider.deploy import create

        create(request, directories, preserve_on_error=preserve)
    elif script is Script.RENAME:
        from osprovider.rename import rename

        rename(request, directories)
    else:
        index = request.transfer.index if request.transfer else 0
        raise OsproviderError(
            f"{script.value} of disk {index} is not supported by this version of osprovider; "
            "stop the instance and copy its disk by other means"
        )


def _verify(request: Request, directories: Directories) -> None:
    """Are the OS parameters' values good, each by itself and within the variant that they change.

    Ganeti calls ``verify`` with the variant but without an instance (``OSCoreEnv``), on every node that may run it.
    """
    from osprovider.config.load import load

    load(directories, request.variant, instance=None, parameters=request.parameters)
