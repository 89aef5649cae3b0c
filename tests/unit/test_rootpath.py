"""Where a hypervisor's kernel looks for its root, and what table goes with it."""

from __future__ import annotations

import pytest

from osprovider.errors import RequestError
from osprovider.ganeti.environment import parse
from osprovider.ganeti.request import Request, Script
from osprovider.ganeti.synthesis import synthesize
from osprovider.layout import PartitionPlan, TablePlan, TableType
from osprovider.rootpath import check_root_path, root_number


def request(hypervisor: str = "kvm", **parameters: str) -> Request:
    """Of an instance with these hypervisor parameters."""
    environ = synthesize("web1.example.org", hypervisor=hypervisor, disks=[{"path": "/dev/x"}])
    changed = {f"INSTANCE_HV_{name}": value for name, value in parameters.items()}
    return parse(Script.CREATE, {**environ, **changed})


KERNEL = "/boot/vmlinuz"


@pytest.mark.parametrize(
    ("path", "table", "number"),
    [
        ("/dev/vda1", "gpt", 1),
        ("/dev/vda2", "msdos", 2),
        ("/dev/xvda1", "msdos", 1),
        ("/dev/sda12", "gpt", 12),
        ("/dev/vda", "none", None),
        ("UUID=0b6c5a42-7f3e-5d4e-9a11-3c5d7e9f1b23", "gpt", None),
        ("LABEL=root", "none", None),
        ("/dev/mapper/root", "gpt", None),
        ("", "gpt", None),
    ],
)
def test_the_number_is_the_one_in_root_path(path: str, table: TableType, number: int | None) -> None:
    assert root_number(request(kernel_path=KERNEL, root_path=path), table) == number


@pytest.mark.parametrize(
    ("path", "table", "message"),
    [
        ("/dev/vda1", "none", "set it to /dev/vda (gnt-instance modify -H root_path=/dev/vda), or layout.table to gpt"),
        ("/dev/xvda", "msdos", "set it to /dev/xvda1 (gnt-instance modify -H root_path=/dev/xvda1), or layout.table"),
        (
            "/dev/vdb1",
            "gpt",
            "the system is on the first disk: name a partition of that (gnt-instance modify -H root_path=/dev/vda1)",
        ),
    ],
)
def test_what_contradicts_the_table_is_refused_with_what_to_set(path: str, table: TableType, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        root_number(request(kernel_path=KERNEL, root_path=path), table)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"INSTANCE_HV_root_path is {path}, ")


def test_without_an_external_kernel_nobody_names_the_root() -> None:
    assert root_number(request(kernel_path="", root_path="/dev/vda"), "gpt") is None


def test_lxc_takes_the_first_partition_or_a_disk_without_any() -> None:
    assert root_number(request("lxc"), "gpt") == 1
    assert root_number(request("lxc"), "none") is None


def test_an_image_whose_root_is_elsewhere_is_refused() -> None:
    table = TablePlan("", 512, (PartitionPlan(3, "root", 0, 512, "", "", ""),))
    check_root_path(request(kernel_path=KERNEL, root_path="/dev/vda3"), table)
    with pytest.raises(RequestError, match=r"looks for its root in partition 1 .* and the image's is partition 3"):
        check_root_path(request(kernel_path=KERNEL, root_path="/dev/vda1"), table)
    with pytest.raises(RequestError, match="lxc mounts a disk's first partition, and the image's root is partition 3"):
        check_root_path(request("lxc"), table)
