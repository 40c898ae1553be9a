"""From a Hugging Face checkpoint to ONNX through torch.export, with operators fused.

`export` makes a model package, `export_plain` an ONNX model with past and present caches; they need the extra `export`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genai.export.options import ExportOptions
from genai.extras import require

if TYPE_CHECKING:
    from genai.export.package import export
    from genai.export.plain import Exported, export_plain

__all__ = ["ExportOptions", "Exported", "export", "export_plain"]


def __getattr__(name: str) -> object:
    """What needs the extra's packages is imported when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require("export", "exporting")
    from genai.export.package import export
    from genai.export.plain import Exported, export_plain

    return {"export": export, "Exported": Exported, "export_plain": export_plain}[name]
