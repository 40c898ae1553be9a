"""Configuration as data: frozen, validated where it is made, unknown keys refused.

`GenerationConfig` says how to continue a text, `EngineConfig` how to run a model, `ModelConfig` is a package's
`genai.json`. The names in `GenerationConfig` are those of the ONNX generative-AI working group's preview interface.
This is also the only module that reads environment variables.
"""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from genai.errors import ConfigError, ContractError

Precision = Literal["auto", "f32", "f16", "bf16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("auto", "f32", "f16", "bf16", "int8", "int4")
Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")

CONTRACT_VERSION = 1
"""Raised when a package built by an older version can no longer be run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """How to choose a token when not taking the most probable one.

    Filters apply in the order repetition penalty, temperature, top-k, top-p, min-p (transformers' order).
    `top_k=0`, `top_p=1`, `min_p=0` and `repetition_penalty=1` switch the filter off, and so does None.
    """

    do_sample: bool = False
    rng_seed: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        _default_if_none(self)
        _require(self.temperature > 0 and math.isfinite(self.temperature), "temperature", self.temperature, "above 0")
        _require(self.top_k >= 0, "top_k", self.top_k, "at least 0 (0: off)")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1 (1: off)")
        _require(0 <= self.min_p <= 1, "min_p", self.min_p, "between 0 and 1 (0: off)")
        _require(
            self.repetition_penalty > 0 and math.isfinite(self.repetition_penalty),
            "repetition_penalty",
            self.repetition_penalty,
            "above 0 (1: off)",
        )
        if self.rng_seed is not None:
            _require(0 <= self.rng_seed < 2**64, "rng_seed", self.rng_seed, "between 0 and 2**64 - 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How one text is continued.

    max_new_tokens: at most this many tokens; None: until the context is full.
    eos_token_ids: tokens that end the text; None: the model's own.
    stop_strings: the text ends before the first of these.
    ignore_eos: go on past end-of-sequence tokens (benchmarks).
    logprobs: report the log probability of each generated token, before any sampling option.
    """

    max_new_tokens: int | None = None
    eos_token_ids: tuple[int, ...] | None = None
    stop_strings: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: bool = False
    sampling_config: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None:
            object.__setattr__(self, "max_new_tokens", operator.index(self.max_new_tokens))
            _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        object.__setattr__(self, "stop_strings", _as_tuple(self.stop_strings))
        if any(not isinstance(stop, str) or not stop for stop in self.stop_strings):
            raise ConfigError(f"stop_strings={list(self.stop_strings)!r}: every stop string is a non-empty string")
        if self.eos_token_ids is not None:
            object.__setattr__(self, "eos_token_ids", tuple(int(token) for token in self.eos_token_ids))

    def updated(self, **options: object) -> GenerationConfig:
        """A copy with flat options set: this class's fields and `SamplingConfig`'s, side by side, and their aliases.

        A sampling option given without `do_sample` switches sampling on; `temperature=0` switches it off.
        Raises: ConfigError for an unknown name or a bad value.
        """
        options = {_ALIASES.get(name, name): value for name, value in options.items()}
        own = {name: options.pop(name) for name in list(options) if name in _names(GenerationConfig)}
        unknown = options.keys() - _names(SamplingConfig)
        if unknown:
            allowed = sorted(
                (_names(GenerationConfig) | _names(SamplingConfig) | _ALIASES.keys()) - {"sampling_config"}
            )
            raise ConfigError(f"unknown generation option {min(unknown)!r}; allowed: {', '.join(allowed)}")
        nested = own.pop("sampling_config", None) or self.sampling_config
        if not isinstance(nested, SamplingConfig):
            raise ConfigError(f"sampling_config is a SamplingConfig, not {type(nested).__name__}")
        if options:
            if options.get("temperature") == 0:
                options |= {"temperature": 1.0, "do_sample": False}
            elif options.keys() & _SAMPLING_SWITCHES:
                options.setdefault("do_sample", True)
            nested = replaced(nested, **options)
        return replaced(self, sampling_config=nested, **own)


_ALIASES = {"seed": "rng_seed", "stop": "stop_strings", "stop_token_ids": "eos_token_ids"}
_SAMPLING_SWITCHES = {"temperature", "top_k", "top_p", "min_p", "rng_seed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How a model is run.

    device: "cpu", "cuda", or "auto" (CUDA when ONNX Runtime has it).
    max_seq_len: longest sequence in tokens; None: the model's own limit, or what the cache budget holds.
    max_batch: most sequences that advance together.
    kv_cache_bytes: the arena's size; None: `KV_CACHE_SHARE` of free memory, never more than the model can use.
    num_threads: threads inside an operator; None: one per physical core available to the process.
    prefill_chunk: most tokens of one prompt in one run of the graph.
    prefix_cache_bytes: host memory for keys and values of earlier prompts, 0 for none; None: `PREFIX_CACHE_SHARE` of
    free memory.
    max_waiting: requests that may wait for a row before further ones are refused; None: any number.
    provider_options: passed to ONNX Runtime's execution provider as they are.
    session_options: ONNX Runtime session configuration entries, passed as they are.
    """

    device: Device = "auto"
    max_seq_len: int | None = None
    max_batch: int = 8
    kv_cache_bytes: int | None = None
    num_threads: int | None = None
    prefill_chunk: int = 512
    prefix_cache_bytes: int | None = None
    max_waiting: int | None = None
    provider_options: Mapping[str, str] = field(default_factory=dict)
    session_options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(self.device in DEVICES, "device", self.device, f"one of {', '.join(DEVICES)}")
        _require(self.max_batch >= 1, "max_batch", self.max_batch, "at least 1")
        _require(self.prefill_chunk >= 1, "prefill_chunk", self.prefill_chunk, "at least 1")
        for name in ("max_seq_len", "kv_cache_bytes", "num_threads"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "at least 1, or None")
        for name in ("prefix_cache_bytes", "max_waiting"):
            value = getattr(self, name)
            _require(value is None or value >= 0, name, value, "at least 0, or None")


KV_CACHE_SHARE = 0.5
"""The share of free memory that the cache arena may take when `kv_cache_bytes` is not given."""
PREFIX_CACHE_SHARE = 0.1
"""The share of free memory that earlier prompts may take when `prefix_cache_bytes` is not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a package's weights came from and how they were turned into a graph."""

    source: str
    sha256: str
    precision: str
    builder: str
    options: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A model package's `genai.json`: what the runtime has to know beside the graph.

    max_position: longest sequence the graph was built for; kv_size: elements of K (or V) per token and layer,
    `num_kv_heads * head_dim`; generation: the model's own generation defaults (`GenerationConfig.updated` options).
    """

    contract_version: int
    model_type: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    cache_dtype: Literal["float32", "float16", "bfloat16"]
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    sliding_window: int | None = None
    generation: Mapping[str, int | float | bool] = field(default_factory=dict)
    provenance: Provenance

    @property
    def kv_size(self) -> int:
        """Elements of K, and of V, that one token takes in one layer."""
        return self.num_kv_heads * self.head_dim

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes of K and V that one token takes in all layers."""
        return 2 * self.num_layers * self.kv_size * (4 if self.cache_dtype == "float32" else 2)

    def write(self, folder: Path) -> None:
        """Write `genai.json` into a package folder."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
        (folder / "genai.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> ModelConfig:
        """Read a package folder's `genai.json`.

        Raises: ContractError if it is missing, damaged or of another version.
        """
        path = folder / "genai.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(data, dict):
                raise TypeError("not a JSON object")
            version = data.get("contract_version")
            if version != CONTRACT_VERSION:
                raise ContractError(
                    f"{path}: contract version {version}, this runtime reads {CONTRACT_VERSION}; build it again"
                )
            data["eos_token_ids"] = tuple(data["eos_token_ids"])
            data["provenance"] = Provenance(**data["provenance"])
            return cls(**data)
        except FileNotFoundError:
            raise ContractError(f"{folder} is not a model package: it has no genai.json") from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ContractError(f"{path} is damaged ({error}); build the package again") from None


def genai_home() -> Path:
    """Where models are kept: `$GENAI_HOME`, else the user's cache folder."""
    if home := os.environ.get("GENAI_HOME"):
        return Path(home).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "genai"


def is_debugging() -> bool:
    """Whether the command line shows tracebacks: `$GENAI_DEBUG` is set, and not to 0."""
    return os.environ.get("GENAI_DEBUG", "0") not in ("", "0")


def certificate_file() -> str | None:
    """The certificate bundle that the user chose for downloads, by the names that pip reads; None: the system's."""
    chosen = (os.environ.get(name) for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"))
    return next((path for path in chosen if path and Path(path).is_file()), None)


def disable_runtime_telemetry() -> None:
    """Switch ONNX Runtime's telemetry off unless the user has chosen; call before it is imported."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


Config = TypeVar("Config", bound=SamplingConfig | GenerationConfig | EngineConfig)


def replaced(config: Config, **changes: object) -> Config:
    """`dataclasses.replace` that refuses unknown names and values of the wrong type with a ConfigError."""
    unknown = changes.keys() - _names(type(config))
    if unknown:
        raise ConfigError(f"unknown option {sorted(unknown)[0]!r}; allowed: {', '.join(sorted(_names(type(config))))}")
    try:
        return dataclasses.replace(config, **cast(Any, changes))
    except TypeError as error:
        given = ", ".join(f"{name}={value!r}" for name, value in changes.items())
        raise ConfigError(f"an option has a value of the wrong type ({given}): {error}") from None


def _as_tuple(stops: object) -> object:
    """One string for itself, None for none."""
    if stops is None:
        return ()
    return (stops,) if isinstance(stops, str) else tuple(cast(Any, stops))


def _names(kind: type) -> set[str]:
    return {item.name for item in dataclasses.fields(kind)}


def _default_if_none(config: SamplingConfig) -> None:
    for item in dataclasses.fields(config):
        if getattr(config, item.name) is None:
            object.__setattr__(config, item.name, item.default)


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise ConfigError(f"{name}={value!r}: must be {rule}")
