"""Reading a checkpoint's configuration: typed values, with an error that names the key and what stands there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from genai.build.architectures import rotary
from genai.build.source import JSON
from genai.build.spec import Activation, AttentionSpec, DecoderSpec, RotarySpec
from genai.errors import UnsupportedModelError, WeightsError

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
_MAX_DIMENSION = 2**31


class ConfigReader:
    """The keys of a Hugging Face `config.json`.

    max_position: the context to build for; None: the configuration's own.
    """

    def __init__(self, values: Mapping[str, JSON], max_position: int | None = None) -> None:
        self._values = values
        self._max_position = max_position

    def text(self, key: str) -> str:
        """A string. Raises: WeightsError if it is missing or something else."""
        return str(self._typed(key, (str,), "a string"))

    def size(self, key: str, default: int | None = None) -> int:
        """A positive whole number; the default stands in for a missing or null key."""
        value = self._values.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _MAX_DIMENSION:
            raise WeightsError(f"the model's configuration has {key}={value!r}, not a positive whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; the default stands in for a missing or null key."""
        value = self.optional_number(key)
        if value is None and default is None:
            raise WeightsError(f"the model's configuration has no {key}")
        return value if value is not None else float(default or 0)

    def optional_number(self, key: str) -> float | None:
        """A finite number, or None where the key is missing or null."""
        value = self._values.get(key)
        return None if value is None else rotary.finite(key, value)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """True or False."""
        value = self._values.get(key)
        return default if value is None else bool(value)

    def optional_size(self, key: str) -> int | None:
        """A positive whole number, or None where the key is missing or null."""
        return None if self._values.get(key) is None else self.size(key)

    def items(self, key: str, length: int) -> Sequence[JSON] | None:
        """A list of exactly this length, or None where the key is missing or null."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != length:
            raise WeightsError(f"the model's configuration has {key}={value!r}, not a list of {length}")
        return value

    def refuse(self, key: str, *, unless: tuple[JSON, ...] = (None, False)) -> None:
        """Refuse a checkpoint whose configuration asks for something that is not built."""
        if self._values.get(key) not in unless:
            raise UnsupportedModelError(f"the model's configuration has {key}={self._values[key]!r}: not supported")

    @property
    def max_position(self) -> int:
        """The context to build for. Raises: WeightsError if the checkpoint's own limit is smaller."""
        limit = self.size("max_position_embeddings")
        if self._max_position is None:
            return limit
        return min(self._max_position, limit)

    @property
    def head_dim(self) -> int:
        """Elements of one head."""
        return self.size("head_dim", self.size("hidden_size") // self.size("num_attention_heads"))

    def rotary(self, layer_type: str | None = None, legacy_base: str = "rope_theta") -> RotarySpec:
        """The rotary embedding, of one layer type where the checkpoint has several.

        Reads `rope_parameters` (transformers 5) or, in older checkpoints, the base key and `rope_scaling`.
        """
        parameters = self._values.get("rope_parameters")
        if isinstance(parameters, dict) and layer_type in parameters:
            parameters = parameters[layer_type]
        if parameters is None:
            scaling = self._values.get("rope_scaling") if legacy_base == "rope_theta" else None
            parameters = {"rope_theta": self.number(legacy_base, 10000.0)}
            if isinstance(scaling, dict):
                parameters |= scaling
        if not isinstance(parameters, dict):
            raise WeightsError(f"the model's configuration has rope_parameters={parameters!r}, not an object")
        partial = rotary.finite("partial_rotary_factor", parameters.get("partial_rotary_factor") or self._partial())
        return rotary.spec_of(
            parameters,
            size=int(self.head_dim * partial),
            max_position=self.max_position,
            model_max_position=self.size("max_position_embeddings"),
            original_max_position=self.optional_size("original_max_position_embeddings"),
        )

    def attention(self, rotary_spec: RotarySpec | None) -> AttentionSpec:
        """The usual attention: heads from the usual keys, scores scaled by the root of the head size."""
        heads = self.size("num_attention_heads")
        kv_heads = self.size("num_key_value_heads", heads)
        if heads % kv_heads:
            raise WeightsError(f"{heads} attention heads cannot share {kv_heads} key/value heads")
        return AttentionSpec(
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=self.head_dim,
            scale=self.head_dim**-0.5,
            rotary=rotary_spec,
        )

    def decoder(self, layers: Sequence[AttentionSpec]) -> DecoderSpec:
        """The usual decoder around these layers; architectures change what differs with `dataclasses.replace`."""
        activation = self._values.get("hidden_activation") or self._values.get("hidden_act") or "silu"
        if activation not in _ACTIVATIONS:
            raise UnsupportedModelError(f"activation {activation!r} is not supported; supported: {list(_ACTIVATIONS)}")
        return DecoderSpec(
            vocab_size=self.size("vocab_size"),
            hidden_size=self.size("hidden_size"),
            intermediate_size=self.size("intermediate_size"),
            max_position=self.max_position,
            layers=tuple(layers),
            norm_eps=self.number("rms_norm_eps", 1e-6),
            is_head_tied=self.flag("tie_word_embeddings"),
            activation=_ACTIVATIONS[str(activation)],
        )

    def windows(self, window: int | None, default_types: Sequence[str]) -> list[int | None]:
        """Each layer's sliding window, from `layer_types` or, in older checkpoints, the given pattern."""
        types = self.items("layer_types", len(default_types)) or default_types
        known = {"full_attention", "sliding_attention"}
        if unknown := set(map(str, types)) - known:
            raise UnsupportedModelError(f"layer type {sorted(unknown)[0]!r} is not supported; supported: {sorted(known)}")
        if window is None and "sliding_attention" in types:
            raise WeightsError("the model's configuration has sliding layers but no sliding_window")
        return [window if kind == "sliding_attention" else None for kind in types]

    def _partial(self) -> float:
        return self.number("partial_rotary_factor", 1.0)

    def _typed(self, key: str, kinds: tuple[type, ...], wanted: str) -> JSON:
        value = self._values.get(key)
        if not isinstance(value, kinds):
            raise WeightsError(f"the model's configuration has {key}={value!r}, not {wanted}")
        return value


def with_windows(attention: AttentionSpec, windows: Sequence[int | None]) -> list[AttentionSpec]:
    """One layer for each window, otherwise alike."""
    return [dataclasses.replace(attention, sliding_window=window) for window in windows]
