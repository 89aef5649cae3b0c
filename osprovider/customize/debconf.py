"""Answers in a guest's debconf database, so that a package's next upgrade asks nobody and does what fits the instance.

The database is text (``/var/cache/debconf/config.dat``), a stanza a question. Only answers to questions that are there
change, as they are once the package that asks them was configured; nothing is run.
Sources: debconf-devel(7); debconf's Debconf/Format/822.pm.
Not for: questions of packages that are not installed (``debconf-set-selections`` in an image's build).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["DATABASE", "with_answers"]

DATABASE = "/var/cache/debconf/config.dat"

_NAME = re.compile(r"^Name: (.+)$", re.MULTILINE)
# Possessive, so that nothing is kept of each character in order to come back to it: a value may be of any length.
_FIELD = re.compile(r"^(\w++):([^\n]*+(?:\n[ \t][^\n]*+)*+)$", re.MULTILINE)
_ORDER = ("Name", "Template", "Value", "Owners", "Flags", "Variables")  # as debconf writes them


def with_answers(text: str, answers: Mapping[str, str]) -> str:
    """The database with these answers, each marked as seen, so that it is not asked for.

    Args:
        text: the database.
        answers: values by the questions' names (``grub-pc/install_devices``), each of one line.
    """
    return "\n\n".join(_answered(stanza, answers) for stanza in text.split("\n\n"))


def _answered(stanza: str, answers: Mapping[str, str]) -> str:
    found = _NAME.search(stanza)
    if found is None or found[1] not in answers:
        return stanza
    fields = dict(_FIELD.findall(stanza))
    flags = [flag.strip() for flag in fields.get("Flags", "").split(",") if flag.strip()]
    fields["Value"] = f" {answers[found[1]]}"
    fields["Flags"] = " " + ", ".join(flags if "seen" in flags else [*flags, "seen"])
    lines = [f"{name}:{fields[name]}" for name in _ORDER if name in fields]
    return "\n".join(lines) + ("\n" if stanza.endswith("\n") else "")
