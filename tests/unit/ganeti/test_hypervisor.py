"""Facts of the hypervisors."""

from __future__ import annotations

import pytest

from osprovider.ganeti.environment import parse
from osprovider.ganeti.hypervisor import guest_sector_size
from osprovider.ganeti.request import Script
from osprovider.ganeti.synthesis import synthesize


@pytest.mark.parametrize(("hypervisor", "seen"), [("kvm", 512), ("xen-hvm", 4096), ("xen-pvm", 4096)])
def test_only_xen_passes_the_sectors_of_the_device_on(hypervisor: str, seen: int) -> None:
    environ = synthesize("web1.example.org", "debian-12", disks=[{"path": "/dev/null"}], hypervisor=hypervisor)
    assert guest_sector_size(parse(Script.CREATE, environ), 4096) == seen
