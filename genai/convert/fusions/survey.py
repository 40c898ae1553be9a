"""What could be fused in a model, without changing it."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from genai.convert.fusions.fuse import fuse
from genai.convert.fusions.report import FusionReport
from genai.convert.normalize import normalize
from genai.errors import ContractError, GenAIError


def survey(model: ir.Model) -> FusionReport:
    """What `fuse` would do with a model as an exporter wrote it, which is left alone.

    Raises: UnsupportedModelError for operator sets that are too old.
    """
    copy = model.clone()
    normalize(copy)
    return fuse(copy)


def survey_file(path: Path) -> FusionReport:
    """The survey of an .onnx file. Of its external data at most rotary tables are read, and not if they are missing.

    Raises: ContractError if the graph cannot be followed; UnsupportedModelError for operator sets that are too old.
    """
    try:
        model = ir.load(path)
        normalize(model)
        return fuse(model)
    except GenAIError:
        raise
    except Exception as error:  # anyone may have made the file, and what reads it has no common base for its errors
        raise ContractError(f"{path}: the graph cannot be followed: {error}") from None
