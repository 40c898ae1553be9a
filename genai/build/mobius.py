"""mobius-onnx as a builder, for architectures that are not built here: `python -m mobius build`.

What it writes is a graph with past and present caches; `genai.models.mobius` compares it with the checkpoint and makes
a package of it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from genai.errors import RuntimeUnavailableError, UnsupportedModelError

MODEL_FILE = "model.onnx"


def require_mobius() -> None:
    """Raises: RuntimeUnavailableError that says what to install."""
    if importlib.util.find_spec("mobius") is None:
        raise RuntimeUnavailableError("--builder mobius needs mobius-onnx: pip install 'onnx-kv-runtime[mobius]'")


def run_mobius(source: Path, output: Path) -> Path:
    """Write the graph of a Hugging Face folder into a folder, in float32; returns the graph's file.

    It runs in a process of its own, which takes its memory with it. Raises: UnsupportedModelError with its last words.
    """
    command = [sys.executable, "-m", "mobius", "build", "--config", str(source), "--dtype", "f32", str(output)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    if done.returncode or not (output / MODEL_FILE).is_file():
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1][:300] if lines else f"exit code {done.returncode}"
        raise UnsupportedModelError(f"mobius cannot build {source.name}: {reason}")
    return output / MODEL_FILE
