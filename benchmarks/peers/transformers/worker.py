"""transformers and torch as a peer, in float32, with its own dynamic cache."""

from __future__ import annotations

from importlib.metadata import version
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from benchmarks.protocol import LoadOptions, Request, one_by_one, serve


class Transformers:
    """The model class called step by step, as `generate` does, without `generate`'s own overhead."""

    def load(self, options: LoadOptions) -> str:
        torch.set_num_threads(options.threads)
        torch.set_grad_enabled(False)
        self._model = AutoModelForCausalLM.from_pretrained(options.hf_folder, dtype=torch.float32).eval()
        return f"{version('transformers')} (torch {torch.__version__})"

    def prefill(self, tokens: list[int]) -> float:
        started = perf_counter()
        self._prompt([tokens])
        return perf_counter() - started

    def start(self, prompts: list[list[int]]) -> None:
        self._cache, self._tokens = self._prompt(prompts)

    def decode(self, steps: int) -> list[float]:
        seconds = []
        for _ in range(steps):
            started = perf_counter()
            output = self._model(self._tokens, past_key_values=self._cache, use_cache=True)
            self._tokens = output.logits[:, -1:].argmax(-1)
            self._tokens.tolist()
            seconds.append(perf_counter() - started)
        return seconds

    def stop(self) -> None:
        del self._cache

    def ragged(self, requests: list[Request]) -> float:
        return one_by_one(self, requests)

    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        logits: npt.NDArray[np.float32] = self._model(torch.tensor([tokens])).logits[0].numpy()
        return logits

    def _prompt(self, prompts: list[list[int]]) -> tuple[DynamicCache, torch.Tensor]:
        cache = DynamicCache(config=self._model.config)
        output = self._model(torch.tensor(prompts), past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache, output.logits[:, -1:].argmax(-1)


if __name__ == "__main__":
    serve(Transformers())
