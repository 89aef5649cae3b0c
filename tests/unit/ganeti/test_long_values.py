"""A variable that does not end does not fill Ganeti's log."""

from __future__ import annotations

import pytest

from osprovider.errors import RequestError
from osprovider.ganeti.environment import parse
from osprovider.ganeti.request import Script
from osprovider.ganeti.synthesis import synthesize


@pytest.mark.parametrize("variable", ["INSTANCE_NAME", "INSTANCE_OS", "DISK_COUNT", "NIC_0_MAC"])
def test_a_message_is_shorter_than_what_it_is_about(variable: str) -> None:
    environ = synthesize("web1.example.org", "debian-12", disks=[{"path": "/dev/null"}], nics=[{}])
    with pytest.raises(RequestError) as refused:
        parse(Script.CREATE, {**environ, variable: "x" * 100_000})
    lines = str(refused.value).splitlines()
    assert any(line.startswith(variable) and "; Ganeti sets " in line for line in lines)
    assert max(map(len, lines)) < 600
