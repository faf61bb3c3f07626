"""A loopback server that implements the protocol of the Hugging Face Hub, with configurable faults.

Large files are redirected to a second server, the "CDN", as the Hub does. Every request must follow the rules that the
Hub and its CDN enforce; ``Hub.violations`` lists those that do not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

from tests.support import servers
from tests.support.servers import FaultyServer, Handler, Request

REPOSITORY = "timm/densenet121.ra_in1k"
COMMIT = "5" * 40
LARGE_SIZE = 5_000
"""Files of at least this many bytes are stored at the CDN and named after their SHA-256."""


def checksum(data: bytes) -> str:
    """Return the ETag of a file: its SHA-256 if it is large, else its Git blob ID."""
    if len(data) >= LARGE_SIZE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Hub:
    """The content of a Hub with one repository.

    Attributes:
        files: Name -> content, at the only commit.
        repository: The name of the repository.
        commit: The commit.
        revisions: The names of the commit.
        token: The token that is required, or None.
        gated: Whether the account of the token has not requested access.
        cdn_handlers: Handlers for the next requests to the CDN; then the file is sent.
        hub_handlers: Handlers for the next requests to the Hub; then it answers correctly.
        hub: The server of the Hub.
        cdn: The server of the CDN.
        violations: What was sent to a server that must not get it.
    """

    files: dict[str, bytes]
    repository: str = REPOSITORY
    commit: str = COMMIT
    revisions: tuple[str, ...] = ("main",)
    token: str | None = None
    gated: bool = False
    has_listing: bool = True
    redirects_large_files: bool = True
    hub_handlers: list[Handler] = field(default_factory=list)
    cdn_handlers: list[Handler] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    hub: FaultyServer = field(init=False)
    cdn: FaultyServer = field(init=False)

    @contextmanager
    def serve(self) -> Iterator[Hub]:
        """Start both servers."""
        with FaultyServer(self._handle_hub) as self.hub, FaultyServer(self._handle_cdn) as self.cdn:
            yield self

    @property
    def endpoint(self) -> str:
        return self.hub.url.rstrip("/")

    @property
    def requests(self) -> list[str]:
        """Method and file of each request to the Hub, such as ``GET config.json``."""
        return [f"{request.line.split()[0]} {request.path.rpartition('/')[2]}" for request in self.hub.requests]

    def _handle_cdn(self, request: Request) -> None:
        if "authorization" in request.headers:
            self.violations.append(f"token sent to the CDN: {request.line}")
        if self.cdn_handlers:
            return self.cdn_handlers.pop(0)(request)
        by_checksum = {checksum(data): data for data in self.files.values()}
        servers.serving(by_checksum[request.path.rpartition("/")[2].partition("?")[0]])(request)

    def _handle_hub(self, request: Request) -> None:
        handler = self.hub_handlers.pop(0) if self.hub_handlers else self.answer
        handler(request)

    def answer(self, request: Request) -> None:
        """Answer a request to the Hub correctly."""
        path = request.path.lstrip("/")
        if path.startswith("api/models/"):
            self._handle_listing(request, path.removeprefix("api/models/"))
            return
        repository, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        self._handle_file(request, repository, unquote(revision), unquote(file))

    def _error(self, request: Request, repository: str, revision: str) -> tuple[int, str] | None:
        """Return the status and the code of the Hub for a request that it rejects."""
        sent = request.headers.get("authorization")
        if sent is not None and sent != f"Bearer {self.token}":
            return 401, "Invalid credentials in Authorization header"
        if repository != self.repository:
            return (404 if sent else 401), "RepoNotFound"
        if self.token and self.gated:
            return (403 if sent else 401), "GatedRepo"
        if self.token and not sent:
            return 401, "RepoNotFound"
        return None if revision in (*self.revisions, self.commit) else (404, "RevisionNotFound")

    def _handle_file(self, request: Request, repository: str, revision: str, file: str) -> None:
        error = self._error(request, repository, revision)
        if not error and file not in self.files:
            error = 404, "EntryNotFound"
        if error:
            commit = {"X_Repo_Commit": self.commit} if error[1] == "EntryNotFound" else {}
            return request.head(error[0], X_Error_Code=error[1], Content_Length=0, **commit)
        data = self.files[file]
        is_head = request.line.startswith("HEAD ")
        headers = {"X_Repo_Commit": self.commit, "ETag": f'"{checksum(data)}"'}
        if len(data) >= LARGE_SIZE and self.redirects_large_files:
            location = f"{self.cdn.url}repos/{checksum(data)}?X-Amz-Signature=signed-secret"
            linked = {"X_Linked_Etag": headers["ETag"], "X_Linked_Size": len(data), "ETag": '"of-the-redirect"'}
            return request.head(302, **(headers | linked), Location=location, Content_Length=1000 if is_head else 0)
        if is_head:
            return request.head(200, Content_Length=len(data), **headers)
        return servers.serving(data)(request)

    def _handle_listing(self, request: Request, path: str) -> None:
        repository, _, revision = path.partition("/revision/")
        error = self._error(request, repository, unquote(revision))
        if error or not self.has_listing:
            status, code = error or (404, "")
            return request.head(status, X_Error_Code=code, Content_Length=0)
        siblings = [{"rfilename": name} for name in self.files]
        return servers.serving(json.dumps({"sha": self.commit, "siblings": siblings}).encode())(request)
