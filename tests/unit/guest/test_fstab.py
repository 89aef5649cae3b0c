"""How an fstab's lines are read, and what its first field means."""

from __future__ import annotations

import pytest

from osprovider.guest.fstab import Line, lines, node_number, tag_of


def test_lines_are_numbered_and_comments_and_empty_lines_left_out() -> None:
    text = (
        "# a comment\n\n  # another\nUUID=1 / ext4 defaults,ro 0 1\n\tLABEL=x\t/srv/  xfs\n/swapfile none swap sw 0 0\n"
    )
    assert list(lines(text)) == [
        Line(4, "UUID=1", "/", "ext4", ("defaults", "ro")),
        Line(5, "LABEL=x", "/srv", "xfs"),
        Line(6, "/swapfile", "none", "swap", ("sw",)),
    ]


@pytest.mark.parametrize(
    "text", ["UUID=1", "UUID=1 /", "\x00\x01\x02", "UUID=1\u2028/\u2028ext4", "UUID=1\x0c/\x0cext4"]
)
def test_a_line_with_too_few_fields_is_none(text: str) -> None:
    (line,) = lines(f"{text}\n")
    assert not line.is_whole
    assert line.place == ""


def test_a_line_may_end_as_on_other_systems() -> None:
    assert list(lines("UUID=1 / ext4\r\n")) == [Line(1, "UUID=1", "/", "ext4")]


@pytest.mark.parametrize(
    ("spelling", "number"),
    [
        ("/dev/sda1", 1),
        ("/dev/vda15", 15),
        ("/dev/xvda2", 2),
        ("/dev/hda3", 3),
        ("/dev/nvme0n1p2", 2),
        ("/dev/mmcblk0p1", 1),
        ("/dev/disk/by-path/pci-0000:00:04.0-part1", 1),
        ("/dev/disk/by-path/virtio-pci-0000:00:05.0-part14", 14),
        ("/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_drive-scsi0-part2", 2),
        ("/dev/sda", None),
        ("/dev/sdb1", None),
        ("/dev/vda0", None),
        ("/dev/nvme0n2p1", None),
        ("/dev/sda1x", None),
        ("/dev/disk/by-path/pci-0000:00:04.0", None),
        ("/dev/disk/by-uuid/1234-ABCD", None),
    ],
)
def test_a_node_means_a_partition_of_the_first_disk(spelling: str, number: int | None) -> None:
    assert node_number(spelling) == number


@pytest.mark.parametrize(
    ("spelling", "tag"),
    [
        ("UUID=1234-ABCD", ("uuid", "1234-ABCD")),
        ('UUID="1234-ABCD"', ("uuid", "1234-ABCD")),
        ("PARTUUID='1234abcd-01'", ("partuuid", "1234abcd-01")),
        ("LABEL=my\\040disk", ("label", "my disk")),
        ("PARTLABEL=root", ("partlabel", "root")),
        ("/dev/disk/by-uuid/1234-ABCD", ("uuid", "1234-ABCD")),
        ("/dev/disk/by-partuuid/1234abcd-01", ("partuuid", "1234abcd-01")),
        ("/dev/disk/by-label/my\\x20disk", ("label", "my disk")),
        ("/dev/disk/by-partlabel/root", ("partlabel", "root")),
        ("/dev/disk/by-path/x-part1", None),
        ("/dev/vda1", None),
        ("tmpfs", None),
    ],
)
def test_a_tag_is_found_in_any_spelling(spelling: str, tag: tuple[str, str] | None) -> None:
    assert tag_of(spelling) == tag
