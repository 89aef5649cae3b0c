"""Members of tars, byte by byte, and archives that nobody should unpack.

Not for: good archives; the tests make these with the tools that others use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["ACCEPTED", "END", "REFUSED", "global_pax", "member", "pax", "sealed"]

END = bytes(1024)


def member(
    name: str | bytes,
    content: bytes = b"",
    *,
    kind: bytes = b"0",
    link: str | bytes = b"",
    size: int | bytes | None = None,
    magic: bytes = b"ustar\00000",
    prefix: bytes = b"",
    device: tuple[int, int] = (0, 0),
    mode: int = 0o755,
) -> bytes:
    """A header with what follows it; `size` is what the header says, its 12 bytes where it is no number."""
    said = len(content) if size is None else size
    header = bytearray(512)
    for at, value in (
        (0, name.encode() if isinstance(name, str) else name),
        (100, b"%07o\0" % mode),
        (108, b"%07o\0" % 0),
        (116, b"%07o\0" % 0),
        (124, said if isinstance(said, bytes) else b"%011o\0" % said),
        (136, b"%011o\0" % 1_700_000_000),
        (156, kind),
        (157, link.encode() if isinstance(link, str) else link),
        (257, magic),
        (329, b"%07o\0" % device[0]),
        (337, b"%07o\0" % device[1]),
        (345, prefix),
    ):
        header[at : at + len(value)] = value
    return sealed(header) + content + bytes(-len(content) % 512)


def sealed(header: bytes | bytearray) -> bytes:
    """A header with a right checksum."""
    return bytes(header[:148]) + b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:])) + bytes(header[156:])


def pax(*records: tuple[str, bytes], kind: bytes = b"x") -> bytes:
    """An extended header."""
    return member("PaxHeaders/next", b"".join(_record(key.encode(), value) for key, value in records), kind=kind)


def global_pax(*records: tuple[str, bytes]) -> bytes:
    """An extended header for all members."""
    return pax(*records, kind=b"g")


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


_ETC = member("etc/", kind=b"5")
_FILE = member("etc/file", b"content")
_UP = "../../../../../../../../../../../.."
_DATA = b"d" * 512
_STAR_TIMES = bytes(131) + b"14524770400 " * 2


def _old_sparse(*pieces: tuple[int, int], real: int, size: int) -> bytes:
    """A sparse file of GNU's old kind, without its content."""
    header = bytearray(member("etc/sparse", kind=b"S", size=size, magic=b"ustar  \0"))
    for number, (place, length) in enumerate(pieces):
        header[386 + 24 * number :][:24] = b""
        header[386 + 24 * number : 410 + 24 * number] = b"%011o\0%011o\0" % (place, length)
    header[483:495] = b"%011o\0" % real
    return sealed(header)


def _sparse(version: str, pieces: bytes, content: bytes, real: int = 1024, **fields: Any) -> bytes:
    """A sparse file of a pax archive."""
    size = b"%d" % real
    records = {
        "0.0": [("GNU.sparse.size", size), ("GNU.sparse.numblocks", b"1")],
        "0.1": [("GNU.sparse.size", size), ("GNU.sparse.numblocks", b"1"), ("GNU.sparse.map", pieces)],
        "1.0": [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", size)],
    }[version]
    if version == "0.0":
        for piece in pieces.split():
            place, _, length = piece.partition(b",")
            records += [("GNU.sparse.offset", place), ("GNU.sparse.numbytes", length)]
    if version == "1.0":
        content = pieces + bytes(-len(pieces) % 512) + content
    return pax(("GNU.sparse.name", b"etc/sparse"), *records) + member("GNUSparseFile.1/sparse", content, **fields)


REFUSED: Mapping[str, tuple[bytes, str]] = {
    # -- out of the tree
    "up": (_ETC + member("../x", b"x"), r"byte 512: \.\./x: \.\./x leads out of the tree"),
    "up-later": (_ETC + member("etc/../../x", b"x"), r"byte 512: .* leads out of the tree"),
    "up-pax": (_ETC + pax(("path", b"etc/../../x")) + member("etc/x"), r"byte 1536: .* leads out of the tree"),
    "up-long": (_ETC + member("l", b"../" * 40 + b"x\0", kind=b"L") + member("x"), "leads out of the tree"),
    "long-name-without-end": (
        _ETC + member("l", b"etc/" + b"n" * 200, kind=b"L", size=100) + member("x"),
        "byte 512: a long name without an end",
    ),
    "up-prefix": (_ETC + member("x", prefix=b".."), r"byte 512: \.\./x: .* leads out of the tree"),
    "up-directory": (_ETC + member("../evil/", kind=b"5"), r"\.\./evil/: .* leads out of the tree"),
    "absolute": (_ETC + member("/x", b"x"), "byte 512: /x: /x is absolute; make the tar with names relative to /"),
    "absolute-pax": (_ETC + pax(("path", b"/root/x")) + member("x", b"x"), "/root/x is absolute"),
    "link-outside": (_ETC + member("x", kind=b"1", link="/etc/shadow"), "byte 512: x: /etc/shadow is absolute"),
    "link-up": (_ETC + member("x", kind=b"1", link=f"{_UP}/etc/shadow"), "byte 512: x: .* leads out of the tree"),
    "link-through": (
        _ETC + member("l", kind=b"2", link="/etc") + member("x", kind=b"1", link="l/shadow"),
        "byte 1024: x: a hard link to l/shadow, which is no earlier file",
    ),
    "link-forward": (_ETC + member("x", kind=b"1", link="etc/file") + _FILE, "which is no earlier file"),
    "link-directory": (_ETC + member("x", kind=b"1", link="etc"), "a hard link to etc, which is no earlier file"),
    "through-link": (
        _ETC + member("l", kind=b"2", link="/root") + member("l/x", b"x"),
        "byte 1024: l/x: lies beneath l, which is a symbolic link in the archive",
    ),
    "through-links": (
        _ETC + member("a", kind=b"2", link="..") + member("b", kind=b"2", link="a/..") + member("b/x", b"x"),
        "byte 1536: b/x: lies beneath b, which is a symbolic link",
    ),
    "through-link-deep": (
        _ETC + member("etc/l", kind=b"2", link="..") + member("etc/l/a/b", b"x"),
        "etc/l/a/b: lies beneath etc/l, which is a symbolic link",
    ),
    "directory-over-link": (
        _ETC + member("l", kind=b"2", link="/root") + member("l/", kind=b"5"),
        "byte 1024: l/: is there twice, as a file and as a directory",
    ),
    "through-file": (_ETC + _FILE + member("etc/file/x"), "lies beneath etc/file, which is a file in the archive"),
    "link-over-directory": (_ETC + member("etc", kind=b"2", link="/root"), "byte 512: etc: is there twice"),
    # -- what is no file of a root
    "device": (_ETC + member("etc/sda", kind=b"4", device=(8, 0)), "etc/sda: a device, and not in a directory named"),
    "device-at-top": (
        _ETC + member("dev", kind=b"3", device=(1, 3)),
        "dev: a device, and not in a directory named dev",
    ),
    "volume": (member("LABEL", kind=b"V") + _ETC, "byte 0: LABEL: kind b'V' is none that a root file system has"),
    "continued": (_ETC + member("etc/rest", kind=b"M"), "etc/rest: kind b'M' is none"),
    "dumpdir": (member("etc/", b"Yfile\0\0", kind=b"D"), "etc/: kind b'D' is none"),
    "unknown-kind": (_ETC + member("etc/z", kind=b"Z"), "byte 512: etc/z: kind b'Z' is none"),
    "pax-dumpdir": (pax(("GNU.dumpdir", b"Yfile\0\0")) + _ETC, r"GNU\.dumpdir: an archive of changes, or in volumes"),
    "pax-volume": (global_pax(("GNU.volume.label", b"x")) + _ETC, r"GNU\.volume\.label: an archive of changes"),
    # -- two of a kind
    "twice": (_ETC + _FILE + _FILE, "byte 1536: etc/file: is there twice; which one counts is anybody's guess"),
    "twice-other-spelling": (_ETC + _FILE + member("./etc//file"), "etc//file: is there twice"),
    "file-and-directory": (_ETC + _FILE + member("etc/file/", kind=b"5"), "twice, as a file and as a directory"),
    "extended-twice": (
        _ETC + pax(("path", b"etc/a")) + pax(("path", b"etc/b")) + member("x"),
        "byte 1536: two extended headers of one member",
    ),
    "extended-mixed": (
        _ETC + member("l", b"etc/a\0", kind=b"L") + pax(("path", b"etc/b")) + member("x"),
        "byte 1536: two extended headers of one member",
    ),
    "sparse-mixed": (
        _ETC + pax(("GNU.sparse.major", b"1"), ("GNU.sparse.map", b"0,1")) + member("x", _DATA),
        "a sparse file in two formats at once",
    ),
    "slash-and-content": (_ETC + member("etc/d/", _DATA), "a directory by its name, with a file's content"),
    # -- without measure
    "path-too-long": (
        _ETC + pax(("path", b"etc/" + b"a/" * 100_000 + b"x")) + member("x"),
        "a name of 200005 bytes, and no path has more than 4095: etc/a/a/",
    ),
    "path-a-byte-too-long": (_ETC + pax(("path", b"\xc3\xa4/" * 1365 + b"x")) + member("x"), "a name of 4096 bytes"),
    "link-too-long": (_ETC + pax(("linkpath", b"x" * 4096)) + member("x", kind=b"2"), "a name of 4096 bytes"),
    # -- damage
    "checksum": (_ETC + b"x" + _FILE[1:], "byte 512: a header's checksum is wrong: the archive is damaged"),
    "empty": (b"", "cut off at byte 0"),
    "no-end": (_ETC + _FILE, "cut off at byte 1536"),
    "mid-header": ((_ETC + _FILE)[:700], "cut off at byte 700"),
    "mid-content": ((_ETC + member("etc/file", b"x" * 5000))[:2000], "cut off at byte 2000"),
    "mid-large-content": ((_ETC + member("etc/file", bytes(3 << 20)))[: 2 << 20], "cut off at byte 2097152"),
    "mid-extended": ((_ETC + pax(("comment", b"x" * 2000)))[:2000], "cut off at byte 2000"),
    "extended-alone": (_ETC + pax(("path", b"etc/x")) + END, "an extended header, and no member that it belongs to"),
    "two": (_ETC + _FILE + END + _ETC + END, "something follows the archive's end"),
    "junk": (_ETC + _FILE + END + b"junk", "something follows the archive's end"),
    # -- numbers
    "size-negative": (_ETC + member("etc/x", size=b"\xff" * 12), "byte 512: etc/x: its size is no number"),
    "size-negative-small": (_ETC + member("etc/x", size=b"\xff" * 11 + b"\0"), "its size is no number"),
    "size-huge": (_ETC + member("etc/x", size=b"\x80" + b"\xff" * 11), "its size is no number that a size can be"),
    "size-beyond": (_ETC + member("etc/x", size=b"\x80\0\0\0\x7f" + b"\xff" * 7), "its size is no number"),
    "size-far": (_ETC + member("etc/x", size=b"\x80\0\0\0\x10" + b"\0" * 7), r"cut off at byte \d+"),
    "size-lies": (_ETC + member("etc/x", b"short", size=5000) + END, "cut off at byte 2560"),
    "size-too-small": (_ETC + member("etc/x", b"x" * 600, size=10) + END, "byte 1536: a header's checksum is wrong"),
    "size-words": (_ETC + member("etc/x", size=b"1_0\0        "), "its size is no number"),
    "size-signed": (_ETC + member("etc/x", size=b"-0000000001\0"), "its size is no number"),
    "size-prefix": (_ETC + member("etc/x", size=b"0o777       "), "its size is no number"),
    "pax-size-words": (_ETC + pax(("size", b"12x")) + member("etc/x"), "byte 512: size '12x' is no number"),
    "pax-size-negative": (_ETC + pax(("size", b"-1")) + member("etc/x"), "size '-1' is no number"),
    "pax-size-digits": (_ETC + pax(("size", "١٢".encode())) + member("etc/x"), "size .* is no number"),
    "pax-size-long": (_ETC + pax(("size", b"9" * 5000)) + member("etc/x"), "size '9999.*' is no number"),
    "pax-size-beyond": (_ETC + pax(("size", b"9" * 19)) + member("etc/x"), "size '9999999999999999999' is no number"),
    "extended-huge": (_ETC + member("x", kind=b"x", size=1 << 30), "an extended header of 1073741824 bytes makes no"),
    # -- extended headers
    "pax-length-short": (_ETC + member("x", b"3 path=etc/x\n", kind=b"x"), "an extended header is damaged"),
    "pax-length-long": (_ETC + member("x", b"99 path=etc/x\n", kind=b"x"), "an extended header is damaged"),
    "pax-length-zero": (_ETC + member("x", b"0 path=etc/x\n", kind=b"x"), "an extended header is damaged"),
    "pax-length-words": (_ETC + member("x", b"xx path=etc/x\n", kind=b"x"), "an extended header is damaged"),
    "pax-length-endless": (_ETC + member("x", b"1" * 600, kind=b"x"), "an extended header is damaged"),
    "pax-no-equals": (_ETC + member("x", b"8 patxx\n", kind=b"x"), "an extended header is damaged"),
    "pax-no-newline": (_ETC + member("x", b"9 path=xx", kind=b"x"), "an extended header is damaged"),
    "pax-empty-path": (_ETC + pax(("path", b"")) + member("etc/x"), "an extended header with an empty name"),
    "pax-nul-path": (_ETC + pax(("path", b"etc/x\0y")) + member("etc/x"), "a name with a NUL in it"),
    "pax-nul-link": (_ETC + pax(("linkpath", b"a\0b")) + member("x", kind=b"2"), r"a symbolic link to 'a\\x00b'"),
    "pax-empty-link": (_ETC + pax(("linkpath", b"")) + member("x", kind=b"2", link="y"), "a symbolic link to ''"),
    "pax-global-path": (global_pax(("path", b"etc/x")) + _ETC, "path for all members at once makes no sense"),
    "pax-global-size": (global_pax(("size", b"512")) + _ETC, "size for all members at once makes no sense"),
    "pax-global-sparse": (global_pax(("GNU.sparse.name", b"etc/x")) + _ETC, "for all members at once makes no sense"),
    "no-name": (_ETC + member("", b"x"), "a file without a name"),
    "dot": (_ETC + member("./", kind=b"2", link="x"), "a file without a name"),
    # -- sparse files whose pieces are not the content that the header says
    "sparse-old-more": (_ETC + _old_sparse((0, 1024), real=1024, size=512) + _DATA * 2, "pieces are not the 512 bytes"),
    "sparse-old-less": (
        _ETC + _old_sparse((0, 512), real=1024, size=1024) + _DATA * 2,
        "pieces are not the 1024 bytes",
    ),
    "sparse-0.0": (_ETC + _sparse("0.0", b"0,1024", _DATA), "pieces are not the 512 bytes"),
    "sparse-0.1": (_ETC + _sparse("0.1", b"0,1024", _DATA), "pieces are not the 512 bytes"),
    "sparse-0.1-words": (_ETC + _sparse("0.1", b"0,x", _DATA), r"GNU\.sparse\.map 'x' is no number"),
    "sparse-1.0": (_ETC + _sparse("1.0", b"1\n0\n1024\n", _DATA), "pieces are not the 512 bytes"),
    "sparse-1.0-endless": (_ETC + _sparse("1.0", b"1\n0\n", b""), "the map of a sparse file has no end"),
    "sparse-1.0-long": (_ETC + _sparse("1.0", b"99\n" + b"0\n" * 100, b""), "the map of a sparse file has no end"),
    "sparse-1.0-words": (_ETC + _sparse("1.0", b"1\nx\n0\n", b""), "the map of a sparse file is damaged"),
    "sparse-no-map": (
        _ETC + pax(("GNU.sparse.name", b"etc/x"), ("GNU.sparse.realsize", b"0")) + member("x", _DATA),
        "byte 1536: etc/x: of a sparse file, and no file with a map",
    ),
    "sparse-directory": (
        _ETC + _sparse("1.0", b"0\n", b"", kind=b"5"),
        "etc/sparse: of a sparse file, and no file with a map",
    ),
    "sparse-v7": (_ETC + _sparse("0.1", b"0,512", _DATA, magic=bytes(8)), "or in an archive of another kind"),
    "sparse-star": (_ETC + _sparse("0.1", b"0,512", _DATA, prefix=_STAR_TIMES), "or in an archive of another kind"),
    "sparse-pax-old": (_ETC + member("etc/x", _DATA, kind=b"S"), "a sparse file of GNU's old kind, in an archive of"),
}
"""By what is wrong: an archive, and what is said of it. Each begins as a root's does and lacks no end but by intent."""

ACCEPTED: Mapping[str, bytes] = {
    "plain": _ETC + _FILE + END,
    "one-zero-block": _ETC + _FILE + bytes(512),
    "padded": _ETC + _FILE + bytes(10240),
    "dots": member("./", kind=b"5") + member("./etc/", kind=b"5") + member("./etc/file", b"x") + END,
    "directory-twice": _ETC + _FILE + _ETC + END,
    "directory-after-its-files": _FILE + _ETC + END,
    "no-directories": member("etc/a/b/c", b"x") + member("etc/a/d", b"x") + END,
    "old-directory": member("etc/", magic=bytes(8)) + member("etc/file", b"x", kind=b"\0", magic=bytes(8)) + END,
    "contiguous": _ETC + member("etc/file", b"x", kind=b"7") + END,
    "links-out": _ETC + member("etc/l", kind=b"2", link=f"{_UP}/x") + member("a", kind=b"2", link="/etc/passwd") + END,
    "link-to-link": _ETC + member("l", kind=b"2", link="/x") + member("etc/l", kind=b"1", link="l") + END,
    "link-with-size": _ETC + _FILE + member("etc/l", kind=b"1", link="etc/file", size=7) + END,
    "device": _ETC + member("dev/null", kind=b"3", device=(1, 3)) + member("dev/sda", kind=b"4", device=(8, 0)) + END,
    "device-of-a-chroot": _ETC + member("srv/chroot/dev/null", kind=b"3", device=(1, 3)) + END,
    "fifo": _ETC + member("etc/fifo", kind=b"6") + END,
    "global": global_pax(("comment", b"a commit")) + _ETC + pax(("mtime", b"1.5")) + _FILE + END,
    "pax-path": _ETC + pax(("path", b"etc/other")) + member("ignored", b"x") + END,
    "long-name-without-nul": _ETC + member("l", b"etc/" + b"n" * 200, kind=b"L") + member("x", b"x") + END,
    "pax-size": _ETC + pax(("size", b"512")) + member("etc/x", _DATA, size=0) + END,
    "prefix": member("file", b"x", prefix=b"etc/deep") + END,
    "dots-in-names": member("etc/..file", b"x") + member("etc/...", b"x") + END,
    "sparse-old": _ETC + _old_sparse((512, 512), real=1024, size=512) + _DATA + END,
    "sparse-0.0": _ETC + _sparse("0.0", b"512,512", _DATA) + END,
    "sparse-0.1": _ETC + _sparse("0.1", b"512,512", _DATA) + END,
    "sparse-1.0": _ETC + _sparse("1.0", b"1\n512\n512\n", _DATA) + END,
    "sparse-1.0-hole": _ETC + _sparse("1.0", b"0\n", b"", 0) + END,
}
"""By what is special: archives that are unpacked."""
