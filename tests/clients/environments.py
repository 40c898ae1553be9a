"""An environment of its own for each client: `tests/clients/.envs/NAME`, from the lock in `tests/clients/NAME`.

Made when it is first asked for. uv, which `make lock` resolves with, installs Python packages: a second
from its cache. Of the scripts that npm packages would run when they are installed, a client's `setup`
names those that it needs.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import filelock

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
UV = ROOT / ".venv-lock" / "bin" / "uv"
PYTHON_LOCK, NODE_LOCK = "requirements.txt", "package-lock.json"


def names() -> list[str]:
    """Every client that there is a lock for."""
    return sorted(path.parent.name for lock in (PYTHON_LOCK, NODE_LOCK) for path in FOLDER.glob(f"*/{lock}"))


def needs_node(name: str) -> bool:
    return (FOLDER / name / NODE_LOCK).is_file()


def lack(name: str) -> str | None:
    """Why a client cannot be installed here."""
    if needs_node(name):
        return None if shutil.which("npm") else f"{name} needs npm"
    return f"{name} has no release for Python 3.13" if name == "aider" and sys.version_info >= (3, 13) else None


def environment(name: str) -> Path:
    """The folder with a client's programs (`bin`, or `node_modules/.bin`) in it."""
    return installed(FOLDER / name / (NODE_LOCK if needs_node(name) else PYTHON_LOCK))


def installed(lock: Path) -> Path:
    """The environment of a lock, named after the lock's folder."""
    folder = FOLDER / ".envs" / lock.parent.name
    digest, stamp = hashlib.sha256(lock.read_bytes()).hexdigest(), folder / "installed"
    folder.parent.mkdir(exist_ok=True)
    with filelock.FileLock(folder.parent / "lock"):  # the other tests of this run may install, too, and need one uv
        if not stamp.is_file() or stamp.read_text() != digest:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (_install_python if lock.name == PYTHON_LOCK else _install_node)(lock, folder)
            stamp.write_text(digest)
    return folder


def _install_python(lock: Path, folder: Path) -> None:
    if not UV.is_file():
        _run("make", "--silent", str(UV.relative_to(ROOT)))
    _run(str(UV), "venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
    python = str(folder / "bin" / "python")
    _run(str(UV), "pip", "install", "--quiet", "--require-hashes", "--no-deps", "--python", python, "-r", str(lock))


def _install_node(lock: Path, folder: Path) -> None:
    for file in (lock, lock.with_name("package.json")):
        shutil.copy(file, folder)
    # not `npm ci`: it refuses locks that leave out what other platforms would need
    _run("npm", "install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder))
    _run("npm", "run", "--silent", "--if-present", "--prefix", str(folder), "setup")


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, check=False, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-2000:]}"
