"""What files say, and what they say wrongly; that a family's files give the original's logits is in tests/families."""

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
from tests.build import tiny
from tests.families import gguf_writer
from tests.families.case import YARN
from tests.families.cases import CASES
from tests.families.cases.llama_like import LONG

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
load_gguf_checkpoint = pytest.importorskip("transformers.modeling_gguf_pytorch_utils").load_gguf_checkpoint

CASE_OF = {case.gguf.arch: case for case in reversed(CASES.values()) if case.gguf}
"""Architectures, and the first case of each."""


def form_of(arch: str) -> gguf_writer.GgufForm:
    form = CASE_OF[arch].gguf
    assert form is not None
    return form


def make_model(arch: str, **options: Any) -> Any:
    """A tiny model of four layers that such a file may hold."""
    return tiny.make_model(CASE_OF[arch].model_type, **({"num_hidden_layers": 4} | options))


def write_gguf(model: Any, arch: str, path: Path, change: Callable[[Any], None] = lambda _: None) -> Path:
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    return gguf_writer.write(form_of(arch), tensors, model.config, path, change)


def test_common_keys(tmp_path: Path) -> None:
    model = make_model("llama", rms_norm_eps=1e-5)
    config = GgufSource(write_gguf(model, "llama", tmp_path / "m.gguf")).config
    sizes = tiny.SIZES | {"num_hidden_layers": 4}
    assert {key: config[key] for key in sizes} == sizes
    assert config["rms_norm_eps"] == 1e-5
    assert config["head_dim"] == 16
    assert config["rope_scaling"] is None
    assert config["tie_word_embeddings"] is False


def test_blocks_of_paired_rows_are_in_order_too(tmp_path: Path) -> None:
    model = make_model("llama")
    weight = model.state_dict()["model.layers.0.self_attn.q_proj.weight"].numpy()
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in gguf_writer.metadata(form_of("llama"), model.config).items():
        gguf_writer.put(writer, key, value)
    table = weight.repeat(5, axis=0)[: tiny.VOCAB_SIZE] * np.arange(tiny.VOCAB_SIZE)[:, None].astype(np.float32)
    writer.add_tensor("token_embd.weight", table)
    rows = gguf_writer.paired_rows(weight, 4)
    for layer in range(4):
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(f"blk.{layer}.attn_q.weight", gguf.quantize(rows, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source = GgufSource(path)
    name = "model.layers.0.self_attn.q_proj.weight"
    block = source.read_blocks(name)
    assert block is not None
    np.testing.assert_array_equal(block.dequantize(), source.read(name))
    np.testing.assert_allclose(block.dequantize(), weight, atol=0.01 * abs(weight).max())
    some = source.read_blocks(name, slice(9, 41))
    assert some is not None
    np.testing.assert_array_equal(some.dequantize(), block.dequantize()[9:41])
    np.testing.assert_array_equal(source.read(name, slice(9, 41)), source.read(name)[9:41])
    assert source.read_blocks("model.embed_tokens.weight") is None
    np.testing.assert_array_equal(source.read("model.embed_tokens.weight", slice(100, 200)), table[100:200])


SCALINGS = {
    "llama linear": {"rope_type": "linear", "factor": 4.0},
    "llama yarn, all keys": {
        "rope_type": "yarn", "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.25, **YARN,
    },
    "phi3 long": {
        "rope_type": "longrope", "original_max_position_embeddings": 32,
        "attention_factor": pytest.approx((1 + np.log(8) / np.log(32)) ** 0.5), **LONG,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SCALINGS)
def test_rotary_scaling_has_the_original_numbers(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    assert case.gguf is not None
    model = tiny.make_model(case.model_type, **case.options)
    config = GgufSource(write_gguf(model, case.gguf.arch, tmp_path / "m.gguf")).config
    assert config["rope_theta"] == case.options["rope_parameters"]["rope_theta"]
    assert config["rope_scaling"] == SCALINGS[name]


def test_yarn_keeps_its_magnitudes(tmp_path: Path) -> None:
    def change(writer: Any) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(2.0)
        writer.add_rope_scaling_yarn_log_mul(0.75)

    path = write_gguf(make_model("llama"), "llama", tmp_path / "m.gguf", change)
    scaling = {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0, "mscale_all_dim": 0.75}
    assert GgufSource(path).config["rope_scaling"] == scaling


def gemma(path: Path, **metadata: Any) -> GgufSource:
    model = make_model("gemma3", head_dim=32)
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

    path = write_gguf(make_model("llama"), "llama", tmp_path / "m.gguf", change)
    assert GgufSource(path).config["rope_scaling"] is None


def test_every_fourth_layer_of_olmo3_sees_everything_by_default(tmp_path: Path) -> None:
    path = write_gguf(make_model("olmo2"), "olmo2", tmp_path / "m.gguf", lambda w: w.add_sliding_window(8))
    assert GgufSource(path).config["layer_types"] == ["sliding_attention"] * 3 + ["full_attention"]


def test_end_of_turn_tokens_end_too(tmp_path: Path) -> None:
    path = write_gguf(make_model("llama"), "llama", tmp_path / "m.gguf", lambda w: w.add_eot_token_id(7))
    assert GgufSource(path).config["eos_token_id"] == [2, 7]


def test_a_window_makes_a_llama_file_mistral(tmp_path: Path) -> None:
    path = write_gguf(make_model("llama"), "llama", tmp_path / "m.gguf", lambda w: w.add_sliding_window(16))
    config = GgufSource(path).config
    assert (config["model_type"], config["sliding_window"]) == ("mistral", 16)


REFUSED: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "clamped": ("llama", lambda w: w.add_clamp_kqv(8.0), "attention.clamp_kqv=8.0"),
    "experts": ("qwen2", lambda w: w.add_expert_count(8), "expert_count=8"),
    "scaled logits": ("llama", lambda w: w.add_logit_scale(2.0), "logit_scale"),
    "encoder": ("llama", lambda w: w.add_causal_attention(False), "encoder"),
    "expert tensor": ("qwen2", lambda w: w.add_tensor("blk.0.ffn_gate_exps.weight", np.ones((2, 2, 2), np.float32)),
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
    path = write_gguf(without_head_dim(make_model(arch)), arch, tmp_path / "m.gguf", change)
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

    path = write_gguf(without_head_dim(make_model("llama")), "llama", tmp_path / "m.gguf", overwrite)
    with pytest.raises(WeightsError, match=match):
        GgufSource(path)


def test_layers_that_differ_are_refused(tmp_path: Path) -> None:
    def change(writer: Any) -> None:
        for data in writer.kv_data:
            data.pop("llama.attention.head_count_kv", None)
        writer.add_head_count_kv([1, 2, 2, 2])

    with pytest.raises(UnsupportedModelError, match="head_count_kv differs from layer to layer"):
        GgufSource(write_gguf(make_model("llama"), "llama", tmp_path / "m.gguf", change))


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    source = GgufSource(write_gguf(make_model("llama"), "llama", tmp_path / "m.gguf"))
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
            options = {key: value for key, value in config.items() if key != "model_type"}
            given = transformers.AutoConfig.for_model(config["model_type"], **options)
            model = transformers.AutoModelForCausalLM.from_config(given)
        loaded = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model, torch_dtype=torch.float32)
        for key in ("model_type", "hidden_size", "head_dim", "vocab_size", "num_key_value_heads", "rope_theta"):
            assert config[key] == loaded["config"][key]
        assert set(source.names()) == set(loaded["tensors"])
        for name in source.names():
            np.testing.assert_array_equal(source.read(name), loaded["tensors"][name].numpy(), err_msg=name)
