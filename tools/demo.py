"""``make demo``: the whole road without Ganeti: build the image, install an instance on a file, boot it, log in by ssh.

Everything lies in ``build/demo``; the disk stays there, and so does the image, so that the second time is quick.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from osprovider.ganeti.synthesis import synthesize
from osprovider.log import reporter
from tests.support.qemu import UserNetwork, boot
from tests.support.ssh import make_key

__all__ = ["main"]

_INSTANCE = "demo.example.org"
_DISK_MIB = 3072
_BOOT_SECONDS = 600
_CHECKOUT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run the demonstration; returns the exit status."""
    directory = _CHECKOUT / "build" / "demo"
    directory.mkdir(parents=True, exist_ok=True)
    key, disk, network = directory / "key", directory / "disk0.raw", UserNetwork()
    if not key.exists():
        make_key(key)
    config = _write_configuration(directory / "etc", key, network)
    environment = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "OSPROVIDER_CONFIG_DIR": str(config),
        "OSPROVIDER_CACHE_DIR": str(directory / "cache"),
        "OSPROVIDER_RUN_DIR": str(directory / "run"),
    }
    started = time.monotonic()
    try:
        subprocess.run([_CHECKOUT / "tools" / "osprovider", "image", "build", "debian-12"], env=environment, check=True)
        built = time.monotonic()
        disk.unlink(missing_ok=True)
        with disk.open("wb") as file:
            file.truncate(_DISK_MIB << 20)
        request = synthesize(
            _INSTANCE,
            "debian-12",
            disks=[{"path": str(disk), "size_mib": _DISK_MIB, "backend_type": "file:loop"}],
            nics=[{"mac": network.mac, "ip": network.address, "mode": "bridged", "link": "demo0"}],
        )
        subprocess.run([_CHECKOUT / "scripts" / "create"], env={**environment, **request}, check=True)
    except subprocess.CalledProcessError as error:
        return int(error.returncode)
    created = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="osprovider-demo-") as scratch:
        hostname = _boot(disk, Path(scratch), key, network)
    answered = time.monotonic()
    print(
        f"\n{hostname} answers.\n"
        f"  image ready in {built - started:.1f} s, instance created in {created - built:.2f} s, "
        f"booted (emulated) in {answered - created:.0f} s\n"
        f"  disk: {disk}\n"
        "  boot it again, then log in from another terminal:\n"
        f"    qemu-system-x86_64 -accel tcg -m 512M -nographic -drive if=virtio,format=raw,file={disk} \\\n"
        f"      -nic user,model=virtio-net-pci,mac={network.mac},net={network.subnet},host={network.gateway},"
        f"hostfwd=tcp:127.0.0.1:2222-{network.address}:22\n"
        f"    ssh -i {key} -p 2222 -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no root@127.0.0.1"
    )
    return 0


def _write_configuration(config: Path, key: Path, network: UserNetwork) -> Path:
    """The site's files: who may log in, and the network that the instance is in."""
    (config / "subnets").mkdir(parents=True, exist_ok=True)
    public = key.with_name(f"{key.name}.pub").read_text().strip()
    (config / "defaults.yaml").write_text(f"users:\n  root:\n    ssh_authorized_keys: ['{public}']\n")
    (config / "subnets" / "demo.yaml").write_text(
        f"networks: [{network.subnet}]\ngateways: [{network.gateway}]\nmatch: {{link: demo0}}\n"
    )
    return config


def _boot(disk: Path, scratch: Path, key: Path, network: UserNetwork) -> str:
    """Boot the disk, without changing it, until ssh answers; returns the hostname that the guest gives."""
    with reporter.step("boot in QEMU, emulated") as detail, boot(disk, scratch, key, network=network) as guest:
        reporter.running("boot", "waiting for the login prompt on the serial console")
        guest.wait_for_console("login:", _BOOT_SECONDS)
        reporter.running("boot", "waiting for ssh")
        guest.wait_for_ssh(_BOOT_SECONDS)
        hostname = guest.ssh(["hostname", "--fqdn"]).stdout.strip()
        detail(f"hostname {hostname}")
    return hostname


if __name__ == "__main__":
    sys.exit(main())
