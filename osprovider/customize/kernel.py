"""The kernel's command line, as every boot loader's files need it.

Not for: the syntax of these files (the hooks ``grub``, ``extlinux`` and ``kernel-args``).
Sources: the kernel's Documentation/admin-guide/kernel-parameters.txt and serial-console.rst.
"""

from __future__ import annotations

from collections.abc import Sequence

from osprovider.customize.context import Context
from osprovider.ganeti.hypervisor import SerialConsole

__all__ = ["MARK", "arguments", "changed", "console_arguments", "inside_boot", "root_argument", "root_flags"]

MARK = "# Made by osprovider"
"""How a boot loader's file begins that is ours to write again, and not the guest's own."""


def console_arguments(serial: SerialConsole | None) -> tuple[str, ...]:
    """The kernel's consoles, the last of which is /dev/console; none where there is no serial one."""
    if serial is None:
        return ()
    device, speed = serial
    return "console=tty0", f"console={device},{speed}n8" if device.startswith("ttyS") else f"console={device}"


def arguments(context: Context) -> tuple[str, ...]:
    """What an instance's kernel is started with beside its root: its consoles, and what the variant says."""
    return (*console_arguments(context.serial_console), *context.variant.boot.kernel_args)


def changed(words: Sequence[str], context: Context) -> list[str]:
    """A command line of the guest's with :func:`arguments` in it: the same again where it has them already.

    Consoles named before make way, as the kernel keeps the speed that it is told first. Whatever else was there stays,
    in its order.

    Args:
        words: the command line's.
        context: the instance's.
    """
    consoles = console_arguments(context.serial_console)
    kept = [word for word in words if not (consoles and word.startswith("console="))]
    return [*kept, *(word for word in context.variant.boot.kernel_args if word not in kept), *consoles]


def inside_boot(context: Context, path: str) -> str:
    """A path of the guest's below /boot as a boot loader has it: on the boot partition, or the root's file system."""
    if context.partition("boot"):
        return path.removeprefix("/boot")
    root = context.partition("root")
    return f"/{root.subvolume}{path}" if root and root.subvolume else path


def root_flags(context: Context) -> tuple[str, ...]:
    """How the kernel mounts its root, as grub-mkconfig says it behind ``ro``: from a btrfs' subvolume."""
    root = context.partition("root")
    return (f"rootflags=subvol={root.subvolume}",) if root and root.subvolume else ()


def root_argument(context: Context, *, has_initrd: bool) -> str:
    """How the kernel finds its root; empty where the disk has none of ours.

    The kernel by itself knows no file system's UUID; an initrd looks it up.
    """
    root = context.partition("root")
    if root is None:
        return ""
    if root.filesystem_uuid and (has_initrd or not root.guid):
        return f"root=UUID={root.filesystem_uuid}"
    return f"root=PARTUUID={root.guid}"
