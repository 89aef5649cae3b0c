"""A shell at a guest's console, as a person gets it: a name and a password at the prompt, then commands and answers.

Not for: many or long answers; the console is as slow as a serial line is emulated.
"""

from __future__ import annotations

from tests.support.qemu import Guest

__all__ = ["Shell", "log_in"]

_PROMPT = r"^root@.*# "
_SECONDS_TO_LOG_IN = 600
_SECONDS_TO_ANSWER = 600


class Shell:
    """Root's shell at the console of a guest, whose terminal echoes nothing."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._asked = 0

    def ask(self, command: str) -> str:
        """Run a command line, which has to succeed, and return what it says, without the white space around it.

        Raises:
            AssertionError: it failed.
            TimeoutError: after three minutes, or when QEMU has ended.
        """
        self._asked += 1
        before = len(self._guest.console.text())
        self._guest.type(f"{command}; printf '\\n<{self._asked} %s>\\n' $?")
        end = self._guest.wait_for_console(rf"^<{self._asked} \d+>$", _SECONDS_TO_ANSWER, after=before)
        said = self._guest.console.text()[before:].partition(end)[0].strip()
        assert end == f"<{self._asked} 0>", f"{command}: {said}"
        return said


def log_in(guest: Guest, prompt: str, password: str, timeout: float) -> Shell:
    """Wait for the login prompt, and log in as root.

    Args:
        guest: a guest that boots.
        prompt: a regular expression.
        password: root's.
        timeout: how long it may boot, in seconds.

    Raises:
        TimeoutError: it does not come to its prompt, or does not let root in.
    """
    guest.wait_for_console(prompt, timeout)
    for answer, next_prompt in (("root", "^Password: "), (password, _PROMPT)):
        position = len(guest.console.text())
        guest.type(answer)
        guest.wait_for_console(next_prompt, _SECONDS_TO_LOG_IN, after=position)
    # A shell that edits no lines and prompts for none, on a terminal that does not repeat what is typed.
    position = len(guest.console.text())
    guest.type("dmesg --console-off; stty -echo; exec env PS1= sh -c 'echo; echo ready; exec sh'")
    guest.wait_for_console("^ready$", _SECONDS_TO_LOG_IN, after=position)
    return Shell(guest)
