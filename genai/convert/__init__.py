"""Bringing other people's ONNX models onto the decoder contract.

`convert` reads a model, puts its graph onto the contract and writes a package; it needs the extra `convert`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genai.convert.options import ConvertOptions
from genai.extras import require

if TYPE_CHECKING:
    from genai.convert.pipeline import convert
    from genai.convert.report import ConversionReport

__all__ = ["ConversionReport", "ConvertOptions", "convert"]


def __getattr__(name: str) -> object:
    """What needs the extra's packages is imported when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("convert", "converting")
    from genai.convert.pipeline import convert
    from genai.convert.report import ConversionReport

    return {"convert": convert, "ConversionReport": ConversionReport}[name]
