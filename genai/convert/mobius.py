"""Packages by way of mobius-onnx: its graph is compared with the checkpoint before it is put onto the contract.

Hugging Face folder ─► mobius ─► graph with past and present caches ─► genai.convert ─► package
         └► transformers ─► logits ◄── must agree ──┘
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from genai.build.architectures.config import ConfigReader
from genai.build.checkpoint_config import CONFIG_FILE, read_json_object
from genai.build.source import JSON
from genai.config import MODEL_FILE, Precision
from genai.convert import ConvertOptions, convert
from genai.convert.recognise import rewrite
from genai.convert.rewritten import FloatArray
from genai.convert.untrusted.reading import OnnxFile, read_onnx
from genai.convert.verify import Expected, agreement, sample_prompts
from genai.errors import ModelError, UnsupportedModelError
from genai.progress import Progress, silent
from genai.runtime.providers import provider_class

_ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt|Exit)\b")
_BAR = re.compile(r"\d+%\|")
_PASSES: dict[Precision, ConvertOptions] = {
    "auto": ConvertOptions(),
    "f32": ConvertOptions(),
    "f16": ConvertOptions(dtype="f16"),
    "bf16": ConvertOptions(dtype="bf16"),
    "int8": ConvertOptions(quantize="int8"),
    "int4": ConvertOptions(quantize="int4"),
}


def build_by_mobius(
    source: Path,
    output: Path,
    *,
    precision: Precision = "auto",
    device: str = "cpu",
    max_seq_len: int | None = None,
    progress: Progress = silent,
) -> Path:
    """Build a package folder from a Hugging Face folder, of any architecture that mobius knows; returns `output`.

    precision: "auto" is float32 on a CPU and float16 on CUDA. Raises:
    UnsupportedModelError for what it cannot build, ModelError if its graph is not the checkpoint.
    """
    if not source.is_dir():
        raise UnsupportedModelError(f"{source.name}: --builder mobius takes Hugging Face folders")
    config = read_json_object(source / CONFIG_FILE)
    resolved = provider_class(device).auto_precision if precision == "auto" else precision
    max_position = ConfigReader(config, max_seq_len).max_position
    options = replace(_PASSES[resolved], max_seq_len=max_position, hf_folder=source)
    with tempfile.TemporaryDirectory(prefix="mobius-") as folder:
        progress("mobius is building", 0, 0)
        graph = run_mobius(source, Path(folder))
        progress("comparing with the checkpoint", 0, 0)
        _compare(source, graph, config, max_position)
        convert(graph, output, options, progress)
    return output


class TransformersModel:
    """A checkpoint as transformers runs it, in float32."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        had_bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype="float32", local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # an unknown architecture, missing weights, too little memory
            reason = " ".join(str(error).split())[:300]
            raise UnsupportedModelError(f"transformers cannot load {folder.name}, to compare with: {reason}") from None
        finally:
            if had_bars:
                logging.enable_progress_bar()
        self._model = model.eval().requires_grad_(False)

    def logits(self, chunks: Sequence[Sequence[int]]) -> FloatArray:
        """The logits [T, V] after each token of the parts taken together."""
        from transformers import BatchEncoding

        tokens = [token for chunk in chunks for token in chunk]
        given = BatchEncoding({"input_ids": [tokens]}, tensor_type="pt")
        return np.asarray(self._model(**given).logits[0].numpy(), np.float32)


def _compare(source: Path, graph: Path, config: Mapping[str, JSON], max_position: int) -> None:
    """Whether mobius built what the checkpoint is. Raises: ModelError."""
    found = rewrite(OnnxFile(path=graph, folder=source), read_onnx(graph), max_position)
    prompts = sample_prompts(ConfigReader(config).size("vocab_size"), found.facts.sliding_window, max_position)
    expected, built = Expected.of(TransformersModel(source), prompts), found.original()
    result = agreement(expected.logits, [built.logits([prompt]) for prompt in prompts], is_exact=True)
    if not result.is_good:
        raise ModelError(
            f"mobius built something else than the checkpoint, nothing was written: {result} "
            f"(allowed: {result.allowed})"
        )


def run_mobius(source: Path, output: Path) -> Path:
    """Write the graph of a Hugging Face folder into a folder, in float32; returns the graph's file.

    It runs in a process of its own, which takes its memory with it. Raises: UnsupportedModelError with its last words.
    """
    command = [sys.executable, "-m", "mobius", "build", "--config", str(source), "--dtype", "f32", str(output)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    if done.returncode or not (output / MODEL_FILE).is_file():
        reason = _last_words(done.stderr) or f"exit code {done.returncode}"
        raise UnsupportedModelError(f"mobius cannot build {source.name}: {reason}")
    return output / MODEL_FILE


def _last_words(said: str) -> str:
    """The error among a process's last lines; progress bars are drawn over each other, and after it too."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", said)]
    lines = [line for line in lines if line and not _BAR.search(line)]
    errors = [line for line in lines if _ERROR.match(line)]
    return (errors or lines or [""])[-1][:300]
