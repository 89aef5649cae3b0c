"""A limit to the memory of a program and of all that it starts, everything counted: a control group's.

Beside what the processes hold, their page cache counts and what the kernel keeps for them; it takes the cache back as
it needs to, and ends a program that even so has too little.
Source: the kernel's Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst ("memory.max").
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["memory_limit"]

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


@contextmanager
def memory_limit(mib: int) -> Iterator[list[str]]:
    """Make a control group, which is gone afterwards.

    Args:
        mib: the limit, in MiB.

    Yields:
        the words to put before a program's own, so that it runs in the group.

    Raises:
        OSError: this machine, or the container, lets nobody make one.
    """
    is_v1 = (_V1 / "memory.limit_in_bytes").exists()
    group = Path(tempfile.mkdtemp(prefix="osprovider-bench-", dir=_V1 if is_v1 else _V2))
    try:
        (group / ("memory.limit_in_bytes" if is_v1 else "memory.max")).write_text(str(mib << 20))
        if not is_v1:
            (group / "memory.swap.max").write_text("0")
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    finally:
        group.rmdir()
