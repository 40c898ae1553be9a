"""Mixes of texts with different adapters and none, loaded and unloaded meanwhile: each is the one that it is alone.

The fake model's adapters change what rows hold of each token: a row that is read with another one, a block that another
has computed, or a place in memory that has become somebody else's gives another text.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from genai.errors import AdapterError
from genai.runtime.adapters import LoadedAdapter, ScaledAdapter
from tests.engine import test_mixes as mixes
from tests.fakes import fitted_adapter

pytestmark = pytest.mark.usefixtures("each_memory", "many_snapshots")

many_snapshots = mixes.many_snapshots
NUMBERS = (1, 2, 3, 4)
SHARED = list(range(30, 60))


class AdapterMix(mixes.Mix):
    """A mix with fewer places than there are adapters. happened: what came to pass, by its name."""

    def __init__(self, rng: random.Random, failing: float = 0.0, *, is_beside: bool = False) -> None:
        super().__init__(rng, failing, is_beside=is_beside, num_adapters=rng.choice([2, 3]))
        self.loaded: dict[int, LoadedAdapter] = {}
        self.happened: Counter[str] = Counter()

    def case(self) -> mixes.Case:
        number = self.rng.choice([0, *NUMBERS])
        adapter = self.load(number) if number else None
        request = mixes.random_request(self.rng)
        if self.rng.random() < 0.7:  # what prompts share is known with one adapter, and not with another
            request = replace(request, prompt=SHARED[: len(request.prompt)])
        case = mixes.case_of(request, self.rng, self.poison, 0 if adapter is None else number)
        case.request = replace(case.request, adapter=None if adapter is None else ScaledAdapter(adapter))
        return case

    def load(self, number: int) -> LoadedAdapter | None:
        """An adapter that is loaded, or now gets a place; None if there is none."""
        memory = self.runner.adapters
        assert memory is not None
        if number not in self.loaded:
            try:
                self.loaded[number] = self.engine.load_adapter(fitted_adapter(memory, number))
            except AdapterError:
                self.happened["refused"] += 1
                return None
            self.happened["loaded"] += 1
        return self.loaded[number]

    def step(self) -> None:
        if self.loaded and self.rng.random() < 0.1:
            adapter = self.loaded.pop(self.rng.choice([*self.loaded]))
            adapter.is_leaving = True
            self.happened["unloaded in use"] += ScaledAdapter(adapter) in self.running
        super().step()
        self.happened["several at once"] += len(self.running) > 1

    @property
    def running(self) -> set[ScaledAdapter]:
        """Those of the texts that have rows."""
        return {each.adapter for each in self.engine.running if each.adapter is not None}

    def finish(self) -> None:
        super().finish()
        memory = self.runner.adapters
        assert memory is not None
        assert not memory._of_row, "no row has one that is over"
        cases = [case for case in self.cases if case.request.adapter is not None]
        texts = [text for case in cases if case.job is not None for text in case.job.sequences]
        self.happened["preempted"] += sum(text.timeline.num_preemptions for text in texts)
        self.happened["cached"] += sum(text.num_cached > 0 for text in texts)
        self.happened["beams"] += sum(case.request.config.is_beam_search for case in cases)
        self.happened["drafted"] += sum(text.drafter.budget.num_drafted for text in texts if text.drafter is not None)


def run_mix(seed: int, failing: float = 0.0, *, is_beside: bool = False) -> AdapterMix:
    """Run the mix of a seed, whose texts are checked."""
    rng = random.Random(seed)
    mix = AdapterMix(rng, failing, is_beside=is_beside)
    for _ in range(rng.randint(4, 12)):
        mix.submit()
        for _ in range(rng.choice([0, 0, 1, 5])):
            mix.step()
            if failing and rng.random() < 0.15:
                mix.interfere()
    mix.finish()
    return mix


@pytest.mark.parametrize("is_beside", [False, True])
def test_each_text_is_the_one_it_is_alone(is_beside: bool) -> None:
    happened: Counter[str] = Counter()
    for seed in range(20):
        mix = run_mix(7000 + seed, is_beside=is_beside)
        assert not any(case.is_cut for case in mix.cases if not case.request.is_manual)
        happened += mix.happened
    for what in (
        *("loaded", "refused", "unloaded in use", "several at once"),
        *("preempted", "cached", "beams", "drafted"),
    ):
        assert happened[what] > 0, f"nothing was {what}: other seeds"


@pytest.mark.parametrize("seed", range(8000, 8012))
def test_whatever_is_cut_short_leaves_the_others_alone(seed: int) -> None:
    run_mix(seed, 0.03)
