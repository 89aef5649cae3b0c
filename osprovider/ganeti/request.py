"""What Ganeti asks for, as frozen data. Every variable of the OS interface has its place here.

Sources: ``OSEnvironment`` and ``OSCoreEnv`` in Ganeti's ``lib/backend.py``, and ganeti-os-interface(7).
Not for: reading the environment (:mod:`osprovider.ganeti.environment`) or deciding anything from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from osprovider.errors import RequestError

__all__ = ["Disk", "Instance", "Network", "Nic", "Request", "Script", "Transfer"]


class Script(Enum):
    """The five scripts of an OS definition, by their file names."""

    CREATE = "create"
    IMPORT = "import"
    EXPORT = "export"
    RENAME = "rename"
    VERIFY = "verify"


@dataclass(frozen=True, slots=True)
class Network:
    """The Ganeti network that a NIC is connected to (``NIC_n_NETWORK_*``); CIDR strings as Ganeti gives them."""

    name: str
    uuid: str | None = None
    tags: tuple[str, ...] = ()
    subnet: str | None = None
    gateway: str | None = None
    subnet6: str | None = None
    gateway6: str | None = None
    mac_prefix: str | None = None


@dataclass(frozen=True, slots=True)
class Nic:
    """A network interface (``NIC_n_*``).

    Attributes:
        index: n.
        mac: six lower-case octets with colons.
        ip: the one address that Ganeti knows, without a prefix length.
        mode: ``bridged``, ``routed``, ``openvswitch`` or ``ext``.
    """

    index: int
    mac: str
    uuid: str | None = None
    name: str | None = None
    ip: str | None = None
    mode: str | None = None
    link: str | None = None
    bridge: str | None = None
    vlan: str | None = None
    frontend_type: str | None = None
    network: Network | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of the instance (``DISK_n_*``).

    Attributes:
        index: n.
        access: ``rw`` or ``ro``.
        path: a block device or a plain file on this node; None for a disk that only userspace reaches.
        uri: for QEMU's tools, where the disk has one.
        size_mib: in MiB, as Ganeti 3.0 and later say it.
        backend_type: ``block``, or ``file:DRIVER`` for a plain file.
    """

    index: int
    access: str = "rw"
    path: Path | None = None
    uri: str | None = None
    uuid: str | None = None
    name: str | None = None
    size_mib: int | None = None
    frontend_type: str | None = None
    backend_type: str | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """The instance (``INSTANCE_*``).

    Attributes:
        name: the FQDN.
        uuid: Ganeti's, canonical lower case.
        os: the OS as asked for, with the variant (``osprovider+debian-12``).
        primary_node: a node's UUID; likewise ``secondary_nodes``.
        backend: ``INSTANCE_BE_*`` by lower-case key, as Ganeti writes them.
        hypervisor_parameters: ``INSTANCE_HV_*`` by lower-case key; ``str()`` of Python's value (``True``, ``None``).
    """

    name: str
    uuid: str
    os: str
    hypervisor: str
    primary_node: str | None = None
    secondary_nodes: tuple[str, ...] = ()
    ctime: str | None = None
    mtime: str | None = None
    backend: Mapping[str, str] = field(default_factory=dict)
    hypervisor_parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Transfer:
    """The one disk that an ``export`` or ``import`` is called for.

    Attributes:
        index: which of the instance's disks.
        path: the device to read or write: at an export the snapshot, not the live disk.
        size_fd: descriptor that takes the stream's size in bytes as one line.
    """

    index: int
    path: Path | None = None
    uri: str | None = None
    size_fd: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One call of one script.

    Attributes:
        script: which.
        api_version: 10, 15 or 20.
        os_name: the OS definition's name, without the variant.
        variant: empty where Ganeti gave none.
        parameters: OS parameters by their name in ``parameters.list`` (``dns_servers``, ``os-image``).
        instance: None for ``verify`` only.
        reinstall: ``create`` writes over an instance that was installed before.
        old_name: the FQDN before a ``rename``.
        transfer: for ``import`` and ``export`` only.
        debug_level: how many ``-d`` the Ganeti command was given.
        environment: Ganeti's variables as they came, for hooks that know them; without ``OSP_*``, which may be secret,
            and ``PATH``.
    """

    script: Script
    api_version: int
    os_name: str
    variant: str = ""
    debug_level: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    instance: Instance | None = None
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    reinstall: bool = False
    old_name: str | None = None
    transfer: Transfer | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def require_instance(self) -> Instance:
        """The instance, which every script but ``verify`` is called for.

        Raises:
            RequestError: there is none.
        """
        if self.instance is None:
            raise RequestError(f"INSTANCE_NAME is not set: {self.script.value} is for an instance")
        return self.instance
