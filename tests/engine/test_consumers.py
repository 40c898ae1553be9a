"""What readers of prompts keep, and what of it is counted twice: nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from genai.engine.consumers import Pool, Read
from genai.engine.sequence import State

ROWS = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)


def pooled(pool: Pool) -> np.ndarray:
    sequence: Any = SimpleNamespace(logits=None)
    assert pool.take(sequence, ROWS[-1]) is State.STOP
    assert sequence.logits.dtype == np.float32
    return np.asarray(sequence.logits)


def test_reading_keeps_a_copy_of_what_is_asked_for() -> None:
    given, sequence = ROWS[0].copy(), SimpleNamespace(logits=None)
    for tokens, wanted in ((None, ROWS[0]), ((2, 0), ROWS[0][[2, 0]])):
        assert Read(tokens).take(sequence, given) is State.STOP  # type: ignore[arg-type]
        kept, given[:] = sequence.logits, 9
        np.testing.assert_array_equal(kept, wanted)
        given[:] = ROWS[0]


def test_pieces_that_come_again_after_a_row_was_lost() -> None:
    for pieces in ([(0, 7)], [(0, 3), (3, 7)], [(0, 3), (3, 5), (0, 2), (2, 4), (4, 7)], [(0, 5), (0, 7)]):
        for kind, wanted in (("mean", ROWS.mean(axis=0, dtype=np.float64)), ("first", ROWS[0])):
            pool = Pool(kind)  # type: ignore[arg-type]
            for start, end in pieces:
                pool.see(start, ROWS[start:end])
            np.testing.assert_allclose(pooled(pool), wanted, rtol=1e-6)
