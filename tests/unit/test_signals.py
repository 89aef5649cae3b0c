"""Signals become an exception, once; in processes of their own, because a test must not signal the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def _run(program: str) -> tuple[int, str]:
    """Run a program that knows what it needs; returns its exit status and all it said."""
    words = "import os, signal\nfrom osprovider.errors import Terminated\nfrom osprovider.signals import *\n"
    done = subprocess.run(
        [sys.executable, "-c", words + program], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_signals_that_come_together_are_one_exception_and_nothing_is_said_of_the_others() -> None:
    program = """
three = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
try:
    with terminable():
        signal.pthread_sigmask(signal.SIG_BLOCK, three)
        for number in three:
            os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, three)
except Terminated as error:
    print("one:", error.signal_name.startswith("SIG"))
"""
    assert _run(program) == (0, "one: True\n")


def test_further_signals_do_not_disturb_what_is_given_back() -> None:
    program = """
try:
    with terminable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            print("given back")
except Terminated as error:
    print(error.signal_name)
"""
    assert _run(program) == (0, "given back\nSIGTERM\n")


def test_a_signal_that_the_caller_ignores_stays_ignored() -> None:
    program = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with terminable():
    os.kill(os.getpid(), signal.SIGHUP)
print("done", signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""
    assert _run(program) == (0, "done True True\n")


def test_a_signal_that_comes_when_all_is_done_comes_too_late() -> None:
    program = """
with terminable():
    past_stopping()
    os.kill(os.getpid(), signal.SIGTERM)
    print("done")
try:
    with terminable():
        os.kill(os.getpid(), signal.SIGTERM)
except Terminated:
    print("the next one is heeded")
"""
    assert _run(program) == (0, "done\nthe next one is heeded\n")
