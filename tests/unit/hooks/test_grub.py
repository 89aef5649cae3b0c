"""The hook grub: the menu that we make, and the settings that the guest's own grub-mkconfig reads."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from osprovider.config.model import Boot, Variant
from osprovider.customize.context import Context, ContextPartition
from osprovider.customize.debconf import with_answers
from osprovider.images.manifest import ImageTable, Kernel
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


# -- other places than the root's /boot -------------------------------------------------------------------------------


def with_partitions(context: Context, *further: ContextPartition) -> Context:
    """The context with more partitions before the root."""
    disk = dataclasses.replace(context.disks[0], partitions=(*further, *context.disks[0].partitions))
    return dataclasses.replace(context, disks=(disk,))


def test_on_a_boot_partition_kernels_lie_at_its_top(root: Path) -> None:
    boot = ContextPartition(2, "boot", 1 << 20, 1 << 30, "b" * 36, "ext4", "c" * 36)
    run_hook("grub", root, with_partitions(boot_context(), boot))
    menu = (root / MENU).read_text()
    check_script(menu)
    assert f"    linux /vmlinuz-6.1.0-1-amd64 root=UUID={ROOT_UUID} ro" in menu
    assert "    initrd /initrd.img-6.1.0-1-amd64\n" in menu


def test_a_root_without_a_table_is_found_by_its_uuid_in_any_case(root: Path) -> None:
    whole = ContextPartition(0, "root", 0, 1 << 30, "", "ext4", ROOT_UUID)
    run_hook("grub", root, boot_context(kernels=TWO_KERNELS, partitions=(whole,), serial=("hvc0", 38400)))
    menu = (root / MENU).read_text()
    assert menu.count(f"root=UUID={ROOT_UUID} ro") == 5
    assert "console=tty0 console=hvc0 quiet" in menu
    assert "PARTUUID" not in menu


# -- settings ---------------------------------------------------------------------------------------------------------


def test_where_grub_mkconfig_reads_one_file_alone_the_settings_are_a_block_of_it(tmp_path: Path) -> None:
    own = 'GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX="rhgb console=ttyS0,115200n8"\nGRUB_ENABLE_BLSCFG=true\n'
    (tmp_path / "etc/default").mkdir(parents=True)
    defaults = tmp_path / "etc/default/grub"
    defaults.write_text(own)
    run_hook("grub", tmp_path, boot_context())
    once = defaults.read_text()
    assert once.startswith(own)
    assert sourced(tmp_path, "GRUB_TIMEOUT") == "1"
    assert sourced(tmp_path, "GRUB_CMDLINE_LINUX") == "rhgb console=tty0 console=ttyS0,38400n8"
    assert sourced(tmp_path, "GRUB_ENABLE_BLSCFG") == "true"
    run_hook("grub", tmp_path, boot_context())
    assert defaults.read_text() == once
    defaults.write_text(once + "GRUB_TIMEOUT=9\n")
    run_hook("grub", tmp_path, boot_context(serial=None))
    assert "GRUB_TIMEOUT=9\n# Made by osprovider: begin\n" in defaults.read_text()
    assert defaults.read_text().count("# Made by osprovider: begin") == 1


def test_a_disk_image_keeps_its_own_arguments_beside_ours(root: Path) -> None:
    (root / "etc/default/grub").write_text('GRUB_CMDLINE_LINUX_DEFAULT="net.ifnames=0 quiet console=tty1"\n')
    arguments = ("quiet", "panic=10", "foo=[a*?]")
    context = boot_context(variant=Variant(boot=Boot(kernel_args=arguments)))
    assert context.manifest is not None
    table = ImageTable("gpt", "d" * 36, 512, ())
    context = dataclasses.replace(context, manifest=dataclasses.replace(context.manifest, table=table))
    run_hook("grub", root, context)
    assert sourced(root, "GRUB_CMDLINE_LINUX_DEFAULT") == "net.ifnames=0 quiet panic=10 'foo=[a*?]'"
    assert not (root / MENU).exists()


# -- debconf ----------------------------------------------------------------------------------------------------------

QUESTIONS = """\
Name: debconf/priority
Template: debconf/priority
Value: high
Owners: debconf

Name: grub-pc/install_devices
Template: grub-pc/install_devices
Value: /dev/disk/by-id/scsi-0QEMU_builder
Owners: grub-pc
Flags: seen
Variables:
 CHOICES = /dev/sda (2147 MB; builder), /dev/sda1 (/)
 RAW_CHOICES = /dev/disk/by-id/scsi-0QEMU_builder

Name: grub-pc/install_devices_empty
Template: grub-pc/install_devices_empty
Owners: grub-pc

Name: grub2/force_efi_extra_removable
Template: grub2/force_efi_extra_removable
Value: false
Owners: grub-common, grub-efi-amd64, grub-pc
"""

ANSWERED = """\
Name: debconf/priority
Template: debconf/priority
Value: high
Owners: debconf

Name: grub-pc/install_devices
Template: grub-pc/install_devices
Value: 
Owners: grub-pc
Flags: seen
Variables:
 CHOICES = /dev/sda (2147 MB; builder), /dev/sda1 (/)
 RAW_CHOICES = /dev/disk/by-id/scsi-0QEMU_builder

Name: grub-pc/install_devices_empty
Template: grub-pc/install_devices_empty
Value: true
Owners: grub-pc
Flags: seen

Name: grub2/force_efi_extra_removable
Template: grub2/force_efi_extra_removable
Value: true
Owners: grub-common, grub-efi-amd64, grub-pc
Flags: seen
"""  # noqa: W291


def test_an_upgrade_of_grubs_packages_asks_nobody_and_installs_on_no_disk_of_the_builders(root: Path) -> None:
    (database := root / "var/cache/debconf/config.dat").parent.mkdir(parents=True)
    database.write_text(QUESTIONS)
    run_hook("grub", root, boot_context())
    assert database.read_text() == ANSWERED
    run_hook("grub", root, boot_context())
    assert database.read_text() == ANSWERED


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_the_last_question_of_the_database_is_one_as_well(end: str) -> None:
    text = f"Name: a/b\nTemplate: a/b\nOwners: a{end}"
    assert with_answers(text, {"a/b": "x"}) == f"Name: a/b\nTemplate: a/b\nValue: x\nOwners: a\nFlags: seen{end}"


def test_ubuntus_packages_install_where_the_esp_is(root: Path) -> None:
    (database := root / "var/cache/debconf/config.dat").parent.mkdir(parents=True)
    database.write_text("Name: grub-efi/install_devices\nTemplate: grub-efi/install_devices\nOwners: grub-pc\n")
    esp = ContextPartition(2, "esp", 1 << 20, 128 << 20, "b" * 36, "vfat", "12AB-34CD")
    run_hook("grub", root, with_partitions(boot_context(), esp))
    assert "\nValue: /dev/disk/by-uuid/12AB-34CD\n" in database.read_text()
