"""Ganeti's environment variables, read once into a :class:`~osprovider.ganeti.request.Request`.

Sources: ``OSCoreEnv``, ``OSEnvironment``, ``InstanceOsAdd``, ``RunRenameInstance`` and ``_GetImportExportIoCommand`` in
Ganeti 3.0's ``lib/backend.py``, and ganeti-os-interface(7).
Not for: what the values of OS parameters mean (:mod:`osprovider.config`), or whether a disk can be used.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from osprovider.errors import RequestError
from osprovider.ganeti.reader import Reader
from osprovider.ganeti.request import Disk, Instance, Network, Nic, Request, Script, Transfer

__all__ = ["parse"]

_API_VERSIONS = (10, 15, 20)
# Ganeti's own OS parameters (src/Ganeti/Constants.hs), whose dashes are lost in the variables' names.
_DASHED_PARAMETERS = ("os-image", "os-install-package")

_OS_NAME = re.compile(r"[A-Za-z0-9_-]+")
_VARIANT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_][a-z0-9_-]{0,62}(\.[a-z0-9_][a-z0-9_-]{0,62})*")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_GANETI = re.compile(
    r"(INSTANCE|DISK|NIC|EXPORT|IMPORT)_.+|OS_(API_VERSION|NAME|VARIANT)|DEBUG_LEVEL|HYPERVISOR|OLD_INSTANCE_NAME|EXP_SIZE_FD"
)


def parse(script: Script, environ: Mapping[str, str], parameter_names: Iterable[str] = ()) -> Request:
    """Read what Ganeti asks of a script.

    Args:
        script: the one that was called; decides which variables there have to be.
        environ: the process's environment; what is not Ganeti's is ignored.
        parameter_names: names in ``parameters.list``. Ganeti writes ``a-b`` as ``OSP_A_B``, so only names with a dash
            have to be known, and Ganeti's own are; every other variable gives its name in lower case.

    Raises:
        RequestError: variables are missing, malformed or contradict each other. One line each, all of them.
    """
    reader = Reader(environ)
    api_version = reader.number("OS_API_VERSION", "10, 15 or 20")
    if api_version is not None and api_version not in _API_VERSIONS:
        reader.complain("OS_API_VERSION", f"{api_version} is not known", "10, 15 or 20")
    request = Request(
        script=script,
        api_version=api_version or max(_API_VERSIONS),
        os_name=reader.matching("OS_NAME", _OS_NAME, "the OS definition's name"),
        variant=_variant(reader, api_version),
        debug_level=reader.number("DEBUG_LEVEL", "how many -d the command was given", required=False) or 0,
        parameters=_parameters(environ, parameter_names) if api_version == 20 else {},
        environment={name: value for name, value in environ.items() if _GANETI.fullmatch(name)},
    )
    if script is not Script.VERIFY:
        request = _with_instance(reader, request)
    if reader.problems:
        raise RequestError("\n".join(reader.problems))
    return request


def _with_instance(reader: Reader, request: Request) -> Request:
    """The request with all that ``OSEnvironment`` adds for the scripts that are called for an instance."""
    instance = _instance(reader, request)
    disks = tuple(_disk(reader, index) for index in reader.indices("DISK"))
    nics = tuple(_nic(reader, index) for index in reader.indices("NIC"))
    by_mac: dict[str, int] = {}
    for nic in nics:
        first = by_mac.setdefault(nic.mac, nic.index)
        if nic.mac and first != nic.index:
            reader.complain(f"NIC_{nic.index}_MAC", f"{nic.mac!r} is also NIC_{first}_MAC", "another one for every NIC")
    old_name = None
    if request.script is Script.RENAME:
        old_name = reader.matching("OLD_INSTANCE_NAME", _HOST_NAME, "the host name before the rename, in lower case")
    transfer = None
    if request.script in {Script.EXPORT, Script.IMPORT}:
        transfer = _transfer(reader, request.script, disks)
    return dataclasses.replace(
        request,
        instance=instance,
        disks=disks,
        nics=nics,
        reinstall=request.script is Script.CREATE and _reinstall(reader),
        old_name=old_name,
        transfer=transfer,
    )


def _variant(reader: Reader, api_version: int | None) -> str:
    """``OS_VARIANT``, which API 10 does not have and which is empty for an OS without variants."""
    variant = reader.optional("OS_VARIANT")
    if variant is None or api_version == 10:
        return ""
    return reader.matching("OS_VARIANT", _VARIANT, "a name of variants.list")


def _parameters(environ: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """``OSP_*`` by the parameters' own names (``OSP_OS_IMAGE`` is ``os-image``)."""
    known = {name.upper().replace("-", "_"): name for name in (*_DASHED_PARAMETERS, *names)}
    given = {name.removeprefix("OSP_"): value for name, value in environ.items() if name.startswith("OSP_")}
    return {known.get(name, name.lower()): value for name, value in given.items()}


def _instance(reader: Reader, request: Request) -> Instance:
    os = reader.required("INSTANCE_OS", "the OS with its variant, such as osprovider+debian-12")
    base, _, variant = os.partition("+")
    if os and request.os_name and base != request.os_name:
        reader.complain("INSTANCE_OS", f"{os!r} is not OS_NAME, {request.os_name!r}", "the same OS in both")
    if variant and request.api_version >= 15 and variant != request.variant:
        reader.complain("INSTANCE_OS", f"{os!r} is not OS_VARIANT, {request.variant!r}", "the same variant in both")
    reader.number("INSTANCE_HV_serial_speed", "bits per second", required=False)
    return Instance(
        name=reader.matching("INSTANCE_NAME", _HOST_NAME, "the host name in lower case"),
        uuid=reader.uuid("INSTANCE_UUID") or "",
        os=os,
        hypervisor=reader.matching("HYPERVISOR", _OS_NAME, "the hypervisor's name, such as kvm"),
        primary_node=reader.optional("INSTANCE_PRIMARY_NODE"),
        secondary_nodes=tuple(reader.environ.get("INSTANCE_SECONDARY_NODES", "").split()),
        ctime=reader.optional("INSTANCE_CTIME"),
        mtime=reader.optional("INSTANCE_MTIME"),
        backend=_by_key(reader.environ, "INSTANCE_BE_"),
        hypervisor_parameters=_by_key(reader.environ, "INSTANCE_HV_"),
    )


def _by_key(environ: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix).lower(): value for name, value in environ.items() if name.startswith(prefix)}


def _disk(reader: Reader, index: int) -> Disk:
    prefix = f"DISK_{index}_"
    access = reader.required(f"{prefix}ACCESS", "rw or ro")
    if access not in {"", "rw", "ro"}:
        reader.complain(f"{prefix}ACCESS", f"{access!r} is not known", "rw or ro")
    path = reader.absolute_path(f"{prefix}PATH", "a block device or a file of this node")
    uri = reader.optional(f"{prefix}URI")
    if path is None and uri is None:
        reader.complain(f"{prefix}PATH", f"is not set, nor is {prefix}URI", "one of them at least")
    return Disk(
        index=index,
        access=access,
        path=path,
        uri=uri,
        uuid=reader.uuid(f"{prefix}UUID", required=False),
        name=reader.optional(f"{prefix}NAME"),
        size_mib=reader.number(f"{prefix}SIZE", "MiB", required=False),
        frontend_type=reader.optional(f"{prefix}FRONTEND_TYPE"),
        backend_type=reader.optional(f"{prefix}BACKEND_TYPE"),
    )


def _nic(reader: Reader, index: int) -> Nic:
    prefix = f"NIC_{index}_"
    mac = reader.required(f"{prefix}MAC", "six octets with colons").lower()
    if mac and not _MAC.fullmatch(mac):
        reader.complain(f"{prefix}MAC", f"{mac!r} is malformed", "six octets with colons")
    return Nic(
        index=index,
        mac=mac,
        uuid=reader.uuid(f"{prefix}UUID", required=False),
        name=reader.optional(f"{prefix}NAME"),
        ip=reader.address(f"{prefix}IP"),
        mode=reader.optional(f"{prefix}MODE"),
        link=reader.optional(f"{prefix}LINK"),
        bridge=reader.optional(f"{prefix}BRIDGE"),
        vlan=reader.optional(f"{prefix}VLAN"),
        frontend_type=reader.optional(f"{prefix}FRONTEND_TYPE"),
        network=_network(reader, f"{prefix}NETWORK_"),
    )


def _network(reader: Reader, prefix: str) -> Network | None:
    if not any(name.startswith(prefix) for name in reader.environ):
        return None
    return Network(
        name=reader.required(f"{prefix}NAME", "the network's name beside its other variables"),
        uuid=reader.uuid(f"{prefix}UUID", required=False),
        tags=tuple(reader.environ.get(f"{prefix}TAGS", "").split()),
        subnet=reader.subnet(f"{prefix}SUBNET", 4),
        gateway=reader.address(f"{prefix}GATEWAY"),
        subnet6=reader.subnet(f"{prefix}SUBNET6", 6),
        gateway6=reader.address(f"{prefix}GATEWAY6"),
        mac_prefix=reader.optional(f"{prefix}MAC_PREFIX"),
    )


def _reinstall(reader: Reader) -> bool:
    value = reader.optional("INSTANCE_REINSTALL")
    if value not in {None, "1"}:
        reader.complain("INSTANCE_REINSTALL", f"{value!r} is not known", "1, or nothing for a new instance")
    return value == "1"


def _transfer(reader: Reader, script: Script, disks: Sequence[Disk]) -> Transfer:
    """The disk of an export or import: ``*_DEVICE`` is the older name of ``*_DISK_PATH``."""
    kind = script.name
    index = reader.number(f"{kind}_INDEX", "the disk's index")
    if index is not None and index >= len(disks):
        reader.complain(f"{kind}_INDEX", f"{index} is not below DISK_COUNT, {len(disks)}", "the index of a disk")
    expected = "the disk's block device or file"
    device = reader.absolute_path(f"{kind}_DEVICE", expected)
    path = reader.absolute_path(f"{kind}_DISK_PATH", expected)
    if device and path and device != path:
        reader.complain(f"{kind}_DEVICE", f"{str(device)!r} is not {kind}_DISK_PATH, {str(path)!r}", "the same in both")
    uri = reader.optional(f"{kind}_DISK_URI")
    if device is None and path is None and uri is None:
        reader.complain(f"{kind}_DEVICE", f"is not set, nor {kind}_DISK_PATH or {kind}_DISK_URI", "at least one")
    size_fd = reader.number("EXP_SIZE_FD", "a file descriptor", required=False)
    if size_fd is not None and size_fd < 3:
        reader.complain("EXP_SIZE_FD", f"{size_fd} is a standard stream", "a file descriptor of its own")
    return Transfer(index=index or 0, path=path or device, uri=uri, size_fd=size_fd)
