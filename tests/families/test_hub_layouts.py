"""Checkpoints as the hub has them beside how transformers saves them today: names, masks, heads twice; and variants."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genai.build.package import build_package
from genai.errors import UnsupportedModelError
from tests.build import tiny
from tests.families import oracle
from tests.families.cases import CASES
from tests.families.made import Made

Tensors = dict[str, np.ndarray]


def without_prefix(tensors: Tensors) -> Tensors:
    """GPT-2 as it was first published: no model around it, and a mask for each layer."""
    masks = {f"h.{layer}.attn.bias": np.tril(np.ones((1, 1, 256, 256), np.float32)) for layer in range(3)}
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()} | masks


def with_masks(tensors: Tensors) -> Tensors:
    """Pythia: masks, their value, and frequencies in each layer."""
    extra: Tensors = {}
    for layer in range(4):
        prefix = f"gpt_neox.layers.{layer}.attention"
        extra[f"{prefix}.bias"] = np.ones((1, 1, 8, 8), np.float32)
        extra[f"{prefix}.masked_bias"] = np.array(-1e9, np.float32)
        extra[f"{prefix}.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    return tensors | extra


def without_model(tensors: Tensors) -> Tensors:
    """OPT's first checkpoints."""
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def with_head(tensors: Tensors) -> Tensors:
    """Falcon-7B: the head is the embedding, and is stored again."""
    return tensors | {"lm_head.weight": tensors["transformer.word_embeddings.weight"].copy()}


def bare(tensors: Tensors) -> Tensors:
    """BLOOM: no model around the decoder."""
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}


def with_next_layer(tensors: Tensors) -> Tensors:
    """DeepSeek V3 and GLM: a layer behind the last one that predicts a token more, with an embedding of its own."""
    size = tensors["model.norm.weight"].size
    last = {name: tensor for name, tensor in tensors.items() if name.startswith("model.layers.2.")}
    prefix, number = "model.layers.3.", r"model\.layers\.2\."
    extra = {re.sub(number, prefix, name): tensor.copy() for name, tensor in last.items()}
    extra |= {f"{prefix}{name}.weight": np.ones(size, np.float32) for name in ("enorm", "hnorm", "shared_head.norm")}
    extra[f"{prefix}eh_proj.weight"] = np.ones((size, 2 * size), np.float32)
    for name, ours in (("embed_tokens", "model.embed_tokens"), ("shared_head.head", "lm_head")):
        extra[f"{prefix}{name}.weight"] = tensors[f"{ours}.weight"].copy()
    return tensors | extra


def with_mtp_beside(tensors: Tensors) -> Tensors:
    """Qwen3.5: the same, outside of the model."""
    size = tensors["model.norm.weight"].size
    names = ("fc", "norm", "layers.0.input_layernorm", "pre_fc_norm_hidden")
    return tensors | {f"mtp.{name}.weight": np.ones(size, np.float32) for name in names}


def with_stacks(tensors: Tensors) -> Tensors:
    """Qwen3.5: all experts of a layer in one tensor, gate and up in another."""
    experts: dict[str, dict[int, Tensors]] = {}
    for name in [name for name in tensors if ".experts." in name]:
        prefix, number, product = re.fullmatch(r"(.+\.experts)\.(\d+)\.(\w+)\.weight", name).groups()  # type: ignore[union-attr]
        experts.setdefault(prefix, {}).setdefault(int(number), {})[product] = tensors.pop(name)
    for prefix, each in experts.items():
        ordered = [each[number] for number in sorted(each)]
        both = [np.concatenate([expert["gate_proj"], expert["up_proj"]]) for expert in ordered]
        tensors |= {f"{prefix}.gate_up_proj": np.stack(both)}
        tensors |= {f"{prefix}.down_proj": np.stack([expert["down_proj"] for expert in ordered])}
    return tensors


def with_mtp(tensors: Tensors) -> Tensors:
    """ERNIE: the same beside the layers."""
    size = tensors["model.norm.weight"].size
    names = ("mtp_block.0.input_layernorm", "mtp_block.0.mlp.up_proj", "mtp_emb_norm.0", "mtp_hidden_norm.0")
    extra = {f"model.{name}.weight": np.ones(size, np.float32) for name in (*names, "mtp_linear_proj.0")}
    return tensors | extra


LAYOUTS: dict[str, Callable[[Tensors], Tensors]] = {
    "gpt2 tied": without_prefix,
    "gpt_neox": with_masks,
    "opt tied": without_model,
    "bloom": bare,
    "falcon tied": with_head,
    "deepseek_v3": with_next_layer,
    "glm4_moe": with_next_layer,
    "glm4_moe_lite": with_next_layer,
    "ernie4_5_moe": with_mtp,
    "qwen3_5": with_mtp_beside,
    "qwen3_5_moe": with_stacks,
}


PREDICTING = {with_next_layer, with_mtp, with_mtp_beside}


@pytest.mark.parametrize("name", LAYOUTS)
def test_other_layouts_are_the_same_model(
    made: Made, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of layers that predict further tokens the user is told, once."""
    checkpoint = made.checkpoint(CASES[name])
    tensors = LAYOUTS[name](load_file(checkpoint.folder / "model.safetensors"))
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "tokenizer.json").write_bytes((checkpoint.folder / "tokenizer.json").read_bytes())
    config = json.loads((checkpoint.folder / "config.json").read_text()) | {"num_nextn_predict_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    package = build_package(tmp_path, tmp_path / "package", precision="f32")
    oracle.close(oracle.whole(package, checkpoint.prompts), checkpoint.logits)
    told = [record.message for record in caplog.records if "predict further tokens" in record.message]
    assert len(told) == (LAYOUTS[name] in PREDICTING)


VARIANTS: list[tuple[str, dict[str, Any], str]] = [
    ("bloom", {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm=True"),
    ("mpt", {"attn_config": {"alibi": False}}, "attn_config.alibi=false"),
    ("mpt", {"attn_config": {"qk_ln": True}}, "qk_ln=True"),
    ("mpt", {"logit_scale": "inv_sqrt_d_model"}, "logit_scale='inv_sqrt_d_model'"),
    ("falcon", {"alibi": True}, "alibi=true"),
    ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before=false .*OPT-350M"),
    ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine=false"),
    ("opt", {"word_embed_proj_dim": 32}, "an embedding of its own width, 32"),
    ("opt", {"_remove_final_layer_norm": True}, "_remove_final_layer_norm=True"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
    ("gpt_bigcode", {"add_cross_attention": True}, "add_cross_attention=True"),
]


@pytest.mark.parametrize(("model_type", "changes", "reason"), VARIANTS)
def test_variants_that_are_not_built_are_refused(
    tmp_path: Path, model_type: str, changes: dict[str, Any], reason: str
) -> None:
    folder = tiny.save(tiny.make_model(model_type), tmp_path / "checkpoint", **changes)
    with pytest.raises(UnsupportedModelError, match=reason):
        build_package(folder, tmp_path / "package")
