"""Bad input: one clear message, exit status 1 or 2, the device untouched, nothing left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.create.site import Outcome, Site, attached, read_until

GIB = 1 << 30


def _untouched(disk: Path) -> bool:
    return disk.stat().st_blocks == 0


def test_no_disk(site: Site) -> None:
    outcome = site.create(None)
    assert outcome.status == 2
    assert "DISK_COUNT is 0" in outcome.last_line


def test_a_disk_that_does_not_exist(site: Site) -> None:
    outcome = site.create(site.directory / "missing")
    assert outcome.status == 1
    assert str(site.directory / "missing") in outcome.last_line


def test_a_disk_too_small_for_the_image_is_told_both_sizes(site: Site) -> None:
    disk = site.disk(700 << 20)
    outcome = site.create(disk)
    assert outcome.status == 1
    assert "too small" in outcome.last_line
    assert "700 MiB" in outcome.last_line
    assert _untouched(disk)


def test_a_disk_that_is_mounted_elsewhere(site: Site, tmp_path: Path) -> None:
    disk, mountpoint = site.disk(GIB), tmp_path / "mnt"
    mountpoint.mkdir()
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    with attached(disk) as device:
        subprocess.run(["mount", "-o", "ro,noload", device, mountpoint], check=True)
        try:
            before = disk.open("rb").read(1 << 20)
            outcomes = [site.create(device), site.create(disk)]
        finally:
            subprocess.run(["umount", mountpoint], check=True)
    for outcome in outcomes:
        assert outcome.status == 1
        assert str(mountpoint) in outcome.last_line
    assert disk.open("rb").read(1 << 20) == before


def test_a_disk_that_another_create_holds(site: Site) -> None:
    disk = site.disk(3 * GIB)
    with site.waiting():
        first = site.start("create", site.environment(disk))
        read_until(first, "copy image")
        outcome = site.create(disk)
    said, _ = first.communicate()
    assert first.returncode == 0, said
    assert outcome.status == 1
    assert str(first.pid) in outcome.last_line


def test_a_disk_that_may_not_be_written(site: Site) -> None:
    disk = site.disk(3 * GIB)
    subprocess.run(["chattr", "+i", disk], check=True)
    try:
        outcome = site.create(disk)
    finally:
        subprocess.run(["chattr", "-i", disk], check=True)
    assert outcome.status == 1
    assert str(disk) in outcome.last_line


Write = Callable[[Site], None]


def _file(name: str, text: str) -> Write:
    return lambda site: site.write(name, text)


@pytest.mark.parametrize(
    ("write", "changes", "said"),
    [
        pytest.param(
            _file("x", ""), {"variant": "debian-21"}, ["debian-21", "did you mean debian-1"], id="no such variant"
        ),
        pytest.param(
            _file("variants/mine.yaml", "image: debian-21\n"),
            {"variant": "mine"},
            ["mine.yaml:1:8", "debian-21"],
            id="no such image",
        ),
        pytest.param(
            _file("variants/mine.yaml", "image: [debian\n"), {"variant": "mine"}, ["mine.yaml:2"], id="broken variant"
        ),
        pytest.param(
            _file("variants/mine.yaml", "imgae: debian-12\n"),
            {"variant": "mine"},
            ["mine.yaml:1:1", "imgae", "image"],
            id="unknown key",
        ),
        pytest.param(
            _file("images/debian-12.yaml", "build: {suite: [}\n"), {}, ["images/debian-12.yaml:1"], id="broken image"
        ),
        pytest.param(
            _file("instances/web1.example.org.yaml", "nics:\n  - {subnet: prod}\n"),
            {},
            ["web1.example.org.yaml:2", "prod"],
            id="no such subnet",
        ),
        pytest.param(_file("subnets/lab.yaml", "networks: 7\n"), {}, ["subnets/lab.yaml:1:11"], id="broken subnet"),
        pytest.param(
            _file("instances/web1.example.org.yaml", "hooks: {disable: [nettwork]}\n"),
            {},
            ["nettwork"],
            id="no such hook",
        ),
        pytest.param(
            _file("x", ""),
            {"nics": [{"ip": "203.0.113.5", "link": "lab0"}]},
            ["203.0.113.5", "198.51.100.0/24"],
            id="address outside its subnet",
        ),
        pytest.param(
            _file("x", ""),
            {"nics": [{"ip": "198.51.100.21", "link": "lab0"}, {"ip": "198.51.100.21", "link": "lab0"}]},
            ["198.51.100.21"],
            id="two NICs with one address",
        ),
        pytest.param(_file("x", ""), {"parameters": {"wipe": "al"}}, ["OSP_WIPE", "al"], id="bad OS parameter value"),
        pytest.param(_file("x", ""), {"parameters": {"wipes": "all"}}, ["wipes"], id="unknown OS parameter"),
    ],
)
def test_configuration_is_refused_before_the_disk_is_touched(
    site: Site, write: Write, changes: dict[str, object], said: list[str]
) -> None:
    write(site)
    disk = site.disk(3 * GIB)
    outcome = site.create(disk, **changes)
    assert outcome.status == 2, outcome.said
    for text in said:
        assert text in outcome.said
    assert "Traceback" not in outcome.said
    assert len(outcome.said.splitlines()) <= 20
    assert _untouched(disk)


def test_ganetis_environment_lacks_variables(site: Site) -> None:
    environment = site.environment(site.disk(3 * GIB))
    del environment["DISK_0_PATH"], environment["NIC_0_MAC"]
    outcome = site.call("create", environment)
    assert outcome.status == 2
    assert "DISK_0_PATH" in outcome.said
    assert "NIC_0_MAC" in outcome.said


def _verify(site: Site, **parameters: str) -> Outcome:
    from osprovider.ganeti.request import Script
    from osprovider.ganeti.synthesis import synthesize

    environment = synthesize("", "debian-12", script=Script.VERIFY, parameters=parameters)
    return site.call("verify", {**environment, **site.directories()}, "parameters")


def test_verify_checks_values(site: Site) -> None:
    assert _verify(site, filesystem="ext4", dns_servers="198.51.100.53").status == 0
    outcome = _verify(site, filesystem="ext5", dns_servers="nowhere", wipe="zero", hooks_disable="nosuch")
    assert outcome.status == 2
    assert 'OSP_HOOKS_DISABLE: there is no hook "nosuch"' in outcome.said
    assert "OSP_FILESYSTEM" in outcome.said
    assert "OSP_DNS_SERVERS" in outcome.said
    assert "OSP_WIPE" not in outcome.said


@pytest.mark.parametrize("script", ["create", "import", "export", "rename", "verify"])
def test_usage(site: Site, script: str, tmp_path: Path) -> None:
    for option in ("-h", "--help"):
        outcome = site.call(script, {}, option)
        assert outcome.status == 0
        assert outcome.said.startswith(f"usage: {script}")
    wrong = site.call(script, {}, "--frobnicate")
    assert wrong.status == 2
    assert "--frobnicate" in wrong.said


@pytest.mark.parametrize("script", ["import", "export"])
def test_what_is_not_there_yet_says_so(site: Site, script: str) -> None:
    from osprovider.ganeti.request import Script, Transfer
    from osprovider.ganeti.synthesis import synthesize

    disk = site.disk(GIB)
    environment = synthesize(
        "web1.example.org",
        "debian-12",
        script=Script(script),
        disks=[{"path": str(disk)}],
        transfer=Transfer(0, path=disk),
    )
    outcome = site.call(script, {**environment, **site.directories()})
    assert outcome.status == 1
    assert "not supported" in outcome.last_line
    assert _untouched(disk)


def test_a_full_cache_directory(site: Site, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64M", "tmpfs", small], check=True)
    try:
        site.cache = small
        disk = site.disk(3 * GIB)
        outcome = site.create(disk)
        left = [entry for entry in small.rglob("*") if entry.is_file()]
    finally:
        subprocess.run(["umount", small], check=True)
    assert outcome.status == 1
    assert str(small) in outcome.last_line
    assert not left
    assert _untouched(disk)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("def run(guest):\n    pass\n", "run takes other arguments than (guest, context)"),
        ("import nothing_of_this_name\ndef run(guest, context):\n    pass\n", "No module named 'nothing_of_this_name'"),
        ("#!/bin/shh\n", "'/bin/shh' is not there"),
    ],
)
def test_a_hook_that_cannot_run_is_refused_before_the_disk_is_written(site: Site, content: str, cause: str) -> None:
    disk = site.disk(3 * GIB)
    site.write("hooks/wrong", content)
    (site.config / "hooks" / "wrong").chmod(0o755)
    outcome = site.create(disk)
    assert outcome.status in {1, 2}
    assert str(site.config / "hooks" / "wrong") in outcome.last_line
    assert cause in outcome.last_line
    assert _untouched(disk)


@pytest.mark.parametrize("script", ["create", "rename"])
def test_a_program_is_no_hook_for_the_appliance(site: Site, script: str) -> None:
    disk = site.disk(3 * GIB)
    site.write("hooks/wrong", "#!/bin/sh\n# events: create rename\n")
    (site.config / "hooks" / "wrong").chmod(0o755)
    if script == "create":
        outcome = site.create(disk, parameters={"isolation": "appliance"})
    else:
        outcome = site.renamed(disk, "web0.example.org", "web1.example.org")
    assert outcome.status == 1
    assert f"hook {site.config}/hooks/wrong is a program, which would change the guest below" in outcome.last_line
    assert _untouched(disk)


def test_a_hook_that_fails_leaves_no_disk_that_looks_installed(site: Site) -> None:
    disk = site.disk(3 * GIB)
    hook = site.config / "hooks" / "broken"
    hook.parent.mkdir()
    hook.write_text("# after: hostname\ndef run(guest, context):\n    raise ValueError('the moon is full')\n")
    os.chown(hook, 0, 0)
    outcome = site.create(disk)
    assert outcome.status == 1
    assert "the moon is full" in outcome.last_line
    assert str(hook) in outcome.last_line
    assert disk.open("rb").read(1 << 20) == bytes(1 << 20)
    hook.unlink()
    site.created(disk)


def test_a_failed_disk_can_be_kept_for_a_look(site: Site) -> None:
    disk = site.disk(3 * GIB)
    hook = site.config / "hooks" / "broken"
    hook.parent.mkdir()
    hook.write_text("def run(guest, context):\n    raise ValueError('look here')\n")
    outcome = site.call("create", site.environment(disk), "--preserve-on-error")
    assert outcome.status == 1
    assert disk.stat().st_blocks * 512 > 100 << 20
