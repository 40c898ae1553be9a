"""Rotary frequencies against transformers', from newer and older configurations, and bad values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genai.build.architectures import spec_of, supported
from genai.build.architectures.config import ConfigReader
from genai.build.spec import DecoderSpec, RotarySpec
from genai.errors import GenAIError, UnsupportedModelError, WeightsError

SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 8192,
}
LONG = [1.0 + i / 3 for i in range(32)]
SHORT = [1.0 + i / 50 for i in range(32)]
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 2048}

SCALINGS: dict[str, dict[str, Any]] = {
    "none": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {"rope_type": "llama3", **LLAMA3},
    "llama3 other": {"rope_type": "llama3", **LLAMA3, "factor": 32.0, "high_freq_factor": 2.5},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048},
    "yarn betas": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "beta_fast": 8.0,
        "beta_slow": 0.5,
    },
    "yarn attention factor": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "attention_factor": 1.3,
    },
    "yarn mscale": {
        "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 512, "mscale": 0.7,
        "mscale_all_dim": 1.2,
    },
    "yarn one mscale": {
        "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 512, "mscale": 0.7,
    },
    "yarn not truncated": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "truncate": False,
    },
    "yarn without factor": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 2048},
    "yarn small factor": {"rope_type": "yarn", "factor": 0.5, "original_max_position_embeddings": 2048},
    "yarn narrow ramp": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "beta_fast": 1.0,
        "beta_slow": 1.0, "truncate": False,
    },
    "longrope": {
        "rope_type": "longrope", "long_factor": LONG, "short_factor": SHORT, "original_max_position_embeddings": 2048,
    },
    "longrope factor": {
        "rope_type": "longrope", "long_factor": LONG, "short_factor": SHORT, "original_max_position_embeddings": 2048,
        "factor": 16.0,
    },
    "longrope attention factor": {
        "rope_type": "longrope", "long_factor": LONG, "short_factor": SHORT, "original_max_position_embeddings": 2048,
        "attention_factor": 1.1,
    },
}  # fmt: skip


def rotary_of(config: dict[str, Any], max_position: int | None = None) -> RotarySpec:
    rotary = spec_of(ConfigReader({"model_type": "llama", **SIZES, **config}, max_position)).attentions[0].rotary
    assert rotary is not None
    return rotary


def original(scaling: dict[str, Any], theta: float, length: int) -> tuple[np.ndarray, float]:
    """What transformers computes, for calls of this length."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    config = transformers.AutoConfig.for_model("llama", **SIZES, rope_parameters={"rope_theta": theta, **scaling})
    kind = scaling["rope_type"]
    if kind == "default":
        inner = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding
        frequencies, scale = inner.compute_default_rope_parameters(config)
    else:
        frequencies, scale = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
    return frequencies.numpy(), scale


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("theta", [500.0, 500_000.0])
@pytest.mark.parametrize("length", [1024, 8192])
@pytest.mark.parametrize("is_old", [False, True])
def test_frequencies_are_those_of_transformers(name: str, theta: float, length: int, is_old: bool) -> None:
    scaling = SCALINGS[name]
    frequencies, scale = original(scaling, theta, length)
    if is_old:
        old = {key: value for key, value in scaling.items() if key != "rope_type"} | {"type": scaling["rope_type"]}
        config: dict[str, Any] = {"rope_theta": theta, "rope_scaling": old}
    else:
        config = {"rope_parameters": {"rope_theta": theta, **scaling}}
    rotary = rotary_of(config, length)
    np.testing.assert_allclose(rotary.inverse_frequencies, frequencies, rtol=3e-7)
    assert rotary.scale == pytest.approx(scale)


@given(
    factor=st.floats(0.5, 64),
    original_length=st.integers(16, 8192),
    fast=st.floats(1, 64),
    slow=st.floats(0.25, 4),
    theta=st.floats(100, 1e6),
)
def test_yarn_for_any_parameters(factor: float, original_length: int, fast: float, slow: float, theta: float) -> None:
    scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original_length}
    scaling |= {"beta_fast": fast, "beta_slow": slow}
    frequencies, scale = original(scaling, theta, 8192)
    rotary = rotary_of({"rope_parameters": {"rope_theta": theta, **scaling}})
    np.testing.assert_allclose(rotary.inverse_frequencies, frequencies, rtol=1e-6)
    assert rotary.scale == pytest.approx(scale)


def test_keys_beside_the_parameters_stand_in_for_what_they_lack() -> None:
    beside = rotary_of({"rope_parameters": {"rope_type": "default"}, "rope_theta": 123.0})
    assert beside == rotary_of({"rope_parameters": {"rope_theta": 123.0}}) == rotary_of({"rope_theta": 123.0})
    assert rotary_of({}) == rotary_of({"rope_theta": 10_000.0}) == rotary_of({"rope_parameters": None})
    assert rotary_of({"partial_rotary_factor": 0.5}).size == 32
    llama3 = rotary_of({"rope_parameters": {"rope_type": "llama3", **LLAMA3}})
    told_twice = {"rope_parameters": {"rope_type": "llama3", **LLAMA3, "original_max_position_embeddings": 7}}
    assert rotary_of(told_twice | {"original_max_position_embeddings": 2048}) == llama3


def test_divisors_from_a_gguf_file_divide() -> None:
    divided = rotary_of({"rope_scaling": {"rope_type": "gguf_factors", "factors": LONG}})
    plain = rotary_of({})
    np.testing.assert_allclose(np.array(divided.inverse_frequencies) * LONG, plain.inverse_frequencies, rtol=1e-6)


def test_the_context_decides_between_long_and_short_factors() -> None:
    config = {"rope_parameters": SCALINGS["longrope"]}
    assert rotary_of(config) == rotary_of(config, 2049) == rotary_of(config, 100_000)
    assert rotary_of(config, 2048) == rotary_of(config, 16)
    assert rotary_of(config, 2048).inverse_frequencies != rotary_of(config, 2049).inverse_frequencies
    assert (
        rotary_of(config, 2048).scale
        == rotary_of(config, 2049).scale
        == pytest.approx(math.sqrt(1 + math.log(4) / math.log(2048)))
    )


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "negative base": ({"rope_theta": -1.0}, "make no sense"),
    "no base": ({"rope_theta": 0}, "make no sense"),
    "text": ({"rope_theta": "large"}, "rope_theta='large', not a number"),
    "not a number": ({"rope_theta": math.nan}, "rope_theta=nan, not a number"),
    "not an object": ({"rope_parameters": [1]}, r"rope_parameters=\[1\], not an object"),
    "no factor": ({"rope_scaling": {"type": "linear"}}, "factor=None"),
    "zero factor": ({"rope_scaling": {"type": "linear", "factor": 0}}, "make no sense"),
    "yarn base of one": ({"rope_theta": 1.0, "rope_scaling": SCALINGS["yarn"]}, "make no sense"),
    "zero original": (
        {"rope_scaling": SCALINGS["yarn"] | {"original_max_position_embeddings": 0}}, "make no sense"
    ),
    "original of one": (
        {"rope_scaling": SCALINGS["longrope"] | {"original_max_position_embeddings": 1}}, "make no sense"
    ),
    "few factors": ({"rope_scaling": SCALINGS["longrope"] | {"long_factor": [1.0]}}, "no list of 32 numbers"),
    "negative factors": ({"rope_scaling": SCALINGS["longrope"] | {"long_factor": [-1.0] * 32}}, "not positive"),
    "negative attention": (
        {"rope_scaling": SCALINGS["longrope"] | {"attention_factor": -1.0}}, "make no sense"
    ),
    "odd part": ({"partial_rotary_factor": 0.05}, "an even number is needed"),
    "large part": ({"partial_rotary_factor": 1.5}, "at most 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_parameters_are_refused(name: str) -> None:
    config, match = BAD[name]
    with pytest.raises(WeightsError, match=match):
        rotary_of(config)


def test_unknown_scalings_are_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'newest' is not supported; supported: default, .*yarn"):
        rotary_of({"rope_scaling": {"type": "newest", "factor": 2.0}})
    with pytest.raises(UnsupportedModelError, match="by layer type"):
        rotary_of({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}})


def spec(model_type: str, **config: Any) -> DecoderSpec:
    return spec_of(ConfigReader({"model_type": model_type, **SIZES, **config}))


@pytest.mark.parametrize(
    ("config", "error", "match"),
    [
        ({"model_type": "unheard_of"}, UnsupportedModelError, f"Supported: {', '.join(supported())}"),
        ({"model_type": 3}, WeightsError, "model_type=3, not a string"),
        ({"hidden_act": "mish"}, UnsupportedModelError, "activation 'mish' is not supported; supported: silu"),
        ({"hidden_size": None}, WeightsError, "hidden_size=None, not a positive whole number"),
        ({"num_hidden_layers": -2}, WeightsError, "num_hidden_layers=-2"),
        ({"vocab_size": 2.5}, WeightsError, "vocab_size=2.5"),
        ({"vocab_size": 2**40}, WeightsError, "not a positive whole number"),
        ({"num_key_value_heads": 3}, WeightsError, "4 attention heads cannot share 3 key/value heads"),
        ({"rms_norm_eps": -1e-5}, WeightsError, "rms_norm_eps=-1e-05, not a positive number"),
        ({"tie_word_embeddings": "no"}, WeightsError, "tie_word_embeddings='no', not true or false"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, UnsupportedModelError, "bidirectional"),
        (
            {"model_type": "gemma3_text", "layer_types": ["full_attention", "chunked_attention"]},
            UnsupportedModelError,
            "'chunked_attention' is not supported",
        ),
        ({"model_type": "gemma3_text", "layer_types": ["full_attention"]}, WeightsError, "not a list of 2"),
        ({"model_type": "gemma3_text", "sliding_window": None}, WeightsError, "sliding layers but no sliding_window"),
        ({"model_type": "granite", "logits_scaling": 0}, WeightsError, "logits_scaling=0.0, not a positive"),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, WeightsError, "no_rope_layers"),
    ],
)  # fmt: skip
def test_bad_configurations_are_refused(config: dict[str, Any], error: type[GenAIError], match: str) -> None:
    with pytest.raises(error, match=match):
        spec(**({"model_type": "llama"} | config))


def test_longrope_may_give_its_scales() -> None:
    config = {"rope_parameters": SCALINGS["longrope"] | {"long_mscale": 1.25, "short_mscale": 1.125}}
    assert rotary_of(config).scale == 1.25
    assert rotary_of(config, 2048).scale == 1.125
