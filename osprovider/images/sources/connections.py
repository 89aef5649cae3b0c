"""HTTP connections that end at a set time, whatever comes.

A socket's time limit begins anew with every byte, so a server that sends one now and then (of its headers, of the
length of a chunk, "100 Continue") is waited for without end. Here a thread shuts the sockets down.
Not for: what is asked and answered (:mod:`osprovider.images.sources.fetch`).
"""

from __future__ import annotations

import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from requests.adapters import HTTPAdapter
from urllib3 import PoolManager
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

__all__ = ["EndingAdapter"]


class EndingAdapter(HTTPAdapter):
    """Makes the connections of a session of requests, and ends them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._has_ended = False
        super().__init__()

    @contextmanager
    def until(self, deadline: float) -> Iterator[None]:
        """Have all connections end at a time of ``time.monotonic``, for as long as the body runs."""
        self._has_ended = False
        timer = threading.Timer(max(deadline - time.monotonic(), 0), self._end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    @property
    def have_ended(self) -> bool:
        """It was so late that they ended. What was read since may not be all that there is."""
        return self._has_ended

    def init_poolmanager(self, *args: object, **options: object) -> None:
        """As the base class, which calls it."""
        super().init_poolmanager(*args, **options)  # type: ignore[no-untyped-call]
        self._watch(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: object) -> PoolManager:
        """As the base class, which calls it."""
        manager: PoolManager = super().proxy_manager_for(proxy, **options)  # type: ignore[no-untyped-call]
        self._watch(manager)
        return manager

    def _watch(self, manager: PoolManager) -> None:
        kinds = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}
        watched = {scheme: _watched(kind, self._add) for scheme, kind in kinds.items()}
        manager.pool_classes_by_scheme = watched  # type: ignore[attr-defined]

    def _add(self, made: socket.socket) -> None:
        with self._lock:
            self._sockets.add(made)
            if self._has_ended:
                _shut_down(made)

    def _end(self) -> None:
        with self._lock:
            self._has_ended = True
            for each in self._sockets:
                _shut_down(each)


def _shut_down(made: socket.socket) -> None:
    with suppress(OSError):  # it is closed already, or TLS has taken its place
        made.shutdown(socket.SHUT_RDWR)


def _watched(kind: type[HTTPConnectionPool], opened: Callable[[socket.socket], None]) -> type:
    """A pool whose connections show their sockets: before and after TLS and a proxy's tunnel."""

    class Connection(kind.ConnectionCls):  # type: ignore[misc, name-defined]
        def _new_conn(self) -> socket.socket:
            made: socket.socket = super()._new_conn()
            opened(made)
            return made

        def connect(self) -> None:
            super().connect()
            opened(self.sock)

    class Pool(kind):  # type: ignore[misc, valid-type]
        ConnectionCls = Connection

    return Pool
