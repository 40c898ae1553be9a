"""A GGUF file as a Hugging Face folder in float32: for peers that start from one, so that all have the same weights.

python -m benchmarks.hf_folder MODEL.gguf FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.numpy import save_file

from genai.build.gguf.source import GgufSource
from genai.tokenizer.gguf_tokenizer import tokenizer_from_gguf

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}


def write_hf_folder(gguf: Path, folder: Path) -> Path:
    """Write `config.json`, `model.safetensors` and the tokenizer, unless they are there; returns the folder."""
    if (folder / "config.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with GgufSource(gguf) as source:
        save_file({name: source.read(name) for name in source.names()}, folder / "model.safetensors", {"format": "pt"})
        tokenizer_from_gguf(source.metadata).save(folder)
        model_type = str(source.config["model_type"])
        config = {**source.config, "architectures": [_ARCHITECTURES[model_type]], "dtype": "float32"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    (folder / "config.json").write_text(json.dumps(config, indent=2))  # last: its presence says that all is there
    return folder


if __name__ == "__main__":
    write_hf_folder(Path(sys.argv[1]), Path(sys.argv[2]))
