"""``make demo``: the whole road without Ganeti: build the image, install an instance on a file, boot it, log in by ssh.

Everything lies in ``build/demo``; the disk stays there, and so does the image, so that the second time is quick.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from osprovider.log import reporter
from tests.support.qemu import UserNetwork, boot
from tests.support.ssh import make_key
from tools.site import COMMAND, CREATE, DEMO, DISK_MIB, Site

__all__ = ["main"]

_INSTANCE = "demo.example.org"
_BOOT_SECONDS = 600


def main() -> int:
    """Run the demonstration; returns the exit status."""
    site, network = Site(DEMO), UserNetwork()
    key, disk = DEMO / "key", DEMO / "disk0.raw"
    DEMO.mkdir(parents=True, exist_ok=True)
    if not key.exists():
        make_key(key)
    _configure(site, key, network)
    started = time.monotonic()
    try:
        subprocess.run([COMMAND, "image", "build", "debian-12"], env=site.environment(), check=True)
        built = time.monotonic()
        disk.unlink(missing_ok=True)
        with disk.open("wb") as file:
            file.truncate(DISK_MIB << 20)
        nic = {"mac": network.mac, "ip": network.address, "mode": "bridged", "link": "demo0"}
        subprocess.run([CREATE], env=site.instance(_INSTANCE, "debian-12", disk, **nic), check=True)
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


def _configure(site: Site, key: Path, network: UserNetwork) -> None:
    """Write the site's files: who may log in, and the network that the instance is in."""
    (site.config / "subnets").mkdir(parents=True, exist_ok=True)
    public = key.with_name(f"{key.name}.pub").read_text().strip()
    (site.config / "defaults.yaml").write_text(f"users:\n  root:\n    ssh_authorized_keys: ['{public}']\n")
    (site.config / "subnets" / "demo.yaml").write_text(
        f"networks: [{network.subnet}]\ngateways: [{network.gateway}]\nmatch: {{link: demo0}}\n"
    )


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
