"""``osprovider plan``: what ``create`` would do, without touching a thing."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from osprovider.cli.main import as_json, echo_json, main
from osprovider.cli.planned import describe
from osprovider.config.load import load, variant_names
from osprovider.config.parameters import PARAMETERS
from osprovider.config.wording import enumerate_words, quote
from osprovider.customize.hooks import select
from osprovider.disk.device import probe
from osprovider.disk.userspace import size_of
from osprovider.errors import DeviceError, UsageError
from osprovider.ganeti.environment import parse
from osprovider.ganeti.request import Disk, Request, Script
from osprovider.ganeti.synthesis import synthesize
from osprovider.images.store import Store
from osprovider.layout import DiskFacts
from osprovider.paths import Directories
from osprovider.plan import Plan, make_plan
from osprovider.systemdisk import disk_0

__all__ = ["plan"]

_MADE_UP = Path("/nonexistent")  # the path of a disk of which only the size is given
_LARGEST_ENVIRONMENT = 1 << 20  # in bytes
_HYPERVISORS = ("kvm", "xen-pvm", "xen-hvm", "lxc", "chroot", "fake")


@main.command()
@click.argument("instance", required=False)
@click.option("--variant", "-v", metavar="NAME", help="The NAME of osprovider+NAME.")
@click.option(
    "--disk",
    "-d",
    "disks",
    metavar="PATH|SIZE",
    multiple=True,
    help="A disk: a path, or a size such as 20G. Repeat for more. Without any: one of 10G.",
)
@click.option(
    "--net",
    "-n",
    "nics",
    metavar="NAME=VALUE,...",
    multiple=True,
    help="A NIC: ip, mac, link, mode, network, network_subnet, network_gateway, network_subnet6, network_gateway6. "
    "Repeat for more. Without any: one that says nothing of itself.",
)
@click.option(
    "--os-parameter", "-O", "parameters", metavar="NAME=VALUE", multiple=True, help="An OS parameter. Repeat for more."
)
@click.option(
    "--hypervisor",
    metavar="NAME",
    type=click.Choice(_HYPERVISORS),
    default="kvm",
    show_default=True,
    help=f"Ganeti's name of the hypervisor: {enumerate_words(_HYPERVISORS)}.",
)
@click.option(
    "--hypervisor-parameter",
    "-H",
    "hv",
    metavar="NAME=VALUE",
    multiple=True,
    help="A hypervisor parameter. Repeat for more.",
)
@click.option("--reinstall", is_flag=True, help="As for gnt-instance reinstall.")
@click.option(
    "--environment",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Read Ganeti's variables from a file of NAME=VALUE lines instead.",
)
@as_json
@click.pass_obj
def plan(
    directories: Directories,
    instance: str | None,
    variant: str | None,
    disks: Sequence[str],
    nics: Sequence[str],
    parameters: Sequence[str],
    hypervisor: str,
    hv: Sequence[str],
    reinstall: bool,
    environment: Path | None,
    json_wanted: bool,
) -> None:
    """Show what create would do for INSTANCE, and do nothing.

    INSTANCE is an FQDN. Nothing is asked of Ganeti, and neither the instance nor its disk has to exist: UUIDs and MACs
    that are not given are made up. With --environment all is read from a file, as Ganeti would set it.
    """
    if environment is not None:
        if instance or variant or disks or nics or parameters or hv or reinstall:
            raise UsageError("--environment says all of it: leave INSTANCE and the options for it out")
        environ = _read_environment(environment)
    elif instance is None or variant is None:
        raise UsageError("give an INSTANCE and its --variant, or an --environment file; see osprovider plan --help")
    else:
        if variant not in variant_names(directories):  # what Ganeti's variable is called would help nobody here
            load(directories, variant, instance=None, parameters={}, asked_by="--variant")
        environ = synthesize(
            instance,
            variant,
            disks=[_disk(disk) for disk in disks or ["10G"]],
            nics=[_pairs(nic.split(","), "--net", "ip=198.51.100.21,link=br0") for nic in nics or [""]],
            hypervisor=hypervisor,
            hypervisor_parameters=_pairs(hv, "--hypervisor-parameter", "kernel_path=/boot/vmlinuz"),
            parameters=_pairs(parameters, "--os-parameter", "wipe=zero"),
            reinstall=reinstall,
        )
    request = parse(Script.CREATE, environ, PARAMETERS)
    result = plan_of(request, directories)
    if json_wanted:
        echo_json(result.to_json())
    else:
        click.echo("\n".join(describe(result)))


def plan_of(request: Request, directories: Directories) -> Plan:
    """The plan of a request, with what the store knows of its image; reads, never writes."""
    name = request.instance.name if request.instance else None
    settings = load(directories, request.variant, instance=name, parameters=request.parameters)
    hooks = [hook.name for hook in select(directories, settings.variant.hooks, "create")]
    if settings.image is None or settings.image_name is None:
        return make_plan(request, settings, [], None)
    disk = disk_0(request)
    facts = _facts(disk)
    key, manifest = Store(directories).look_up(settings.image_name, settings.image, settings.variant)
    try:
        result = make_plan(request, settings, hooks, facts, key=key, manifest=manifest)
    except DeviceError as error:
        raise DeviceError(str(error).replace(f" ({_MADE_UP})", "")) from error
    disks = tuple(dataclasses.replace(each, path=_known(each.path)) for each in result.disks)
    return dataclasses.replace(result, disk=_known(result.disk), disks=disks)


def _known(path: str | None) -> str | None:
    return None if path == str(_MADE_UP) else path


def _facts(disk: Disk) -> DiskFacts:
    """What is known of a disk that need not be there: of one that is, what it says itself."""
    if disk.size_mib is not None and not (disk.path and disk.path.exists()):
        return DiskFacts(disk.size_mib << 20)
    return probe(disk.path) if disk.path else DiskFacts(size_of(disk.uri or ""))


def _read_environment(path: Path) -> dict[str, str]:
    """Ganeti's variables from a file of NAME=VALUE lines."""
    with path.open("rb") as file:
        content = file.read(_LARGEST_ENVIRONMENT + 1)
    if len(content) > _LARGEST_ENVIRONMENT or b"\0" in content:
        raise UsageError(f"{path} holds no environment: write lines of NAME=VALUE, less than 1 MiB of them")
    return _pairs(content.decode("utf-8", "surrogateescape").splitlines(), str(path), "OS_API_VERSION=20")


def _pairs(words: Sequence[str], where: str, example: str) -> dict[str, str]:
    """What NAME=VALUE words say, each at most once of a name; ``where`` they stand is for messages."""
    pairs: dict[str, str] = {}
    for word in words:
        if not word.strip():
            continue
        name, sign, value = word.partition("=")
        if not sign:
            raise UsageError(f"{where}: {quote(word)} is not NAME=VALUE, such as {example}")
        pairs[name.strip()] = value
    return pairs


def _disk(text: str) -> Mapping[str, str | int]:
    """A disk as ``synthesize`` takes it: its path, or its size in MiB."""
    found = re.fullmatch(r"([0-9]+)([KMGT])(i?B)?", text, re.IGNORECASE)
    if found is None:
        if "/" not in text and not Path(text).exists():
            raise UsageError(f"--disk: {quote(text)} is neither a size, such as 20G, nor a file or a device")
        return {"path": str(Path(text).absolute())}
    factors = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}
    size_mib = int(int(found[1]) * factors[found[2].upper()])
    if not size_mib:
        raise UsageError(f"--disk: {text} is less than 1 MiB; write a size such as 20G")
    return {"path": str(_MADE_UP), "size_mib": size_mib}
