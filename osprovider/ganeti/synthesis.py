"""The environment that Ganeti would set, made up from little: for trying out, measuring and testing.

Source: Ganeti 3.0's ``src/Ganeti/Constants.hs``, for its defaults.
Not for: anything that a script does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from osprovider.errors import UsageError
from osprovider.ganeti.hypervisor import SERIAL_SPEED
from osprovider.ganeti.request import Disk, Instance, Network, Nic, Request, Script, Transfer
from osprovider.ganeti.variables import variables

__all__ = ["synthesize"]

_OS = "osprovider"

# becDefaults and hvcDefaults in src/Ganeti/Constants.hs, but that the guest boots its own kernel.
_BACKEND_DEFAULTS = {
    "always_failover": "False",
    "auto_balance": "True",
    "maxmem": "128",
    "minmem": "128",
    "spindle_use": "1",
    "vcpus": "1",
}
_HYPERVISOR_DEFAULTS: dict[str, dict[str, str]] = {
    "kvm": {
        "acpi": "True",
        "boot_order": "disk",
        "disk_type": "paravirtual",
        "initrd_path": "",
        "kernel_args": "ro",
        "kernel_path": "",
        "nic_type": "paravirtual",
        "root_path": "/dev/vda1",
        "serial_console": "True",
        "serial_speed": str(SERIAL_SPEED),
    },
    "xen-pvm": {
        "bootloader_path": "/usr/lib/xen/bin/pygrub",
        "initrd_path": "",
        "kernel_args": "ro",
        "kernel_path": "",
        "root_path": "/dev/xvda1",
        "use_bootloader": "True",
    },
    "xen-hvm": {
        "acpi": "True",
        "boot_order": "cd",
        "disk_type": "paravirtual",
        "kernel_path": "/usr/lib/xen/boot/hvmloader",
        "nic_type": "rtl8139",
    },
}


def synthesize(
    name: str,
    variant: str = "",
    *,
    script: Script = Script.CREATE,
    disks: Sequence[Mapping[str, object]] = (),
    nics: Sequence[Mapping[str, object]] = (),
    hypervisor: str = "kvm",
    parameters: Mapping[str, str] | None = None,
    hypervisor_parameters: Mapping[str, str] | None = None,
    backend: Mapping[str, str] | None = None,
    reinstall: bool = False,
    old_name: str | None = None,
    transfer: Transfer | None = None,
    api_version: int = 20,
) -> dict[str, str]:
    """Make the variables that Ganeti 3.0 would set to call a script, for trying it out without Ganeti.

    What is not given is derived from the instance's name, so that the same call makes the same instance. Of the
    hypervisor's parameters there are those that matter to a guest, with Ganeti's defaults but for the kernel: the guest
    boots its own.

    Args:
        name: the instance's FQDN.
        variant: without the OS's name.
        script: which one is called; ``verify`` is told about no instance.
        disks: in order, what is to be said of each by the names of :class:`Disk`'s fields (``path``, ``size_mib``).
        nics: likewise (``ip``, ``link``), and ``network`` or ``network_name``, ``network_subnet``, ``network_gateway``,
            ``network_subnet6`` and ``network_gateway6`` for the Ganeti network. A NIC without a MAC gets one.
        hypervisor: ``kvm``, ``xen-pvm``, ``xen-hvm``, ``lxc``, ``chroot`` or ``fake``.
        parameters: OS parameters by their names.
        hypervisor_parameters: by their names, where they differ from the defaults.
        backend: likewise.
        reinstall: the instance was installed before.
        old_name: the FQDN before a rename.
        transfer: the disk of an export or import.
        api_version: 10, 15 or 20.

    Raises:
        UsageError: a disk or NIC is described by a name that it does not have.
    """
    hv = {**_HYPERVISOR_DEFAULTS.get(hypervisor, {}), **(hypervisor_parameters or {})}
    request = Request(
        script=script,
        api_version=api_version,
        os_name=_OS,
        variant=variant,
        parameters=parameters or {},
        instance=None if script is Script.VERIFY else _instance(name, variant, hypervisor, hv, backend or {}),
        disks=tuple(_disk(name, index, disk, hv.get("disk_type")) for index, disk in enumerate(disks)),
        nics=tuple(_nic(name, index, nic, hv.get("nic_type")) for index, nic in enumerate(nics)),
        reinstall=reinstall,
        old_name=old_name,
        transfer=transfer,
    )
    return variables(request)


def _instance(
    name: str, variant: str, hypervisor: str, hypervisor_parameters: Mapping[str, str], backend: Mapping[str, str]
) -> Instance:
    return Instance(
        name=name,
        uuid=_derived(name, "instance"),
        os=f"{_OS}+{variant}" if variant else _OS,
        hypervisor=hypervisor,
        primary_node=_derived(name, "primary node"),
        ctime="1700000000.0",
        mtime="1700000000.0",
        backend={**_BACKEND_DEFAULTS, **backend},
        hypervisor_parameters=hypervisor_parameters,
    )


def _disk(name: str, index: int, given: Mapping[str, object], frontend_type: str | None) -> Disk:
    values = _checked(f"disk {index}", Disk, given)
    path, size = values.pop("path", None), values.pop("size_mib", None)
    defaults = {
        "uuid": _derived(name, f"disk {index}"),
        "frontend_type": frontend_type,
        "backend_type": "block",
        "path": Path(str(path)) if path else None,
        "size_mib": int(str(size)) if size else None,
    }
    return Disk(**{**defaults, **values, "index": index})


def _nic(name: str, index: int, given: Mapping[str, object], frontend_type: str | None) -> Nic:
    words = {"network_name" if key == "network" else key: value for key, value in given.items()}
    of_network = {key[8:]: words.pop(key) for key in list(words) if key.startswith("network_")}
    network = _checked(f"nic {index}, its network", Network, of_network)
    octets = _derived(name, f"nic {index}")
    values: dict[str, Any] = {
        "mac": f"aa:00:00:{octets[0:2]}:{octets[2:4]}:{octets[4:6]}",  # defaultMacPrefix in src/Ganeti/Constants.hs
        "uuid": _derived(name, f"nic {index} uuid"),
        "mode": "bridged",
        "link": "br0",
        "frontend_type": frontend_type,
        **{key: value for key, value in _checked(f"nic {index}", Nic, words).items() if value},
    }
    values["bridge"] = values["link"] if values["mode"] == "bridged" else None
    return Nic(**{**values, "index": index, "network": Network(**network) if network else None})


def _checked(what: str, kind: type[Disk | Nic | Network], given: Mapping[str, object]) -> dict[str, Any]:
    """What is said of a device, by the names of its class's fields."""
    fields = [item.name for item in dataclasses.fields(kind)]
    unknown = sorted(set(given) - set(fields))
    if unknown:
        raise UsageError(f"{what}: {', '.join(unknown)} is not known; say one of {', '.join(sorted(fields))}")
    return dict(given)


def _derived(name: str, what: str) -> str:
    """A UUID that depends on the two only (RFC 9562, version 5)."""
    import uuid  # dear to import, and no script comes here

    return str(uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_DNS, name), what))
