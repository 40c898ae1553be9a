"""Opening an adapter, whatever it is, and fingerprinting it."""

from __future__ import annotations

from pathlib import Path

from genai.build.adapters.adapter import Adapter
from genai.build.adapters.base import Base
from genai.build.adapters.gguf import read_gguf_adapter
from genai.build.adapters.peft import CONFIG_FILE, WEIGHTS_FILE, read_peft
from genai.build.gguf.file import GgufFile
from genai.build.open import files_digest
from genai.build.safetensors import SafetensorsFile
from genai.errors import AdapterError


def read_adapter(path: Path, base: Base) -> Adapter:
    """A PEFT folder (or a file in it) or a GGUF adapter. Raises: AdapterError."""
    place = _located(path)
    return read_peft(place, base) if place.is_dir() else read_gguf_adapter(place, base)


def adapter_rank(path: Path) -> int:
    """The largest rank of an adapter's matrices, by their sizes alone. Raises: AdapterError, WeightsError."""
    place = _located(path)
    if place.is_dir():
        file = SafetensorsFile(place / WEIGHTS_FILE)
        ranks = [shape[0] for name, shape in file.shapes.items() if ".lora_A." in name and len(shape) == 2]
        file.close()
    else:
        with GgufFile(place) as gguf:
            ranks = [info.shape[0] for name, info in gguf.tensors.items() if name.endswith(".lora_a")]
    return max(ranks, default=1)


def adapter_digest(path: Path) -> str:
    """A SHA-256 over what `read_adapter` would read, in hexadecimal. Raises: AdapterError, WeightsError."""
    place = _located(path)
    return files_digest([place / CONFIG_FILE, place / WEIGHTS_FILE] if place.is_dir() else [place])


def _located(path: Path) -> Path:
    """The PEFT folder or the GGUF file that a path means."""
    if path.is_file() and path.suffix == ".gguf":
        return path
    folder = path.parent if path.is_file() else path
    if (folder / CONFIG_FILE).is_file():
        return folder
    if not path.exists():
        raise AdapterError(f"{path}: no such adapter, file or folder")
    files = sorted(folder.glob("*.gguf"))
    if path.is_dir() and len(files) == 1:
        return files[0]
    raise AdapterError(f"{path} is no adapter: it is neither a PEFT folder with {CONFIG_FILE} nor a .gguf file")
