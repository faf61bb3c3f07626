"""A time limit over a whole HTTP transfer, kept by cutting its connections.

A read timeout is between two bytes, which a server that sends one byte at a time can stretch for ever.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any


class Deadline:
    """Cuts all connections of a transfer when its time is over.

    It holds duplicates of the sockets, which stay valid under TLS and in the middle of a blocking read.
    """

    def __init__(self, seconds: float | None) -> None:
        self.over = False
        self.seconds = seconds
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._cut) if seconds is not None else None

    def __enter__(self) -> Deadline:
        if self._timer:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer.join()
        for held in self._sockets:
            held.close()

    def watch(self, connection: socket.socket) -> None:
        """Cut this one too."""
        if self._timer:
            self._sockets.append(connection.dup())
            if self.over:
                self._cut()

    def _cut(self) -> None:
        self.over = True
        for held in list(self._sockets):
            with suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)


def watch_connections(session: Any, deadline: Deadline) -> None:
    """Let ``deadline`` know of every connection that the session opens, to a proxy or not, before TLS begins on it."""
    from requests.adapters import HTTPAdapter

    def watched(pool: Any) -> Any:
        class Connection(pool.ConnectionCls):  # type: ignore[misc]
            def _new_conn(self) -> Any:
                connection = super()._new_conn()
                deadline.watch(connection)
                return connection

        return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

    def watch(manager: Any) -> Any:
        manager.pool_classes_by_scheme = {
            scheme: watched(pool) for scheme, pool in manager.pool_classes_by_scheme.items()
        }
        return manager

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            watch(self.poolmanager)

        def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
            known = proxy in self.proxy_manager
            manager = super().proxy_manager_for(proxy, **kwargs)
            return manager if known else watch(manager)

    session.mount("http://", Adapter())
    session.mount("https://", Adapter())
