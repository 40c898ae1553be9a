"""A GGUF file in another of llama.cpp's forms, made by its own function in its own environment.

    python -m benchmarks.quantized MODEL.gguf OUTPUT.gguf Q4_K_M

What is in blocks already is rounded a second time: a real model's forms differ from those of its float weights by that.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import environments
from benchmarks.environments import PeerUnavailableError

PEER = "llama-cpp-python"
FORMS = {
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q2_K": 10,
    "Q3_K_M": 12,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "IQ4_NL": 25,
    "IQ4_XS": 30,
}
"""llama.cpp's names of the forms that need no importance data, and its numbers for them (`llama_ftype`)."""


def quantize(source: Path, target: Path, form: str) -> None:
    """Write a file in another form. Raises: PeerUnavailableError if llama.cpp cannot be had or refuses."""
    environments.install(PEER)
    (python, worker) = environments.worker_command(PEER)
    command = [python, str(Path(worker).with_name("quantize.py")), str(source), str(target), str(FORMS[form])]
    done = subprocess.run(command, check=False, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise PeerUnavailableError(f"cannot make {form} of {source}: {''.join(last) or done.returncode}")


def main(arguments: Sequence[str]) -> None:
    """Quantise what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantized", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("form", choices=sorted(FORMS))
    chosen = parser.parse_args(arguments)
    quantize(chosen.source, chosen.target, chosen.form)


if __name__ == "__main__":
    main(sys.argv[1:])
