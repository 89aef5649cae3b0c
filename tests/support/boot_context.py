"""What hooks that concern booting are run with: a context of a Debian instance.

Not for: running hooks in order; that is :mod:`osprovider.customize.runner`.
"""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from osprovider.config.model import Variant
from osprovider.customize.context import Context, ContextDisk, ContextPartition
from osprovider.ganeti.hypervisor import SerialConsole
from osprovider.ganeti.request import Instance
from osprovider.manifest import Distribution, Filesystem, Kernel
from tests.support.guests import directory_guest
from tests.support.manifests import manifest

__all__ = ["CHECKOUT", "ROOT_GUID", "ROOT_UUID", "TEMPLATE_UUID", "boot_context", "run_hook"]

CHECKOUT = Path(__file__).resolve().parents[2]
ROOT_UUID = "0b6c5a42-7f3e-5d4e-9a11-3c5d7e9f1b23"
ROOT_GUID = "5f0d9d1c-52a7-5b5e-8c8e-0a4f6b1c2d3e"
TEMPLATE_UUID = "11111111-1111-4111-8111-111111111111"


def boot_context(
    *,
    variant: Variant | None = None,
    kernels: tuple[Kernel, ...] = (
        Kernel("6.1.0-1-amd64", "/boot/vmlinuz-6.1.0-1-amd64", "/boot/initrd.img-6.1.0-1-amd64"),
    ),
    serial: tuple[str, int] | None = ("ttyS0", 38400),
    pretty_name: str = "Debian GNU/Linux 12 (bookworm)",
    partitions: tuple[ContextPartition, ...] | None = None,
    external_kernel: bool = False,
) -> Context:
    """A context as ``create`` makes it, of an image that was built here."""
    root = ContextPartition(3, "root", 130 << 20, 1 << 30, ROOT_GUID, "ext4", ROOT_UUID)
    template = manifest(
        image="debian-12",
        distribution=Distribution("debian", "12", "bookworm", pretty_name),
        network_stacks=("ifupdown",),
        boot_loaders=("grub-bios", "grub-uefi"),
        kernels=kernels,
        size_bytes=1 << 30,
        filesystem=Filesystem("ext4", TEMPLATE_UUID, "", 4096, 1 << 30, 1 << 29),
    )
    return Context(
        event="create",
        instance=Instance("web1.example.org", "3f2a1c5e-0d4b-4c6a-9e8f-1a2b3c4d5e6f", "osprovider+debian-12", "kvm"),
        hostname="web1.example.org",
        variant=variant or Variant(),
        disks=(ContextDisk(0, None, 2 << 30, 512, ROOT_GUID, (root,) if partitions is None else partitions),),
        manifest=template,
        serial_console=SerialConsole(*serial) if serial else None,
        external_kernel=external_kernel,
        templates=(CHECKOUT / "templates",),
    )


def run_hook(name: str, root: Path, context: Context) -> None:
    """Run one shipped hook on the guest at ``root``, as the runner does: ``prepare``, then ``run``."""
    hook: Any = _load(name)
    prepared = hook.prepare(context) if hasattr(hook, "prepare") else None
    with directory_guest(root) as guest:
        hook.run(guest, dataclasses.replace(context, prepared=prepared))


def _load(name: str) -> ModuleType:
    path = CHECKOUT / "hooks" / name
    module_name = f"tested_hook_{name}"
    loader = importlib.machinery.SourceFileLoader(module_name, str(path))
    spec = importlib.util.spec_from_loader(module_name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look for their module there
    previous, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = previous
    return module
