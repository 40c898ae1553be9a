"""Writes `data/optimum`: tiny random models exported by optimum-onnx, with transformers' logits and optimum's own text.

optimum-onnx 0.1 needs an older transformers than this project, so its exports are kept as files. To make them anew:

    python -m venv /tmp/optimum && /tmp/optimum/bin/pip install 'optimum-onnx[onnxruntime]==0.1.0' torch==2.13.0
    /tmp/optimum/bin/python tests/convert/make_optimum_data.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTModelForCausalLM

DATA = Path(__file__).parent / "data" / "optimum"
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GEMMA = {"head_dim": 4, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
# optimum exports Gemma 2 without its cap on scores; a cap is tested in test_scores.py
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "llama": ("llama", {}, 18),
    "llama_opset14": ("llama", {"num_key_value_heads": 4}, 14),
    "qwen3": ("qwen3", {"head_dim": 4}, 18),
    "mistral": ("mistral", {"sliding_window": 7}, 18),
    "phi3": ("phi3", {}, 18),
    "gemma3": ("gemma3_text", GEMMA, 18),
    "gemma2": ("gemma2", GEMMA | {"query_pre_attn_scalar": 5, "attn_logit_softcapping": None}, 18),
    "gpt2": ("gpt2", GPT2, 18),
    "opt": ("opt", {"ffn_dim": 24, "word_embed_proj_dim": 16}, 18),
    "bloom": ("bloom", {"n_layer": 2, "n_head": 4}, 18),
}


def make(name: str, model_type: str, options: dict[str, Any], opset: int) -> None:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **(SIZES | options))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            draw = torch.randn_like(parameter)
            if parameter.dim() == 2:
                is_table = any(part in parameter_name for part in ("embed", "wte", "wpe"))
                parameter.copy_(draw * (1.0 if is_table else 1.5 / parameter.shape[1] ** 0.5))
            else:
                parameter.add_(0.3 * draw)
    folder = DATA / name
    with tempfile.TemporaryDirectory() as checkpoint:
        model.save_pretrained(checkpoint)
        main_export(checkpoint, output=folder, task="text-generation-with-past", opset=opset, do_validation=False)
    (folder / "generation_config.json").unlink(missing_ok=True)
    prompts = [np.random.default_rng(seed).integers(3, 48, length).tolist() for seed, length in enumerate((30, 7, 15))]
    with torch.no_grad():
        logits = [model(torch.tensor([prompt])).logits[0].numpy() for prompt in prompts]
    texts_of, texts = generated(folder, model, prompts)
    np.savez_compressed(folder / "expected.npz", *logits)
    (folder / "expected.json").write_text(json.dumps({"prompts": prompts, "texts": texts, "texts_of": texts_of}))


def generated(folder: Path, model: Any, prompts: list[list[int]]) -> tuple[str, list[list[int]]]:
    """Greedy texts of the exported model in optimum; of the original where optimum sizes its cache wrongly (Gemma)."""
    tools = [("optimum", ORTModelForCausalLM.from_pretrained(folder)), ("transformers", model)]
    for name, tool in tools:
        try:
            return name, [
                tool.generate(
                    torch.tensor([prompt]), max_new_tokens=12, min_new_tokens=12, do_sample=False, eos_token_id=None
                )[0].tolist()[len(prompt) :]
                for prompt in prompts
            ]
        except Exception as error:
            print(folder.name, name, str(error)[:200])
    raise RuntimeError(folder.name)


if __name__ == "__main__":
    for name, (model_type, options, opset) in MODELS.items():
        make(name, model_type, options, opset)
        print(name)
