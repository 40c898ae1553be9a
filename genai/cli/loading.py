"""Opening a model for a command: pulled and built with progress bars where that is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from genai.cli.bars import bars
from genai.cli.options import given
from genai.config import Device, Precision

if TYPE_CHECKING:
    from genai import LLM

Message: TypeAlias = dict[str, str]
"""A chat message: its role and its content."""


def open_model(
    name: str,
    *,
    precision: Precision,
    device: Device,
    threads: int | None,
    max_seq_len: int | None,
    max_batch: int | None = None,
) -> LLM:
    """Load a model. The caller closes it."""
    engine = given(num_threads=threads, max_seq_len=max_seq_len, max_batch=max_batch)
    with bars() as progress:
        progress(f"loading {name}", 0, 0)
        from genai.llm import load

        return load(name, precision=precision, device=device, progress=progress, **engine)
