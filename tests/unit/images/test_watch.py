"""Progress from the lines that the build tools print."""

from __future__ import annotations

import pytest

from osprovider.images.builder.watch import Progress


def shown(*lines: str) -> list[str | None]:
    progress = Progress()
    return [progress.after(line) for line in lines]


def test_apt_tells_how_many_packages_there_are() -> None:
    assert shown(
        "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.",
        "Get:1 http://mirror.example.org/debian bookworm/main amd64 libc6 amd64 2.36 [2757 kB]",
        "Unpacking libc6:amd64 (2.36-9) ...",
        "Unpacking perl-base (5.36) ...",
        "Setting up libc6:amd64 (2.36-9) ...",
    ) == [None, "fetching 1/2", "unpacking 1/2", "unpacking 2/2", "setting up 1/2"]


def test_a_new_transaction_is_counted_anew() -> None:
    assert (
        shown(
            "3 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.",
            "Setting up one (1) ...",
            "0 upgraded, 1 newly installed, 0 to remove and 0 not upgraded.",
            "Setting up two (1) ...",
        )[3]
        == "setting up 1/1"
    )


def test_debootstrap_is_counted_without_a_total() -> None:
    assert shown("I: Retrieving libc6 2.36-9", "I: Extracting libc6...", "I: Configuring libc6...") == [
        "fetching 1",
        "unpacking 1",
        "setting up 1",
    ]


@pytest.mark.parametrize("line", ["", "Reading package lists...", "Preparing to unpack .../libc6.deb ..."])
def test_other_lines_say_nothing(line: str) -> None:
    assert shown(line) == [None]
