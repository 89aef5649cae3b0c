"""The configuration as frozen data: what variants, images, subnets and instance files may say, and the defaults.

These classes *are* the schema: :mod:`osprovider.config.schema` reads their annotations to check YAML files and to
publish JSON Schema, so a field exists here only once something acts on it. The first paragraph of a class's docstring
and each field's ``help`` metadata become the descriptions that editors show.
Not for: what takes more than one field to judge (:mod:`osprovider.config.consistency`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from osprovider.config import checks
from osprovider.config.forms import BootPartition, ScalarOrMap, Swap, SwapPlace

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


@dataclass(frozen=True, slots=True)
class Layout:
    """How disk 0 is divided."""

    table: Literal["gpt", "msdos", "none"] = field(
        default="gpt",
        metadata={"help": "the partition table's type; none: the root fills the disk; a disk image keeps its own"},
    )
    firmware: tuple[Literal["bios", "uefi"], ...] = field(
        default=("bios", "uefi"),
        metadata={"help": "the firmware that the disk must boot under; [] with an external kernel"},
    )
    filesystem: Literal["ext4", "ext3", "ext2", "xfs", "btrfs"] = field(
        default="ext4", metadata={"help": "the root's file system; a disk image keeps its own"}
    )
    mount_options: tuple[Annotated[str, checks.mount_option], ...] = field(
        default=(),
        metadata={"help": "further options of the root's line in fstab, which hold once the guest has remounted it"},
    )
    boot: Annotated[
        BootPartition | None,
        ScalarOrMap(checks.boot_partition, BootPartition, BootPartition.read, BootPartition.write),
    ] = field(default=None, metadata={"help": "a partition for /boot; none leaves it to the root"})
    swap: Annotated[Swap, ScalarOrMap(checks.swap, SwapPlace, Swap.read, Swap.write)] = field(
        default=Swap(),
        metadata={
            "help": "a partition of this size, or as large as the instance's memory; a whole disk; a file; or none"
        },
    )
    grow: bool = field(default=True, metadata={"help": "the root takes the rest of the disk"})
    root_size: Annotated[str, checks.size] | None = field(
        default=None, metadata={"help": "the most that the root takes; the rest of the disk stays free"}
    )


@dataclass(frozen=True, slots=True)
class DataDisk:
    """A disk for data, beside the system's."""

    filesystem: Literal["ext4", "ext3", "ext2", "xfs", "btrfs"] = field(
        default="ext4", metadata={"help": "its file system, which fills it"}
    )
    mount: Annotated[str, checks.mount_point] | None = field(
        default=None, metadata={"help": "where the guest has it; without it no line of fstab"}
    )
    label: Annotated[str, checks.label] | None = field(default=None, metadata={"help": "the file system's label"})
    options: tuple[Annotated[str, checks.mount_option], ...] = field(
        default=(), metadata={"help": "of its line in fstab; [] for the defaults"}
    )


@dataclass(frozen=True, slots=True)
class Boot:
    """How the instance boots."""

    loader: Literal["grub", "extlinux", "none"] = field(
        default="grub", metadata={"help": "the boot loader that is installed"}
    )
    serial: Annotated[str, checks.serial] = field(
        default="auto",
        metadata={
            "help": "auto follows the hypervisor's serial_console and its speed; none; or DEVICE[,SPEED] (ttyS0,115200)"
        },
    )
    kernel_args: tuple[Annotated[str, checks.kernel_argument], ...] = field(
        default=("quiet",), metadata={"help": "further arguments of the kernel"}
    )
    timeout: Annotated[int, checks.seconds] = field(
        default=1, metadata={"help": "how long the boot menu waits, in seconds"}
    )


@dataclass(frozen=True, slots=True)
class Dns:
    """Name servers and search domains."""

    servers: tuple[Annotated[str, checks.address], ...] = field(
        default=(), metadata={"help": "addresses of name servers"}
    )
    search: tuple[Annotated[str, checks.domain], ...] = field(default=(), metadata={"help": "domains to search"})


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """How the guest's network is configured."""

    renderer: Literal["auto", "ifupdown", "networkd", "none"] = field(
        default="auto", metadata={"help": "whose files are written; auto chooses by what the image has"}
    )
    default: Literal["dhcp", "slaac", "dhcp+slaac", "none"] = field(
        default="dhcp", metadata={"help": "a NIC that nothing else describes"}
    )
    dns: Dns = field(default_factory=Dns, metadata={"help": "for NICs whose subnet names none"})


@dataclass(frozen=True, slots=True)
class System:
    """What the guest is called and where it stands."""

    hostname: Annotated[str, checks.hostname] = field(
        default="fqdn", metadata={"help": "fqdn: the instance's whole name; short: up to its first dot; or a name"}
    )
    timezone: Annotated[str, checks.timezone] = field(default="Etc/UTC", metadata={"help": "a name of the tz database"})
    locale: Annotated[str, checks.locale] = field(default="C.UTF-8", metadata={"help": "LANG of the guest"})


@dataclass(frozen=True, slots=True)
class User:
    """An account of the guest. Without a password hash its password is locked."""

    password_hash: Annotated[str, checks.password_hash] | None = field(
        default=None,
        repr=False,
        metadata={"help": "as crypt(5) writes it (mkpasswd makes one); without it the password is locked"},
    )
    ssh_authorized_keys: tuple[Annotated[str, checks.ssh_key], ...] = field(
        default=(), metadata={"help": "public keys, one line each, as in authorized_keys"}
    )
    groups: tuple[Annotated[str, checks.account], ...] = field(default=(), metadata={"help": "supplementary groups"})
    shell: Annotated[str, checks.shell] = field(default="/bin/bash", metadata={"help": "the login shell"})
    comment: Annotated[str, checks.gecos] = field(default="", metadata={"help": "the GECOS field, often the full name"})
    sudo: Literal["none", "password", "nopasswd"] = field(
        default="none", metadata={"help": "may the user become root by sudo, and does sudo ask for the password"}
    )


@dataclass(frozen=True, slots=True)
class Hooks:
    """Which hooks run, and in what order."""

    disable: tuple[Annotated[str, checks.name], ...] = field(default=(), metadata={"help": "hooks that do not run"})
    order: dict[Annotated[str, checks.name], Annotated[str, checks.hook_order]] = field(
        default_factory=dict, metadata={"help": "HOOK: 'after OTHER' or 'before OTHER'"}
    )


@dataclass(frozen=True, slots=True)
class Variant:
    """How an instance of osprovider+NAME is made."""

    description: Annotated[str, checks.text] = field(default="", metadata={"help": "one line for people"})
    image: Annotated[str, checks.name] = field(
        default="none", metadata={"help": "a name in images/; none leaves the disk alone (installation from CD)"}
    )
    layout: Layout = field(default_factory=Layout)
    disks: dict[Annotated[str, checks.disk], DataDisk] = field(
        default_factory=dict, metadata={"help": 'data disks by their index in quotes ("1") or their name in Ganeti'}
    )
    boot: Boot = field(default_factory=Boot)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    system: System = field(default_factory=System)
    users: dict[Annotated[str, checks.account], User] = field(
        default_factory=dict, metadata={"help": "accounts by name; root's password is locked unless a hash is given"}
    )
    packages: tuple[Annotated[str, checks.package], ...] = field(
        default=(), metadata={"help": "further packages of an image that this node builds; part of the template"}
    )
    hooks: Hooks = field(default_factory=Hooks)
    isolation: Literal["auto", "host", "appliance"] = field(
        default="auto",
        metadata={"help": "where the guest's file system is mounted; auto: on the node only what it made itself"},
    )
    wipe: Literal["auto", "zero", "discard", "none"] = field(
        default="auto", metadata={"help": "what happens to what was on the disk; auto: zeroed where that is cheap"}
    )
    data_disks: Literal["keep", "renew"] = field(
        default="keep",
        metadata={"help": "what a reinstall does with swap and data disks: keep what they hold, or lose it"},
    )
    verify_copy: bool = field(
        default=False, metadata={"help": "read back from the disk what was copied, and compare it with the image"}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository of packages beside the distribution's archive."""

    url: Annotated[str, checks.url] = field(metadata={"help": "where it is"})
    suite: Annotated[str, checks.repository_suite] = field(
        metadata={"help": "as in sources.list(5); a path with a slash at its end (./) where it has no suites"}
    )
    components: tuple[Annotated[str, checks.name], ...] = field(
        default=("main",), metadata={"help": "archive areas; [] with a path"}
    )
    keyring: Annotated[str, checks.keyring] = field(
        metadata={"help": "whose signature counts: a file in keys/, or an absolute path; for this repository alone"}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapBuild:
    """An image that this node builds from a distribution's packages."""

    tool: Literal["mmdebstrap", "debootstrap"] = field(
        default="mmdebstrap", metadata={"help": "what lays the minimal system"}
    )
    distribution: Literal["auto", "debian", "ubuntu"] = field(
        default="auto",
        metadata={"help": "whose suite it is; auto knows the code names of Ubuntu, all else is Debian's"},
    )
    suite: Annotated[str, checks.suite] = field(metadata={"help": "the release's code name (bookworm)"})
    mirror: Annotated[str, checks.url] | None = field(
        default=None, metadata={"help": "where packages come from; without it the tool's own default"}
    )
    keyring: Annotated[str, checks.keyring] | None = field(
        default=None,
        metadata={
            "help": "whose signature counts: a file in keys/, or an absolute path; without it the distribution's"
        },
    )
    components: tuple[Annotated[str, checks.name], ...] = field(default=("main",), metadata={"help": "archive areas"})
    updates: bool = field(default=True, metadata={"help": "also the release's stable updates (SUITE-updates)"})
    security: bool = field(default=True, metadata={"help": "also its security updates (SUITE-security)"})
    security_mirror: Annotated[str, checks.url] | None = field(
        default=None,
        metadata={
            "help": "where these are, with a mirror; without it Debian's in MIRROR-security, Ubuntu's in the mirror"
        },
    )
    repositories: dict[Annotated[str, checks.name], Repository] = field(
        default_factory=dict, metadata={"help": "further repositories, by the name of their file in sources.list.d"}
    )
    variant: Literal["minbase", "important", "standard"] = field(
        default="minbase", metadata={"help": "the least that is installed: packages of this priority, and above"}
    )
    packages: tuple[Annotated[str, checks.package], ...] = field(
        default=(), metadata={"help": "what the image has beyond that"}
    )
    exclude: tuple[Annotated[str, checks.package], ...] = field(
        default=(), metadata={"help": "packages that are not installed, whoever recommends or prefers them"}
    )
    recommends: bool = field(default=False, metadata={"help": "recommended packages are installed as well"})
    debs: tuple[Annotated[str, checks.deb], ...] = field(
        default=(), metadata={"help": "packages that are files: in debs/, or an absolute path"}
    )
    scripts: tuple[Annotated[str, checks.script], ...] = field(
        default=(),
        metadata={"help": "run in the new system at last, without network: in scripts/, or an absolute path"},
    )
    arch: Literal["amd64"] = field(default="amd64", metadata={"help": "the architecture, as dpkg names it"})


@dataclass(frozen=True, slots=True)
class Image:
    """Where an image's bits come from: packages that this node installs (build), or a file (source)."""

    description: Annotated[str, checks.text] = field(default="", metadata={"help": "one line for people"})
    build: BootstrapBuild | None = field(default=None, metadata={"help": "built on this node from packages"})
    source: Annotated[str, checks.image_source] | None = field(
        default=None,
        metadata={"help": "a file or an http(s) URL; or a path up to -root.dump, as instance-image named its images"},
    )
    checksums: Annotated[str, checks.checksums] | None = field(
        default=None,
        metadata={"help": "sha256:DIGITS or sha512:DIGITS; or a list (SHA512SUMS), relative to the source"},
    )
    signature: Annotated[str, checks.image_source] | None = field(
        default=None, metadata={"help": "the OpenPGP signature of the list of checksums, relative to the source"}
    )
    keyring: Annotated[str, checks.keyring] | None = field(
        default=None, metadata={"help": "whose signature counts: a file in keys/, or an absolute path"}
    )
    format: Literal["auto", "raw", "qcow2", "vmdk", "vpc", "vhdx", "vdi", "tar", "dump"] = field(
        default="auto", metadata={"help": "what the source is, compressed or not; auto looks at its content"}
    )
    arch: Literal["amd64"] = field(default="amd64", metadata={"help": "the architecture, as dpkg names it"})
    max_size: Annotated[str, checks.size] = field(
        default="64GiB", metadata={"help": "the most that the source may unpack to"}
    )


@dataclass(frozen=True, slots=True)
class Cache:
    """What the node keeps of images, and how it fetches them: the file cache.yaml."""

    max_size: Annotated[str, checks.size] | None = field(
        default=None,
        metadata={"help": "the most that templates and downloads take; the least recently used goes first"},
    )
    proxy: Annotated[str, checks.url] | None = field(
        default=None, metadata={"help": "the HTTP proxy for sources and packages"}
    )


@dataclass(frozen=True, slots=True)
class SubnetMatch:
    """NICs without a file of their own that belong to a subnet."""

    link: Annotated[str, checks.line] | None = field(default=None, metadata={"help": "the NIC's link (gnt-br0)"})
    network: Annotated[str, checks.line] | None = field(default=None, metadata={"help": "the Ganeti network's name"})


@dataclass(frozen=True, slots=True)
class Subnet:
    """A network that NICs are in."""

    networks: tuple[Annotated[str, checks.cidr], ...] = field(
        default=(), metadata={"help": "prefixes (198.51.100.0/24)"}
    )
    gateways: tuple[Annotated[str, checks.address], ...] = field(
        default=(), metadata={"help": "one for each family at most"}
    )
    dns: Dns = field(default_factory=Dns)
    mtu: Annotated[int, checks.mtu] | None = field(default=None, metadata={"help": "in bytes"})
    match: SubnetMatch | None = field(
        default=None, metadata={"help": "without it: NICs whose address lies in networks"}
    )


@dataclass(frozen=True, slots=True)
class InstanceNic:
    """A NIC of one instance."""

    subnet: Annotated[str, checks.name] | None = field(default=None, metadata={"help": "a name in subnets/"})
    addresses: tuple[Annotated[str, checks.interface_address], ...] = field(
        default=(), metadata={"help": "addresses; the prefix length may be left to the subnet"}
    )
    gateways: tuple[Annotated[str, checks.address], ...] | None = field(
        default=None, metadata={"help": "in place of the subnet's"}
    )
    dhcp: bool = field(
        default=False, metadata={"help": "asks for its IPv4 and, where the network says so, IPv6 address"}
    )
    slaac: bool = field(default=False, metadata={"help": "takes its IPv6 address from router advertisements"})
    dns: Dns | None = field(default=None, metadata={"help": "in place of the subnet's"})
    mtu: Annotated[int, checks.mtu] | None = field(
        default=None, metadata={"help": "in bytes; in place of the subnet's"}
    )


@dataclass(frozen=True, slots=True)
class InstanceFile(Variant):
    """One instance: whatever a variant may say, and its NICs."""

    nics: tuple[InstanceNic, ...] = field(
        default=(), metadata={"help": "by index; what is left out is found as for any NIC"}
    )
