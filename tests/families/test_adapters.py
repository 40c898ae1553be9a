"""Adapters on families whose products are of other kinds than Llama's: PEFT's logits, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genai.build.package import build_package
from genai.errors import AdapterError
from tests.build import tiny
from tests.build.adapters import published
from tests.families import oracle
from tests.families.cases import CASES, MODEL_TYPES
from tests.families.made import save, write_gguf

pytest.importorskip("peft")

PROMPTS = [tiny.tokens(40), tiny.tokens(9, 1)]
LEFT_OUT = ("lm_head", "kv_b_proj", "mamba.out_proj", "mixer.out_proj")
"""The head, what has no room, and what PEFT itself does not adapt."""
ATTENTION = r".*self_attn\.(?!kv_b_proj)[a-z_]*proj[a-z_]*"
"""Where the names of other modules would mean the experts, too, to PEFT."""
TARGETS: dict[str, str | None] = {
    # experts: attention, shared experts, and the routers that are products of their own
    "qwen2_moe": None, "qwen3_moe": None, "gpt_oss": None, "granitemoe": None, "lfm2_moe": None,
    "deepseek_v2": ATTENTION, "deepseek_v3": ATTENTION, "glm4_moe": ATTENTION,
    # recurrences, convolutions, and attention beside them
    "qwen3_5_text": None, "qwen3_5_moe_text": None, "qwen3_next": ATTENTION, "lfm2": None, "granitemoehybrid": None,
    "falcon_h1": None, "nemotron_h": None,
    # inputs and outputs the other way round; q, k and v in one; a part that sees, whose changes are left out
    "gpt2": None, "bloom": None, "gemma3": None, "qwen3_5": None,
}  # fmt: skip
"""Model types, and what of them is adapted: every linear layer, but for `LEFT_OUT`, unless it is said."""


def linears(model: Any) -> list[str]:
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    names = [name for name, module in model.named_modules() if isinstance(module, Linear | Conv1D)]
    return [name for name in names if not name.endswith(LEFT_OUT)]


def adapted(model: Any, folder: Path, targets: Any = None) -> tuple[Path, Any]:
    """An adapter of a model, and the model with it."""
    wrapped = published.adapted(model, seed=1, targets=targets or linears(model))
    return published.save(wrapped, folder), wrapped


@pytest.mark.parametrize("model_type", TARGETS)
def test_logits_are_pefts(model_type: str, tmp_path: Path) -> None:
    model = save(CASES[MODEL_TYPES[model_type]], tmp_path / "checkpoint")
    path, wrapped = adapted(model, tmp_path / "adapter", TARGETS[model_type])
    wanted, before = published.logits(wrapped, PROMPTS), published.logits(model, PROMPTS)
    assert np.abs(wanted[0] - before[0]).max() > 0.1 * before[0].std()
    package = build_package(
        tmp_path / "checkpoint", tmp_path / "package", precision="f32", lora_slots=1, max_rank=4, max_seq_len=64
    )
    with tiny.loaded(package) as llm:
        llm.load_adapter("mine", path)
        oracle.close([llm.logits(prompt, adapter="mine") for prompt in PROMPTS], wanted)
        oracle.close([llm.logits(prompt) for prompt in PROMPTS], before)


@pytest.mark.parametrize("router", ["mlp.router", "block_sparse_moe.gate"])
def test_phimoes_router_by_both_of_its_names(tmp_path: Path, router: str) -> None:
    """Transformers' module is a product that PEFT cannot wrap today: its weight is changed as an adapter would."""
    model = save(CASES[MODEL_TYPES["phimoe"]], tmp_path / "checkpoint")
    path, wrapped = adapted(model, tmp_path / "adapter", ATTENTION)
    rng, layer = np.random.default_rng(0), "model.layers.0"
    weight = wrapped.get_submodule(f"base_model.model.{layer}.mlp.router").weight
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, weight.shape[1]), (weight.shape[0], 4)))
    weight.data += weight.new_tensor(6 / 4 * b @ a)
    file = path / "adapter_model.safetensors"
    names = {f"base_model.model.{layer}.{router}.lora_{part}.weight": each for part, each in (("A", a), ("B", b))}
    save_file(load_file(file) | names, file)
    package = build_package(tmp_path / "checkpoint", tmp_path / "package", precision="f32", lora_slots=1, max_rank=4)
    with tiny.loaded(package) as llm:
        llm.load_adapter("mine", path)
        oracle.close([llm.logits(prompt, adapter="mine") for prompt in PROMPTS], published.logits(wrapped, PROMPTS))


def test_experts_in_stacks_are_refused_by_name(tmp_path: Path) -> None:
    model = save(CASES[MODEL_TYPES["qwen3_moe"]], tmp_path / "checkpoint")
    path, _ = adapted(model, tmp_path / "adapter", "all-linear")
    package = build_package(tmp_path / "checkpoint", tmp_path / "package", precision="f32", lora_slots=1, max_rank=4)
    with tiny.loaded(package) as llm:
        with pytest.raises(AdapterError, match="target_parameters is set: changes of experts' stacked parameters"):
            llm.load_adapter("mine", path)
        assert not llm.adapters.paths


def test_heads_of_latent_attention_are_refused_and_can_be_merged(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    model = save(CASES[MODEL_TYPES["deepseek_v3"]], checkpoint)
    path, wrapped = adapted(model, tmp_path / "adapter", r".*\.kv_b_proj")
    package = build_package(checkpoint, tmp_path / "package", precision="f32", lora_slots=1, max_rank=4)
    with (
        tiny.loaded(package) as llm,
        pytest.raises(AdapterError, match=r"self_attn\.kv_b_proj, for which this package has no room .* latent"),
    ):
        llm.load_adapter("mine", path)
    merged = build_package(checkpoint, tmp_path / "merged", precision="f32", merge_lora=path)
    oracle.close(oracle.whole(merged, PROMPTS), published.logits(wrapped, PROMPTS))


def test_experts_one_by_one_are_refused_by_name(tmp_path: Path) -> None:
    """As adapters have them that were trained where experts were modules of their own."""
    model = save(CASES[MODEL_TYPES["qwen3_moe"]], tmp_path / "checkpoint")
    path, _ = adapted(model, tmp_path / "adapter")
    file = path / "adapter_model.safetensors"
    stored = load_file(file)
    renamed = {name.replace("self_attn.q_proj", "mlp.experts.1.up_proj"): tensor for name, tensor in stored.items()}
    save_file(renamed, file)
    package = build_package(tmp_path / "checkpoint", tmp_path / "package", precision="f32", lora_slots=1, max_rank=4)
    with tiny.loaded(package) as llm, pytest.raises(AdapterError, match=r"experts\.1\.up_proj, for which .* \(experts"):
        llm.load_adapter("mine", path)


def test_multipliers_that_a_gguf_file_has_folded_in_are_not_guessed(tmp_path: Path) -> None:
    """Falcon-H1's: an adapter's rows would want them, too."""
    case, folder = CASES[MODEL_TYPES["falcon_h1"]], tmp_path / "checkpoint"
    model = save(case, folder)
    source = write_gguf(case, folder, tmp_path / "model.gguf")
    package = build_package(source, tmp_path / "package", precision="f32", lora_slots=1, max_rank=4)
    path, _ = adapted(model, tmp_path / "adapter")
    free, wrapped = adapted(model, tmp_path / "free", r".*\.up_proj")
    with tiny.loaded(package) as llm:
        with pytest.raises(AdapterError, match="multiplied by numbers that the file does not tell: take the base from"):
            llm.load_adapter("mine", path)
        llm.load_adapter("mine", free)
        oracle.close([llm.logits(PROMPTS[0], adapter="mine")], published.logits(wrapped, PROMPTS[:1]))
    assert json.loads((package / "genai.json").read_text())["adapters"]["base"]["multipliers_are_folded"] is True
