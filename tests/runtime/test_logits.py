"""The logits' memory: what is kept is not overwritten, and what is not needed is not held."""

from __future__ import annotations

import random
import weakref

import numpy as np
import pytest

from genai.runtime.logits import LogitsMemory


@pytest.mark.parametrize("seed", range(20))
def test_what_is_kept_stays_as_it_was_written(seed: int) -> None:
    rng = random.Random(seed)
    memory = LogitsMemory()
    largest = 0
    for _ in range(5):
        written = []
        with memory.kept():
            for number in range(rng.randint(1, 6)):
                logits = memory.take((rng.randint(1, 4), rng.randint(1, 3), 5))
                logits[:] = number
                written.append(logits)
        for number, logits in enumerate(written):
            assert (logits == number).all()
        largest = max(largest, sum(logits.nbytes for logits in written))
        assert memory.num_bytes == largest, "one buffer, as large as was ever needed"
        memory.take((1, 1, 5))[:] = 99
        assert (written[0].reshape(-1)[:5] == 99).all() or memory.num_bytes != written[0].base.nbytes


def test_one_run_after_another_shares_the_memory() -> None:
    memory = LogitsMemory()
    first = memory.take((2, 1, 5))
    assert np.shares_memory(first, memory.take((1, 1, 5)))
    assert memory.num_bytes == first.nbytes


def test_memory_that_was_outgrown_goes_with_whoever_has_it() -> None:
    memory = LogitsMemory()
    small = memory.take((1, 1, 5))
    assert isinstance(small.base, np.ndarray)
    gone = weakref.ref(small.base)
    memory.take((2, 1, 5))
    assert gone() is not None
    del small
    assert gone() is None
