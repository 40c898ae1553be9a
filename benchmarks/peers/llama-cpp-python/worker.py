"""llama.cpp as a peer, through the C functions of llama-cpp-python: the GGUF itself, its defaults."""

from __future__ import annotations

import ctypes
from time import perf_counter

import llama_cpp
import numpy as np
import numpy.typing as npt

from benchmarks.protocol import LoadOptions, Request, one_by_one, serve

_CHUNK = 512


class LlamaCpp:
    """Batches by sequence id, tokens chosen by NumPy over its logits."""

    def load(self, options: LoadOptions) -> str:
        llama_cpp.llama_backend_init()
        self._log = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        model_params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(options.gguf.encode(), model_params)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {options.gguf}")
        self._options = options
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(_CHUNK, 0, 1)
        self._context: llama_cpp.llama_context_p | None = None
        self._rows = 0
        self._open(1)
        return str(llama_cpp.__version__)

    def prefill(self, tokens: list[int]) -> float:
        self._open(1)
        started = perf_counter()
        self._prompt(0, tokens)
        self._last_logits(1).argmax(axis=1)
        return perf_counter() - started

    def start(self, prompts: list[list[int]]) -> None:
        self._open(len(prompts))
        first = []
        for row, prompt in enumerate(prompts):
            self._prompt(row, prompt)
            first.append(int(self._last_logits(1).argmax()))
        self._tokens, self._length = np.asarray(first), len(prompts[0])

    def decode(self, steps: int) -> list[float]:
        seconds = []
        for _ in range(steps):
            started = perf_counter()
            for row, token in enumerate(self._tokens):
                self._set(row, int(token), self._length, row, wants_logits=True)
            self._run(len(self._tokens))
            self._tokens = self._last_logits(len(self._tokens)).argmax(axis=1)
            self._length += 1
            seconds.append(perf_counter() - started)
        return seconds

    def stop(self) -> None:
        self._clear()

    def ragged(self, requests: list[Request]) -> float:
        return one_by_one(self, requests)

    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        self._open(1)
        parts = []
        for start in range(0, len(tokens), _CHUNK):
            part = tokens[start : start + _CHUNK]
            for index, token in enumerate(part):
                self._set(index, token, start + index, 0, wants_logits=True)
            self._run(len(part))
            parts.append(self._last_logits(len(part)).copy())
        return np.concatenate(parts)

    def _open(self, rows: int) -> None:
        """An empty context with room for this many sequences."""
        if self._context is not None and self._rows == rows:
            self._clear()
            return
        if self._context is not None:
            llama_cpp.llama_free(self._context)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = self._options.max_length * rows
        params.n_batch = params.n_ubatch = _CHUNK
        params.n_seq_max = rows
        params.n_threads = params.n_threads_batch = self._options.threads
        self._context, self._rows = llama_cpp.llama_init_from_model(self._model, params), rows
        if not self._context:
            raise RuntimeError(f"llama.cpp has no memory for {rows} rows of {self._options.max_length} tokens")

    def _clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def _prompt(self, row: int, tokens: list[int]) -> None:
        """Run a prompt in chunks; only its last token's logits are kept."""
        for start in range(0, len(tokens), _CHUNK):
            part = tokens[start : start + _CHUNK]
            for index, token in enumerate(part):
                self._set(index, token, start + index, row, wants_logits=start + index == len(tokens) - 1)
            self._run(len(part))

    def _set(self, index: int, token: int, position: int, row: int, *, wants_logits: bool) -> None:
        batch = self._batch
        batch.token[index], batch.pos[index] = token, position
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, row
        batch.logits[index] = wants_logits

    def _run(self, num_tokens: int) -> None:
        self._batch.n_tokens = num_tokens
        if code := llama_cpp.llama_decode(self._context, self._batch):
            raise RuntimeError(f"llama_decode returned {code}")

    def _last_logits(self, rows: int) -> npt.NDArray[np.float32]:
        """The last run's logits, [rows, V]; valid until the next run."""
        pointer = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, shape=(rows, self._vocab_size))


if __name__ == "__main__":
    serve(LlamaCpp())
