"""Rows that are altered for a moment: what is seen, and that they are as they were afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from genai.decoding.altered import Scratch, altered
from genai.decoding.history import Changes


def changes(*tokens: int, bias: float = 0.0, penalty: float = 1.0, cost: float = 0.0) -> Changes:
    columns = np.repeat(np.array([[bias], [penalty], [cost]], np.float32), len(tokens), axis=1)
    return Changes(tokens=np.array(tokens, np.int64), columns=columns)


def test_rows_are_seen_altered_and_are_as_they_were() -> None:
    logits = np.arange(12, dtype=np.float32).reshape(2, 6) - 3
    before = logits.copy()
    mask = np.array([True, False] * 3)
    rows = altered(list(logits), [changes(0, 5, bias=1, cost=2), None], [None, mask], Scratch(6))
    with rows[0] as row:
        np.testing.assert_array_equal(row, [-4, -2, -1, 0, 1, 1])
    with rows[1] as row:
        np.testing.assert_array_equal(row, [3, -np.inf, 5, -np.inf, 7, -np.inf])
    np.testing.assert_array_equal(logits, before)
    with pytest.raises(ZeroDivisionError), rows[0]:
        raise ZeroDivisionError
    np.testing.assert_array_equal(logits, before)


def test_one_row_for_several_texts_each_with_changes_of_its_own() -> None:
    logits = np.zeros(4, np.float32)
    rows = altered([logits] * 3, [changes(1, bias=1), None, changes(1, 2, bias=2)], [None] * 3, Scratch(4))
    seen = []
    for each in rows:
        with each as row:
            seen.append(row.tolist())
    assert seen == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 2, 2, 0]]
    assert not logits.any()


def test_a_row_that_must_not_be_written_is_copied() -> None:
    logits = np.zeros(4, np.float32)
    logits.flags.writeable = False
    (row,) = altered([logits], [changes(1, cost=np.inf)], [np.array([True, True, False, True])], Scratch(4))
    with row as seen:
        np.testing.assert_array_equal(seen, [0, -np.inf, -np.inf, 0])
    (row,) = altered([logits], [None], [None], Scratch(4))
    with row as seen:
        assert seen is logits
