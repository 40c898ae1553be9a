"""Fetch one file over HTTP: streamed, resumable, verified.

What has arrived is in `target.partial`, which outlives a dropped connection and a killed process: the next call asks
for the rest only. `target` exists only when it is whole: it is renamed after its checksum was verified.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from genai import config
from genai.errors import DownloadError
from genai.progress import Progress, silent

CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = 30.0
RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0)
"""Pauses before the second and every later try of one download."""

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class UnreachableError(DownloadError):
    """The server refused, or could not be reached, before the first byte: another client may do better."""


class DiskFullError(DownloadError):
    """There is no room for what is being fetched."""


def fetch(url: str, target: Path, *, sha256: str | None, label: str, progress: Progress = silent) -> None:
    """Download `url` into `target`, going on from what an earlier call left in `target.partial`.

    Raises: UnreachableError if nothing arrived; DownloadError for a dropped connection, a wrong checksum, a full disk.
    """
    partial = partial_of(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    resumed = partial.exists()
    _fetch_all(url, partial, label, progress)
    if sha256 and file_sha256(partial) != sha256:
        partial.unlink()
        if not resumed:
            raise DownloadError(f"{label}: the downloaded file has a wrong sha256 checksum and was deleted; try again")
        # What an earlier call left may have been of another file: once more from the start.
        fetch(url, target, sha256=sha256, label=label, progress=progress)
        return
    os.replace(partial, target)


def partial_of(target: Path) -> Path:
    """Where an unfinished `target` is kept."""
    return target.with_name(target.name + ".partial")


def file_sha256(path: Path) -> str:
    """A file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk_error(action: str, error: OSError) -> DownloadError:
    """An operating-system error while writing, as one line."""
    reason = error.strerror or str(error)
    if error.errno in _DISK_FULL:
        return DiskFullError(f"{action}: {reason}; free some space, or set GENAI_HOME to another disk")
    return DownloadError(f"{action}: {reason}; check GENAI_HOME")


def _fetch_all(url: str, partial: Path, label: str, progress: Progress) -> None:
    """Try until the partial file is whole, resuming after each drop."""
    reason: object = "the connection was closed"
    for pause in (*RETRY_SECONDS, None):
        try:
            if _fetch_rest(url, partial, label, progress):
                return
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"the server answered {error.code} {error.reason}"
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and partial.exists():
                if error.headers.get("Content-Range") == f"bytes */{partial.stat().st_size}":
                    return
                partial.unlink()
            elif error.code < 500 and error.code != http.client.TOO_MANY_REQUESTS:
                break
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                break
        if pause is None:
            break
        time.sleep(pause)
    arrived = partial.stat().st_size if partial.exists() else 0
    if not arrived:
        partial.unlink(missing_ok=True)
        raise UnreachableError(f"{label}: cannot be downloaded ({reason})")
    raise DownloadError(f"{label}: the download stopped after {arrived:,} bytes ({reason}); the same call resumes it")


def _fetch_rest(url: str, partial: Path, label: str, progress: Progress) -> bool:
    """Append what is missing; True if the file is whole now, as far as the server tells."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    context = ssl.create_default_context(cafile=config.certificate_file())
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=context) as response:
        start, total = _extent(response)
        if start not in (0, have):
            raise http.client.HTTPException(f"the server sent bytes from {start}, asked for {have}")
        try:
            with partial.open("r+b" if have else "wb") as file:
                file.truncate(start)
                file.seek(start)
                done = _copy(response, file, start, lambda done: progress(label, done, total))
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            partial.unlink(missing_ok=True)
            raise disk_error(f"{label}: cannot write to {partial.parent}", error) from None
    return done == total if total else True


def _extent(response: http.client.HTTPResponse) -> tuple[int, int]:
    """The offset of the first byte sent (0 where the server does not resume), and the whole size (0: not told)."""
    if response.status == http.client.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if found:
            return int(found[1]), int(found[2])
    return 0, int(response.headers.get("Content-Length") or 0)


def _copy(source: IO[bytes], file: IO[bytes], done: int, report: Callable[[int], None]) -> int:
    """Copy to the end; returns the offset reached."""
    report(done)
    while chunk := source.read(CHUNK_BYTES):
        file.write(chunk)
        done += len(chunk)
        report(done)
    return done
