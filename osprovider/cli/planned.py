"""A plan in words.

Not for: making it (:mod:`osprovider.plan`), or finding out what it is made of (:mod:`osprovider.cli.plan`).
"""

from __future__ import annotations

from osprovider.datadisks import DiskPlan
from osprovider.layout import TablePlan
from osprovider.log import human_bytes
from osprovider.plan import Plan

__all__ = ["describe"]


def describe(plan: Plan) -> list[str]:
    """The plan for people, a line for each thing that happens."""
    lines = [f"{plan.instance}: {'reinstall' if plan.reinstall else 'install'} variant {plan.variant}"]
    if plan.image is None:
        return [*lines, "  the disks are left alone"]
    table = plan.table
    disk = [*([plan.disk] if plan.disk else []), human_bytes(plan.disk_size_bytes or 0)]
    ready = f"ready, {human_bytes(plan.copy_bytes)} to copy" if plan.copy_bytes is not None else "to be prepared first"
    made = ", made at its size and filled" if plan.filled else ""
    lines += [
        f"  hostname    {plan.hostname}",
        f"  image       {plan.image} ({ready})",
        f"  disk        {', '.join([*disk, *([_table(table)] if table else [])])}",
    ]
    for part in table.partitions if table else ():
        place = f"{human_bytes(part.size_bytes)} from {human_bytes(part.start_bytes)}"
        moved = f", in the image from {human_bytes(part.source_bytes or 0)}" if part.is_moved else ""
        held = f", {part.filesystem}{f' at {part.mount}' if part.mount else ''}" if part.filesystem else ""
        lines.append(f"    {part.number:<2} {part.role:<10} {place}{moved}{held}")
    root = table.find("root") if table else None
    if root is not None:
        opened = {"host": "on the node"}.get(plan.isolation, f"in the {plan.isolation}")
        lines.append(f"  root        UUID={root.filesystem_uuid}{made}, opened {opened}")
    lines += [_other_disk(each) for each in plan.disks]
    lines.append(f"  boots       {plan.boots}")
    if plan.serial_console:
        lines.append(f"  console     {plan.serial_console.device} at {plan.serial_console.speed} bits/s")
    for nic in plan.nics:
        how = [*nic.addresses, *(name for name in ("dhcp4", "dhcp6", "slaac") if getattr(nic, name))]
        via = f" via {' '.join(nic.gateways)}" if nic.gateways else ""
        lines.append(f"  {nic.name:<11} {nic.mac} {' '.join(how) or 'left alone'}{via} ({nic.source})")
    lines.append(f"  hooks       {' '.join(plan.hooks)}")
    lines.append(f"  wipe        {plan.wipe}")
    return [*lines, *(f"  note        {note}" for note in plan.notes)]


def _table(table: TablePlan) -> str:
    return f"{table.type} {table.guid}" if table.guid else "without a partition table"


def _other_disk(disk: DiskPlan) -> str:
    facts = [*([disk.path] if disk.path else []), *([human_bytes(disk.size_bytes)] if disk.size_bytes else [])]
    label = f" ({disk.label})" if disk.label else ""
    place = f" at {disk.mount}" if disk.mount else ""
    kept = "; kept where it holds a file system" if disk.keep and disk.use == "data" else ""
    return f"  disk {disk.index:<6} {', '.join([*facts, f'{disk.filesystem}{label}{place}'])}{kept}"
