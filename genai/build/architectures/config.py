"""Reading a checkpoint's configuration: typed values, with an error that names the key and what stands there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

from genai.build.architectures import rotary
from genai.build.architectures.blocks import PRE_NORM, FeedForward, NormNames, sequential
from genai.build.source import JSON
from genai.build.spec import (
    Activation,
    AttentionSpec,
    BlockSpec,
    DecoderSpec,
    LearnedPositions,
    MlpSpec,
    NormSpec,
    Part,
    RotarySpec,
)
from genai.errors import CapacityError, UnsupportedModelError, WeightsError

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu2",
    "xielu": "xielu",
}
_LAYER_TYPES = ("full_attention", "sliding_attention")
_MAX_DIMENSION = 2**31


class ConfigReader:
    """The keys of a Hugging Face `config.json`.

    max_position: the context to build for; None: the configuration's own.
    """

    def __init__(self, values: Mapping[str, JSON], max_position: int | None = None) -> None:
        self._values = values
        self._max_position = max_position

    def with_defaults(self, defaults: Mapping[str, JSON]) -> ConfigReader:
        """The same configuration with values for keys that are missing: a null stays one.

        Checkpoints may leave out what equals the default of their configuration class in transformers.
        """
        return ConfigReader({**defaults, **self._values}, self._max_position)

    def replaced(self, values: Mapping[str, JSON]) -> ConfigReader:
        """The same configuration with these values, whatever it says."""
        return ConfigReader({**self._values, **values}, self._max_position)

    def renamed(self, names: Mapping[str, str]) -> ConfigReader:
        """The same configuration with the usual keys for a family's own, {"n_embd": "hidden_size"}, which go first."""
        return self.replaced({new: self._values[own] for own, new in names.items() if own in self._values})

    def get(self, key: str) -> JSON:
        """Whatever stands there, None where the key is missing."""
        return self._values.get(key)

    def mapping(self, key: str) -> dict[str, JSON]:
        """A copy of an object, empty where the key is missing or null."""
        return _as_object(key, self._values.get(key))

    def text(self, key: str) -> str:
        """A string. Raises: WeightsError if it is missing or something else."""
        value = self._values.get(key)
        if not isinstance(value, str):
            raise _wrong(key, value, "a string")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        """A positive whole number; the default stands in for a missing or null key."""
        value = self._values.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _MAX_DIMENSION:
            raise _wrong(key, value, "a positive whole number")
        return value

    def optional_size(self, key: str) -> int | None:
        """A positive whole number, or None where the key is missing or null."""
        return None if self._values.get(key) is None else self.size(key)

    def first_size(self, *keys: str) -> int:
        """A positive whole number under the first of these keys that is there. Raises: WeightsError if none is."""
        return self.size(next((key for key in keys if self._values.get(key) is not None), keys[0]))

    def even_size(self, key: str) -> int:
        """A positive whole number, or a list of one for each layer, which are all the same."""
        values = self._values.get(key)
        if not isinstance(values, list):
            return self.size(key)
        if any(value != values[0] for value in values):
            raise _wrong(key, values, "the same number for all layers")
        return self.replaced({key: values[0] if values else None}).size(key)

    def count(self, key: str, default: int = 0) -> int:
        """A whole number, 0 allowed; the default stands in for a missing or null key."""
        value = self._values.get(key)
        return default if value is None else 0 if value == 0 and not isinstance(value, bool) else self.size(key)

    def numbers(self, key: str) -> list[int]:
        """A list of whole numbers, empty where the key is missing or null."""
        value = self._values.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(each, int) for each in value):
            raise _wrong(key, value, "a list of whole numbers")
        return [int(each) for each in value if isinstance(each, int)]

    def number(self, key: str, default: float) -> float:
        """A finite number; the default stands in for a missing or null key."""
        value = self.optional_number(key)
        return default if value is None else value

    def optional_number(self, key: str) -> float | None:
        """A finite number, or None where the key is missing or null."""
        value = self._values.get(key)
        return None if value is None else rotary.finite(key, value)

    def positive(self, key: str, default: float) -> float:
        """A finite number above 0; the default stands in for a missing or null key."""
        value = self.number(key, default)
        if value <= 0:
            raise _wrong(key, value, "a positive number")
        return value

    def optional_positive(self, key: str) -> float | None:
        """A finite number above 0, or None where the key is missing or null."""
        return None if self._values.get(key) is None else self.positive(key, 1.0)

    def flag(self, key: str) -> bool:
        """True or False; False where the key is missing or null."""
        value = self._values.get(key)
        if value is not None and not isinstance(value, bool):
            raise _wrong(key, value, "true or false")
        return bool(value)

    def items(self, key: str, length: int) -> Sequence[JSON] | None:
        """The first `length` items of a list that has at least so many, or None where the key is missing or null."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) < length:
            raise _wrong(key, value, f"a list of {length}")
        return value[:length]

    def letters(self, key: str, alphabet: str) -> str | None:
        """A text of these letters only, None where the key holds something else than a text."""
        value = self._values.get(key)
        if isinstance(value, str) and (not value or set(value) - set(alphabet)):
            raise _wrong(key, value, f"a text of {' and '.join(alphabet)}")
        return value if isinstance(value, str) else None

    def inner(self, key: str) -> ConfigReader:
        """What stands in an object, which is empty where the key is missing or null."""
        return ConfigReader(self.mapping(key), self._max_position)

    def has(self, key: str) -> bool:
        """Whether a key is there and not null."""
        return self._values.get(key) is not None

    def refuse(self, key: str, *, but: Sequence[JSON] = ()) -> None:
        """Refuse a checkpoint that asks for something that is not built: the key must be missing, null, false, or one
        of the values that change nothing here.
        """
        if self._values.get(key) not in (None, False, *but):
            raise UnsupportedModelError(f"the model's configuration has {key}={self._values[key]!r}: not supported")

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return self.size("num_hidden_layers")

    @property
    def max_position(self) -> int:
        """The context to build for: never more than the checkpoint's own limit."""
        limit = self.size("max_position_embeddings")
        return limit if self._max_position is None else min(self._max_position, limit)

    def ungrouped(self) -> ConfigReader:
        """The same configuration of a family in which each head has its own keys and values."""
        return self.replaced({"num_key_value_heads": self.size("num_attention_heads")})

    @property
    def head_dim(self) -> int:
        """Elements of one head."""
        return self.size("head_dim", self.size("hidden_size") // self.size("num_attention_heads"))

    @property
    def window(self) -> int | None:
        """The sliding window, None where there is none or it is no shorter than the context."""
        window = self.optional_size("sliding_window")
        return window if window is not None and window < self.max_position else None

    def rotary(self, layer_type: str | None = None, base_key: str = "rope_theta") -> RotarySpec:
        """The rotary embedding, of one layer type where the checkpoint has several.

        base_key: the key that holds the base where `rope_parameters` (transformers 5) does not. Scaling stands there
        too, or in `rope_scaling`, which is only about layers with the base `rope_theta`.
        """
        parameters = self.mapping("rope_parameters")
        if layer_type is not None:
            parameters = _as_object(f"rope_parameters.{layer_type}", parameters.get(layer_type))
        elif any(isinstance(value, dict) for value in parameters.values()):
            raise UnsupportedModelError("the model's configuration has rope_parameters by layer type: not supported")
        if base_key == "rope_theta":
            parameters |= self.mapping("rope_scaling")
        if parameters.get("rope_theta") is None:
            parameters["rope_theta"] = self.number(base_key, 10000.0)
        return rotary.spec_of(
            parameters,
            size=self._rotated_size(parameters),
            max_position=self.max_position,
            model_max_position=self.size("max_position_embeddings"),
            original_max_position=self.optional_size("original_max_position_embeddings"),
        )

    def learned_positions(self, offset: int = 0) -> LearnedPositions:
        """As many as the checkpoint has, in a table that begins with `offset` other rows.

        Raises: CapacityError if the context to build for is longer.
        """
        count = self.size("max_position_embeddings")
        if self._max_position is not None and self._max_position > count:
            raise CapacityError(
                f"max_seq_len={self._max_position}: the model has {count} learned positions and cannot go beyond them; "
                f"give at most {count}"
            )
        return LearnedPositions(count=count, offset=offset)

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
            biases=self._biases("attention_bias", "q_proj", "k_proj", "v_proj", "o_proj"),
        )

    def mlp(self) -> MlpSpec:
        """The usual feed-forward network, with a gate."""
        return MlpSpec(
            size=self.size("intermediate_size"),
            activation=self.activation,
            biases=self._biases("mlp_bias", "gate_proj", "up_proj", "down_proj"),
        )

    def plain_mlp(self, *, has_biases: bool) -> MlpSpec:
        """A feed-forward network without a gate, four times as wide as the stream unless the configuration differs."""
        return MlpSpec(
            size=self.size("intermediate_size", 4 * self.size("hidden_size")),
            activation=self.activation,
            is_gated=False,
            biases=frozenset({"up_proj", "down_proj"} if has_biases else ()),
        )

    @property
    def activation(self) -> Activation:
        """The activation function. Raises: UnsupportedModelError for one that is not known."""
        activation = self._values.get("hidden_activation") or self._values.get("hidden_act") or "silu"
        if not isinstance(activation, str) or activation not in _ACTIVATIONS:
            raise UnsupportedModelError(
                f"activation {activation!r} is not supported; supported: {', '.join(_ACTIVATIONS)}"
            )
        return _ACTIVATIONS[activation]

    def decoder(
        self, attentions: Sequence[Part], mlps: Sequence[FeedForward] | None = None, norms: NormNames = PRE_NORM
    ) -> DecoderSpec:
        """The usual decoder of these layers; architectures change what differs with `dataclasses.replace`.

        mlps: what feeds forward in each layer, `mlp()` unless given.
        """
        blocks = sequential(attentions, [self.mlp()] * len(attentions) if mlps is None else mlps, norms)
        return self.decoder_of(blocks, NormSpec(eps=self.positive("rms_norm_eps", 1e-6)))

    def decoder_of(self, blocks: tuple[BlockSpec, ...], norm: NormSpec) -> DecoderSpec:
        """The usual decoder of these blocks, which normalise in this way."""
        return DecoderSpec(
            vocab_size=self.size("vocab_size"),
            hidden_size=self.size("hidden_size"),
            max_position=self.max_position,
            blocks=blocks,
            norm=norm,
            is_head_tied=self.flag("tie_word_embeddings"),
        )

    @property
    def layer_norm(self) -> NormSpec:
        """Norms by mean and variance, with the usual key."""
        return NormSpec(kind="layer", eps=self.positive("layer_norm_eps", 1e-5))

    def kernel(self, key: str, default: int | None = None) -> int:
        """How many tokens a short convolution reads, two at least."""
        if (kernel := self.size(key, default)) < 2:
            raise _wrong(key, kernel, "at least 2")
        return kernel

    def layer_types(self, default: Sequence[str], kinds: Collection[str] = _LAYER_TYPES) -> list[str]:
        """Each layer's kind, one of these: `layer_types`, else the default."""
        types = self.items("layer_types", len(default)) or default
        for kind in types:
            if kind not in kinds:
                raise UnsupportedModelError(f"layer type {kind!r} is not supported; supported: {', '.join(kinds)}")
        if "sliding_attention" in types and self._values.get("sliding_window") is None:
            raise WeightsError("the model's configuration has sliding layers but no sliding_window")
        return [str(kind) for kind in types]

    def sliding_layers(self, usual: Callable[[int], object]) -> list[bool]:
        """Which layers slide: by `layer_types`, else those of whose number `usual` says so."""
        default = ["sliding_attention" if usual(layer) else "full_attention" for layer in range(self.num_layers)]
        return [kind == "sliding_attention" for kind in self.layer_types(default)]

    def windows(self, usual: Callable[[int], object]) -> list[int | None]:
        """Each layer's window, None where it sees everything; usual: as in `sliding_layers`."""
        return [self.window if slides else None for slides in self.sliding_layers(usual)]

    def _rotated_size(self, parameters: Mapping[str, JSON]) -> int:
        if parameters.get("rope_type") == "proportional":
            return self.head_dim
        key = "partial_rotary_factor"
        partial = parameters.get(key) if parameters.get(key) is not None else self.number(key, 1.0)
        if not 0 < rotary.finite(key, partial) <= 1:
            raise _wrong(key, partial, "a number above 0, at most 1")
        return int(self.head_dim * rotary.finite(key, partial))

    def _biases(self, key: str, *products: str) -> frozenset[str]:
        return frozenset(products if self.flag(key) else ())


def with_windows(attention: AttentionSpec, windows: Sequence[int | None]) -> list[AttentionSpec]:
    """One layer for each window, otherwise alike."""
    return [dataclasses.replace(attention, sliding_window=window) for window in windows]


def _as_object(key: str, value: JSON) -> dict[str, JSON]:
    """A copy of a JSON object, empty for null."""
    if value is not None and not isinstance(value, dict):
        raise _wrong(key, value, "an object")
    return dict(value or {})


def _wrong(key: str, value: JSON, wanted: str) -> WeightsError:
    return WeightsError(f"the model's configuration has {key}={repr(value)[:80]}, not {wanted}")
