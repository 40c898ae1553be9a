"""Adapters read as PEFT and llama.cpp save them: scales, patterns, orders of rows, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from genai.build.adapters.adapter import LowRank
from genai.build.adapters.base import Base
from genai.build.adapters.open import adapter_rank, read_adapter
from genai.errors import AdapterError
from tests.build import tiny
from tests.build.adapters import published

pytest.importorskip("peft")

CONFIG = {"model_type": "llama", "num_attention_heads": 4, "num_key_value_heads": 2, **tiny.SIZES}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.make_model("llama", num_hidden_layers=1)


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    return published.save(published.adapted(model, seed=1), tmp_path / "adapter")


def changes(path: Path) -> dict[str, np.ndarray]:
    """What is added to each weight, [out, in]."""
    return {name: each.change() for name, each in read_adapter(path, Base(CONFIG)).products.items()}


@pytest.mark.parametrize(
    "options",
    [
        {"lora_alpha": 12, "use_rslora": True},
        {
            "rank_pattern": {"q_proj": 2, "layers.0.mlp.up_proj": 8},
            "alpha_pattern": {"q_proj": 5, r"mlp\..*": 3},
            "targets": ["q_proj", "up_proj", "down_proj"],
        },
    ],
    ids=["rslora", "patterns"],
)
def test_changes_are_what_peft_merges(model: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    wrapped = published.adapted(model, seed=5, **options)
    path = published.save(wrapped, tmp_path / "adapter")
    merged, before = wrapped.merge_and_unload().state_dict(), model.state_dict()
    found = changes(path)
    assert len(found) == (7 if "targets" not in options else 3)
    for name, change in found.items():
        wanted = (merged[f"{name}.weight"] - before[f"{name}.weight"]).numpy()
        np.testing.assert_allclose(change, wanted, atol=1e-6)
    assert adapter_rank(path) == (8 if "targets" in options else 4)


def test_a_gguf_file_is_the_folder_that_it_was_made_of(folder: Path, tmp_path: Path) -> None:
    paired = {"q_proj": 4, "k_proj": 2}
    path = published.as_gguf(folder, tmp_path / "adapter.gguf", "llama", paired, alpha=6)
    from_folder, from_gguf = changes(folder), changes(path)
    assert from_folder.keys() == from_gguf.keys()
    for name, change in from_folder.items():
        np.testing.assert_allclose(from_gguf[name], change, atol=1e-7)
    assert adapter_rank(path) == 4


def test_factors_of_a_familys_weights_are_the_adapters_too() -> None:
    """Falcon-H1's products are stored without the multipliers of what they make."""
    made = {"ssm_multipliers": [1.0, 2.0, 3.0, 4.0, 5.0], "ssm_in_multiplier": 2.0, "mlp_multipliers": [1.0, 7.0]}
    sizes = {"mamba_n_heads": 2, "mamba_d_head": 2, "mamba_d_ssm": 4, "mamba_n_groups": 1, "mamba_d_state": 1}
    base = Base(CONFIG | {"model_type": "falcon_h1"} | made | sizes)
    rows = base.in_our_order("model.layers.0.mamba.in_proj", np.ones((12, 1), np.float32))
    assert rows[:, 0].tolist() == [2, 2, 2, 2, 4, 4, 4, 4, 6, 8, 10, 10]
    assert base.in_our_order("model.layers.0.mlp.down_proj", np.ones((3, 1), np.float32)).tolist() == [[7]] * 3


def test_value_heads_lie_in_the_adapter_as_in_the_base(tmp_path: Path) -> None:
    """GGUF files of Qwen3.5 have them in tiles: rows of one order would be added to rows of the other."""
    sizes = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "head_dim": 16}
    folder, name = CONFIG | {"model_type": "qwen3_5_text"} | sizes, "model.layers.0.linear_attn.in_proj_z"
    from_gguf = folder | {"linear_value_heads_are_tiled": True}
    for config, is_tiled in ((folder, True), (from_gguf, False)):
        with pytest.raises(AdapterError, match="value heads lie in another order"):
            Base(config).check_tiles(name, is_tiled=is_tiled)
        Base(config).check_tiles("model.layers.0.mlp.up_proj", is_tiled=is_tiled)
        Base(config).check_tiles(name, is_tiled=not is_tiled)
        Base(config | {"linear_num_value_heads": 2}).check_tiles(name, is_tiled=is_tiled)
    matrices = {"A": np.ones((1, 8), np.float32), "B": np.ones((8, 1), np.float32)}
    tensors = {f"base_model.model.{name}.lora_{matrix}.weight": each for matrix, each in matrices.items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}))
    assert [*read_adapter(tmp_path, Base(folder)).products] == [name]
    with pytest.raises(AdapterError, match="value heads lie in another order"):
        read_adapter(tmp_path, Base(from_gguf))


def test_names_of_other_classes_mean_the_same(folder: Path) -> None:
    """Trained without the head's class, or inside a model that sees, or saved with the adapter's name in its names."""
    stored = load_file(folder / "adapter_model.safetensors")
    wanted = changes(folder)
    for old, new in {
        "base_model.model.model.": "base_model.model.",
        "base_model.model.model.layers": "base_model.model.model.language_model.layers",
        ".weight": ".default.weight",
    }.items():
        renamed = {name.replace(old, new): tensor for name, tensor in stored.items()}
        save_file(renamed, folder / "adapter_model.safetensors")
        assert changes(folder).keys() == wanted.keys()


def test_sizes_of_both_matrices_are_made_alike() -> None:
    """Numbers below float16's smallest survive, and the product is the same to the bit."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4, 8), np.float32), rng.standard_normal((6, 4), np.float32) * np.float32(1e-9)
    each = LowRank.of(a, b, 0.5)
    np.testing.assert_array_equal(each.change(), (a.T @ (b.T * np.float32(0.5))).T)
    halves = [matrix.astype(np.float16).astype(np.float32) for matrix in (each.first, each.second)]
    np.testing.assert_allclose((halves[0] @ halves[1]).T, each.change(), rtol=0.01, atol=1e-11)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"peft_type": "IA3"}, "of the type 'IA3'; only LORA"),
        ({"bias": "lora_only"}, "bias='lora_only': biases that were trained are not supported"),
        ({"use_dora": True}, "use_dora is set: DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters is set"),
        ({"init_lora_weights": "pissa_niter_4"}, "has changed the base's weights, too"),
        ({"r": 8}, "has rank 4, adapter_config.json says 8"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much', and should be a number"),
        ({"rank_pattern": {"(": 3}}, "rank_pattern has a pattern that cannot be read"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_lora_alone_is_refused(folder: Path, option: dict[str, object], said: str) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | option))
    with pytest.raises(AdapterError, match=said):
        read_adapter(folder, Base(CONFIG))


def test_damaged_tensors_are_refused(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    stored = load_file(path)
    name = next(name for name in stored if "q_proj.lora_A" in name)
    for changed, said in (
        ({name: stored[name][:3].copy()}, "has lora_A"),
        ({name: np.full_like(stored[name], np.nan)}, "not all finite"),
        ({"base_model.model.lm_head.weight": stored[name]}, "is no LoRA matrix"),
        ({"base_model.model.model.layers.0.mlp.gate_proj.lora_A.weight": None}, "only one of lora_A and lora_B"),
    ):
        save_file({key: value for key, value in (stored | changed).items() if value is not None}, path)
        with pytest.raises(AdapterError, match=said):
            read_adapter(folder, Base(CONFIG))
    path.unlink()
    with pytest.raises(AdapterError, match=r"should have its matrices in adapter_model.safetensors, and has none"):
        read_adapter(folder, Base(CONFIG))
