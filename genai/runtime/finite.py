"""What a run wrote counts only if it is finite: an infinity or NaN in a row's slots would reach whoever gets them next.

Attention reads a row's whole capacity. What is masked counts 0 times, and 0 × NaN is NaN: values that overflowed break
the row that they are in, and every later row that has their slots within its capacity. So they are wiped at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genai.runtime.cache import KVCache
from genai.runtime.logits import FloatArray


def settle(cache: KVCache, rows: Sequence[int], counts: Sequence[int], logits: FloatArray) -> list[bool]:
    """Count the tokens that a run has just written, in each row whose logits are finite; wipe them from the others.

    logits: [rows, P, V], those of row i's tokens first if there is one for each. Where they are not finite numbers all
    V become NaN. Returns which rows kept their tokens. Of a row with states the others have what was kept of it, or
    nothing, and are noted in `KVCache.lost` then: padding may have been to blame, too, of which it has none of its own.
    """
    is_finite = np.isfinite(logits.max(axis=-1))  # [rows, P]: NaN and infinity show in the largest
    if is_finite.all():
        for row, count in zip(rows, counts, strict=True):
            cache.extend(row, count)
        return [True] * len(rows)
    logits[~is_finite] = np.nan
    kept = []
    for row, count, good in zip(rows, counts, is_finite, strict=True):
        kept.append(bool(good[:count].all() and (good.all() or cache.has_finite_states(row))))
        if kept[-1]:
            cache.extend(row, count)
        elif cache.has_states and cache.valid(row) > cache.go_back(row):
            cache.lost.add(row)
        cache.clear_behind(row)  # padding, too
    return kept


def settle_prompt(cache: KVCache, rows: Sequence[int], counts: Sequence[int], logits: FloatArray) -> list[bool]:
    """The same for a piece of a prompt in a row that is alone, and has nothing of others behind its valid part.

    Its tokens count if their keys and values are finite, too: the logits of a prompt's middle are of no interest.
    """
    (row,), (count,) = rows, counts
    start = cache.valid(row)
    is_finite = np.isfinite(logits.max())
    if is_finite or not (cache.is_finite(row, start, start + count) and cache.has_finite_states(row)):
        return settle(cache, rows, counts, logits)
    logits[:] = np.nan
    cache.extend(row, count)
    return [True]
