"""A peer that takes no time: its process speaks the protocol, and prints where it should not."""

from __future__ import annotations

import os
import sys

import numpy as np

from benchmarks.protocol import LoadOptions, Request, one_by_one, serve

VOCAB_SIZE = 11


class FakePeer:
    def load(self, options: LoadOptions) -> str:
        if options.precision == "f16":
            raise RuntimeError("no such precision here")
        self._options, self._held, self._prefills = options, 0, 0
        print("libraries print what they like")
        return "1.2.3"

    def prefill(self, tokens: list[int]) -> float:
        self._prefills += 1
        if self._options.precision == "int4" and self._prefills > 2:
            raise RuntimeError("enough")
        if self._options.precision == "bf16":
            print("out of luck", file=sys.stderr, flush=True)
            os._exit(3)
        return len(tokens) / 1000

    def start(self, prompts: list[list[int]]) -> None:
        self._held = len(prompts)

    def decode(self, steps: int) -> list[float]:
        return [self._held / 1000 + step / 1e6 for step in range(steps)]

    def stop(self) -> None:
        self._held = 0

    def ragged(self, requests: list[Request]) -> float:
        assert one_by_one(self, requests) >= 0
        return sum(len(prompt) + count for prompt, count in requests) / 1000

    def logits(self, tokens: list[int]) -> np.ndarray:
        if self._options.precision == "int8":
            raise NotImplementedError("no logits")
        rows = np.zeros((len(tokens), VOCAB_SIZE), np.float32)
        rows[np.arange(len(tokens)), np.asarray(tokens) % VOCAB_SIZE] = 1.0
        return rows


if __name__ == "__main__":
    serve(FakePeer())
