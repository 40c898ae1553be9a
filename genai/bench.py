"""How fast a model runs here: prefill over prompt lengths, decoding over context lengths and batch sizes.

What is timed is what `generate` does: the engine's steps (schedule, graph, sampling), each token turned into text.
Measurements that are compared are interleaved, round after round, and their medians reported: on a machine that does
other things besides, only ratios within one run count.
"""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from genai.config import EngineConfig
from genai.engine.request import Request
from genai.engine.sequence import Sequence as Text
from genai.engine.sequence import State, TokenEvent
from genai.errors import CapacityError, ConfigError
from genai.llm.llm import LLM
from genai.options.generation_config import GenerationConfig
from genai.progress import Progress, silent
from genai.runtime.adapters import ScaledAdapter
from genai.runtime.host import cpu_info, default_threads
from genai.runtime.providers import choose_device

WARM_UP = 2
"""Steps before the timed ones: the first of a shape binds its buffers."""

_CPU_FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm")
_PACKAGES = ("onnx-kv-runtime", "onnxruntime", "onnxruntime-gpu", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure: `repeats` rounds over all lengths and batches, `new_tokens` timed steps for each.

    Raises: ConfigError.
    """

    lengths: tuple[int, ...] = (64, 256, 1024)
    batches: tuple[int, ...] = (1, 4, 8)
    new_tokens: int = 32
    repeats: int = 3

    def __post_init__(self) -> None:
        for name, values in (("lengths", self.lengths), ("batches", self.batches)):
            if not values or min(values) < 1:
                raise ConfigError(f"{name}={list(values)}: numbers from 1 are needed, at least one")
        for name, value in (("new_tokens", self.new_tokens), ("repeats", self.repeats)):
            if value < 1:
                raise ConfigError(f"{name}={value}: must be at least 1")

    @property
    def max_seq_len(self) -> int:
        """The longest sequence that comes up."""
        return max(self.lengths) + WARM_UP + self.new_tokens + 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds of one decode step, and how many of them inside the graph run."""

    seconds: float
    graph_seconds: float

    @property
    def outside_share(self) -> float:
        """The share of the step spent outside the graph run."""
        return 1 - self.graph_seconds / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillResult:
    """Time from a prompt of `length` tokens to its first new token, nothing cached."""

    length: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Prompt tokens per second."""
        return self.length / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeResult:
    """Time of a decode step of `batch` rows that hold `length` tokens each."""

    length: int
    batch: int
    seconds: float
    outside_share: float

    @property
    def tokens_per_second(self) -> float:
        """New tokens per second, all rows together."""
        return self.batch / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything measured; sizes in bytes, times in seconds.

    machine: what it was measured on; adapter: the name of the one that all rows had.
    """

    path: Path
    adapter: str | None
    precision: str
    machine: dict[str, str | int]
    plan: Plan
    load_seconds: float
    peak_memory: int
    prefill: tuple[PrefillResult, ...]
    decode: tuple[DecodeResult, ...]


class _Detokenized:
    """A sink that does what every reader needs: turn each token into text."""

    def __init__(self, push: Callable[[int], str]) -> None:
        self._push = push

    def accept(self, event: TokenEvent) -> bool:
        """Take the token; the text goes on."""
        if event.token is not None:
            self._push(event.token)
        return False

    def deliver(self, event: TokenEvent) -> None:
        """Nobody reads along."""


class Stepper(contextlib.AbstractContextManager["Stepper"]):
    """A model package driven one decode step at a time, as `generate` drives it, without the cache of earlier prompts.

    adapter: the name and the path of one that all rows have. Use as a context manager, or call `close`.
    Raises: as `LLM`, and AdapterError.
    """

    def __init__(self, path: Path, config: EngineConfig, adapter: tuple[str, str] | None = None) -> None:
        started = time.perf_counter()
        self.llm = LLM(path, replace(config, prefix_cache_bytes=0))
        self.load_seconds = time.perf_counter() - started
        self._runner = self.llm._runner
        self.adapter = None if adapter is None else self._loaded(*adapter)
        self._texts: list[Text] = []

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the graph and its cache."""
        self.llm.close()

    def check_fits(self, batch: int, num_tokens: int) -> None:
        """Raises: CapacityError unless this many rows can hold this many tokens each."""
        limits, cache = self.llm.engine.limits, self._runner.cache
        if batch > limits.max_batch or num_tokens > limits.max_seq_len:
            raise CapacityError(
                f"{batch} rows of {num_tokens} tokens: at most {limits.max_batch} rows of {limits.max_seq_len} fit; "
                "measure shorter lengths, smaller batches or fewer new tokens, or raise the limit"
            )
        if not cache.would_hold([num_tokens] * batch):
            raise CapacityError(f"{batch} rows of {num_tokens} tokens: the KV cache holds {cache.num_slots} tokens")

    def start(self, prompts: Sequence[Sequence[int]]) -> float:
        """Begin a batch; returns the seconds until every prompt has its first token.

        A row that has its first token waits for the others, so that all are equally long when the steps begin.
        """
        self.stop()
        self.check_fits(len(prompts), max(map(len, prompts)) + 1)
        settings = GenerationConfig(ignore_eos=True)
        started = time.perf_counter()
        self._texts = [self._submitted(prompt, settings) for prompt in prompts]
        while not all(text.generated for text in self._texts):
            self.llm.engine.step()
            for text in self._texts:
                if text.generated:
                    text.pause(State.HELD)
        seconds = time.perf_counter() - started
        for text in self._texts:
            text.resume()
        return seconds

    def step(self) -> StepTime:
        """One more token for every row. Raises: CapacityError when a row has reached the limit."""
        before = [len(text.tokens) for text in self._texts]
        graph_seconds, started = self.llm.graph_seconds, time.perf_counter()
        self.llm.engine.step()
        seconds = time.perf_counter() - started
        advanced = sum(len(text.tokens) > count for text, count in zip(self._texts, before, strict=True))
        if advanced < len(self._texts) or not self._texts:
            raise CapacityError(f"only {advanced} of {len(self._texts)} rows could take one more token")
        return StepTime(seconds=seconds, graph_seconds=self.llm.graph_seconds - graph_seconds)

    def stop(self) -> None:
        """End the batch and forget its cache."""
        self.llm.engine.cancel_all()
        self._texts = []

    def _submitted(self, prompt: Sequence[int], settings: GenerationConfig) -> Text:
        sink = _Detokenized(self.llm.tokenizer.detokenizer().push)
        request = Request(prompt=prompt, config=settings, sink=sink, adapter=self.adapter)
        return self.llm.engine.submit(request).first

    def _loaded(self, name: str, path: str) -> ScaledAdapter:
        """An adapter in the memory of an engine that is stepped here, and not by its loop."""
        return ScaledAdapter(self.llm.engine.load_adapter(self.llm.adapters.fitted(name, path)))


def measure(
    path: Path,
    plan: Plan,
    config: EngineConfig,
    *,
    adapter: tuple[str, str] | None = None,
    progress: Progress = silent,
) -> Report:
    """Measure a model package. A `max_seq_len` of None becomes what the plan needs.

    adapter: as `Stepper`'s. Raises: as that, ConfigError.
    """
    config = replace(config, max_seq_len=config.max_seq_len or plan.max_seq_len, max_batch=max(plan.batches))
    prefill: dict[int, list[float]] = {length: [] for length in plan.lengths}
    decode: dict[tuple[int, int], list[StepTime]] = {
        (length, batch): [] for length in plan.lengths for batch in plan.batches
    }
    _forget_peak()
    with Stepper(path, config, adapter) as stepper:
        stepper.check_fits(max(plan.batches), plan.max_seq_len)
        prompts = partial(_prompts, np.random.default_rng(0), stepper.llm.config.vocab_size)
        stepper.start(prompts(1, min(plan.lengths)))  # the first run of all warms up threads and memory
        total, done = plan.repeats * len(decode), 0
        for _ in range(plan.repeats):
            for length in plan.lengths:
                prefill[length].append(stepper.start(prompts(1, length)))
                for batch in plan.batches:
                    decode[length, batch] += _steps(stepper, prompts(batch, length), plan.new_tokens)
                    done += 1
                    progress("measuring", done, total)
        return Report(
            path=path,
            adapter=None if stepper.adapter is None else stepper.adapter.loaded.name,
            precision=stepper.llm.config.provenance.precision,
            machine=machine(config),
            plan=plan,
            load_seconds=stepper.load_seconds,
            peak_memory=peak_memory(),
            prefill=tuple(PrefillResult(length=each, seconds=statistics.median(prefill[each])) for each in prefill),
            decode=tuple(_decode_result(length, batch, steps) for (length, batch), steps in decode.items()),
        )


def machine(config: EngineConfig) -> dict[str, str | int]:
    """What a measurement has to be read with: processor, threads, memory and versions."""
    import psutil

    return {
        "cpu": _cpu_name(),
        "cpu_features": " ".join(feature for feature in _CPU_FEATURES if feature in _cpu_flags()),
        "logical_cores": os.cpu_count() or 1,
        "threads": config.num_threads or default_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
        "device": choose_device(config.device),
        **{name: found for name in _PACKAGES if (found := _version(name))},
    }


def peak_memory() -> int:
    """The most bytes that this process has had resident; on Linux, since `measure` began."""
    import psutil

    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _forget_peak() -> None:
    """Let the peak begin anew, where the system can do that: building the package is not part of running it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _prompts(random: np.random.Generator, vocab_size: int, rows: int, length: int) -> list[list[int]]:
    """Random prompts, never the same one twice: no cache of prefixes can help with them."""
    drawn: list[list[int]] = random.integers(0, vocab_size, (rows, length)).tolist()
    return drawn


def _steps(stepper: Stepper, prompts: Sequence[Sequence[int]], num_steps: int) -> list[StepTime]:
    """The times of a batch's decode steps."""
    stepper.start(prompts)
    times = [stepper.step() for _ in range(WARM_UP + num_steps)]
    return times[WARM_UP:]


def _decode_result(length: int, batch: int, steps: Sequence[StepTime]) -> DecodeResult:
    return DecodeResult(
        length=length,
        batch=batch,
        seconds=statistics.median(step.seconds for step in steps),
        outside_share=statistics.median(step.outside_share for step in steps),
    )


def _cpu_flags() -> set[str]:
    info = cpu_info()
    return set(info.get("flags", "").split()) | set(info.get("Features", "").split())


def _cpu_name() -> str:
    return cpu_info().get("model name") or platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
