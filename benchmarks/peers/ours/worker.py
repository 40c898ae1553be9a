"""This runtime as a peer, in its own environment."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt

from benchmarks.protocol import LoadOptions, Request, serve
from genai.bench import Stepper
from genai.config import EngineConfig
from genai.engine.request import Request as EngineRequest
from genai.engine.sequence import Sequence, TokenEvent
from genai.options.generation_config import GenerationConfig


class _Reader:
    """Turns each token into text, as whoever asked would."""

    def __init__(self, push: Callable[[int], str]) -> None:
        self._push = push

    def accept(self, event: TokenEvent) -> bool:
        if event.token is not None:
            self._push(event.token)
        return False

    def deliver(self, event: TokenEvent) -> None:
        """Nobody reads along."""


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

    def ragged(self, requests: list[Request]) -> float:
        """All at once; the engine gives rows to as many as it has rows, and to the next when one ends."""
        self._stepper.stop()
        started = perf_counter()
        texts = [self._submitted(prompt, count) for prompt, count in requests]
        while any(text.finish_reason is None for text in texts):
            self._stepper.llm.engine.step()
        seconds = perf_counter() - started
        if [len(text.generated) for text in texts] != [count for _, count in requests]:
            raise RuntimeError("an answer is shorter than asked for")
        return seconds

    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        self._stepper.stop()
        return self._stepper.llm.logits(tokens)

    def _submitted(self, prompt: list[int], count: int) -> Sequence:
        llm = self._stepper.llm
        config = GenerationConfig(max_new_tokens=count, ignore_eos=True)
        reader = _Reader(llm.tokenizer.detokenizer().push)
        return llm.engine.submit(EngineRequest(prompt=prompt, config=config, sink=reader)).first


if __name__ == "__main__":
    serve(Ours())
