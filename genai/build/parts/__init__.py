"""What a decoder's blocks are made of: one file per kind of part, each two functions.

`mix` is what a part does with all T tokens of a step (attention, with its caches; a part that treats each token by
itself does nothing there), `finish` what it does for each token afterwards. Between the two the last block that mixes
keeps only the tokens that get logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from genai.build.parts import attention, mlp, moe
from genai.build.parts.context import Context
from genai.build.spec import AttentionSpec, MlpSpec, MoeSpec, Part


@dataclass(frozen=True, slots=True)
class Writer:
    """A kind of part: (context, its spec, the value it reads, layer) -> what it makes of it; mix: None for nothing."""

    mix: Callable[[Context, Any, str, int], str] | None
    finish: Callable[[Context, Any, str, int], str]


WRITERS: Mapping[type[Part], Writer] = {
    AttentionSpec: Writer(attention.mix, attention.finish),
    MlpSpec: Writer(None, mlp.finish),
    MoeSpec: Writer(None, moe.finish),
}
