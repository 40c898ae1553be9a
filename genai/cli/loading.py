"""Opening a model for a command: pulled and built with progress bars where that is needed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from genai.cli.bars import bars
from genai.cli.options import adapters_of, given
from genai.config import Device, Precision

if TYPE_CHECKING:
    from genai import LLM

Message: TypeAlias = dict[str, str]
"""A chat message: its role and its content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """How models are loaded. None: what holds if nobody says."""

    precision: Precision
    device: Device
    threads: int | None = None
    max_seq_len: int | None = None
    max_batch: int | None = None
    same_bits: bool | None = None

    def open(self, name: str, *adapters: str | None) -> LLM:
        """Load a model; adapters: NAME=PATH of those to be loaded with it, None for none. The caller closes it."""
        engine = given(
            num_threads=self.threads,
            max_seq_len=self.max_seq_len,
            max_batch=self.max_batch,
            same_bits=self.same_bits,
        )
        with bars() as progress:
            progress(f"loading {name}", 0, 0)
            from genai.llm.llm import load

            named = adapters_of(filter(None, adapters))
            how = {"precision": self.precision, "device": self.device, **given(adapters=named or None), **engine}
            return load(name, progress=progress, **how)

    def open_draft(self, name: str | None) -> AbstractContextManager[LLM | None]:
        """Load the model that foresees tokens, if there is one."""
        return nullcontext() if name is None else self.open(name)
