"""What people give for a model that is none, or not yet one, and what to do with it."""

from __future__ import annotations

from pathlib import Path

from genai.build.gguf.file_names import models_among
from genai.models.foreign import is_foreign

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_ADAPTER = "adapter_config.json"


def what_it_is_instead(path: Path) -> str | None:
    """What is wrong with a file or folder as a model's weights, in a sentence that says what to do; None: nothing."""
    return _file(path) if path.is_file() else _folder(path)


def _file(path: Path) -> str | None:
    if path.suffix == ".gguf":
        return None
    if path.suffix == ".onnx":
        return _foreign(path)
    if (path.parent / _ADAPTER).is_file():
        return _adapter(path.parent)
    if path.suffix in _WEIGHTS:
        return f"{path} is only a file of weights: give its folder, with config.json and the tokenizer ({path.parent})"
    if path.name in ("config.json", "genai.json", "genai_config.json"):
        return f"{path} is only the configuration: give its folder ({path.parent})"
    return f"{path} is no model: give a package folder, a Hugging Face folder or a .gguf file"


def _folder(path: Path) -> str | None:
    has_config = (path / "config.json").is_file()
    if (path / _ADAPTER).is_file() and not has_config:
        return _adapter(path)
    if is_foreign(path):
        return _foreign(path)
    if has_config:
        return None
    files = sorted(path.glob("*.gguf"))
    if len(models := models_among(files)) == 1:
        return None
    if models:
        return f"{path} holds {len(models)} GGUF models: give one of them ({', '.join(m.name for m in models[:8])})"
    if files:
        return f"{path} holds no model beside {files[0].name}, which belongs to one: fetch the model's own file too"
    return f"{path} is no model: it has neither genai.json (a package) nor config.json"


def _foreign(path: Path) -> str:
    return (
        f"{path} is somebody's ONNX model, which holds no checkpoint: genai run {path} converts it and keeps what that "
        f"makes, genai convert {path} OUT writes a package"
    )


def _adapter(folder: Path) -> str:
    return (
        f"{folder} is a LoRA adapter, which changes a model and is none: give the model that it changes, and --adapter "
        f"NAME={folder}; or merge both: genai build MODEL --merge-lora {folder}"
    )
