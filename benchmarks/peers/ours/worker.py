"""This runtime as a peer, in its own environment."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.protocol import LoadOptions, serve
from genai.bench import Stepper
from genai.config import EngineConfig


class Ours:
    """The engine, driven as `generate` drives it."""

    def load(self, options: LoadOptions) -> str:
        config = EngineConfig(
            num_threads=options.threads, max_seq_len=options.max_length, max_batch=options.max_batch, device="cpu"
        )
        self._stepper = Stepper(Path(options.package), config)
        return version("onnx-kv-runtime")

    def prefill(self, tokens: list[int]) -> float:
        return self._stepper.start([tokens])

    def start(self, prompts: list[list[int]]) -> None:
        self._stepper.start(prompts)

    def decode(self, steps: int) -> list[float]:
        return [self._stepper.step().seconds for _ in range(steps)]

    def stop(self) -> None:
        self._stepper.stop()

    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        self._stepper.stop()
        return self._stepper.llm.logits(tokens)


if __name__ == "__main__":
    serve(Ours())
