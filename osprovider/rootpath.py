"""Where somebody else says that the root is: Ganeti's ``root_path`` beside a kernel of the hypervisor's.

Not for: which instances have such a kernel (:mod:`osprovider.ganeti.hypervisor`).
"""

from __future__ import annotations

import re

from osprovider.errors import RequestError
from osprovider.ganeti.hypervisor import has_external_kernel
from osprovider.ganeti.request import Request
from osprovider.layout import TablePlan, TableType

__all__ = ["check_root_path", "root_number"]

# The names that kernels give the disks that Ganeti's hypervisors have, and their partitions.
_DISK = re.compile(r"/dev/(hd|sd|vd|xvd)(?P<letter>[a-z]+)(?P<number>[0-9]*)")
_MODIFY = "gnt-instance modify -H root_path="


def root_number(request: Request, table: TableType) -> int | None:
    """The partition that the root has to be; None where nobody says, or there is no table.

    kvm and xen-pvm name it in ``root_path`` (``hv_kvm/__init__.py``, ``hv_xen.py``) beside an external kernel. What is
    no partition of a disk (``UUID=``, ``LABEL=``, a network's) is left to whoever wrote it. lxc mounts the first
    partition, or a disk without any (``hv_lxc.py``, ``_PrepareInstanceRootFsBdev``); chroot the disk itself
    (``hv_chroot.py``, ``StartInstance``).

    Args:
        request: Ganeti's.
        table: the kind of table that the disk gets.

    Raises:
        RequestError: the path names a partition and there is no table, or the other way round, or another disk.
    """
    instance = request.instance
    if instance is None or not has_external_kernel(request):
        return None
    if instance.hypervisor == "lxc":
        return None if table == "none" else 1
    if instance.hypervisor == "chroot":
        if table != "none":
            raise RequestError(
                f"the hypervisor chroot mounts the whole disk, and with layout.table: {table} the root is a partition: "
                "set layout.table to none"
            )
        return None
    return _named_number(dict(instance.hypervisor_parameters).get("root_path", ""), table)


def _named_number(path: str, table: TableType) -> int | None:
    """The number of the partition that ``root_path`` names; None where it names no partition of a disk."""
    found = _DISK.fullmatch(path)
    if found is None:
        return None
    number = found["number"]
    if found["letter"] != "a":
        raise RequestError(
            f"INSTANCE_HV_root_path is {path}, and the system is on the first disk: "
            f"name a partition of that ({_MODIFY}/dev/{found[1]}a{number})"
        )
    if table == "none" and number:
        disk = path.removesuffix(number)
        raise RequestError(
            f"INSTANCE_HV_root_path is {path}, and with layout.table: none the root fills the disk: "
            f"set it to {disk} ({_MODIFY}{disk}), or layout.table to gpt or msdos"
        )
    if table != "none" and not number:
        raise RequestError(
            f"INSTANCE_HV_root_path is {path}, a whole disk, and with layout.table: {table} the root is a partition: "
            f"set it to {path}1 ({_MODIFY}{path}1), or layout.table to none"
        )
    return int(number) if number else None


def check_root_path(request: Request, table: TablePlan) -> None:
    """Refuse a table that has the root elsewhere than where the hypervisor's kernel looks for it.

    Args:
        request: Ganeti's.
        table: the disk's, which may be a disk image's own.

    Raises:
        RequestError: says what to set.
    """
    root = table.find("root")
    named = root_number(request, table.type)
    if root is None or named in (None, root.number):
        return
    if request.instance is not None and request.instance.hypervisor == "lxc":
        raise RequestError(f"lxc mounts a disk's first partition, and the image's root is partition {root.number}")
    raise RequestError(
        f"the hypervisor's kernel looks for its root in partition {named} (INSTANCE_HV_root_path), and the image's "
        f"is partition {root.number}: set the one to the other ({_MODIFY}/dev/vda{root.number})"
    )
