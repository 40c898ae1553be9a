"""Configuration as data: frozen, validated where it is made, unknown keys refused.

`EngineConfig` says how to run a model, `ModelConfig` is a package's `genai.json`; how to continue a text is in
`genai/options/generation_config.py`. This is also the only module that reads and sets environment variables.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from genai.errors import ConfigError, ContractError

Precision = Literal["auto", "f32", "f16", "bf16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = ("auto", "f32", "f16", "bf16", "int8", "int4")
Device = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = ("auto", "cpu", "cuda")
MAX_RANK = 16
"""The largest rank that graphs with room for adapters are built for if nobody says; it is what most adapters have."""
MAX_ADAPTER_SCALE = 1000
"""What a text may have its adapter multiplied by at most, and the same below 0."""

MODEL_FILE, CONFIG_FILE, ROW_START_FILE = "model.onnx", "genai.json", "row_start.bin"
"""A package's graph, what this module reads of it, and the bytes with which each row begins, if it has any."""

CONTRACT_VERSION = 1
"""What a graph follows whose layers all have caches of one width (`genai/contract.py`)."""
CONTRACT_BY_LAYER = 2
"""What others follow, which have caches by layer or reserved slots: runtimes that know version 1 alone refuse them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How a model is run.

    device: "cpu", "cuda" (which has not run on a device yet), or "auto" (CUDA when ONNX Runtime has it).
    max_seq_len: longest sequence in tokens; None: the model's own limit, or what the cache budget holds.
    max_batch: most sequences that advance together.
    kv_cache_bytes: the arena's size; None: `KV_CACHE_SHARE` of the device's free memory, never more than the model can
    use.
    num_threads: threads inside an operator, and for choosing tokens; None: one per physical core available to the
    process.
    prefill_chunk: most tokens of one prompt in one run of the graph.
    prefix_cache_bytes: host memory for keys and values of earlier prompts, 0 for none; None: `PREFIX_CACHE_SHARE` of
    the host's free memory.
    max_waiting: requests that may wait for a row, or to be prepared, before further ones are refused; None: any number.
    same_bits: whether a text is to be the same to the bit whatever runs beside it. Where kernels ask for it runs are
    padded then, so that a lone token costs two; without, nothing is padded, and nothing asked.
    provider_options: passed to ONNX Runtime's execution provider as they are; `device_id` chooses one of several.
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
    same_bits: bool = True
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


Pooling = Literal["last", "mean", "first"]
POOLINGS: tuple[Pooling, ...] = ("last", "mean", "first")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingConfig:
    """How the embeddings of a model without a head are made.

    pooling: which of the rows behind the final norm: the last token's, the mean of all, or the first token's;
    is_normalized: whether they are made one long; max_tokens: of a text, None for as many as the context has;
    dimensions: how many first numbers are an embedding, too, none for any number; prompts: texts that go in front of
    others, by name; default_prompt: the name of the one that does where nobody says.
    """

    pooling: Pooling
    is_normalized: bool
    max_tokens: int | None = None
    dimensions: tuple[int, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    @property
    def summary(self) -> str:
        """How they are made, in a few words."""
        kind = {"last": "the last token's", "mean": "the mean", "first": "the first token's"}[self.pooling]
        return f"{kind}, normalised" if self.is_normalized else kind

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling={self.pooling!r}: must be one of {', '.join(POOLINGS)}")
        if self.default_prompt is not None and self.default_prompt not in self.prompts:
            raise ValueError(f"default_prompt={self.default_prompt!r} is none of the prompts")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """What a graph with room for adapters has to be told of them.

    slots: how many may be loaded at once; base: the configuration of the model that they change, as Hugging Face has
    it: it says how modules are called, and how their rows lie.
    """

    slots: int
    base: Mapping[str, object]

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"adapters.slots={self.slots}: must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowConfig:
    """What a graph whose windowed layers keep their windows alone has to be told of them.

    size: how many newest keys their queries see at most, themselves included; block: keys that move by a multiple of so
    many slots give the same bits.
    """

    size: int
    block: int

    def __post_init__(self) -> None:
        if not all(isinstance(number, int) and number >= 1 for number in (self.size, self.block)):
            raise ValueError(f"kept_window: size={self.size}, block={self.block}: must be whole numbers, at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A model package's `genai.json`: what the runtime has to know beside the graph.

    max_position: longest sequence the graph was built for; num_kv_heads, head_dim: the first layer's where layers
    differ (what the caches are is the graph's to say); generation: the model's own generation defaults
    (`GenerationConfig.updated` options); reserved_slots: 0, or 1 if each row begins with the bytes of `row_start.bin`;
    embedding: of a model without a head, which makes embeddings and writes no text; rerank_prompt: of a reranker that
    brings its own, with `{query}` and `{document}` in it; adapters: of a graph that has room for some; kept_window: of
    one some of whose layers keep their windows alone.
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
    generation: Mapping[str, int | float | bool | list[int]] = field(default_factory=dict)
    provenance: Provenance
    reserved_slots: int = 0
    embedding: EmbeddingConfig | None = None
    rerank_prompt: str | None = None
    adapters: AdapterConfig | None = None
    kept_window: WindowConfig | None = None

    def __post_init__(self) -> None:
        most = 0 if self.contract_version == CONTRACT_VERSION else 1
        if not 0 <= self.reserved_slots <= most:
            raise ValueError(
                f"reserved_slots={self.reserved_slots}: at most {most} in contract {self.contract_version}"
            )

    def write(self, folder: Path) -> None:
        """Write `genai.json` into a package folder."""
        data = dataclasses.asdict(self)
        if self.contract_version == CONTRACT_VERSION:
            del data["reserved_slots"]  # older runtimes do not know it
        data = {name: value for name, value in data.items() if name not in _NEWER or value is not None}
        text = json.dumps(data, indent=2, ensure_ascii=False)
        (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> ModelConfig:
        """Read a package folder's `genai.json`.

        Raises: ContractError if it is missing, damaged or of another version.
        """
        path = folder / CONFIG_FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(data, dict):
                raise TypeError("not a JSON object")
            version = data.get("contract_version")
            if version not in (CONTRACT_VERSION, CONTRACT_BY_LAYER):
                raise ContractError(
                    f"{path}: contract version {version}, this runtime reads {CONTRACT_VERSION} and "
                    f"{CONTRACT_BY_LAYER}; build it again"
                )
            data["eos_token_ids"] = tuple(data["eos_token_ids"])
            data["provenance"] = Provenance(**data["provenance"])
            if embedding := data.get("embedding"):
                embedding["dimensions"] = tuple(embedding.get("dimensions", ()))
                data["embedding"] = EmbeddingConfig(**embedding)
            if adapters := data.get("adapters"):
                data["adapters"] = AdapterConfig(**adapters)
            if window := data.get("kept_window"):
                data["kept_window"] = WindowConfig(**window)
            return cls(**data)
        except FileNotFoundError:
            raise ContractError(f"{folder} is not a model package: it has no {CONFIG_FILE}") from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ContractError(f"{path} is damaged ({error}); build the package again") from None


_NEWER = ("embedding", "rerank_prompt", "adapters", "kept_window")
"""Fields that older runtimes do not know, left out where they say nothing."""


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


def environment(prefix: str) -> dict[str, str]:
    """The environment variables whose names begin with a prefix."""
    return {name: value for name, value in os.environ.items() if name.startswith(prefix)}


def set_environment(variables: Mapping[str, str]) -> None:
    """Set variables for processes that this one starts, where the user has not."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def disable_runtime_telemetry() -> None:
    """Switch ONNX Runtime's telemetry off unless the user has chosen; call before it is imported."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise ConfigError(f"{name}={value!r}: must be {rule}")
