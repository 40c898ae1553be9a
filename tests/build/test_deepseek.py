"""DeepSeek's families beyond their logits: published configurations, files of other makers, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genai.build.architectures import spec_of
from genai.build.architectures.config import ConfigReader
from genai.build.gguf.source import GgufSource
from genai.build.package import build_package
from genai.build.spec import LatentSpec, MoeSpec
from genai.errors import UnsupportedModelError, WeightsError
from tests.build import tiny
from tests.build.gguf.test_tensors import numbers, stack, write
from tests.families import oracle
from tests.families.cases import CASES
from tests.families.made import write_gguf

YARN = {
    "beta_fast": 32, "beta_slow": 1, "factor": 40, "original_max_position_embeddings": 4096, "type": "yarn",
}  # fmt: skip
V2_LITE: dict[str, Any] = {
    "model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": 2048, "intermediate_size": 10944,
    "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 163840,
    "kv_lora_rank": 512, "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "moe_intermediate_size": 1408,
    "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1, "topk_group": 1, "topk_method": "greedy",
    "scoring_func": "softmax", "norm_topk_prob": False, "routed_scaling_factor": 1.0, "rope_theta": 10000,
    "rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}, "rms_norm_eps": 1e-6,
}  # fmt: skip
FLASH: dict[str, Any] = {
    "model_type": "glm4_moe_lite", "vocab_size": 154880, "hidden_size": 2048, "intermediate_size": 10240,
    "num_hidden_layers": 47, "num_attention_heads": 20, "num_key_value_heads": 20, "max_position_embeddings": 202752,
    "rms_norm_eps": 1e-5, "rope_theta": 1000000, "rope_scaling": None, "partial_rotary_factor": 1.0,
    "num_nextn_predict_layers": 1,
}  # fmt: skip


def first_latent(config: dict[str, Any]) -> LatentSpec:
    return spec_of(ConfigReader(config)).latents[0]


def test_published_configurations() -> None:
    lite = first_latent(V2_LITE)
    magnitude = 0.1 * 0.707 * math.log(40) + 1
    assert lite.scale == pytest.approx(192**-0.5 * magnitude**2)
    assert (lite.rotary.scale, lite.rotary.is_interleaved, lite.query_rank, lite.head_dim) == (1.0, True, None, 576)
    spec = spec_of(ConfigReader(FLASH))
    flash = spec.latents[46]
    assert flash.scale == 256**-0.5
    assert (flash.query_rank, flash.plain_size, flash.value_size, flash.head_dim) == (768, 192, 256, 576)
    (moe,) = {part for block in spec.blocks for part in block.parts if isinstance(part, MoeSpec)}
    assert (moe.num_experts, moe.top_k, moe.size, moe.router.scale) == (64, 4, 1536, 1.8)


def test_yarn_that_shortens_nothing_scales_nothing() -> None:
    same = V2_LITE | {"rope_scaling": V2_LITE["rope_scaling"] | {"factor": 1.0}}
    assert first_latent(same).scale == 192**-0.5


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (V2_LITE | {"norm_topk_prob": True}, "norm_topk_prob=True: not supported"),
        (
            V2_LITE | {"topk_method": "noaux_tc"},
            "topk_method='noaux_tc'.*supported are greedy and group_limited_greedy",
        ),
        (V2_LITE | {"scoring_func": "sigmoid"}, "scoring_func='sigmoid'"),
        (V2_LITE | {"moe_layer_freq": 2}, "moe_layer_freq=2"),
        (FLASH | {"partial_rotary_factor": 0.5}, "32 of 64 elements rotated"),
        (FLASH | {"mlp_layer_types": ["dense"] * 46 + ["other"]}, "'other'; supported: dense, sparse"),
        (FLASH | {"mlp_layer_types": ["dense"]}, "not a list of 47"),
        (FLASH | {"kv_lora_rank": 0}, "kv_lora_rank=0, not a positive"),
    ],
)
def test_what_is_not_built_is_refused(config: dict[str, Any], told: str) -> None:
    with pytest.raises((UnsupportedModelError, WeightsError), match=told):
        spec_of(ConfigReader(config))


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe_lite"])
def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path, name: str) -> None:
    pytest.importorskip("torch")
    case = CASES[name]
    model = tiny.make_model(case.model_type, **case.options)
    source = tiny.save(model, tmp_path / "checkpoint", num_nextn_predict_layers=1)
    tensors = load_file(source / "model.safetensors")
    further = {"enorm.weight": (64,), "eh_proj.weight": (64, 128), "self_attn.o_proj.weight": (64, 96)}
    tensors |= {f"model.layers.3.{each}": np.ones(shape, np.float32) for each, shape in further.items()}
    save_file(tensors, source / "model.safetensors")
    package = build_package(source, tmp_path / "package", precision="f32")
    prompt = tiny.tokens(20)
    oracle.close(oracle.whole(package, [prompt]), [tiny.expected(model, prompt)])


def file_of(folder: Path, name: str, change: Callable[[Any], None] = lambda _: None) -> Path:
    """A case's GGUF file; change: is given the writer before it writes."""
    pytest.importorskip("torch")
    case = CASES[name]
    checkpoint = tiny.save(tiny.make_model(case.model_type, **case.options), folder / "checkpoint", **case.changes)
    return write_gguf(case, checkpoint, folder / "model.gguf", change)


def test_a_file_tells_whose_it_is_by_its_tensors(tmp_path: Path) -> None:
    for name, model_type in {"deepseek_v2": "deepseek_v2", "glm4_moe_lite": "glm4_moe_lite"}.items():
        with GgufSource(file_of(tmp_path / name, name)) as source:
            assert source.config["model_type"] == model_type
            assert "deepseek2.expert_gating_func" not in source.metadata


def test_a_files_function_must_be_that_of_its_tensors(tmp_path: Path) -> None:
    path = file_of(
        tmp_path, "deepseek_v2", lambda writer: writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    )
    with pytest.raises(UnsupportedModelError, match=r"deepseek2\.expert_gating_func=2 is not supported"):
        GgufSource(path)


def test_stacks_have_as_many_heads_as_the_file_says(tmp_path: Path) -> None:
    path = file_of(tmp_path, "deepseek_v3", lambda writer: writer.add_head_count(8))
    with pytest.raises(WeightsError, match=r"attn_k_b.weight' has shape \(4, 40, 16\), which is no stack of 8 heads"):
        GgufSource(path)


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_0"])
def test_each_head_reads_as_its_part_of_the_stack(tmp_path: Path, kind: str) -> None:
    def sizes(writer: Any) -> None:
        writer.add_expert_used_count(2)
        writer.add_kv_lora_rank(64)
        writer.add_key_length(40)
        writer.add_value_length(32)
        writer.add_rope_dimension_count(8)

    stacks = {"k_b": stack(kind, 4, 64, 32), "v_b": stack(kind, 4, 32, 64)}
    tensors = {f"blk.0.attn_{part}.weight": (tensor, kind) for part, tensor in stacks.items()}
    with GgufSource(write(tmp_path / "m.gguf", tensors, arch="deepseek2", change=sizes)) as source:
        for part, tensor in stacks.items():
            for head, expected in enumerate(numbers(tensor, kind)):
                name = f"model.layers.0.self_attn.{part}_proj.{head}.weight"
                assert source.shape(name) == expected.shape
                np.testing.assert_array_equal(source.read(name), expected)
                block = source.read_blocks(name)
                assert (block is None) == (kind == "F32")
                if block is not None:
                    np.testing.assert_array_equal(block.dequantize(), expected)
