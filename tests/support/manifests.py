"""Manifests of templates that are none: of Debian, but for what a test is about.

Not for: templates that were prepared; they have their own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from osprovider.manifest import MANIFEST_FORMAT, Distribution, Filesystem, Manifest

__all__ = ["manifest"]

_MANIFEST = Manifest(
    format=MANIFEST_FORMAT,
    key="0" * 64,
    image="test",
    created="2026-11-21T00:30:00Z",
    architecture="amd64",
    distribution=Distribution("debian", "12", "bookworm", "Debian GNU/Linux 12 (bookworm)"),
    init="systemd",
    network_stacks=(),
    boot_loaders=(),
    kernels=(),
    size_bytes=1 << 20,
    table=None,
    filesystem=Filesystem("ext4", "uuid", "", 4096, 1 << 20, 1 << 20),
    packages=200,
    packages_crc32=0,
    extents=(),
    built_here=True,
    tools={},
    definition={},
)


def manifest(**fields: Any) -> Manifest:
    """Of a template that was built here, with these fields in place of the usual ones."""
    return dataclasses.replace(_MANIFEST, **fields)
