"""The hook grub: the menu that we make, and the settings that the guest's own grub-mkconfig reads."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from osprovider.config.model import Boot, Variant
from osprovider.customize.context import Context
from osprovider.images.manifest import Kernel
from tests.support.boot_context import ROOT_GUID, ROOT_UUID, TEMPLATE_UUID, boot_context, run_hook

MENU = "boot/grub/grub.cfg"
SETTINGS = "etc/default/grub.d/osprovider.cfg"

GOLDEN_MENU = f"""\
# Made by osprovider for this instance; the guest's own update-grub takes its place.
set default=0
set timeout=1
serial --unit=0 --speed=38400 --word=8 --parity=no --stop=1
terminal_input serial console
terminal_output serial console

menuentry 'Debian GNU/Linux 12 (bookworm)' --class debian --class gnu-linux --class os --id osprovider {{
    echo 'Loading Linux 6.1.0-2-amd64 ...'
    linux /boot/vmlinuz-6.1.0-2-amd64 root=UUID={ROOT_UUID} ro console=tty0 console=ttyS0,38400n8 quiet
    initrd /boot/initrd.img-6.1.0-2-amd64
}}

submenu 'Advanced options for Debian GNU/Linux 12 (bookworm)' --id osprovider-advanced {{
menuentry 'Debian GNU/Linux 12 (bookworm), with Linux 6.1.0-2-amd64' \
--class debian --class gnu-linux --class os --id osprovider-6.1.0-2-amd64 {{
    echo 'Loading Linux 6.1.0-2-amd64 ...'
    linux /boot/vmlinuz-6.1.0-2-amd64 root=UUID={ROOT_UUID} ro console=tty0 console=ttyS0,38400n8 quiet
    initrd /boot/initrd.img-6.1.0-2-amd64
}}
menuentry 'Debian GNU/Linux 12 (bookworm), with Linux 6.1.0-2-amd64 (recovery mode)' \
--class debian --class gnu-linux --class os --id osprovider-6.1.0-2-amd64-recovery {{
    echo 'Loading Linux 6.1.0-2-amd64 ...'
    linux /boot/vmlinuz-6.1.0-2-amd64 root=UUID={ROOT_UUID} ro single console=tty0 console=ttyS0,38400n8
    initrd /boot/initrd.img-6.1.0-2-amd64
}}
menuentry 'Debian GNU/Linux 12 (bookworm), with Linux 6.1.0-1-amd64' \
--class debian --class gnu-linux --class os --id osprovider-6.1.0-1-amd64 {{
    echo 'Loading Linux 6.1.0-1-amd64 ...'
    linux /boot/vmlinuz-6.1.0-1-amd64 root=PARTUUID={ROOT_GUID} ro console=tty0 console=ttyS0,38400n8 quiet
}}
menuentry 'Debian GNU/Linux 12 (bookworm), with Linux 6.1.0-1-amd64 (recovery mode)' \
--class debian --class gnu-linux --class os --id osprovider-6.1.0-1-amd64-recovery {{
    echo 'Loading Linux 6.1.0-1-amd64 ...'
    linux /boot/vmlinuz-6.1.0-1-amd64 root=PARTUUID={ROOT_GUID} ro single console=tty0 console=ttyS0,38400n8
}}
}}
"""

TWO_KERNELS = (
    Kernel("6.1.0-2-amd64", "/boot/vmlinuz-6.1.0-2-amd64", "/boot/initrd.img-6.1.0-2-amd64"),
    Kernel("6.1.0-1-amd64", "/boot/vmlinuz-6.1.0-1-amd64", None),
)


def check_script(menu: str) -> None:
    """GRUB's own parser takes the menu."""
    done = subprocess.run(["grub-script-check"], input=menu, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def sourced(root: Path, variable: str) -> str:
    """What ``variable`` is after grub-mkconfig has read the settings, in its order and with its options."""
    script = (
        'set -e; for file in "$1" "$2"; do if test -e "$file"; then . "$file"; fi; done; eval "printf %s \\"\\$$3\\""'
    )
    words = [str(root / "etc/default/grub"), str(root / SETTINGS), variable]
    return subprocess.run(["sh", "-c", script, "sh", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A guest with GRUB's packages, and no menu yet."""
    (tmp_path / "etc/default/grub.d").mkdir(parents=True)
    return tmp_path


def test_the_menu_has_each_kernel_and_its_recovery(root: Path) -> None:
    run_hook("grub", root, boot_context(kernels=TWO_KERNELS))
    menu = (root / MENU).read_text()
    assert menu == GOLDEN_MENU
    check_script(menu)


def test_the_menu_is_read_only_as_grub_mkconfig_makes_it(root: Path) -> None:
    run_hook("grub", root, boot_context())
    assert (root / MENU).stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize(
    "name", ["Sarge's own", '{}; $x `y` "z" \\', "", "two  blanks", "Zażółć", "end of 'quotes'"], ids=repr
)
def test_a_name_from_the_image_is_a_word_and_nothing_else(root: Path, name: str) -> None:
    run_hook("grub", root, boot_context(pretty_name=name))
    menu = (root / MENU).read_text()
    check_script(menu)
    title = menu.split("menuentry ", 1)[1].split(" --class", 1)[0]
    # Quoted as a shell quotes, so that a shell can tell what word it is.
    assert subprocess.run(["sh", "-c", f"printf %s {title}"], check=True, capture_output=True, text=True).stdout == name


def test_kernel_arguments_come_last_and_stay_whole(root: Path) -> None:
    arguments = ("net.ifnames=0", "isolcpus=1-3,5", "foo=[a*?]", "bar=!(x)#%")
    run_hook("grub", root, boot_context(variant=Variant(boot=Boot(kernel_args=arguments))))
    menu = (root / MENU).read_text()
    check_script(menu)
    words = "console=ttyS0,38400n8 net.ifnames=0 isolcpus=1-3,5 'foo=[a*?]' 'bar=!(x)#%'"
    assert f"{words}\n" in menu
    assert sourced(root, "GRUB_CMDLINE_LINUX_DEFAULT") == words.removeprefix("console=ttyS0,38400n8 ")


def test_the_menu_waits_as_long_as_the_variant_says(root: Path) -> None:
    run_hook("grub", root, boot_context(variant=Variant(boot=Boot(timeout=7))))
    assert "\nset timeout=7\n" in (root / MENU).read_text()
    assert sourced(root, "GRUB_TIMEOUT") == "7"


@pytest.mark.parametrize(
    ("serial", "arguments", "command"),
    [
        (("ttyS1", 115200), "console=tty0 console=ttyS1,115200n8", "serial --unit=1 --speed=115200"),
        (("hvc0", 38400), "console=tty0 console=hvc0", None),
        (None, "", None),
    ],
    ids=["ttyS1", "hvc0", "none"],
)
def test_the_console_is_the_hypervisors(
    root: Path, serial: tuple[str, int] | None, arguments: str, command: str | None
) -> None:
    run_hook("grub", root, boot_context(serial=serial))
    menu = (root / MENU).read_text()
    check_script(menu)
    assert f"root=UUID={ROOT_UUID} ro {arguments} quiet\n".replace("  ", " ") in menu
    assert (command in menu) if command else ("serial" not in menu)
    assert sourced(root, "GRUB_TERMINAL") == ("serial console" if command else "console")
    assert sourced(root, "GRUB_CMDLINE_LINUX").strip() == arguments
    assert sourced(root, "GRUB_SERIAL_COMMAND").startswith(command or "")


def test_the_guests_other_arguments_stay_and_its_consoles_make_way(root: Path) -> None:
    (root / "etc/default/grub").write_text(
        'GRUB_DISTRIBUTOR=Mine\nGRUB_CMDLINE_LINUX="console=tty0 security=apparmor console=ttyS0,115200 panic=5"\n'
    )
    run_hook("grub", root, boot_context())
    expected = " security=apparmor panic=5 console=tty0 console=ttyS0,38400n8"
    assert sourced(root, "GRUB_CMDLINE_LINUX") == expected
    assert sourced(root, "GRUB_DISTRIBUTOR") == "Mine"


def test_a_guest_without_grubs_packages_gets_no_settings_for_them(tmp_path: Path) -> None:
    run_hook("grub", tmp_path, boot_context())
    assert (tmp_path / MENU).exists()
    assert not (tmp_path / "etc").exists()


def test_running_twice_changes_nothing(root: Path) -> None:
    run_hook("grub", root, boot_context())
    first = [(root / path).read_bytes() for path in (MENU, SETTINGS)]
    run_hook("grub", root, boot_context())
    assert [(root / path).read_bytes() for path in (MENU, SETTINGS)] == first


def test_a_menu_of_ours_is_made_again(root: Path) -> None:
    run_hook("grub", root, boot_context(serial=None))
    run_hook("grub", root, boot_context(kernels=TWO_KERNELS))
    assert (root / MENU).read_text() == GOLDEN_MENU


def test_a_menu_of_the_guests_own_is_kept_and_follows_the_root_to_its_new_uuid(root: Path) -> None:
    (root / MENU).parent.mkdir(parents=True)
    own = "# DO NOT EDIT THIS FILE\nsearch --fs-uuid --set=root {uuid}\nlinux /vmlinuz root=UUID={uuid} ro\n"
    (root / MENU).write_text(own.format(uuid=TEMPLATE_UUID))
    run_hook("grub", root, boot_context())
    assert (root / MENU).read_text() == own.format(uuid=ROOT_UUID)
    assert (root / SETTINGS).exists()


@pytest.mark.parametrize(
    "context",
    [
        boot_context(external_kernel=True),
        boot_context(variant=Variant(boot=Boot(loader="none"))),
        boot_context(partitions=()),
    ],
    ids=["external kernel", "no loader wanted", "disk not ours"],
)
def test_without_a_boot_loader_to_care_for_nothing_is_written(root: Path, context: Context) -> None:
    run_hook("grub", root, context)
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_nothing_names_a_disk(root: Path) -> None:
    run_hook("grub", root, boot_context())
    text = (root / MENU).read_text() + (root / SETTINGS).read_text()
    assert [word for word in ("/dev/", "vda", "sda", "hd0", "xvd") if word in text] == []
