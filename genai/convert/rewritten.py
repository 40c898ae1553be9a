"""What every kind of source gives: facts for the package, the original to compare with, and notes for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from genai.convert.fusions.report import FusionReport

FloatArray = npt.NDArray[np.float32]


class Original(Protocol):
    """A model as it was, run by its own interface, one row at a time."""

    def logits(self, chunks: Sequence[Sequence[int]]) -> FloatArray:
        """The logits [T, V] after each token, the tokens given in parts that continue each other."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a package has to say of a model beside its graph; see `ModelConfig`.

    chunk: the fewest positions of a chunk that some layer does not see beyond, None without such layers.
    """

    model_type: str
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    sliding_window: int | None = None
    chunk: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    generation: Mapping[str, int | float | bool | list[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A model that has been put onto the contract in place.

    kind: of the source, as reports call it; original: loads the model as it was; is_exact: whether that computes as the
    rewritten graph does, so that logits are the same but for the order of sums; row_start: with what each row of a
    cache begins, by the cache's name, empty where rows begin with tokens.
    """

    kind: str
    facts: ModelFacts
    original: Callable[[], Original]
    notes: tuple[str, ...] = ()
    fusions: FusionReport | None = None
    is_exact: bool = True
    row_start: Mapping[str, FloatArray] = field(default_factory=dict)
