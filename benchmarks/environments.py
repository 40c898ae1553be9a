"""An environment of its own for each peer: `benchmarks/.envs/<peer>`, from `benchmarks/peers/<peer>/requirements.txt`.

That is the lock which `make lock` resolves `requirements.in` to. It leaves torch out, as those of the project do (the
Makefile says why): what `requirements.in` wants and is not there yet is torch.

python -m benchmarks.environments [PEER …]      installs them, all if none is named
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OURS = "ours"


class PeerUnavailableError(Exception):
    """A peer that cannot be installed or started here."""


def peers() -> list[str]:
    """Every peer that there is a worker for."""
    return sorted(path.parent.name for path in (ROOT / "peers").glob("*/worker.py"))


def worker_command(peer: str) -> list[str]:
    """What starts a peer's worker. Raises: PeerUnavailableError if its environment is not there."""
    python = sys.executable if peer == OURS else str(_python(peer))
    if not Path(python).is_file() or not _is_installed(peer):
        raise PeerUnavailableError(f"not installed; python -m benchmarks.environments {peer}")
    return [python, str(ROOT / "peers" / peer / "worker.py")]


def checkout_command(checkout: Path) -> list[str]:
    """What starts our worker as it is in another checkout. Raises: PeerUnavailableError if that is not set up."""
    python = checkout / ".venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    worker = checkout / "benchmarks" / "peers" / OURS / "worker.py"
    if not python.is_file() or not worker.is_file():
        raise PeerUnavailableError(f"{checkout} is no checkout with an environment: make test sets one up there")
    return [str(python), str(worker)]


def install(peer: str) -> None:
    """Make a peer's environment, at low priority, unless it is there. Raises: PeerUnavailableError."""
    if peer not in peers():
        raise PeerUnavailableError(f"there is no such peer: {', '.join(peers())}")
    if _is_installed(peer):
        return
    folder = ROOT / ".envs" / peer
    print(f"installing {peer} into {folder}", file=sys.stderr)
    _run(peer, [sys.executable, "-m", "venv", "--clear", str(folder)])
    pip = [str(_python(peer)), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run(peer, [*pip, "--require-hashes", "--no-deps", "-r", str(_lock(peer))])
    _run(peer, [*pip, "-r", str(_wanted(peer))])
    _stamp(peer).write_text(_digest(peer))


def _run(peer: str, command: list[str]) -> None:
    polite = ["nice", "-n", "19", *command] if sys.platform != "win32" else command
    done = subprocess.run(polite, check=False, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise PeerUnavailableError(f"cannot be installed: {''.join(last) or f'exit code {done.returncode}'}")


def _is_installed(peer: str) -> bool:
    return peer == OURS or (_stamp(peer).is_file() and _stamp(peer).read_text() == _digest(peer))


def _python(peer: str) -> Path:
    return ROOT / ".envs" / peer / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _stamp(peer: str) -> Path:
    return ROOT / ".envs" / peer / "installed"


def _wanted(peer: str) -> Path:
    return ROOT / "peers" / peer / "requirements.in"


def _lock(peer: str) -> Path:
    return ROOT / "peers" / peer / "requirements.txt"


def _digest(peer: str) -> str:
    return hashlib.sha256(_wanted(peer).read_bytes() + _lock(peer).read_bytes()).hexdigest()


def main(names: list[str]) -> int:
    """Install the peers named, or all; the exit code says whether all are there."""
    failed = False
    for peer in names or peers():
        try:
            install(peer)
        except PeerUnavailableError as error:
            failed = True
            print(f"{peer}: {error}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
