#!/usr/bin/python3 -IS
"""A program in fuse2fs's place that means ill; see fuse(4) and <linux/fuse.h>.

It runs in the sandbox, where its text is put in place of fusermount's, so that there is no brace in it but one pair.
What it does is in the first bytes of the device.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from pathlib import Path

CONNECTION = int("{}")
with Path(sys.argv[-2]).open("rb") as device:
    MODE = device.read(16).rstrip(b"\0").decode()

LOOKUP, FORGET, GETATTR, READLINK, OPEN, READ, STATFS, RELEASE = 1, 2, 3, 5, 14, 15, 17, 18
INIT, OPENDIR, READDIR, RELEASEDIR, INTERRUPT, BATCH_FORGET = 26, 27, 28, 29, 36, 42
NO_ENTRY, NOT_KNOWN = 2, 38
DIRECTORY, FILE, LINK, DEVICE = 0o40755, 0o100644, 0o120777, 0o60666
ROOT = 1
# Their names and numbers, what they are, and how large they say that they are.
NODES = [
    ("", ROOT, FILE if MODE == "no directory" else DIRECTORY, 0),
    ("etc", 2, DIRECTORY, 0),
    ("boot", 3, DIRECTORY, 0),
    ("large", 4, FILE, 1),
    ("out", 5, LINK, 9),
    ("disk", 6, DEVICE, 0),
    ("other", 7, FILE, 1),
]


def attributes(node: int, mode: int, size: int) -> bytes:
    return struct.pack("<6Q10I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 7 << 8, 4096, 0)


def answer(unique: int, data: bytes = b"", error: int = 0) -> None:
    os.write(CONNECTION, struct.pack("<IiQ", 16 + len(data), -error, unique) + data)


def initialize(unique: int) -> None:
    major = 99 if MODE == "other version" else 7
    answer(unique, struct.pack("<4I2H2I", major, 31, 1 << 17, 0, 16, 12, 1 << 20, 1) + bytes(36))


def look_up(unique: int, name: str) -> None:
    if MODE == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)
    for known, node, mode, size in NODES:
        if known == name:
            answer(unique, struct.pack("<4Q2I", node, 0, 0, 0, 0, 0) + attributes(node, mode, size))
            break
    else:
        answer(unique, error=NO_ENTRY)


def get_attributes(unique: int, wanted: int) -> None:
    """One of them is a link when it is looked at for the second time."""
    for place, (name, node, mode, size) in enumerate(NODES):
        if node == wanted:
            answer(unique, bytes(16) + attributes(node, mode, size))
            if name == "other":
                NODES[place] = (name, node, LINK, size)


def read_directory(unique: int, offset: int) -> None:
    """There are always more."""
    entries = []
    for number in range(offset, offset + 64):
        name = b"vmlinuz-%016d" % number
        entries.append(struct.pack("<QQII", 9, number + 1, len(name), 8) + name)
    answer(unique, b"".join(entries))


def serve(opcode: int, unique: int, node: int, rest: bytes) -> None:
    if opcode == INIT:
        initialize(unique)
    elif opcode == LOOKUP:
        look_up(unique, rest.rstrip(b"\0").decode())
    elif opcode == GETATTR:
        get_attributes(unique, node)
    elif opcode == READLINK:
        answer(unique, b"/../../../../../../../../etc/hostname")
    elif opcode in (OPEN, OPENDIR):
        answer(unique, struct.pack("<QII", 0, 1, 0))  # FOPEN_DIRECT_IO: its size means nothing
    elif opcode == READDIR:
        read_directory(unique, struct.unpack_from("<QQ", rest)[1])
    elif opcode == READ:
        answer(unique, b"x" * struct.unpack_from("<QQI", rest)[2])
    else:
        answer(
            unique, bytes(80) if opcode == STATFS else b"", 0 if opcode in (STATFS, RELEASE, RELEASEDIR) else NOT_KNOWN
        )


if MODE == "talk":
    while True:
        os.write(2, b"never at a loss for words " * 4096)
while True:
    request = os.read(CONNECTION, 1 << 21)
    _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
    if opcode not in (FORGET, BATCH_FORGET, INTERRUPT):
        serve(opcode, unique, node, request[40:])
