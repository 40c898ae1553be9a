"""Tiny Hugging Face models written as llama.cpp's converter would, then read back: names, tensors, configuration.

Tensor names come from the gguf package's own table. A model built from the configuration we derive must give the
logits of the original: that covers rotary embeddings, windows, multipliers and whatever else the keys control.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from genai.build.gguf import names
from genai.build.gguf.source import GgufSource
from genai.errors import UnsupportedModelError, WeightsError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
load_gguf_checkpoint = pytest.importorskip("transformers.modeling_gguf_pytorch_utils").load_gguf_checkpoint

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 80,
    "max_position_embeddings": 256,
}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 64,
    "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.25,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64,
    "long_factor": [1.0 + i for i in range(6)], "short_factor": [1.0 + i / 4 for i in range(6)],
    "partial_rotary_factor": 0.75,
}  # fmt: skip
GEMMA_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}
GRANITE = {
    "attention_multiplier": 0.2, "embedding_multiplier": 6.0, "residual_multiplier": 0.5, "logits_scaling": 3.0,
}  # fmt: skip

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}}),
    "llama, tied, own head size": ("llama", {"tie_word_embeddings": True, "head_dim": 8}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama, linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "llama, yarn": ("llama", {"rope_parameters": YARN}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "gemma3": ("gemma3_text", {"head_dim": 32, "num_hidden_layers": 7, "sliding_window": 5, "query_pre_attn_scalar": 32,
                               "rope_parameters": GEMMA_ROPE, "final_logit_softcapping": 20.0}),
    "phi3": ("phi3", {}),
    "phi3, longrope": ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64,
                                "sliding_window": 6}),
    "smollm3": ("smollm3", {"num_hidden_layers": 5}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"sliding_window": 6}),
    "granite": ("granite", GRANITE),
}  # fmt: skip
ARCHS = {"gemma3_text": "gemma3", "olmo3": "olmo2"}
PAIRED = {"llama", "smollm3", "granite"}


def without(config: dict[str, Any], key: str) -> dict[str, Any]:
    return {other: value for other, value in config.items() if other != key}


def make_model(model_type: str, options: dict[str, Any]) -> Any:
    torch.manual_seed(5)
    config = transformers.AutoConfig.for_model(model_type, **(SIZES | SPECIAL | options))
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if "norm" in name or "bias" in name else 0.15
            parameter.add_(scale * torch.randn_like(parameter))
    return model


def paired(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of each head from halves to pairs, as the converter does it."""
    halves = weight.reshape(num_heads, 2, -1, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(model: Any, arch: str, path: Path, change: Callable[[Any], None] | None = None) -> Path:
    config = model.config
    writer = gguf.GGUFWriter(path, arch)
    write_metadata(writer, config, arch)
    if change is not None:
        change(writer)
    table = gguf.get_tensor_name_map(
        next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch), config.num_hidden_layers
    )
    for name, parameter in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weight = parameter.float().numpy()
        if arch in PAIRED and ".q_proj." in name:
            weight = paired(weight, config.num_attention_heads)
        if arch in PAIRED and ".k_proj." in name:
            weight = paired(weight, config.num_key_value_heads)
        if arch == "gemma3" and name.endswith("norm.weight"):
            weight = weight + np.float32(1)
        stored = table.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None, name
        writer.add_tensor(stored, np.ascontiguousarray(weight))
    write_rotary_tensors(writer, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_metadata(writer: Any, config: Any, arch: str) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.pad_token_id)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    write_rotary_metadata(writer, config)
    if arch in ("gemma3", "phi3") or config.model_type == "olmo3":
        writer.add_sliding_window(config.sliding_window or 0)
    if config.model_type == "olmo3":
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    if getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if arch == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)


def write_rotary_metadata(writer: Any, config: Any) -> None:
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope["rope_type"]
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_attn_factor(rope["attention_factor"])
        writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    if kind == "longrope":
        extension = config.max_position_embeddings / rope["original_max_position_embeddings"]
        scale = np.sqrt(1 + np.log(extension) / np.log(rope["original_max_position_embeddings"]))
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_attn_factors(float(scale))
        writer.add_rope_dimension_count(12)


def write_rotary_tensors(writer: Any, config: Any) -> None:
    rope = config.rope_parameters
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(config))
    if rope.get("rope_type") == "longrope":
        writer.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], np.float32))
        writer.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], np.float32))


def llama3_divisors(config: Any) -> np.ndarray:
    """Plain inverse frequencies over Llama 3's, as transformers computes them."""
    scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    dim = config.head_dim
    plain = 1.0 / config.rope_parameters["rope_theta"] ** (np.arange(0, dim, 2, dtype=np.float32) / dim)
    return np.asarray(plain / scaled.numpy(), np.float32)


def logits(model: Any) -> np.ndarray:
    ids = torch.from_numpy(np.random.default_rng(1).integers(3, 80, (2, 40)))
    with torch.no_grad():
        return np.asarray(model(ids).logits)


@pytest.mark.parametrize("case", CASES)
def test_a_converted_model_reads_back_as_the_original(tmp_path: Path, case: str) -> None:
    model_type, options = CASES[case]
    model = make_model(model_type, options)
    arch = ARCHS.get(model_type, model_type)
    with GgufSource(write_gguf(model, arch, tmp_path / "m.gguf")) as source:
        config = dict(source.config)
        assert config["model_type"] == model_type
        expected = {k: v.numpy() for k, v in model.state_dict().items()}
        if model.config.tie_word_embeddings:
            del expected["lm_head.weight"]
        assert set(source.names()) == set(expected)
        tolerance = 3e-7 if arch == "gemma3" else 0  # w + 1 - 1
        for name, weight in expected.items():
            assert source.shape(name) == weight.shape
            np.testing.assert_allclose(source.read(name), weight, atol=tolerance, rtol=0, err_msg=name)
    assert rebuilt_logits(model, config) == pytest.approx(logits(model), abs=2e-4)


def rebuilt_logits(model: Any, config: dict[str, Any]) -> np.ndarray:
    """Logits of a model with these weights, configured by nothing but `config`."""
    if (config.get("rope_scaling") or {}).get("rope_type") == "gguf_factors":
        # transformers does not know plain divisors: check them here, and give it its own form.
        np.testing.assert_allclose(config["rope_scaling"]["factors"], llama3_divisors(model.config), rtol=1e-6)
        assert config.pop("rope_theta") == LLAMA3["rope_theta"]
        config["rope_scaling"] = LLAMA3
    given = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
    given._attn_implementation = "eager"
    rebuilt = transformers.AutoModelForCausalLM.from_config(given).eval()
    rebuilt.load_state_dict(model.state_dict())
    return logits(rebuilt)


def test_common_keys(tmp_path: Path) -> None:
    model = make_model("llama", {"rms_norm_eps": 1e-5})
    config = GgufSource(write_gguf(model, "llama", tmp_path / "m.gguf")).config
    assert {key: config[key] for key in SIZES | SPECIAL} == SIZES | SPECIAL
    assert config["rms_norm_eps"] == 1e-5
    assert config["head_dim"] == 16
    assert config["rope_scaling"] is None
    assert config["tie_word_embeddings"] is False


def test_blocks_of_paired_rows_are_in_order_too(tmp_path: Path) -> None:
    model = make_model("llama", {})
    weight = model.state_dict()["model.layers.0.self_attn.q_proj.weight"].numpy()
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    write_metadata(writer, model.config, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((80, 64), np.float32))
    for layer in range(4):
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(f"blk.{layer}.attn_q.weight", gguf.quantize(paired(weight, 4), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source = GgufSource(path)
    name = "model.layers.0.self_attn.q_proj.weight"
    block = source.read_blocks(name)
    assert block is not None
    np.testing.assert_array_equal(block.dequantize(), source.read(name))
    np.testing.assert_allclose(block.dequantize(), weight, atol=0.01)
    assert source.read_blocks("model.embed_tokens.weight") is None


SCALINGS = {
    "llama, linear": {"rope_type": "linear", "factor": 4.0},
    "llama, yarn": without(YARN, "rope_theta"),
    "phi3, longrope": {
        "rope_type": "longrope", "original_max_position_embeddings": 64,
        "long_factor": LONGROPE["long_factor"], "short_factor": LONGROPE["short_factor"],
        "attention_factor": pytest.approx((1 + np.log(4) / np.log(64)) ** 0.5),
    },
}  # fmt: skip


@pytest.mark.parametrize("case", SCALINGS)
def test_rotary_scaling_has_the_original_numbers(tmp_path: Path, case: str) -> None:
    model_type, options = CASES[case]
    config = GgufSource(write_gguf(make_model(model_type, options), model_type, tmp_path / "m.gguf")).config
    assert config["rope_theta"] == options["rope_parameters"]["rope_theta"]
    assert config["rope_scaling"] == SCALINGS[case]


def test_yarn_keeps_its_magnitudes(tmp_path: Path) -> None:
    def change(writer: Any) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(2.0)
        writer.add_rope_scaling_yarn_log_mul(0.75)

    path = write_gguf(make_model("llama", {}), "llama", tmp_path / "m.gguf", change)
    scaling = {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0, "mscale_all_dim": 0.75}
    assert GgufSource(path).config["rope_scaling"] == scaling


def gemma(path: Path, **metadata: Any) -> GgufSource:
    model = make_model("gemma3_text", {"head_dim": 32})
    model.config.sliding_window = metadata.get("window")
    pattern = metadata.get("pattern")
    return GgufSource(
        write_gguf(model, "gemma3", path, lambda w: None if pattern is None else w.add_sliding_window_pattern(pattern))
    )


def test_gemma_without_a_window_sees_everything(tmp_path: Path) -> None:
    config = gemma(tmp_path / "m.gguf").config
    assert (config["sliding_window"], config["layer_types"]) == (None, ["full_attention"] * 4)


def test_gemma_with_a_pattern_of_its_own(tmp_path: Path) -> None:
    config = gemma(tmp_path / "m.gguf", window=5, pattern=2).config
    assert config["layer_types"] == ["sliding_attention", "full_attention"] * 2
    with pytest.raises(WeightsError, match=r"sliding_window_pattern is .* should be 4 flags"):
        gemma(tmp_path / "n.gguf", window=5, pattern=[True, False])


def test_scaling_that_does_nothing_is_none(tmp_path: Path) -> None:
    def change(writer: Any) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(1.0)
        writer.add_tensor("rope_freqs.weight", np.ones(8, np.float32))

    path = write_gguf(make_model("llama", {}), "llama", tmp_path / "m.gguf", change)
    assert GgufSource(path).config["rope_scaling"] is None


def test_every_fourth_layer_of_olmo3_sees_everything_by_default(tmp_path: Path) -> None:
    path = write_gguf(make_model("olmo2", {}), "olmo2", tmp_path / "m.gguf", lambda w: w.add_sliding_window(8))
    assert GgufSource(path).config["layer_types"] == ["sliding_attention"] * 3 + ["full_attention"]


def test_end_of_turn_tokens_end_too(tmp_path: Path) -> None:
    path = write_gguf(make_model("llama", {}), "llama", tmp_path / "m.gguf", lambda w: w.add_eot_token_id(7))
    assert GgufSource(path).config["eos_token_id"] == [2, 7]


def test_a_window_makes_a_llama_file_mistral(tmp_path: Path) -> None:
    path = write_gguf(make_model("llama", {}), "llama", tmp_path / "m.gguf", lambda w: w.add_sliding_window(16))
    config = GgufSource(path).config
    assert (config["model_type"], config["sliding_window"]) == ("mistral", 16)


REFUSED: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "clamped": ("llama", lambda w: w.add_clamp_kqv(8.0), "attention.clamp_kqv=8.0"),
    "experts": ("llama", lambda w: w.add_expert_count(8), "expert_count=8"),
    "scaled logits": ("llama", lambda w: w.add_logit_scale(2.0), "logit_scale"),
    "encoder": ("llama", lambda w: w.add_causal_attention(False), "encoder"),
    "expert tensor": ("llama", lambda w: w.add_tensor("blk.0.ffn_gate_exps.weight", np.ones((2, 2, 2), np.float32)),
                      "ffn_gate_exps.*mixtures of experts"),
    "stray tensor": ("llama", lambda w: w.add_tensor("blk.0.attn_qkv.weight", np.ones((2, 2), np.float32)),
                     "attn_qkv.*not part"),
    "window": ("qwen2", lambda w: w.add_sliding_window(16), "sliding window of 16"),
    "rotary type": ("qwen2", lambda w: (w.add_string("qwen2.rope.scaling.type", "ntk"),
                                        w.add_rope_scaling_factor(2.0)), "'ntk'"),
    "yarn that extrapolates": ("llama", lambda w: (
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN), w.add_rope_scaling_factor(2.0),
        w.add_rope_scaling_yarn_ext_factor(0.5)), "extrapolation factor of 0.5"),
    "granite without rotation": ("granite", lambda w: w.add_rope_scaling_finetuned(False), "without rotary"),
    "mrope": ("qwen2", lambda w: w.add_rope_dimension_sections([1, 1, 2, 0]), "dimension_sections"),
    "many sections": ("qwen2", lambda w: w.add_array("qwen2.rope.dimension_sections", list(range(200))), "sections"),
    "values of another size": ("llama", lambda w: w.add_uint32("llama.attention.value_length", 8), "values of 8"),
    "part of a rotation": ("llama", lambda w: w.add_rope_dimension_count(8), "0.5 of each head"),
    "adapter": ("llama", lambda w: w.add_type("adapter"), "'adapter'"),
    "rotary divisors and scaling": ("llama", lambda w: (
        w.add_tensor("rope_freqs.weight", np.ones(8, np.float32)), w.add_rope_scaling_factor(2.0)), "together"),
}  # fmt: skip


def without_head_dim(model: Any) -> Any:
    model.config.head_dim = None
    return model


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_named(tmp_path: Path, case: str) -> None:
    arch, change, match = REFUSED[case]
    path = write_gguf(without_head_dim(make_model(arch, {})), arch, tmp_path / "m.gguf", change)
    with pytest.raises(UnsupportedModelError, match=match) as caught:
        GgufSource(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_an_architecture_is_damaged(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.kv_data[0].clear()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(WeightsError, match=r"'general\.architecture' is missing"):
        GgufSource(tmp_path / "m.gguf")


def test_unknown_architectures_are_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "falcon")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UnsupportedModelError, match=r"'falcon' is not supported; supported: gemma3, granite, llama"):
        GgufSource(tmp_path / "m.gguf")


DAMAGED: dict[str, tuple[Callable[[Any], None], str]] = {
    "layers": (lambda w: w.add_block_count(2**31 - 1), "block_count is 2147483647, but .* 4 layers"),
    "fewer layers": (lambda w: w.add_block_count(3), "block_count is 3"),
    "text": (lambda w: w.add_string("llama.embedding_length", "64"), "embedding_length is '64'"),
    "zero": (lambda w: w.add_head_count(0), "head_count is '0'"),
    "epsilon": (lambda w: w.add_layer_norm_rms_eps(float("nan")), "rms_epsilon is 'nan'"),
    "factors": (lambda w: w.add_tensor("rope_freqs.weight", np.ones(5, np.float32)), r"rope_freqs.weight' has shape"),
    "bad factors": (lambda w: w.add_tensor("rope_freqs.weight", np.zeros(8, np.float32)), "not positive"),
    "flag": (lambda w: w.add_uint32("llama.attention.causal", 1), "causal is '1'; it should be true or false"),
    "type": (lambda w: w.add_uint32("llama.rope.scaling.type", 3), "scaling.type is '3'; it should be a string"),
    "no epsilon": (lambda w: [data.pop("llama.attention.layer_norm_rms_epsilon", None) for data in w.kv_data],
                   "rms_epsilon is missing; it should be a number"),
    "rotated": (lambda w: w.add_rope_dimension_count(32), "32 rotated"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_contradicting_metadata_is_refused(tmp_path: Path, case: str) -> None:
    change, match = DAMAGED[case]

    def overwrite(writer: Any) -> None:
        original = writer.add_key_value

        def replace(key: str, value: Any, vtype: Any, sub_type: Any = None) -> None:
            for data in writer.kv_data:
                data.pop(key, None)
            original(key, value, vtype, sub_type)

        writer.add_key_value = replace
        change(writer)
        writer.add_key_value = original

    path = write_gguf(without_head_dim(make_model("llama", {})), "llama", tmp_path / "m.gguf", overwrite)
    with pytest.raises(WeightsError, match=match):
        GgufSource(path)


def test_layers_that_differ_are_refused(tmp_path: Path) -> None:
    def change(writer: Any) -> None:
        for data in writer.kv_data:
            data.pop("llama.attention.head_count_kv", None)
        writer.add_head_count_kv([1, 2, 2, 2])

    with pytest.raises(UnsupportedModelError, match="head_count_kv differs from layer to layer"):
        GgufSource(write_gguf(make_model("llama", {}), "llama", tmp_path / "m.gguf", change))


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    source = GgufSource(write_gguf(make_model("llama", {}), "llama", tmp_path / "m.gguf"))
    for call in (source.read, source.shape, source.read_blocks):
        with pytest.raises(WeightsError, match=r"no tensor 'model\.nothing'"):
            call("model.nothing")


def test_rows_that_do_not_pair_are_refused() -> None:
    with pytest.raises(WeightsError, match="9 rows cannot hold 3 heads"):
        names.unpaired_rows(9, 3)


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["smollm2_gguf", "gemma_gguf"])
def test_real_files_read_as_transformers_reads_them(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, fixture: str
) -> None:
    path: Path = request.getfixturevalue(fixture)
    # transformers asks for the same table once per module; it takes half of the loading time.
    monkeypatch.setattr(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map))
    with GgufSource(path) as source:
        config = dict(source.config)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(
                transformers.AutoConfig.for_model(config["model_type"], **without(config, "model_type"))
            )
        loaded = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model, torch_dtype=torch.float32)
        for key in ("model_type", "hidden_size", "head_dim", "vocab_size", "num_key_value_heads", "rope_theta"):
            assert config[key] == loaded["config"][key]
        assert set(source.names()) == set(loaded["tensors"])
        for name in source.names():
            np.testing.assert_array_equal(source.read(name), loaded["tensors"][name].numpy(), err_msg=name)
