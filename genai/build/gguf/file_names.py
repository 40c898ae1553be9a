"""What GGUF files' names say: which are parts of one, which lie beside a model, and how its weights are quantized.

llama.cpp's splitter and most uploaders cut large files into `NAME-00001-of-00003.gguf` and so on. A model is named by
any of its parts, and listed as the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePath

from genai.errors import WeightsError

_PART = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")
_TAG = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:UD|I1)-)?"
    r"(?:Q[1-8](?:_[01](?:_[48]_[48])?|_K(?:_(?:XXS|XS|S|M|L|XL))?)?|IQ[1-4]_(?:XXS|XS|S|M|NL)"
    r"|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32)(?![A-Za-z0-9_])",
    re.IGNORECASE,
)
_SPELLINGS = {"FP16": "F16", "FP32": "F32"}
_MANY = 8


def part_of(name: str) -> tuple[str, int, int] | None:
    """A part's name as (the name without it, its number from 1, how many there are); None for a whole file's."""
    found = _PART.fullmatch(name)
    if found is None or not 1 <= int(found["number"]) <= int(found["count"]):
        return None
    return found["stem"], int(found["number"]), int(found["count"])


def stem_of(path: PurePath) -> str:
    """A file's name without `.gguf` and without a part's numbers."""
    part = part_of(path.name)
    return part[0] if part else path.stem


def parts_of(path: Path) -> list[Path]:
    """All files of the model that a file is a part of, the first one first; itself, if its name is no part's.

    Raises: WeightsError, naming the parts that are not there.
    """
    part = part_of(path.name)
    if part is None:
        return [path]
    stem, _, count = part
    names = [f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    here = {file.name for file in path.parent.iterdir()} if path.parent.is_dir() else set()
    if missing := [name for name in names if name not in here]:
        shown = ", ".join(missing[:_MANY]) + (f" and {len(missing) - _MANY} more" if len(missing) > _MANY else "")
        raise WeightsError(
            f"{path} is one of {count} parts, of which {len(missing)} are missing: {shown}; put all into {path.parent}"
        )
    return [path.with_name(name) for name in names]


def models_among(paths: Iterable[Path]) -> list[Path]:
    """The GGUF files that may be models, sorted; of a split one its first part that is there."""
    first: dict[Path, Path] = {}
    for path in sorted(paths):
        if path.suffix == ".gguf" and not is_beside(path.name):
            part = part_of(path.name)
            first.setdefault(path.with_name(f"{part[0]} in {part[2]}") if part else path, path)
    return list(first.values())


def is_beside(name: str) -> bool:
    """Whether a name is of a file beside a model: what sees or hears for it, or the statistics that made it small."""
    name = PurePath(name).name.lower()
    return "mmproj" in name or ("imatrix" in name and quantization_of(name) is None)


def form_of(text: str) -> str | None:
    """A form's usual spelling, "Q4_K_M" of "q4_k_m" and "F16" of "fp16"; None for what is none."""
    tag = text.upper()
    return _SPELLINGS.get(tag, tag) if _TAG.fullmatch(text) else None


def quantization_of(name: str) -> str | None:
    """A file's form, "Q4_K_M", "UD-IQ2_XXS", "F16": the last one in its name, or else in its folder's; None if neither.

    "i1-" and "UD-" stay: such files stand beside plain ones of the same form.
    """
    path = PurePath(name)
    for text in (stem_of(path), path.parent.name):
        if tags := _TAG.findall(text):
            return form_of(tags[-1])
    return None
