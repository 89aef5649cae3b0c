"""The header of a qcow2 image.

Not for: reading the disk in it, which is QEMU's work (:mod:`osprovider.images.diskimage.convert`).
Source: QEMU's docs/interop/qcow2.txt.
"""

from __future__ import annotations

from osprovider.images.diskimage.headers.reader import Reader

__all__ = ["check"]

_INCOMPATIBLE = {
    0: "was not closed properly (its dirty bit is set): repair it (qemu-img check -r all)",
    1: "is marked as corrupt: repair it (qemu-img check -r all)",
    2: "keeps its data in another file: convert it (qemu-img convert -O qcow2)",
}
_KNOWN_INCOMPATIBLE = 0b11111
_DATA_FILE, _BITMAPS, _ENCRYPTION = 0x44415441, 0x23852875, 0x0537BE77
_MOST_EXTENSIONS = 64


def check(reader: Reader) -> int:
    """See that the image is whole, stands alone and holds nothing unknown.

    Returns:
        the size of the disk in it, in bytes.

    Raises:
        ImageError: it is not so; names the field.
    """
    version, backing, backing_size, cluster_bits, size, crypt = reader.numbers(">IQIIQI", 4, "the header")
    if version not in (2, 3):
        raise reader.wrong("version (byte 4)", f"{version} is not known")
    if backing or backing_size:
        raise reader.wrong("backing file (byte 8)", "it needs another file: convert it to one that stands alone")
    if not 9 <= cluster_bits <= 21:
        raise reader.wrong("cluster_bits (byte 20)", f"{cluster_bits} makes no sense")
    if crypt:
        raise reader.wrong("crypt_method (byte 32)", "it is encrypted, which is not supported")
    cluster = 1 << cluster_bits
    header_length = _check_features(reader, cluster) if version == 3 else 72
    _check_tables(reader, size, cluster)
    _check_extensions(reader, header_length, cluster)
    return size


def _check_features(reader: Reader, cluster: int) -> int:
    incompatible, _, _, order, header_length = reader.numbers(">QQQII", 72, "the features")
    for bit, what in _INCOMPATIBLE.items():
        if incompatible & 1 << bit:
            raise reader.wrong("incompatible features (byte 72)", what)
    if unknown := incompatible & ~_KNOWN_INCOMPATIBLE:
        raise reader.wrong("incompatible features (byte 72)", f"{unknown:#x} are not known")
    if order > 6:
        raise reader.wrong("refcount_order (byte 96)", f"{order} makes no sense")
    if not 104 <= header_length <= cluster:
        raise reader.wrong("header_length (byte 100)", f"{header_length} makes no sense")
    return header_length


def _check_tables(reader: Reader, size: int, cluster: int) -> None:
    l1_size, l1_offset, refcounts, refcount_clusters, snapshots, snapshots_offset = reader.numbers(
        ">IQQIIQ", 36, "the tables"
    )
    # Each entry is a table of one cluster, whose entries (16 bytes where clusters are subdivided) are a cluster each.
    if l1_size > 4 << 20 or l1_size * (cluster // 8) * cluster < size:
        raise reader.wrong("l1_size (byte 36)", f"{l1_size} does not fit a disk of {size} bytes")
    for offset, length, field in (
        (l1_offset, l1_size * 8, "l1_table_offset (byte 40)"),
        (refcounts, refcount_clusters * cluster, "refcount_table_offset (byte 48)"),
        (snapshots_offset, 40 * snapshots, "snapshots_offset (byte 64)"),
    ):
        if offset % cluster:
            raise reader.wrong(field, f"{offset} is not at the beginning of a cluster")
        reader.inside(offset, length, field)


def _check_extensions(reader: Reader, position: int, cluster: int) -> None:
    for _ in range(_MOST_EXTENSIONS):
        if position + 8 > min(cluster, reader.size):
            return
        kind, length = reader.numbers(">II", position, "a header extension")
        if kind == 0:
            return
        field = f"header extension {kind:#x} (byte {position})"
        if length > cluster - position - 8:
            raise reader.wrong(field, f"its length {length} makes no sense")
        if kind == _DATA_FILE:
            raise reader.wrong(field, _INCOMPATIBLE[2])
        if kind == _ENCRYPTION:
            raise reader.wrong(field, "it is encrypted, which is not supported")
        if kind == _BITMAPS:
            if length != 24:
                raise reader.wrong(field, f"a bitmaps extension has 24 bytes, not {length}")
            count, _, size, offset = reader.numbers(">IIQQ", position + 8, field)
            if not 0 < count <= 65535 or size > 64 << 20 or offset % cluster:
                raise reader.wrong(field, f"{count} bitmaps in {size} bytes at {offset} make no sense")
            reader.inside(offset, size, field)
        position += 8 + -(-length // 8) * 8
    raise reader.wrong("header extensions", f"there are more than {_MOST_EXTENSIONS}")
