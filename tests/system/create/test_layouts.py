"""``create`` of a tree on each layout of disk 0, judged by util-linux and e2fsprogs.

The system is a small one that boots nowhere; :mod:`tests.system.boot` boots a real one.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.support.leftovers import no_leftovers
from tests.support.runs import locked
from tests.support.small_system import make_image
from tests.support.template import with_appliance
from tests.system.create.site import Site, attached, read_until, sfdisk

MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40
KERNEL = {"kernel_path": "/boot/vmlinuz"}


@pytest.fixture(scope="session")
def small(run_directory: Path) -> Path:
    """A directory with a small system's archive and a cache of its template, prepared by the first process to ask."""
    directory = run_directory / "small"
    with locked(run_directory / "small.lock"):
        if not (directory / "ready").exists():
            directory.mkdir()
            with_appliance(directory / "cache", run_directory)
            make_image("tar.gz", directory)
            prepared = _site(directory, directory).command("image", "build", "small")
            assert prepared.status == 0, prepared.said
            (directory / "ready").touch()
    return directory


def _site(directory: Path, small: Path) -> Site:
    site = Site(directory, small / "cache")
    site.write("defaults.yaml", "network: {renderer: none}\nhooks: {disable: [users, ssh]}\n")
    site.write("images/small.yaml", f"source: {small / 'small.tar.gz'}\n")
    return site


@pytest.fixture
def place(tmp_path: Path, small: Path) -> Iterator[Site]:
    """A site with the image ``small``."""
    with no_leftovers([tmp_path]):
        yield _site(tmp_path, small)


def lay_out(site: Site, layout: str, **more: str) -> None:
    """Have the variant ``small`` lay disks out so."""
    further = "".join(f"{key}: {value}\n" for key, value in more.items())
    site.write("variants/small.yaml", f"image: small\nlayout: {layout}\n{further}")


def probed(path: Path, offset: int = 0, size: int | None = None) -> dict[str, str]:
    """What blkid(8) finds on a range of a disk."""
    words = ["blkid", "-p", "-o", "export", "-O", str(offset), *(["-S", str(size)] if size else []), str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def read(path: Path, offset: int, name: str) -> str:
    """A file of the ext file system at this byte of a disk."""
    words = ["debugfs", "-R", f"cat {name}", f"{path}?offset={offset}"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def check(path: Path, offset: int) -> None:
    """The ext file system at this byte is sound."""
    done = subprocess.run(["e2fsck", "-fn", f"{path}?offset={offset}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def used(site: Site, size: int) -> Path:
    """A disk full of something else."""
    disk = site.disk(size)
    with disk.open("r+b") as file:
        for _ in range(size // MIB):
            file.write(b"\xa5" * MIB)
    return disk


@pytest.mark.parametrize(("hypervisor", "sector_size"), [("kvm", None), ("kvm", 4096), ("xen-hvm", 4096)])
def test_an_msdos_table_has_an_active_root(place: Site, hypervisor: str, sector_size: int | None) -> None:
    seen = 4096 if hypervisor == "xen-hvm" else 512
    lay_out(place, f"{{table: msdos, firmware: [{'bios' if seen == 512 else ''}]}}")
    file = used(place, 512 * MIB)
    with attached(file, sector_size) if sector_size else nullcontext(file) as disk:
        environment = place.environment(disk, variant="small", hypervisor=hypervisor)
        (part,) = place.plan(environment)["table"]["partitions"]
        outcome = place.call("create", environment)
        assert outcome.status == 0, outcome.said
    with attached(file, seen) as disk:
        table = sfdisk(disk)
    assert table["label"] == "dos"
    (found,) = table["partitions"]
    assert (found["start"] * seen, found["size"] * seen, found["type"]) == (MIB, 510 * MIB, "83")
    assert found["bootable"] is True
    assert f"{table['id'].removeprefix('0x')}-01" == part["guid"]
    assert probed(file, MIB)["UUID"] == part["filesystem_uuid"]
    assert f"UUID={part['filesystem_uuid']} / ext4" in read(file, MIB, "/etc/fstab")
    check(file, MIB)


@pytest.mark.parametrize(("hypervisor", "isolation"), [("kvm", "host"), ("xen-hvm", "host"), ("xen-hvm", "auto")])
def test_the_root_of_an_msdos_table_is_found_again_on_large_sectors(
    place: Site, hypervisor: str, isolation: str
) -> None:
    """The table counts in the sectors that the instance sees, which may be smaller than the device's."""
    defaults = f"isolation: {isolation}\nnetwork: {{renderer: none}}\nhooks: {{disable: [users, ssh]}}\n"
    place.write("defaults.yaml", defaults)
    lay_out(place, f"{{table: msdos, firmware: [{'bios' if hypervisor == 'kvm' else ''}]}}")
    file = place.disk(512 * MIB)
    with attached(file, 4096) as disk:
        place.created(disk, variant="small", hypervisor=hypervisor)
        names = "web1.example.org", "shop.example.org"
        outcome = place.renamed(disk, *names, variant="small", hypervisor=hypervisor)
    assert outcome.status == 0, outcome.said
    assert read(file, MIB, "/etc/hostname") == "shop.example.org\n"


@pytest.mark.parametrize("sector_size", [None, 4096])
def test_without_a_table_the_root_fills_the_disk(place: Site, sector_size: int | None) -> None:
    lay_out(place, "{table: none}", boot="{loader: none}", verify_copy="true")
    file = used(place, 512 * MIB)
    with attached(file, sector_size) if sector_size else nullcontext(file) as disk:
        environment = place.environment(disk, variant="small", hypervisor="xen-pvm")
        (part,) = place.plan(environment)["table"]["partitions"]
        outcome = place.call("create", environment)
    assert outcome.status == 0, outcome.said
    found = probed(file)
    assert (found["TYPE"], found["UUID"]) == ("ext4", part["filesystem_uuid"])
    assert f"UUID={found['UUID']} / ext4" in read(file, 0, "/etc/fstab")
    check(file, 0)
    size = subprocess.run(["dumpe2fs", "-h", file], capture_output=True, text=True, check=True).stdout
    assert f"{512 * MIB // 4096}\n" in size


LAYOUTS = {
    "gpt": "{table: gpt}",
    "gpt, boot and swap": "{table: gpt, boot: {size: 96MiB, filesystem: ext2}, swap: 32MiB}",
    "msdos": "{table: msdos, firmware: [bios]}",
    "msdos, boot and swap": "{table: msdos, boot: {size: 96MiB}, swap: memory}",
    "none": "{table: none, firmware: []}",
}
ROLES = {
    "gpt": ["bios_boot", "esp", "root"],
    "gpt, boot and swap": ["bios_boot", "esp", "boot", "swap", "root"],
    "msdos": ["root"],
    "msdos, boot and swap": ["esp", "boot", "swap", "root"],
    "none": ["root"],
}
SIZE = 704 * MIB
MEMORY: dict[str, Any] = {"backend": {"maxmem": "48"}}


def signatures(disk: Path) -> set[str]:
    """What tells of a whole disk's content, as wipefs(8) finds it."""
    done = subprocess.run(["wipefs", "--json", disk], capture_output=True, text=True, check=True)
    return {each["type"] for each in json.loads(done.stdout)["signatures"]} if done.stdout.strip() else set()


def names(path: Path, offset: int, directory: str) -> set[str]:
    """What is in a directory of the ext file system at this byte of a disk."""
    words = ["debugfs", "-R", f"ls -p {directory}", f"{path}?offset={offset}"]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split("/")[5] for line in lines if line.startswith("/")} - {".", ".."}


def assert_installed(disk: Path, plan: dict[str, Any], layout: str) -> None:
    """The disk has what the plan says, and nothing of what it had before."""
    parts = {part["role"]: part for part in plan["table"]["partitions"]}
    assert list(parts) == ROLES[layout]
    root = parts["root"]["start_bytes"]
    kind = layout.partition(",")[0]
    assert signatures(disk) == {"gpt": {"gpt", "PMBR"}, "msdos": {"dos"}, "none": {"ext4"}}[kind]
    if kind != "none":
        found = [(each["start"] * 512, each["size"] * 512) for each in sfdisk(disk)["partitions"]]
        assert found == [(part["start_bytes"], part["size_bytes"]) for part in parts.values()]
    for part in parts.values():
        found_there = probed(disk, part["start_bytes"], part["size_bytes"])
        assert found_there.get("TYPE") == part["filesystem"]
        assert found_there.get("UUID") == part["filesystem_uuid"]
    fstab = [line.split()[:3] for line in read(disk, root, "/etc/fstab").splitlines() if line.startswith("UUID")]
    assert [f"UUID={parts['root']['filesystem_uuid']}", "/", "ext4"] in fstab
    assert len(fstab) == len(parts) - ("bios_boot" in parts)
    check(disk, root)
    kernels = {"vmlinuz-6.1.0-1-amd64", "initrd.img-6.1.0-1-amd64"}
    if "boot" in parts:
        boot = parts["boot"]
        check(disk, boot["start_bytes"])
        assert kernels | {"efi", "grub"} <= names(disk, boot["start_bytes"], "/")
        assert names(disk, root, "/boot") == set()
        assert [f"UUID={boot['filesystem_uuid']}", "/boot", boot["filesystem"]] in fstab
    else:
        assert kernels <= names(disk, root, "/boot")
    if "swap" in parts:
        assert [f"UUID={parts['swap']['filesystem_uuid']}", "none", "swap"] in fstab


def test_a_disk_goes_from_any_layout_to_any_other(place: Site) -> None:
    disk = used(place, SIZE)
    order = ["msdos, boot and swap", "none", "gpt, boot and swap", "msdos", "none", "gpt", "msdos, boot and swap"]
    ids: dict[str, Any] = {}
    for count, layout in enumerate(order):
        lay_out(place, LAYOUTS[layout])
        environment = place.environment(disk, variant="small", reinstall=count > 0, **MEMORY)
        plan = place.plan(environment)
        outcome = place.call("create", environment)
        assert outcome.status == 0, outcome.said
        assert_installed(disk, plan, layout)
        assert ids.setdefault(layout, plan["table"]) == plan["table"]
    (swap,) = [part for part in ids["msdos, boot and swap"]["partitions"] if part["role"] == "swap"]
    assert swap["size_bytes"] == 48 * MIB


def test_large_sectors_have_a_boot_partition_and_swap_as_well(place: Site) -> None:
    lay_out(place, "{table: msdos, firmware: [uefi], boot: {size: 96MiB}, swap: 32MiB}")
    file = used(place, 768 * MIB)
    with attached(file, 4096) as disk:
        environment = place.environment(disk, variant="small", hypervisor="xen-hvm")
        plan = place.plan(environment)
        outcome = place.call("create", environment)
        assert outcome.status == 0, outcome.said
        found = [(each["start"] * 4096, each["size"] * 4096, each["type"]) for each in sfdisk(disk)["partitions"]]
    parts = plan["table"]["partitions"]
    assert found == [(part["start_bytes"], part["size_bytes"], part["type"]) for part in parts]
    assert [part["type"] for part in parts] == ["ef", "83", "82", "83"]
    for part in parts:
        assert probed(file, part["start_bytes"], part["size_bytes"])["UUID"] == part["filesystem_uuid"]
    check(file, parts[1]["start_bytes"])
    check(file, parts[3]["start_bytes"])


def test_os_parameters_choose_the_table_and_swap(place: Site) -> None:
    lay_out(place, "{swap: {disk: 1}}")
    disk = place.disk(512 * MIB)
    place.created(disk, variant="small", parameters={"layout": "msdos", "swap": "memory"}, **MEMORY)
    table = sfdisk(disk)
    assert (table["label"], [part["type"] for part in table["partitions"]]) == ("dos", ["ef", "82", "83"])
    assert table["partitions"][1]["size"] * 512 == 48 * MIB
    outcome = place.create(disk, variant="small", parameters={"layout": "mbr", "swap": "1G"})
    assert outcome.status == 2
    assert 'OSP_LAYOUT: layout.table: "mbr" is not known here' in outcome.said
    assert 'OSP_SWAP: layout.swap: "1G" does not fit' in outcome.said


@pytest.mark.parametrize("table", ["gpt", "msdos"])
def test_the_root_is_the_partition_that_ganeti_names(place: Site, table: str) -> None:
    lay_out(place, f"{{table: {table}, boot: {{size: 96MiB}}, swap: 32MiB}}")
    disk = place.disk(512 * MIB)
    for path, expected in {"/dev/vda1": [2, 1], "/dev/vda2": [1, 2], "/dev/vda4": [1, 4]}.items():
        parameters = {"kernel_path": "/boot/vmlinuz", "root_path": path}
        place.created(disk, variant="small", hypervisor_parameters=parameters, reinstall=True)
        found = sorted(sfdisk(disk)["partitions"], key=lambda part: part["start"])
        assert [int(part["node"].removeprefix(str(disk))) for part in found] == expected
        assert probed(disk, found[1]["start"] * 512)["TYPE"] == "ext4"
        assert "/boot" not in read(disk, found[1]["start"] * 512, "/etc/fstab")


@pytest.mark.parametrize(
    ("layout", "size", "parameters", "message"),
    [
        (LAYOUTS["msdos"], 3 * TIB, {}, "end at 2048 GiB: set layout.table to gpt, or a layout.root_size"),
        ("{table: none}", GIB, {}, "leaves no place for a boot loader: set layout.firmware to []"),
        ("{boot: {size: 8MiB}}", GIB, {}, "layout.boot.size is 8 MiB, and what the image has in /boot needs"),
        ("{swap: 1GiB}", GIB, {}, "is too small: it has 1024 MiB and the image needs"),
        (LAYOUTS["msdos"], GIB, {**KERNEL, "root_path": "/dev/vda"}, "set it to /dev/vda1 (gnt-instance modify"),
        (LAYOUTS["none"], GIB, {**KERNEL, "root_path": "/dev/vda1"}, "set it to /dev/vda (gnt-instance modify"),
        (LAYOUTS["msdos"], GIB, {**KERNEL, "root_path": "/dev/vda5"}, "layout.table: msdos has 4 at most"),
    ],
)
def test_what_cannot_be_is_refused_before_the_disk_is_written(
    place: Site, layout: str, size: int, parameters: dict[str, str], message: str
) -> None:
    lay_out(place, layout)
    disk = place.disk(size)
    outcome = place.create(disk, variant="small", hypervisor_parameters=parameters)
    assert outcome.status != 0
    assert message in outcome.last_line
    assert disk.stat().st_blocks == 0


def test_an_msdos_table_on_a_large_disk_has_a_limited_root(place: Site) -> None:
    lay_out(place, "{table: msdos, firmware: [bios], root_size: 512MiB}")
    disk = place.disk(3 * TIB)
    place.created(disk, variant="small")
    (part,) = sfdisk(disk)["partitions"]
    assert part["size"] * 512 == 512 * MIB
    check(disk, MIB)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_disk_whose_installation_failed_does_not_look_installed(place: Site, layout: str) -> None:
    lay_out(place, LAYOUTS[layout])
    disk = used(place, SIZE)
    place.created(disk, variant="small", **MEMORY)
    place.write(
        "hooks/broken", "# after: users\ndef run(guest, context):\n    raise ValueError(guest.glob('/boot/*'))\n"
    )
    outcome = place.create(disk, variant="small", reinstall=True, **MEMORY)
    assert outcome.status == 1
    assert "vmlinuz" in outcome.last_line
    assert signatures(disk) == set()


def test_a_damaged_template_is_noticed_and_made_again(place: Site, tmp_path: Path) -> None:
    place.damaged_template(tmp_path / "cache")
    lay_out(place, LAYOUTS["gpt"])
    disk = place.disk(SIZE)
    environment = place.environment(disk, variant="small")
    plan = place.plan(environment)
    outcome = place.call("create", environment)
    assert outcome.status == 0, outcome.said
    assert "again" in outcome.said
    assert_installed(disk, plan, "gpt")


@pytest.mark.parametrize("layout", ["msdos, boot and swap", "none"])
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_killed_in_the_middle_the_next_run_succeeds(place: Site, layout: str, sign: signal.Signals) -> None:
    lay_out(place, LAYOUTS[layout])
    disk = used(place, SIZE)
    place.write("hooks/waiting", "# after: users\nimport time\ndef run(guest, context):\n    time.sleep(60)\n")
    environment = place.environment(disk, variant="small", **MEMORY)
    process = place.start("create", environment)
    read_until(process, "hook timezone")
    process.send_signal(sign)
    process.communicate()
    if sign is signal.SIGTERM or layout != "none":  # see osprovider.disk.table of what holds without a table
        assert signatures(disk) == set()
    (place.config / "hooks/waiting").unlink()
    plan = place.plan(environment)
    outcome = place.call("create", environment)
    assert outcome.status == 0, outcome.said
    assert_installed(disk, plan, layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rename_on_the_host_finds_the_root_of_each_layout(place: Site, layout: str) -> None:
    lay_out(place, LAYOUTS[layout], isolation="host")
    disk = place.disk(SIZE)
    environment = place.environment(disk, variant="small", **MEMORY)
    root = place.plan(environment)["table"]["partitions"][-1]["start_bytes"]
    assert place.call("create", environment).status == 0
    outcome = place.renamed(disk, "web1.example.org", "shop.example.org", variant="small", **MEMORY)
    assert outcome.status == 0, outcome.said
    assert read(disk, root, "/etc/hostname") == "shop.example.org\n"


def test_rename_in_the_appliance_finds_a_root_without_a_table(place: Site) -> None:
    lay_out(place, LAYOUTS["none"])
    disk = place.disk(SIZE)
    place.created(disk, variant="small")
    outcome = place.renamed(disk, "web1.example.org", "shop.example.org", variant="small")
    assert outcome.status == 0, outcome.said
    assert read(disk, 0, "/etc/hostname") == "shop.example.org\n"


def test_the_appliance_fills_a_boot_partition_and_rename_finds_the_root_behind_it(place: Site) -> None:
    layout = "msdos, boot and swap"
    lay_out(place, LAYOUTS[layout], isolation="appliance")
    disk = used(place, SIZE)
    environment = place.environment(disk, variant="small", **MEMORY)
    plan = place.plan(environment)
    outcome = place.call("create", environment)
    assert outcome.status == 0, outcome.said
    assert_installed(disk, plan, layout)
    outcome = place.renamed(disk, "web1.example.org", "shop.example.org", variant="small", **MEMORY)
    assert outcome.status == 0, outcome.said
    assert read(disk, plan["table"]["partitions"][-1]["start_bytes"], "/etc/hostname") == "shop.example.org\n"
