"""A copy of the code in which a test changes one place, to see what follows from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def changed_copy(folder: Path, path: str, marker: str, added: str) -> None:
    """Copy the code into a folder; in one file, lines are added before a marker's first place."""
    for package in ("genai", "server", "docs"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    before, found, after = (folder / path).read_text(encoding="utf-8").partition(marker)
    assert found, f"{path} has no {marker!r}"
    (folder / path).write_text(before + added + found + after, encoding="utf-8")


def answers(folder: Path, code: str) -> str:
    """What a program prints that imports the copy."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
