"""The environment that Ganeti 3.0 would set for a request.

Sources: as for :mod:`osprovider.ganeti.environment`, whose ``parse`` is the way back.
Not for: making a request up (:mod:`osprovider.ganeti.synthesis`).
"""

from __future__ import annotations

from osprovider.ganeti.request import Disk, Instance, Nic, Request, Transfer

__all__ = ["variables"]


def variables(request: Request) -> dict[str, str]:
    """The variables by their names; ``parse`` of them gives the request back."""
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
