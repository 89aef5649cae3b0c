"""Which network configuration each NIC of an instance gets: a pure decision, made before anything is written.

Each family of addresses, IPv4 and IPv6, is described by the first of: the instance file's ``nics[i]``; ``NIC_i_IP``;
the Ganeti network's IPv6 subnet. Where neither of the first two says anything, ``network.default`` fills in. Prefix
lengths, gateways, name servers and the MTU come from the first that has them of: the instance file, the subnet that it
names, the Ganeti network, and the subnet that matches the NIC.

Not for: one NIC by itself (:mod:`osprovider.addressing.draft`), or the guest's files: the ``network`` hook renders
what is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from osprovider.addressing.draft import Draft
from osprovider.addressing.providers import Address, of_subnet
from osprovider.config.model import Dns, InstanceNic, NetworkSettings, Subnet
from osprovider.errors import ConfigurationError, Problem
from osprovider.ganeti.request import Nic
from osprovider.nics import ResolvedNic

__all__ = ["resolve"]


def resolve(
    nics: Sequence[Nic],
    described: Sequence[InstanceNic],
    subnets: Mapping[str, Subnet],
    network: NetworkSettings,
    *,
    instance_file: str = "instance file",
    dns: Dns | None = None,
) -> tuple[ResolvedNic, ...]:
    """Decide how each NIC is configured.

    Args:
        nics: what Ganeti says of them.
        described: the instance file's ``nics``, by index; may be shorter.
        subnets: all there are, by name.
        network: the merged ``network`` settings.
        dns: name servers and search domains that come before all others, as OS parameters do.
        instance_file: what messages call the file that ``described`` is from.

    Raises:
        ConfigurationError: all that contradicts itself or is not enough, each named by its file or Ganeti's variable.
    """
    problems: list[Problem] = []
    if len(described) > len(nics):
        message = f"nics: {len(described)} are described, but the instance has {len(nics)}; remove what is too much"
        problems.append(Problem.of_file(instance_file, message))
    providers = {name: of_subnet(name, subnet) for name, subnet in subnets.items()}
    drafts = []
    for nic in nics:
        said = described[nic.index] if nic.index < len(described) else InstanceNic()
        drafts.append(Draft(nic, said, instance_file, problems).fill(providers, network))
    _check_distinct(drafts)
    _keep_one_default_route(drafts)
    if problems:
        raise ConfigurationError(problems)
    return tuple(draft.finished(dns or Dns()) for draft in drafts)


def _check_distinct(drafts: Sequence[Draft]) -> None:
    """No address and no MAC may be there twice."""
    owners: dict[str | Address, int] = {}
    for draft in drafts:
        index = draft.nic.index
        having = [(draft.nic.mac, f"NIC_{index}_MAC"), *((item.ip, draft.places[item.ip]) for item in draft.addresses)]
        for thing, place in having:
            if thing in owners:
                draft.complain(place, f"{thing} is nic {owners[thing]}'s already; give one of them another")
            owners.setdefault(thing, index)


def _keep_one_default_route(drafts: Sequence[Draft]) -> None:
    """Leave each family's default route to one NIC: the one whose gateway the instance file names, else the first.

    Two of equal metric can't both be there: ifupdown fails over the second, others take either.
    """
    for version in (4, 6):
        having = [draft for draft in drafts if any(gateway.version == version for gateway in draft.gateways)]
        named = [draft for draft in having if draft.said.gateways]
        for draft in named[1:]:
            first = named[0].nic.index
            draft.complain(
                draft.instance_file,
                f"gateways: nics[{first}] has the IPv{version} default route already; leave it to one of them",
            )
        for draft in having:
            if draft is not (named or having)[0]:
                draft.gateways = [gateway for gateway in draft.gateways if gateway.version != version]
