"""Typed reading of a GGUF file's `<architecture>.*` metadata, and the configuration keys all decoders have."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import Literal, TypeAlias

import numpy as np

from genai.build.gguf.file import GgufFile, MetadataValue, NumberArray
from genai.build.source import JSON
from genai.errors import UnsupportedModelError, WeightsError

_LAYER = re.compile(r"blk\.(0|[1-9][0-9]{0,6})\.")
_MAX_SIZE = 2**31 - 1
# Keys that change what a model computes. Where nothing reads them the model is refused, not built wrong.
_CHANGES_THE_MODEL = (
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.scale",
    "attention.temperature_scale",
    "attn_logit_softcapping",
    "embedding_scale",
    "expert_count",
    "final_logit_softcapping",
    "logit_scale",
    "residual_scale",
    "rope.dimension_sections",
)

Norm: TypeAlias = Literal["rms", "layer"]
_EPSILONS: dict[Norm, tuple[str, str]] = {
    "rms": ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    "layer": ("layer_norm_eps", "attention.layer_norm_epsilon"),
}


class ArchitectureMetadata:
    """The metadata under a file's architecture; keys are given without that prefix.

    Every reader raises WeightsError for a value of the wrong kind, with the file and the full key. Those of one value
    refuse a list whose values differ, `by_layer` aside: there they give the largest.
    has_latent: heads' keys and values come from one vector; what is rotated of a head stands for its size.
    """

    def __init__(
        self, file: GgufFile, arch: str, *, by_layer: frozenset[str] = frozenset(), has_latent: bool = False
    ) -> None:
        self.path = file.path
        self.arch = arch
        self.by_layer = by_layer
        self.has_latent = has_latent
        self._file = file

    def value(self, key: str) -> MetadataValue | None:
        """Whatever the key holds, None if it is missing."""
        return self._file.metadata.get(f"{self.arch}.{key}")

    def size(self, key: str, default: int | None = None) -> int:
        """A positive whole number; a list of one per layer is accepted if all are the same."""
        value = self._uniform(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MAX_SIZE:
            raise self._bad(key, value, "a positive whole number")
        return value

    def optional_size(self, key: str) -> int | None:
        """A positive whole number, None if the key is missing or 0."""
        return None if self._uniform(key) in (None, 0) else self.size(key)

    def sizes(self, key: str, default: int | None = None) -> list[int]:
        """A whole number, 0 allowed, for each layer: from a list of one per block, or one number for all of them."""
        value = self.value(key)
        value = default if value is None else value
        found: Sequence[object]
        found = self._by_layer(key, value) if isinstance(value, np.ndarray) else [value] * self.num_layers
        for size in found:
            if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= _MAX_SIZE:
                raise self._bad(key, size, "a whole number, or a list of one per layer")
        return [int(size) for size in found if isinstance(size, int)]

    def flags(self, key: str) -> list[bool] | None:
        """True or False for each layer, from a list; None if the key is missing or holds no list."""
        value = self.value(key)
        if not isinstance(value, np.ndarray):
            return None
        found = self._by_layer(key, value)
        if value.dtype != np.bool_:
            raise self._bad(key, value.tolist()[:8], f"{self.num_layers} flags")
        return [bool(flag) for flag in found]

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; the default stands in for a missing key."""
        value = self.optional_number(key)
        value = default if value is None else value
        if value is None:
            raise self._bad(key, value, "a number")
        return value

    def optional_number(self, key: str) -> float | None:
        """A finite number, or None if the key is missing. 32-bit floats read as they would print: 1e-05."""
        value = self._uniform(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._bad(key, value, "a number")
        with np.errstate(over="ignore"):
            short = float(str(np.float32(value)))
        return short if float(np.float32(short)) == value else float(value)

    def flag(self, key: str) -> bool | None:
        """True or False, None if the key is missing."""
        value = self.value(key)
        if value is not None and not isinstance(value, bool):
            raise self._bad(key, value, "true or false")
        return value

    def text(self, key: str) -> str | None:
        """A string, None if the key is missing."""
        value = self.value(key)
        if value is not None and not isinstance(value, str):
            raise self._bad(key, value, "a string")
        return value

    def has_tensor(self, name: str) -> bool:
        """Whether the file has a tensor."""
        return name in self._file.tensors

    @property
    def pre_tokenizer(self) -> object:
        """What the file calls its way of cutting text, which is the models' makers', None if it does not say."""
        return self._file.metadata.get("tokenizer.ggml.pre")

    @property
    def num_layers(self) -> int:
        """Layers of the model itself: blocks, less those at the end that predict further tokens (`nextn`).

        Raises: WeightsError unless the file has tensors for exactly that many.
        """
        claimed, num_nextn = self.size("block_count"), self.optional_size("nextn_predict_layers") or 0
        present, predicting = set(), set()
        for name in self._file.tensors:
            if match := _LAYER.match(name):
                present.add(int(match[1]))
                if name.startswith("nextn.", match.end()):
                    predicting.add(int(match[1]))
        if predicting and predicting != set(range(claimed - num_nextn, claimed)):
            raise WeightsError(
                f"{self.path}: blocks {sorted(predicting)[:8]} predict further tokens, but nextn_predict_layers is "
                f"{num_nextn} of {claimed} blocks"
            )
        # Converters leave such blocks out, or count them and leave them out, or write them.
        counts = {claimed} if predicting else {claimed, claimed - num_nextn}
        if len(present) not in counts or max(present, default=0) != len(present) - 1 or present == predicting:
            raise WeightsError(
                f"{self.path}: {self.arch}.block_count is {claimed}, but there are tensors for {len(present)} layers"
            )
        return len(present) - len(predicting)

    @property
    def hidden_size(self) -> int:
        """The residual stream's width."""
        return self.size("embedding_length")

    @property
    def num_heads(self) -> int:
        """Query heads."""
        return self.size("attention.head_count")

    @property
    def head_dim(self) -> int:
        """Elements of one head. Raises: UnsupportedModelError if values have another size than keys."""
        if self.has_latent:
            return self.size("rope.dimension_count")
        size = self.size("attention.key_length", max(1, self.hidden_size // self.num_heads))
        if (values := self.size("attention.value_length", size)) != size:
            raise UnsupportedModelError(f"{self.path}: heads with keys of {size} and values of {values} elements")
        return size

    def window(self) -> int | None:
        """The sliding window, None where there is none or it is no shorter than the context."""
        window = self.optional_size("attention.sliding_window")
        return window if window is not None and window < self.size("context_length") else None

    def layer_types(self, default_period: int) -> list[JSON]:
        """Which layers use the window, however wide: all but every n-th one, or as a list in the file says."""
        count = self.num_layers
        if self.optional_size("attention.sliding_window") is None:
            return ["full_attention"] * count
        if (slides := self.flags("attention.sliding_window_pattern")) is not None:
            return ["sliding_attention" if layer_slides else "full_attention" for layer_slides in slides]
        period = self.size("attention.sliding_window_pattern", default_period)
        return ["full_attention" if (layer + 1) % period == 0 else "sliding_attention" for layer in range(count)]

    def kinds_of_layers(self, tensor: str, kind: str, other: str) -> list[JSON]:
        """Each layer's kind: this one where the file has this tensor in it, else the other."""
        return [kind if self.has_tensor(f"blk.{layer}.{tensor}") else other for layer in range(self.num_layers)]

    def rotated_share(self) -> dict[str, JSON]:
        """`partial_rotary_factor`, for families in which a missing one is not 1."""
        return {"partial_rotary_factor": self.size("rope.dimension_count", self.head_dim) / self.head_dim}

    def common(self, norm: Norm) -> dict[str, JSON]:
        """The configuration keys that every decoder has; norm: whose epsilon is read."""
        tensors = self._file.tensors
        embedding = self._file.info("token_embd.weight").shape
        return {
            "hidden_size": self.hidden_size,
            "intermediate_size": self._feed_forward_size(),
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.size("attention.head_count_kv", self.num_heads),
            "head_dim": self.head_dim,
            _EPSILONS[norm][0]: self.number(_EPSILONS[norm][1]),
            "vocab_size": embedding[0],
            "max_position_embeddings": self.size("context_length"),
            "hidden_act": "silu",
            "tie_word_embeddings": "output.weight" not in tensors,
            "attention_bias": _has_biases(tensors, "attn_q", "attn_k", "attn_v", "attn_output"),
            "mlp_bias": _has_biases(tensors, "ffn_gate", "ffn_up", "ffn_down"),
            **self._token_ids(embedding[0]),
        }

    def refuse_unhandled(self, handled: frozenset[str]) -> None:
        """Refuse files whose metadata asks for what is not built. Raises: UnsupportedModelError."""
        for key in _CHANGES_THE_MODEL:
            value = self.value(key)
            if key not in handled and not (value is None or (isinstance(value, int | float) and value == 0)):
                raise UnsupportedModelError(f"{self.path}: {self.arch}.{key}={_shown(value)} is not supported")
        if self.flag("attention.causal") is False:
            raise UnsupportedModelError(f"{self.path} is an encoder ({self.arch}.attention.causal=False)")

    def _feed_forward_size(self) -> int | None:
        """Elements between a feed-forward network's products; None where a file has those of experts alone."""
        if self.value("expert_feed_forward_length") is not None and self.value("feed_forward_length") is None:
            return None
        return self.size("feed_forward_length")

    def _token_ids(self, vocab_size: int) -> dict[str, JSON]:
        ids = {}
        for name in ("bos", "eos", "eot", "eom", "padding"):
            value = self._file.metadata.get(f"tokenizer.ggml.{name}_token_id")
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocab_size:
                ids[name] = value
        ends: list[JSON] = list(dict.fromkeys(ids[name] for name in ("eos", "eot", "eom") if name in ids))
        return {
            "bos_token_id": ids.get("bos"),
            "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
            "pad_token_id": ids.get("padding"),
        }

    def _uniform(self, key: str) -> bool | int | float | str | list[str] | None:
        value = self.value(key)
        if not isinstance(value, np.ndarray):
            return value
        if key in self.by_layer:
            largest: int = max(self.sizes(key))
            return largest
        if value.size == 0 or (value != value[0]).any():
            raise UnsupportedModelError(f"{self.path}: {self.arch}.{key} differs from layer to layer")
        number: bool | int | float = value[0].item()
        return number

    def _by_layer(self, key: str, values: NumberArray) -> Sequence[object]:
        """A list's values for the model's own layers; it has one per block, whether or not those predict more."""
        if values.size not in (self.num_layers, self.size("block_count")):
            raise self._bad(key, values.tolist()[:8], f"{self.num_layers} flags or numbers, one per layer")
        chosen: list[object] = values[: self.num_layers].tolist()
        return chosen

    def _bad(self, key: str, value: object, wanted: str) -> WeightsError:
        what = "is missing" if value is None else f"is {_shown(value)!r}"
        return WeightsError(f"{self.path}: metadata {self.arch}.{key} {what}; it should be {wanted}")


def _shown(value: object) -> str:
    """A metadata value in one short line."""
    return " ".join(str(value).split())[:80]


def _has_biases(tensors: Collection[str], *names: str) -> bool:
    """Whether all of these products have one; a file may have some only, which no configuration key says."""
    return all(f"blk.0.{name}.bias" in tensors for name in names)
