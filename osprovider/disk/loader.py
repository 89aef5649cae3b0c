"""A boot loader on its way to a disk, whichever it is: made beside the copy, shown the guest, written at last.

Not for: what a menu says (the hooks ``grub`` and ``extlinux``), which loader an instance gets (:mod:`osprovider.plan`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from osprovider.disk.device import Device
from osprovider.guest.host import HostGuest
from osprovider.layout import TablePlan

__all__ = ["Loader", "choose"]


class Loader(Protocol):
    """A boot loader for one disk; its methods are called once, in their order here."""

    def make(self) -> None:
        """Make what does not depend on the guest. Touches neither disk nor guest; may run in any thread.

        Raises:
            DeviceError: the disk cannot have it, or the node lacks it.
            ToolError: a program failed.
        """

    def install(self, guest: HostGuest) -> None:
        """Take from the guest's file systems, or put there, what belongs there, once all hooks have run.

        Raises:
            DeviceError, GuestError, ToolError: it does not work.
        """

    def write(self, device: Device) -> None:
        """Write what lies outside of the guest's file systems, which are no longer mounted. Nothing is synced.

        Raises:
            DeviceError, ToolError: it does not fit, or cannot be written.
        """


def choose(name: str, table: TablePlan, firmware: Sequence[str]) -> Loader:
    """The boot loader ``name`` (``grub`` or ``extlinux``) for a disk.

    Args:
        name: the variant's ``boot.loader``.
        table: the disk's.
        firmware: what the disk must boot under, of ``bios`` and ``uefi``.
    """
    if name == "extlinux":
        from osprovider.disk.extlinux import Extlinux  # few need it

        return Extlinux(table)
    from osprovider.disk.grub import Grub

    return Grub(table, firmware)
