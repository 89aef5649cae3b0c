"""The environment that Ganeti would set, made from a request or from little: for trying out, measuring and testing.

Sources: as for :mod:`osprovider.ganeti.environment`, whose ``parse`` is the way back; defaults from Ganeti 3.0's
``src/Ganeti/Constants.hs``.
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

__all__ = ["synthesize", "variables"]

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


def variables(request: Request) -> dict[str, str]:
    """The variables that Ganeti 3.0 would set for this request; ``parse`` of them gives it back."""
    values: dict[str, object] = {
        "OS_API_VERSION": request.api_version,
        "OS_NAME": request.os_name,
        "OS_VARIANT": request.variant,
        "DEBUG_LEVEL": request.debug_level,
        "PATH": "/sbin:/bin:/usr/sbin:/usr/bin",  # HOOKS_PATH in src/Ganeti/Constants.hs
    }
    values |= {f"OSP_{name.upper().replace('-', '_')}": value for name, value in request.parameters.items()}
    if request.instance is not None:
        values |= _instance_variables(request.instance)
        values |= {"DISK_COUNT": len(request.disks), "NIC_COUNT": len(request.nics)}
        for disk in request.disks:
            values |= _disk_variables(disk)
        for nic in request.nics:
            values |= _nic_variables(nic)
    values["INSTANCE_REINSTALL"] = 1 if request.reinstall else None
    values["OLD_INSTANCE_NAME"] = request.old_name
    if request.transfer is not None:
        values |= _transfer_variables(request.transfer, request.script.name)
    return {name: str(value) for name, value in values.items() if value is not None}


def _instance_variables(instance: Instance) -> dict[str, object]:
    return {
        "INSTANCE_NAME": instance.name,
        "INSTANCE_UUID": instance.uuid,
        "INSTANCE_OS": instance.os,
        "INSTANCE_CTIME": str(instance.ctime),  # OSEnvironment writes an unknown time as None
        "INSTANCE_MTIME": str(instance.mtime),
        "INSTANCE_PRIMARY_NODE": str(instance.primary_node),
        "INSTANCE_SECONDARY_NODES": " ".join(instance.secondary_nodes),
        "HYPERVISOR": instance.hypervisor,
        **{f"INSTANCE_BE_{key}": value for key, value in instance.backend.items()},
        **{f"INSTANCE_HV_{key}": value for key, value in instance.hypervisor_parameters.items()},
    }


def _disk_variables(disk: Disk) -> dict[str, object]:
    prefix = f"DISK_{disk.index}_"
    return {
        f"{prefix}ACCESS": disk.access,
        f"{prefix}UUID": disk.uuid,
        f"{prefix}SIZE": disk.size_mib,
        f"{prefix}PATH": disk.path,
        f"{prefix}URI": disk.uri,
        f"{prefix}NAME": disk.name,
        f"{prefix}FRONTEND_TYPE": disk.frontend_type,
        f"{prefix}BACKEND_TYPE": disk.backend_type,
    }


def _nic_variables(nic: Nic) -> dict[str, object]:
    prefix = f"NIC_{nic.index}_"
    values: dict[str, object] = {
        f"{prefix}MAC": nic.mac,
        f"{prefix}UUID": nic.uuid,
        f"{prefix}NAME": nic.name,
        f"{prefix}IP": nic.ip,
        f"{prefix}MODE": nic.mode,
        f"{prefix}BRIDGE": nic.bridge,
        f"{prefix}LINK": nic.link,
        f"{prefix}VLAN": nic.vlan,
        f"{prefix}FRONTEND_TYPE": nic.frontend_type,
    }
    network = nic.network
    if network is not None:
        values |= {
            f"{prefix}NETWORK_NAME": network.name,
            f"{prefix}NETWORK_UUID": network.uuid,
            f"{prefix}NETWORK_TAGS": " ".join(network.tags),
            f"{prefix}NETWORK_SUBNET": network.subnet,
            f"{prefix}NETWORK_GATEWAY": network.gateway,
            f"{prefix}NETWORK_SUBNET6": network.subnet6,
            f"{prefix}NETWORK_GATEWAY6": network.gateway6,
            f"{prefix}NETWORK_MAC_PREFIX": network.mac_prefix,
        }
    return values


def _transfer_variables(transfer: Transfer, kind: str) -> dict[str, object]:
    return {
        f"{kind}_INDEX": transfer.index,
        f"{kind}_DEVICE": transfer.path,
        f"{kind}_DISK_PATH": transfer.path,
        f"{kind}_DISK_URI": transfer.uri,
        "EXP_SIZE_FD": transfer.size_fd,
    }


def synthesize(
    name: str,
    variant: str = "",
    *,
    script: Script = Script.CREATE,
    disks: Sequence[Disk | Mapping[str, object]] = (),
    nics: Sequence[Nic | Mapping[str, object]] = (),
    hypervisor: str = "kvm",
    parameters: Mapping[str, str] | None = None,
    hypervisor_parameters: Mapping[str, str] | None = None,
    backend: Mapping[str, str] | None = None,
    reinstall: bool = False,
    old_name: str | None = None,
    transfer: Transfer | None = None,
    api_version: int = 20,
    debug_level: int = 0,
    os_name: str = "osprovider",
) -> dict[str, str]:
    """Make the variables that Ganeti 3.0 would set to call a script, for trying it out without Ganeti.

    What is not given is derived from the instance's name, so that the same call makes the same instance. Of the
    hypervisor's parameters there are those that matter to a guest, with Ganeti's defaults but for the kernel: the guest
    boots its own.

    Args:
        name: the instance's FQDN.
        variant: without the OS's name.
        script: which one is called; ``verify`` is told about no instance.
        disks: in order, each a :class:`Disk` or what is to be said of it by the names of its fields (``path``,
            ``size_mib``).
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
        debug_level: how many ``-d`` the Ganeti command was given.
        os_name: the OS definition's.

    Raises:
        UsageError: a disk or NIC is described by a name that it does not have.
    """
    hv = {**_HYPERVISOR_DEFAULTS.get(hypervisor, {}), **(hypervisor_parameters or {})}
    instance = Instance(
        name=name,
        uuid=_derived(name, "instance"),
        os=f"{os_name}+{variant}" if variant else os_name,
        hypervisor=hypervisor,
        primary_node=_derived(name, "primary node"),
        ctime="1700000000.0",
        mtime="1700000000.0",
        backend={**_BACKEND_DEFAULTS, **(backend or {})},
        hypervisor_parameters=hv,
    )
    request = Request(
        script=script,
        api_version=api_version,
        os_name=os_name,
        variant=variant,
        debug_level=debug_level,
        parameters=parameters or {},
        instance=None if script is Script.VERIFY else instance,
        disks=tuple(_default_disk(name, index, disk, hv.get("disk_type")) for index, disk in enumerate(disks)),
        nics=tuple(_default_nic(name, index, nic, hv.get("nic_type")) for index, nic in enumerate(nics)),
        reinstall=reinstall,
        old_name=old_name,
        transfer=transfer,
    )
    return variables(request)


def _default_disk(name: str, index: int, given: Disk | Mapping[str, object], frontend_type: str | None) -> Disk:
    defaults = {
        "uuid": _derived(name, f"disk {index}"),
        "frontend_type": frontend_type,
        "backend_type": "block",
    }
    values = _given(f"disk {index}", Disk, given)
    path, size = values.get("path"), values.get("size_mib")
    values["path"] = Path(str(path)) if path else None
    values["size_mib"] = int(str(size)) if size else None
    return Disk(**{**defaults, **values, "index": index})


def _default_nic(name: str, index: int, given: Nic | Mapping[str, object], frontend_type: str | None) -> Nic:
    octets = _derived(name, f"nic {index}")
    defaults = {
        "mac": f"aa:00:00:{octets[0:2]}:{octets[2:4]}:{octets[4:6]}",  # defaultMacPrefix in src/Ganeti/Constants.hs
        "uuid": _derived(name, f"nic {index} uuid"),
        "mode": "bridged",
        "link": "br0",
        "frontend_type": frontend_type,
    }
    if isinstance(given, Nic):
        network = given.network
        values = _given(f"nic {index}", Nic, given)
    else:
        words = {"network_name" if key == "network" else key: value for key, value in given.items()}
        of_network = {key: words.pop(key) for key in list(words) if key.startswith("network_")}
        known = _given(f"nic {index}, its network", Network, {key[8:]: value for key, value in of_network.items()})
        network = Network(**known) if known else None
        values = _given(f"nic {index}", Nic, words)
    values = {**defaults, **{key: value for key, value in values.items() if value}}
    values["bridge"] = values["link"] if values["mode"] == "bridged" else None
    return Nic(**{**values, "index": index, "network": network})


def _given(what: str, kind: type[Disk | Nic | Network], given: Disk | Nic | Mapping[str, object]) -> dict[str, Any]:
    """What is said of a device, by the names of its class's fields."""
    fields = [item.name for item in dataclasses.fields(kind)]
    if not isinstance(given, Mapping):
        return {field: getattr(given, field) for field in fields}
    unknown = sorted(set(given) - set(fields))
    if unknown:
        raise UsageError(f"{what}: {', '.join(unknown)} is not known; say one of {', '.join(sorted(fields))}")
    return dict(given)


def _derived(name: str, what: str) -> str:
    """A UUID that depends on the two only (RFC 9562, version 5)."""
    import uuid  # dear to import, and no script comes here

    return str(uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_DNS, name), what))
