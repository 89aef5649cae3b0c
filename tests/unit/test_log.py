"""What an operator sees: bars that are drawn over on a terminal, lines in a log."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

import pytest

from osprovider import log
from osprovider.log import Reporter

COLUMNS = 60
_LAST = "\x04"


@dataclass
class Terminal:
    """A terminal of `COLUMNS` columns, and what is written to it."""

    stream: TextIO
    control: int

    def shown(self) -> str:
        """All that was written so far."""
        self.stream.write(_LAST)
        self.stream.flush()
        written = ""
        while not written.endswith(_LAST):  # a terminal hands on what it has at that moment
            written += os.read(self.control, 1 << 16).decode()
        return written.removesuffix(_LAST).replace("\r\n", "\n")

    def drawings(self) -> list[str]:
        """What was drawn over a line, one after the other."""
        return self.shown().split("\r\x1b[K")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setattr(log, "_REDRAW_EVERY", 0.0)
    control, line = pty.openpty()
    fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    try:
        with os.fdopen(line, "w") as stream:
            yield Terminal(stream, control)
    finally:
        os.close(control)


def test_a_terminal_gets_a_bar(terminal: Terminal) -> None:
    with Reporter(terminal.stream).progress("copy", 4 << 30) as advance:
        advance(1 << 30)
        advance(2 << 30)
        advance(1 << 30)
    begun, *drawn, done = terminal.drawings()
    assert begun == "copy"
    assert drawn == [
        "copy: [#####...............]  25 % of 4.0 GiB",
        "copy: [###############.....]  75 % of 4.0 GiB",
        "copy: [####################] 100 % of 4.0 GiB",
    ]
    assert re.fullmatch(r"copy: \(4\.0 GiB\) \d+\.\d\d s\n", done)


def test_more_than_was_expected_is_all_of_it(terminal: Terminal) -> None:
    with Reporter(terminal.stream).progress("copy", 0) as advance:
        advance(1)
    assert terminal.drawings()[1] == "copy: [####################] 100 % of 0 bytes"


def test_what_is_drawn_over_stays_on_one_line(terminal: Terminal) -> None:
    name = f"checksum of /srv/{'images/' * 20}golden.img"
    with Reporter(terminal.stream).progress(name, 100) as advance:
        advance(50)
    begun, drawn, done = terminal.drawings()
    assert len(begun) < COLUMNS
    assert len(drawn) < COLUMNS
    assert drawn.endswith(": [##########..........]  50 % of 100 bytes")
    assert done.startswith(name)


def test_a_log_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_PROGRESS_EVERY", 0.0)
    stream = io.StringIO()
    with Reporter(stream).progress("copy", 100) as advance:
        advance(50)
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["copy", "  copy: 50 % of 100 bytes"]
    assert re.fullmatch(r"copy: \(100 bytes\) \d+\.\d\d s", lines[2])
    assert "\x1b" not in stream.getvalue()


def test_what_others_say_moves_no_cursor() -> None:
    stream = io.StringIO()
    reporter = Reporter(stream)
    with reporter.step("unpack") as detail:
        detail("Linux\x1b[2J\x9b1A\r")
    reporter.warning("a file \x1b]0;title\x07\ud8ff, and\nanother")
    assert "(Linux?[2J?1A?)" in stream.getvalue()
    assert "warning: a file ?]0;title??, and\nanother\n" in stream.getvalue()
