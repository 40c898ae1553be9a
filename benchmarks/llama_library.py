"""llama.cpp as a peer, through the C functions of whatever library has it: the GGUF itself, its defaults.

Runs in the peers' environments. Parameter structs grow from release to release: only their first fields are named here,
and both are the last arguments of the functions that take them, so that room behind them does no harm.
"""

from __future__ import annotations

import ctypes
from time import perf_counter

import numpy as np
import numpy.typing as npt

from benchmarks.protocol import LoadOptions, Request, one_by_one

_CHUNK = 512
_ROOM = 512
_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class _ModelParams(ctypes.Structure):
    _fields_ = (("room", ctypes.c_uint64 * (_ROOM // 8)),)


class _ContextParams(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max")),
        ("room", ctypes.c_uint64 * (_ROOM // 8)),
    )


class _Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_POINTER, _INT = ctypes.c_void_p, ctypes.c_int32
_FUNCTIONS = {
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [_LOG, _POINTER]),
    "llama_model_default_params": (_ModelParams, []),
    "llama_model_load_from_file": (_POINTER, [ctypes.c_char_p, _ModelParams]),
    "llama_model_get_vocab": (_POINTER, [_POINTER]),
    "llama_vocab_n_tokens": (_INT, [_POINTER]),
    "llama_context_default_params": (_ContextParams, []),
    "llama_init_from_model": (_POINTER, [_POINTER, _ContextParams]),
    "llama_set_n_threads": (None, [_POINTER, _INT, _INT]),
    "llama_free": (None, [_POINTER]),
    "llama_get_memory": (_POINTER, [_POINTER]),
    "llama_memory_clear": (None, [_POINTER, ctypes.c_bool]),
    "llama_batch_init": (_Batch, [_INT, _INT, _INT]),
    "llama_decode": (_INT, [_POINTER, _Batch]),
    "llama_get_logits": (ctypes.POINTER(ctypes.c_float), [_POINTER]),
}


class LlamaLibrary:
    """Batches by sequence id, tokens chosen by NumPy over its logits. library: where the functions are."""

    def __init__(self, library: ctypes.CDLL, version: str) -> None:
        self._library, self._version = library, version
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments

    def load(self, options: LoadOptions) -> str:
        library = self._library
        library.llama_backend_init()
        self._log = _LOG(lambda level, text, data: None)
        library.llama_log_set(self._log, None)
        self._model = library.llama_model_load_from_file(options.gguf.encode(), library.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {options.gguf}")
        self._options = options
        self._vocab_size = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self._model))
        self._batch = library.llama_batch_init(_CHUNK, 0, 1)
        self._context: int | None = None
        self._rows = 0
        self._open(1)
        return self._version

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
            self._library.llama_free(self._context)
        params = self._library.llama_context_default_params()
        params.n_ctx = self._options.max_length * rows
        params.n_batch = params.n_ubatch = _CHUNK
        params.n_seq_max = rows
        self._context, self._rows = self._library.llama_init_from_model(self._model, params), rows
        if not self._context:
            raise RuntimeError(f"llama.cpp has no memory for {rows} rows of {self._options.max_length} tokens")
        self._library.llama_set_n_threads(self._context, self._options.threads, self._options.threads)

    def _clear(self) -> None:
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)

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
        if code := self._library.llama_decode(self._context, self._batch):
            raise RuntimeError(f"llama_decode returned {code}")

    def _last_logits(self, rows: int) -> npt.NDArray[np.float32]:
        """The last run's logits, [rows, V]; valid until the next run."""
        pointer = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, shape=(rows, self._vocab_size))
