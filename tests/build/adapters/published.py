"""Adapters of tiny models as PEFT and llama.cpp's converter save them, all numbers random, and PEFT's own logits."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

EVERYWHERE = "all-linear"


def adapted(model: Any, *, seed: int, rank: int = 4, targets: Any = EVERYWHERE, **options: Any) -> Any:
    """A transformers model with an adapter of PEFT's around it, none of whose numbers is as it began."""
    import peft
    import torch

    usual = {"lora_alpha": 6, "task_type": "CAUSAL_LM"}
    config = peft.LoraConfig(r=rank, target_modules=targets, **(usual | options))
    wrapped = peft.get_peft_model(copy.deepcopy(model), config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / max(parameter.shape) ** 0.5)
    return wrapped


def save(wrapped: Any, folder: Path, **changes: Any) -> Path:
    """The adapter's folder; changes: keys of `adapter_config.json`."""
    wrapped.save_pretrained(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def as_gguf(folder: Path, path: Path, arch: str, paired: dict[str, int], alpha: float) -> Path:
    """A PEFT folder of one scale as llama.cpp's converter writes it.

    paired: how many heads' rows the architecture's files hold in pairs, by the module's last name.
    """
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 8)
    for stored, tensor in load_file(folder / "adapter_model.safetensors").items():
        module, _, matrix = stored.removeprefix("base_model.model.").rpartition(".lora_")
        heads = paired.get(module.rpartition(".")[2])
        if matrix.startswith("B") and heads:
            rows = tensor.reshape(heads, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        else:
            rows = tensor
        name = names.get_name(module)
        assert name is not None, module
        writer.add_tensor(f"{name}.weight.lora_{matrix[0].lower()}", np.ascontiguousarray(rows))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(wrapped: Any, prompts: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """What follows each token of each prompt, [T, V]."""
    from tests.build import tiny

    return [tiny.expected(wrapped, prompt) for prompt in prompts]
