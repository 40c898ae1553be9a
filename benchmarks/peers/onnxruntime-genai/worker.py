"""onnxruntime-genai as a peer: int4 by its own model builder from the same weights in float32, all defaults."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt
import onnxruntime_genai as og

from benchmarks.protocol import LoadOptions, Request, serve


class OnnxRuntimeGenai:
    """Its generator loop, token ids in and out."""

    def load(self, options: LoadOptions) -> str:
        folder = Path(options.work) / options.precision
        if not (folder / "genai_config.json").is_file():
            _build(options, folder)
        config = og.Config(str(folder))
        threads = {"intra_op_num_threads": options.threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self._model = og.Model(config)
        self._max_length = options.max_length
        return importlib.metadata.version("onnxruntime-genai")

    def prefill(self, tokens: list[int]) -> float:
        generator = self._generator(1, self._max_length)
        started = perf_counter()
        generator.append_tokens(np.asarray([tokens], np.int32))
        generator.generate_next_token()
        return perf_counter() - started

    def start(self, prompts: list[list[int]]) -> None:
        self._begin(prompts, self._max_length)

    def decode(self, steps: int) -> list[float]:
        seconds = []
        for _ in range(steps):
            started = perf_counter()
            self._held.generate_next_token()
            self._held.get_next_tokens()
            seconds.append(perf_counter() - started)
        return seconds

    def stop(self) -> None:
        del self._held

    def ragged(self, requests: list[Request]) -> float:
        """One by one, each with a cache no longer than it needs."""
        started = perf_counter()
        for prompt, count in requests:
            self._begin([prompt], len(prompt) + count)
            self.decode(count - 1)
            self.stop()
        return perf_counter() - started

    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        """One token at a time: after a prompt it keeps the last position's logits only."""
        generator = self._generator(1, self._max_length)
        rows = []
        for token in tokens:
            generator.append_tokens(np.asarray([[token]], np.int32))
            rows.append(np.array(generator.get_logits(), np.float32).reshape(-1))
        return np.stack(rows)

    def _begin(self, prompts: list[list[int]], max_length: int) -> None:
        self._held = self._generator(len(prompts), max_length)
        self._held.append_tokens(np.asarray(prompts, np.int32))
        self._held.generate_next_token()

    def _generator(self, batch: int, max_length: int) -> og.Generator:
        params = og.GeneratorParams(self._model)
        params.set_search_options(batch_size=batch, do_sample=False, min_length=max_length, max_length=max_length)
        return og.Generator(self._model, params)


def _build(options: LoadOptions, folder: Path) -> None:
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", options.hf_folder, "-o", str(folder)]
    command += ["-p", options.precision, "-e", "cpu", "-c", str(Path(options.work) / "cache")]
    done = subprocess.run(command, check=False, stdout=sys.stderr)
    if done.returncode:
        raise RuntimeError(f"its model builder ended with exit code {done.returncode}")


if __name__ == "__main__":
    serve(OnnxRuntimeGenai())
