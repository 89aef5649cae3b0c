"""The configuration as frozen data: what variants, images, subnets and instance files may say, and the defaults.

These classes *are* the schema: :mod:`osprovider.config.schema` reads their annotations to check YAML files and to
publish JSON Schema, so a field exists here only once something acts on it. The first paragraph of a class's docstring
and each field's ``help`` metadata become the descriptions that editors show.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from osprovider.config import checks
from osprovider.config.forms import ScalarOrMap

__all__ = [
    "Boot",
    "BootPartition",
    "BootstrapBuild",
    "Cache",
    "DataDisk",
    "Dns",
    "Hooks",
    "Image",
    "InstanceFile",
    "InstanceNic",
    "Layout",
    "NetworkSettings",
    "Repository",
    "Subnet",
    "SubnetMatch",
    "Swap",
    "SwapPlace",
    "System",
    "User",
    "Variant",
]


def _help(text: str) -> dict[str, Any]:
    return {"help": text}


@dataclass(frozen=True, slots=True)
class BootPartition:
    """A partition for /boot."""

    size: Annotated[str, checks.size] = field(default="1GiB", metadata=_help("its size"))
    filesystem: Literal["ext4", "ext3", "ext2"] = field(default="ext4", metadata=_help("its file system"))

    @staticmethod
    def read(value: str | BootPartition) -> BootPartition | None:
        """What a variant's ``none`` or map means."""
        return None if isinstance(value, str) else value

    @staticmethod
    def write(value: BootPartition | None) -> str | BootPartition:
        """The way back."""
        return "none" if value is None else value


@dataclass(frozen=True, slots=True)
class SwapPlace:
    """Where the instance swaps to that is no partition: one of a disk and a file."""

    disk: Annotated[str, checks.disk] | None = field(
        default=None, metadata=_help("a whole disk, by its index or its name in Ganeti")
    )
    file: Annotated[str, checks.size] | None = field(default=None, metadata=_help("a file of this size on the root"))


@dataclass(frozen=True, slots=True)
class Swap:
    """Where the instance swaps to.

    Attributes:
        kind: ``memory`` is a partition as large as the instance's memory.
        size: of the partition or the file, with its unit.
        disk: its index or its name in Ganeti.
    """

    kind: Literal["none", "memory", "partition", "disk", "file"] = "none"
    size: str | None = None
    disk: str | None = None

    @classmethod
    def read(cls, value: str | SwapPlace) -> Swap:
        """What a variant's word, size or map means.

        Raises:
            ValueError: the map says nothing, or two things.
        """
        if isinstance(value, str):
            words = {"none": cls(), "memory": cls("memory")}
            return words.get(value) or cls("partition", size=value)
        if (value.disk is None) == (value.file is None):
            what = "disk and file are both there" if value.disk else "neither disk nor file is there"
            raise ValueError(f"{what}; write one of them (and 'file: ~' to drop what another file says)")
        return cls("disk", disk=value.disk) if value.disk else cls("file", size=value.file)

    def write(self) -> str | SwapPlace:
        """The way back."""
        if self.kind in ("disk", "file"):
            return SwapPlace(disk=self.disk, file=self.size)
        return self.size or self.kind


@dataclass(frozen=True, slots=True)
class Layout:
    """How disk 0 is divided."""

    table: Literal["gpt", "msdos", "none"] = field(
        default="gpt",
        metadata=_help("the partition table's type; none: the root fills the disk; a disk image keeps its own"),
    )
    firmware: tuple[Literal["bios", "uefi"], ...] = field(
        default=("bios", "uefi"),
        metadata=_help("the firmware that the disk must boot under; [] with an external kernel"),
    )
    filesystem: Literal["ext4", "ext3", "ext2", "xfs", "btrfs"] = field(
        default="ext4", metadata=_help("the root's file system; a disk image keeps its own")
    )
    mount_options: tuple[Annotated[str, checks.mount_option], ...] = field(
        default=(),
        metadata=_help("further options of the root's line in fstab, which hold once the guest has remounted it"),
    )
    boot: Annotated[
        BootPartition | None,
        ScalarOrMap(checks.boot_partition, BootPartition, BootPartition.read, BootPartition.write),
    ] = field(default=None, metadata=_help("a partition for /boot; none leaves it to the root"))
    swap: Annotated[Swap, ScalarOrMap(checks.swap, SwapPlace, Swap.read, Swap.write)] = field(
        default=Swap(),
        metadata=_help("a partition of this size, or as large as the instance's memory; a whole disk; a file; or none"),
    )
    grow: bool = field(default=True, metadata=_help("the root takes the rest of the disk"))
    root_size: Annotated[str, checks.size] | None = field(
        default=None, metadata=_help("the most that the root takes; the rest of the disk stays free")
    )


@dataclass(frozen=True, slots=True)
class DataDisk:
    """A disk for data, beside the system's."""

    filesystem: Literal["ext4", "ext3", "ext2", "xfs", "btrfs"] = field(
        default="ext4", metadata=_help("its file system, which fills it")
    )
    mount: Annotated[str, checks.absolute_path] | None = field(
        default=None, metadata=_help("where the guest has it; without it no line of fstab")
    )
    label: Annotated[str, checks.label] | None = field(default=None, metadata=_help("the file system's label"))
    options: tuple[Annotated[str, checks.mount_option], ...] = field(
        default=(), metadata=_help("of its line in fstab; [] for the defaults")
    )


@dataclass(frozen=True, slots=True)
class Boot:
    """How the instance boots."""

    loader: Literal["grub", "extlinux", "none"] = field(
        default="grub", metadata=_help("the boot loader that is installed")
    )
    serial: Annotated[str, checks.serial] = field(
        default="auto",
        metadata=_help(
            "auto follows the hypervisor's serial_console and its speed; none; or DEVICE[,SPEED] (ttyS0,115200)"
        ),
    )
    kernel_args: tuple[Annotated[str, checks.kernel_argument], ...] = field(
        default=("quiet",), metadata=_help("further arguments of the kernel")
    )
    timeout: Annotated[int, checks.seconds] = field(
        default=1, metadata=_help("how long the boot menu waits, in seconds")
    )


@dataclass(frozen=True, slots=True)
class Dns:
    """Name servers and search domains."""

    servers: tuple[Annotated[str, checks.address], ...] = field(default=(), metadata=_help("addresses of name servers"))
    search: tuple[Annotated[str, checks.domain], ...] = field(default=(), metadata=_help("domains to search"))


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """How the guest's network is configured."""

    renderer: Literal["auto", "ifupdown", "networkd", "none"] = field(
        default="auto", metadata=_help("whose files are written; auto chooses by what the image has")
    )
    default: Literal["dhcp", "slaac", "dhcp+slaac", "none"] = field(
        default="dhcp", metadata=_help("a NIC that nothing else describes")
    )
    dns: Dns = field(default_factory=Dns, metadata=_help("for NICs whose subnet names none"))


@dataclass(frozen=True, slots=True)
class System:
    """What the guest is called and where it stands."""

    hostname: Annotated[str, checks.hostname] = field(
        default="fqdn", metadata=_help("fqdn: the instance's whole name; short: up to its first dot; or a name")
    )
    timezone: Annotated[str, checks.timezone] = field(default="Etc/UTC", metadata=_help("a name of the tz database"))
    locale: Annotated[str, checks.locale] = field(default="C.UTF-8", metadata=_help("LANG of the guest"))


@dataclass(frozen=True, slots=True)
class User:
    """An account of the guest. Without a password hash its password is locked."""

    password_hash: Annotated[str, checks.password_hash] | None = field(
        default=None,
        repr=False,
        metadata=_help("as crypt(5) writes it (mkpasswd makes one); without it the password is locked"),
    )
    ssh_authorized_keys: tuple[Annotated[str, checks.ssh_key], ...] = field(
        default=(), metadata=_help("public keys, one line each, as in authorized_keys")
    )
    groups: tuple[Annotated[str, checks.account], ...] = field(default=(), metadata=_help("supplementary groups"))
    shell: Annotated[str, checks.absolute_path] = field(default="/bin/bash", metadata=_help("the login shell"))
    comment: Annotated[str, checks.gecos] = field(default="", metadata=_help("the GECOS field, often the full name"))
    sudo: Literal["none", "password", "nopasswd"] = field(
        default="none", metadata=_help("may the user become root by sudo, and does sudo ask for the password")
    )


@dataclass(frozen=True, slots=True)
class Hooks:
    """Which hooks run, and in what order."""

    disable: tuple[Annotated[str, checks.name], ...] = field(default=(), metadata=_help("hooks that do not run"))
    order: dict[Annotated[str, checks.name], Annotated[str, checks.hook_order]] = field(
        default_factory=dict, metadata=_help("HOOK: 'after OTHER' or 'before OTHER'")
    )


@dataclass(frozen=True, slots=True)
class Variant:
    """How an instance of osprovider+NAME is made."""

    description: Annotated[str, checks.text] = field(default="", metadata=_help("one line for people"))
    image: Annotated[str, checks.name] = field(
        default="none", metadata=_help("a name in images/; none leaves the disk alone (installation from CD)")
    )
    layout: Layout = field(default_factory=Layout)
    disks: dict[Annotated[str, checks.disk], DataDisk] = field(
        default_factory=dict, metadata=_help('data disks by their index in quotes ("1") or their name in Ganeti')
    )
    boot: Boot = field(default_factory=Boot)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    system: System = field(default_factory=System)
    users: dict[Annotated[str, checks.account], User] = field(
        default_factory=dict, metadata=_help("accounts by name; root's password is locked unless a hash is given")
    )
    packages: tuple[Annotated[str, checks.package], ...] = field(
        default=(), metadata=_help("further packages of an image that this node builds; part of the template")
    )
    hooks: Hooks = field(default_factory=Hooks)
    isolation: Literal["auto", "host", "appliance"] = field(
        default="auto",
        metadata=_help("where the guest's file system is mounted; auto: on the host only what it made itself"),
    )
    wipe: Literal["auto", "zero", "discard", "none"] = field(
        default="auto", metadata=_help("what happens to what was on the disk; auto: zeroed where that is cheap")
    )
    verify_copy: bool = field(
        default=False, metadata=_help("read back from the disk what was copied, and compare it with the image")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository of packages beside the distribution's archive."""

    url: Annotated[str, checks.url] = field(metadata=_help("where it is"))
    suite: Annotated[str, checks.repository_suite] = field(
        metadata=_help("as in sources.list(5); a path with a slash at its end (./) where it has no suites")
    )
    components: tuple[Annotated[str, checks.name], ...] = field(
        default=("main",), metadata=_help("archive areas; [] with a path")
    )
    keyring: Annotated[str, checks.keyring] = field(
        metadata=_help("whose signature counts: a file in keys/, or an absolute path; for this repository alone")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapBuild:
    """An image that this node builds from a distribution's packages."""

    tool: Literal["mmdebstrap", "debootstrap"] = field(
        default="mmdebstrap", metadata=_help("what lays the minimal system")
    )
    distribution: Literal["auto", "debian", "ubuntu"] = field(
        default="auto", metadata=_help("whose suite it is; auto knows the code names of Ubuntu, all else is Debian's")
    )
    suite: Annotated[str, checks.suite] = field(metadata=_help("the release's code name (bookworm)"))
    mirror: Annotated[str, checks.url] | None = field(
        default=None, metadata=_help("where packages come from; without it the tool's own default")
    )
    keyring: Annotated[str, checks.keyring] | None = field(
        default=None,
        metadata=_help("whose signature counts: a file in keys/, or an absolute path; without it the distribution's"),
    )
    components: tuple[Annotated[str, checks.name], ...] = field(default=("main",), metadata=_help("archive areas"))
    updates: bool = field(default=True, metadata=_help("also the release's stable updates (SUITE-updates)"))
    security: bool = field(default=True, metadata=_help("also its security updates (SUITE-security)"))
    security_mirror: Annotated[str, checks.url] | None = field(
        default=None,
        metadata=_help(
            "where these are, with a mirror; without it Debian's in MIRROR-security, Ubuntu's in the mirror"
        ),
    )
    repositories: dict[Annotated[str, checks.name], Repository] = field(
        default_factory=dict, metadata=_help("further repositories, by the name of their file in sources.list.d")
    )
    variant: Literal["minbase", "important", "standard"] = field(
        default="minbase", metadata=_help("the least that is installed: packages of this priority, and above")
    )
    packages: tuple[Annotated[str, checks.package], ...] = field(
        default=(), metadata=_help("what the image has beyond that")
    )
    exclude: tuple[Annotated[str, checks.package], ...] = field(
        default=(), metadata=_help("packages that are not installed, whoever recommends or prefers them")
    )
    recommends: bool = field(default=False, metadata=_help("recommended packages are installed as well"))
    debs: tuple[Annotated[str, checks.deb], ...] = field(
        default=(), metadata=_help("packages that are files: in debs/, or an absolute path")
    )
    scripts: tuple[Annotated[str, checks.script], ...] = field(
        default=(), metadata=_help("run in the new system at last, without network: in scripts/, or an absolute path")
    )
    arch: Literal["amd64"] = field(default="amd64", metadata=_help("the architecture, as dpkg names it"))


@dataclass(frozen=True, slots=True)
class Image:
    """Where an image's bits come from: packages that this node installs (build), or a file (source)."""

    description: Annotated[str, checks.text] = field(default="", metadata=_help("one line for people"))
    build: BootstrapBuild | None = field(default=None, metadata=_help("built on this node from packages"))
    source: Annotated[str, checks.image_source] | None = field(
        default=None,
        metadata=_help("a file or an http(s) URL; or a path up to -root.dump, as instance-image named its images"),
    )
    checksums: Annotated[str, checks.checksums] | None = field(
        default=None,
        metadata=_help("sha256:DIGITS or sha512:DIGITS; or a list (SHA512SUMS), relative to the source"),
    )
    signature: Annotated[str, checks.image_source] | None = field(
        default=None, metadata=_help("the OpenPGP signature of the list of checksums, relative to the source")
    )
    keyring: Annotated[str, checks.keyring] | None = field(
        default=None, metadata=_help("whose signature counts: a file in keys/, or an absolute path")
    )
    format: Literal["auto", "raw", "qcow2", "vmdk", "vpc", "vhdx", "vdi", "tar", "dump"] = field(
        default="auto", metadata=_help("what the source is, compressed or not; auto looks at its content")
    )
    arch: Literal["amd64"] = field(default="amd64", metadata=_help("the architecture, as dpkg names it"))
    max_size: Annotated[str, checks.size] = field(
        default="64GiB", metadata=_help("the most that the source may unpack to")
    )


@dataclass(frozen=True, slots=True)
class Cache:
    """What the node keeps of images, and how it fetches them: the file cache.yaml."""

    max_size: Annotated[str, checks.size] | None = field(
        default=None, metadata=_help("the most that templates and downloads take; the least recently used goes first")
    )
    proxy: Annotated[str, checks.url] | None = field(
        default=None, metadata=_help("the HTTP proxy for sources and packages")
    )


@dataclass(frozen=True, slots=True)
class SubnetMatch:
    """NICs without a file of their own that belong to a subnet."""

    link: Annotated[str, checks.line] | None = field(default=None, metadata=_help("the NIC's link (gnt-br0)"))
    network: Annotated[str, checks.line] | None = field(default=None, metadata=_help("the Ganeti network's name"))


@dataclass(frozen=True, slots=True)
class Subnet:
    """A network that NICs are in."""

    networks: tuple[Annotated[str, checks.cidr], ...] = field(default=(), metadata=_help("prefixes (198.51.100.0/24)"))
    gateways: tuple[Annotated[str, checks.address], ...] = field(
        default=(), metadata=_help("one for each family at most")
    )
    dns: Dns = field(default_factory=Dns)
    mtu: Annotated[int, checks.mtu] | None = field(default=None, metadata=_help("in bytes"))
    match: SubnetMatch | None = field(default=None, metadata=_help("without it: NICs whose address lies in networks"))


@dataclass(frozen=True, slots=True)
class InstanceNic:
    """A NIC of one instance."""

    subnet: Annotated[str, checks.name] | None = field(default=None, metadata=_help("a name in subnets/"))
    addresses: tuple[Annotated[str, checks.interface_address], ...] = field(
        default=(), metadata=_help("addresses; the prefix length may be left to the subnet")
    )
    gateways: tuple[Annotated[str, checks.address], ...] | None = field(
        default=None, metadata=_help("in place of the subnet's")
    )
    dhcp: bool = field(default=False, metadata=_help("asks for its IPv4 and, where the network says so, IPv6 address"))
    slaac: bool = field(default=False, metadata=_help("takes its IPv6 address from router advertisements"))
    dns: Dns | None = field(default=None, metadata=_help("in place of the subnet's"))
    mtu: Annotated[int, checks.mtu] | None = field(default=None, metadata=_help("in bytes; in place of the subnet's"))


@dataclass(frozen=True, slots=True)
class InstanceFile(Variant):
    """One instance: whatever a variant may say, and its NICs."""

    nics: tuple[InstanceNic, ...] = field(
        default=(), metadata=_help("by index; what is left out is found as for any NIC")
    )
