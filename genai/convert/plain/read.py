"""Undoing forms of writing before a model is recognised, and what it is compared with then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from genai import contract
from genai.config import EngineConfig
from genai.convert.flex import loaded, write_out
from genai.convert.plain.bnb4 import dequantize_bnb4
from genai.convert.plain.integers import dequantize_products
from genai.convert.plain.merged import unfold
from genai.convert.plain.newer import lower_opset, write_out_gates
from genai.convert.plain.widen import has_cast_caches, is_bfloat, is_narrow, widen
from genai.convert.verify import WITHOUT_ROUNDING
from genai.runtime.providers import available_providers
from genai.runtime.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """What was undone. original: loads the graph to compare with; is_exact: that computes in float32, as ours does."""

    original: Callable[[], Session]
    notes: tuple[str, ...] = ()
    is_exact: bool = True


def make_plain(path: Path, model: ir.Model, *, is_wide: bool) -> Plain:
    """Undo, in place, what recognition does not read. is_wide: turn 16 bits into 32 even where both can be read."""
    notes, is_exact = [], True
    if unfold(model.graph):
        notes.append("a merged decoder: its branch with past keys and values was taken")
    original: Callable[[], Session] = lambda: Session(path, EngineConfig(session_options=WITHOUT_ROUNDING))  # noqa: E731
    changed = (write_out(model), write_out_gates(model), count := dequantize_products(model.graph))
    if count:
        notes.append(
            f"{count} products of integers: weights as they are, activations no longer rounded by one scale for all "
            "tokens of a step; compared with the same weights in float32"
        )
    if any(changed):
        copy = model.clone()
        original = lambda: loaded(copy)  # noqa: E731
    if opset := lower_opset(model):
        notes.append(f"opset {opset} became {contract.OPSET}, for which there are kernels")
    if count := dequantize_bnb4(model.graph):
        notes.append(f"{count} products of bitsandbytes' four bits became float ones: --quantize int8 makes them fast")
    if is_bfloat(model.graph) and available_providers()[0].activations == "float32":
        widen(model)
        notes.append("bfloat16 was read as float32, and compared with that: there are no kernels for it here")
        in_float = model.clone()
        original = lambda: loaded(in_float)  # noqa: E731
    elif is_narrow(model.graph) and (is_wide or has_cast_caches(model.graph)):
        widen(model)
        notes.append("weights in 16 bits were read as float32")
        is_exact = False
    return Plain(original=original, notes=tuple(notes), is_exact=is_exact)
