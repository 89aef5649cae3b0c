"""The header and the block map of a VDI image.

Not for: reading the disk in it, which is QEMU's work (:mod:`osprovider.images.diskimage.convert`).
Source: VirtualBox, src/VBox/Storage/VDICore.h.
"""

from __future__ import annotations

from osprovider.images.diskimage.headers.reader import Reader

__all__ = ["check"]

_KINDS = (1, 2)  # dynamic, fixed
_UNUSED = (0xFFFFFFFF, 0xFFFFFFFE)  # never written, and zeros
_BLOCK = 1 << 20  # the only one that QEMU reads, and VirtualBox writes


def check(reader: Reader) -> int:
    """See that the image is whole, stands alone and holds nothing unknown.

    Returns:
        the size of the disk in it, in bytes.

    Raises:
        ImageError: it is not so; names the field.
    """
    version, _, kind = reader.numbers("<III", 68, "the header")
    blocks_offset, data_offset = reader.numbers("<II", 340, "the header")
    size, block, extra, blocks, _ = reader.numbers("<QIIII", 368, "the header")
    if version != 0x10001:
        raise reader.wrong("version (byte 68)", f"{version:#x} is not known")
    if kind not in _KINDS:
        raise reader.wrong("image type (byte 76)", "it needs a parent: merge them" if kind in (3, 4) else f"{kind}?")
    if reader.read(440, 16, "parent").strip(b"\0"):
        raise reader.wrong("parent (byte 440)", "it needs a parent: merge them")
    if block != _BLOCK or extra or blocks * block < size:
        raise reader.wrong("blocks (byte 376)", f"{blocks} of {block} bytes do not fit a disk of {size}")
    used: set[int] = set()
    for index, number in reader.table("<I", blocks_offset, -(-size // block), "block map (byte 340)"):
        if number not in _UNUSED:
            field = f"block {index} (byte {blocks_offset + 4 * index})"
            reader.inside(data_offset + number * block, block, field)
            if number in used:
                raise reader.wrong(field, f"it lies at {number}, as another one does")
            used.add(number)
    return size
