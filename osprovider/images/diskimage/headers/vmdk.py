"""The header and the descriptor of a VMDK image.

Not for: reading the disk in it, which is QEMU's work (:mod:`osprovider.images.diskimage.convert`).
Source: "Virtual Disk Format 5.0" (VMware), "Hosted Sparse Extents".
"""

from __future__ import annotations

from osprovider.images.diskimage.headers.reader import LARGEST_DISK, SECTOR, Reader

__all__ = ["check"]

_TYPES = ("monolithicSparse", "streamOptimized")
_AT_END = (1 << 64) - 1
_MAGIC = 0x564D444B  # "KDMV"
_HEADER = "<IIIQQQQIQQ"
# QEMU looks here for a parent, whatever the header says (block/vmdk.c, vmdk_open() and DESC_SIZE).
_DESCRIPTOR, _DESCRIPTOR_SECTORS = 1, 20


def check(reader: Reader) -> int:
    """See that the image is whole, stands alone and holds nothing unknown.

    Returns:
        the size of the disk in it, in bytes.

    Raises:
        ImageError: it is not so; names the field.
    """
    _, version, _, capacity, grain, descriptor, descriptor_size, entries, _, directory = reader.numbers(
        _HEADER, 0, "the header"
    )
    if version not in (1, 2, 3):
        raise reader.wrong("version (byte 4)", f"{version} is not known")
    if not 8 <= grain <= 2048 or grain & (grain - 1) or entries != 512:
        raise reader.wrong("grain size (byte 20)", f"{grain} sectors in tables of {entries} make no sense")
    if capacity > LARGEST_DISK // SECTOR:
        raise reader.wrong("capacity (byte 12)", f"{capacity} sectors make no sense")
    if directory != _AT_END:
        length = -(-capacity // (grain * entries)) * 4
        reader.inside(directory * SECTOR, length, "grain directory (byte 56)")
    else:
        _check_footer(reader, capacity, grain)
    if descriptor != _DESCRIPTOR or not 0 < descriptor_size <= 2048:
        raise reader.wrong("descriptor (byte 28)", f"it is not at sector {_DESCRIPTOR}: convert it to qcow2")
    start = _DESCRIPTOR * SECTOR
    reader.inside(start, descriptor_size * SECTOR, "descriptor (byte 28)")
    length = min(max(descriptor_size, _DESCRIPTOR_SECTORS) * SECTOR, reader.size - start)
    text = reader.read(start, length, "descriptor (byte 28)").partition(b"\0")[0]
    _check_descriptor(reader, text.decode("latin-1"))
    return capacity * SECTOR


def _check_footer(reader: Reader, capacity: int, grain: int) -> None:
    """The header's copy before the end, which counts where the header leaves the grain directory's place to it."""
    place = reader.size - 2 * SECTOR
    magic, _, _, its_capacity, its_grain, _, _, entries, _, directory = reader.numbers(_HEADER, place, "footer")
    if magic != _MAGIC:
        raise reader.wrong("footer", f"it is not at byte {place}: cut off?")
    if (its_capacity, its_grain, entries) != (capacity, grain, 512):
        raise reader.wrong("footer", f"it contradicts the header: {its_capacity} sectors in grains of {its_grain}")
    reader.inside(directory * SECTOR, -(-capacity // (grain * entries)) * 4, "grain directory (of the footer)")


def _check_descriptor(reader: Reader, text: str) -> None:
    extents = 0
    for number, line in enumerate(text.split("\n"), 1):
        field = f"line {number} of its descriptor"
        key, equals, value = (part.strip().strip('"') for part in line.partition("="))
        words = line.split()
        if equals and key == "createType" and value not in _TYPES:
            raise reader.wrong(field, f"createType {value} is not supported: convert it to qcow2")
        # QEMU finds these wherever they stand.
        if "parentFileNameHint" in line:
            raise reader.wrong(field, "it needs another file: convert it to one that stands alone")
        if "parentCID" in line and not (key == "parentCID" and value.lower() == "ffffffff"):
            raise reader.wrong(field, "it needs a parent: convert it to one that stands alone")
        if words and words[0] in ("RW", "RDONLY", "NOACCESS"):
            extents += 1
            if len(words) < 4 or words[2] != "SPARSE" or "/" in line:
                raise reader.wrong(field, "an extent is in another file: convert it to one that stands alone")
    if extents != 1:
        raise reader.wrong("its descriptor", f"{extents} extents, and only its own is allowed")
