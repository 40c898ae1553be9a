"""Choosing as it is defined: one row after another, every token of the vocabulary weighed and ranked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from genai.decoding import filters, processors
from genai.decoding.candidates import drawn, drawn_from_all, narrowed, ranked
from genai.decoding.filters import Look, has_filters, temperature_of
from genai.decoding.processors import FloatArray
from genai.decoding.sampler import Sampler


def chosen_one_by_one(samplers: Sequence[Sampler], logits: Sequence[FloatArray]) -> list[int]:
    """What `choose` is to return; the random streams move on as there."""
    return [_chosen(sampler, _changed(sampler, row)) for sampler, row in zip(samplers, logits, strict=True)]


def _changed(sampler: Sampler, logits: FloatArray) -> FloatArray:
    row, changes, mask = logits.copy(), sampler.changes(), sampler.mask()
    if changes is not None:
        row[changes.tokens] = processors.changed(row[changes.tokens], *changes.columns)
    if mask is not None:
        row[~mask] = -np.inf
    return row


def _chosen(sampler: Sampler, row: FloatArray) -> int:
    config, best, mask = sampler.config, float(row.max()), sampler.mask()
    if not config.do_sample or (mask is not None and mask.sum() == 1):
        return int(row.argmax())
    if not has_filters(config):
        weights = np.exp(processors.scaled(row, np.float32(best), temperature_of(config)))
        _leave_out(sampler, weights, processors.total(weights), np.arange(row.size))
        return drawn_from_all(weights, sampler.random())
    total = entropy = math.nan
    if not config.top_k and (config.top_p < 1 or config.typical_p < 1):
        _, total, entropy = filters._weighed(config, row, best, None)
    found = Look(config=config, candidates=narrowed(row, row.size), total=total, entropy=entropy)
    tokens, values = ranked([found.candidates])
    kept = filters._filtered(values, [found])
    _leave_out(sampler, kept[0], float(kept[0].cumsum()[-1]), tokens[0])
    return int(tokens[0, drawn(kept, np.array([sampler.random()]))[0]])


def _leave_out(sampler: Sampler, weights: np.ndarray, total: float, tokens: np.ndarray) -> None:
    """XTC."""
    if sampler.is_taking_top_choices():
        places = processors.top_choices(weights, total, sampler.config.xtc.threshold)
        if not sampler.spares(tokens[places]):
            weights[places] = 0
