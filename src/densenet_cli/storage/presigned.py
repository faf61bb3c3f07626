"""Reading objects from S3 through presigned URLs, which takes half of the processor time of ``get_object``.

Most of the time of ``get_object`` goes into botocore's general handling of requests and responses: more than a small
image takes to decode. A presigned URL is signed by the same client with the same credentials and is a plain HTTP
request. Whatever goes wrong with it, the object is read again in the usual way, which retries and reports errors.
"""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress
from typing import Any

EXPIRATION = 900
"""Seconds for which a URL is valid. It is used at once, but clocks may differ."""


class PresignedReader:
    """Reads objects from the file system of s3fs.

    Args:
        fs: The file system.
        connections: Connections that it may open at the same time.
        connect_timeout: Seconds to connect.
        read_timeout: Seconds without any data.
    """

    def __init__(self, fs: Any, connections: int, connect_timeout: float, read_timeout: float) -> None:
        self._fs = fs
        self._connections = connections
        self._timeouts = connect_timeout, read_timeout
        self._session: Any = None
        self._is_proven = False
        self._is_refused = False

    async def read(self, path: str, end: int) -> bytes:
        """Return the first ``end`` bytes of an object, fewer if it is shorter.

        Args:
            path: The bucket and the key, as s3fs separates them.
            end: Number of bytes, at least 1.

        Raises:
            Exception: Those of ``cat_file``.
        """
        if not self._is_refused:
            with suppress(Exception):
                data = await self._get(path, end)
                self._is_proven = True
                return data
        content: bytes = await self._fs._cat_file(path, start=0, end=end)
        # A server without presigned URLs, or a certificate or proxy that only botocore is configured for.
        self._is_refused = not self._is_proven
        return content

    async def _get(self, path: str, end: int) -> bytes:
        url = await self._fs._url(path, expires=EXPIRATION)
        headers = {"Range": f"bytes=0-{end - 1}", "Accept-Encoding": "identity"}
        async with self._open().get(url, headers=headers, allow_redirects=False) as response:
            if response.status != 206:
                raise ValueError(f"status {response.status}")
            content: bytes = await response.read()
            return content

    def _open(self) -> Any:
        """Return the HTTP session, which closes with the file system or at exit."""
        if self._session is None:
            import aiohttp
            from fsspec.asyn import sync

            connect, read = self._timeouts
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect, sock_read=read),
                auto_decompress=False,  # get_object returns an object as it is stored
                trust_env=True,  # proxies
            )
            weakref.finalize(self._fs, _close, sync, self._fs.loop, self._session)
        return self._session


def _close(sync: Any, loop: asyncio.AbstractEventLoop, session: Any) -> None:
    with suppress(Exception):
        sync(loop, session.close, timeout=1)
