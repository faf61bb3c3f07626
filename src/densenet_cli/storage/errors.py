"""Errors of file systems behind fsspec: clauses for messages, without credentials and text of servers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from densenet_cli.errors import (
    DensenetError,
    DownloadFailedError,
    ImageError,
    SourceNotFoundError,
    SourceUnreadableError,
)
from densenet_cli.transfer_errors import causes, describe_status

Kind = Literal["missing", "denied", "failed"]

MISSING: Kind = "missing"
DENIED: Kind = "denied"
FAILED: Kind = "failed"

_AZURE = ("abfs://", "abfss://", "az://", "adl://")
"""Schemes whose URLs name a container and its account as ``container@account``."""

_NO_BUCKET = "the bucket does not exist"
_REJECTED = "the storage rejected the credentials"

_CODES: dict[str, tuple[Kind, str]] = {
    "NoSuchBucket": (MISSING, _NO_BUCKET),
    "NoSuchKey": (MISSING, "no such file or folder"),
    "404": (MISSING, "no such file or folder"),
    "NotFound": (MISSING, "no such file or folder"),
    **dict.fromkeys(("AccessDenied", "403", "Forbidden", "AllAccessDisabled"), (DENIED, "permission denied")),
    **dict.fromkeys(
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "401"),
        (DENIED, _REJECTED),
    ),
    **dict.fromkeys(
        ("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "429", "503"),
        (FAILED, "the storage is too busy"),
    ),
    **dict.fromkeys(("PreconditionFailed", "412"), (FAILED, "the file changed while it was read")),
    **dict.fromkeys(
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "301"),
        (FAILED, "the bucket is in another region than AWS_DEFAULT_REGION"),
    ),
    "RequestTimeTooSkewed": (DENIED, "the clock of this machine is wrong"),
    "InvalidObjectState": (DENIED, "the file is archived, and must be restored before it can be read"),
    "InvalidBucketName": (MISSING, "the name of the bucket is invalid"),
}
"""Codes of S3 errors, and HTTP statuses of others."""

_CREDENTIALS = re.compile(r"Credential|SSO|TokenRetrieval|ProfileNotFound|NoAuth|Unauthorized|Authentication|Refresh")
_TIMEOUT = re.compile(r"Timeout")
_CONNECTION = re.compile(r"EndpointConnection|ClientConnector|ServerDisconnected|ConnectionClosed|ClientOSError")
_INTERRUPTED = re.compile(r"IncompleteRead|ClientPayload|ResponseStreaming|ContentLength|ProtocolError|ChunkedEncoding")
_INVALID_REGION = re.compile(r"InvalidRegion")
_INVALID = re.compile(r"ParamValidation|InvalidURL")


class StorageError(Exception):
    """Access to storage failed. Internal: callers convert it to an exception of ``densenet_cli.errors``.

    The message is a clause without the URL and without credentials, such as "permission denied".

    Attributes:
        kind: Whether the file is missing, access was denied, or something else failed.
        code: The code of an S3 error or the HTTP status, or "".
    """

    def __init__(self, message: str, kind: Kind = FAILED, code: str = "") -> None:
        super().__init__(message)
        self.kind: Kind = kind
        self.code = code


def redact(url: str) -> str:
    """Return a URL without credentials."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    if not separator or "@" not in authority:
        # A password may contain a slash. A bucket with a colon does not exist, so what follows is a path only if the
        # colon precedes the port of a server.
        if (
            ":" in authority
            and "@" in path
            and not url.lower().startswith(_AZURE)
            and not _is_server(scheme, authority)
        ):
            return f"{scheme}://{rest.rpartition('@')[2]}"
        return url
    user, _, host = authority.rpartition("@")
    if f"{scheme.lower()}://" in _AZURE and ":" not in user:
        return url
    return f"{scheme}://{host}{slash}{path}"


def _is_server(scheme: str, authority: str) -> bool:
    """Return whether a URL begins with a server and its port, not with a user name and a password."""
    port = authority.rpartition(":")[2]
    return scheme.lower() not in ("s3", "s3a") and port.isdecimal() and int(port[:6]) < 1 << 16


def has_credentials(url: str) -> bool:
    """Return whether a URL contains credentials."""
    return redact(url) != url


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn every exception of a file system in the block into a ``StorageError``, without its cause.

    Their messages can contain credentials, and libraries raise exceptions of all kinds.
    """
    try:
        yield
    except (DensenetError, StorageError):
        raise
    except Exception as error:
        failure = describe(error)
    else:
        return
    raise failure


def describe(error: Exception) -> StorageError:
    """Describe an exception by the types and codes in its chain."""
    chain = list(causes(error))
    names = [kind.__name__ for cause in chain for kind in type(cause).__mro__]

    def has(pattern: re.Pattern[str]) -> bool:
        return any(map(pattern.search, names))

    for code in filter(None, map(_code, chain)):
        if code in _CODES:
            kind, message = _CODES[code]
            shown = (
                ""
                if code.isdigit() or code.startswith(("NoSuch", "AccessDenied", "NotFound", "Precondition"))
                else f" ({code})"
            )
            return StorageError(f"{message}{shown}", kind, code)
        if code.isdigit():
            return StorageError(f"the storage returned {describe_status(int(code))}", FAILED, code)
        return StorageError(f"the storage returned the error {code}", FAILED, code)
    if any(isinstance(cause, PermissionError) for cause in chain):
        return StorageError("permission denied", DENIED)
    if any(isinstance(cause, FileNotFoundError) for cause in chain):
        return StorageError("no such file or folder", MISSING)
    if has(_CREDENTIALS):
        return StorageError("no valid credentials were found", DENIED)
    if any(isinstance(cause, TimeoutError) for cause in chain) or has(_TIMEOUT):
        return StorageError("the storage did not respond in time")
    if has(_INTERRUPTED):
        return StorageError("the connection was closed early")
    if any(isinstance(cause, ConnectionError) for cause in chain) or has(_CONNECTION):
        return StorageError("cannot connect to the storage")
    if has(_INVALID_REGION):
        return StorageError("the name of the region is invalid")
    if any(isinstance(cause, ValueError) and str(cause).startswith("Invalid endpoint") for cause in chain):
        return StorageError("the URL of the endpoint, such as AWS_ENDPOINT_URL, is invalid")
    if has(_INVALID) or any(isinstance(cause, UnicodeEncodeError) for cause in chain):
        return StorageError("the URL is invalid", MISSING)
    numbered = next((cause for cause in reversed(chain) if isinstance(cause, OSError) and cause.errno), None)
    if numbered and numbered.errno:
        return StorageError(os.strerror(numbered.errno).lower())
    return StorageError(f"access to the storage failed ({type(error).__name__})")


def _code(error: BaseException) -> str:
    """Return the code of an S3 error, or the HTTP status of another one, or ""."""
    if type(error).__module__ == "aiohttp.http_exceptions":  # a damaged response, to which aiohttp gives a code
        return ""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        code = str(response.get("Error", {}).get("Code", ""))
    else:
        statuses = (getattr(source, name, None) for source in (error, response) for name in ("status_code", "code"))
        code = str(next((status for status in statuses if isinstance(status, int) and 400 <= status < 600), ""))
    return code if re.fullmatch(r"[A-Za-z0-9.]{1,60}", code) else ""


def image_error(error: StorageError) -> ImageError:
    """Return the error of one image."""
    message = str(error)
    kind = {MISSING: SourceNotFoundError, DENIED: SourceUnreadableError}.get(error.kind, DownloadFailedError)
    return kind(f"{message[0].upper()}{message[1:]}.")
