"""What is left of a step that goes wrong: nothing half done, and the others' texts as they are alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from genai.engine.engine import Engine
from genai.engine.prefix_cache import PrefixCache
from genai.engine.request import Request
from genai.engine.scheduler import Limits
from genai.engine.sequence import Sequence as Text
from genai.errors import GenAIError, GraphRunError
from genai.options.generation_config import GenerationConfig
from genai.runtime.layout import Group
from tests.engine.conftest import WITH_STATES, WITHOUT_STATES
from tests.fakes import FakeRunner, greedy_continuation, read_tokens, shape

pytestmark = pytest.mark.usefixtures("each_memory")


class HookedRunner(FakeRunner):
    """after: may look at or change what a run returns: the row's tokens and its logits."""

    after: Callable[[list[int], np.ndarray], None] = staticmethod(lambda tokens, logits: None)

    def prefill_chunk(self, row: int, tokens: Sequence[int]) -> np.ndarray:
        logits = super().prefill_chunk(row, tokens)
        self.after(read_tokens(self.cache, row), logits)
        return logits

    def prefill_rows(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> np.ndarray:
        logits = super().prefill_rows(rows, tokens)
        for row, own in zip(rows, logits, strict=True):
            self.after(read_tokens(self.cache, row), own)
        return logits

    def advance(self, group: Group, tokens: Sequence[Sequence[int]]) -> np.ndarray:
        logits = super().advance(group, tokens)
        for index, row in enumerate(group.rows):
            if tokens[index]:
                self.after(read_tokens(self.cache, row), logits[index, 0])
        return logits


def engine_with(num_slots: int = 4096, prefix_bytes: int = 0) -> tuple[Engine, HookedRunner]:
    runner = HookedRunner(num_slots)
    limits = Limits(max_batch=4, max_seq_len=min(num_slots, 2048), prefill_chunk=2048)
    prefixes = PrefixCache(b"fake", shape().slot_bytes, prefix_bytes, shape().state_bytes)
    return Engine(runner, limits, (), prefixes), runner  # type: ignore[arg-type]


def submit(engine: Engine, prompt: list[int], num_tokens: int, **options: object) -> Text:
    config = GenerationConfig(max_new_tokens=num_tokens).updated(**options)
    return engine.submit(Request(prompt=prompt, config=config)).first


def run(engine: Engine) -> None:
    while engine.has_work:
        engine.step()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{}, {"top_k": 5, "seed": 1}, {"top_p": 0.5, "seed": 1}, {"min_p": 0.1, "seed": 1}])
@pytest.mark.parametrize("at", [3, 9])
def test_logits_that_are_no_numbers_end_their_own_text_only(bad: float, options: dict[str, object], at: int) -> None:
    engine, runner = engine_with()

    def spoil(tokens: list[int], logits: np.ndarray) -> None:
        if tokens[:3] == [1, 2, 3] and len(tokens) >= at:
            logits[5] = bad

    runner.after = spoil
    before = submit(engine, [4, 5], 20)
    broken = submit(engine, [1, 2, 3], 20, **options)
    after = submit(engine, [6], 20)
    run(engine)
    assert broken.finish_reason == "error"
    assert isinstance(broken.error, GraphRunError)
    assert "not finite" in str(broken.error)
    assert len(broken.tokens) == at
    assert before.generated == greedy_continuation([4, 5], 20)
    assert after.generated == greedy_continuation([6], 20)
    assert runner.cache.rows == ()


@pytest.mark.parametrize("each_memory", [*WITHOUT_STATES, *WITH_STATES], indirect=True)  # whose runs are long
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_a_step_that_is_broken_off_leaves_nothing_that_runs_on_wrongly(error: type[BaseException]) -> None:
    """Of two groups the first has run when Ctrl-C comes: its rows are a token ahead."""
    engine, runner = engine_with()
    texts = [submit(engine, [7] * 1900, 100)]
    engine.step()
    texts += [submit(engine, [n] * 10, 100) for n in range(2)]
    waiting = [submit(engine, [n], 100) for n in range(3)]
    while len(engine.running) < 4 or not texts[0].generated:
        engine.step()
    engine.step()
    assert len(runner.cache.groups) == 2

    def break_off(tokens: list[int], logits: np.ndarray) -> None:
        if tokens[0] == 7:
            raise error

    runner.after = break_off
    with pytest.raises(error):
        run(engine)
    for text in (*texts, *waiting):
        assert text.finish_reason == "error"
        assert isinstance(text.error, GenAIError)
    assert not engine.has_work
    assert runner.cache.rows == ()
    runner.after = lambda tokens, logits: None
    again = submit(engine, [1], 20)
    run(engine)
    assert again.generated == greedy_continuation([1], 20)


@pytest.mark.parametrize("fails_at", range(2))
def test_copies_that_are_broken_off_give_nobody_a_wrong_text(fails_at: int) -> None:
    """Memory that is short for a moment, when rows move into the place of one that has ended."""
    engine, runner = engine_with(512, prefix_bytes=10**6)
    prompts = [list(range(20)), list(range(30, 50)), list(range(60, 70))]
    counts = [6, 30, 4]
    texts = [submit(engine, prompt, count) for prompt, count in zip(prompts, counts, strict=True)]
    num_moves = 0

    def short(arrange: Callable[..., None]) -> Callable[..., None]:
        def arranged(moves: Sequence[object], slot_bytes: int) -> None:
            nonlocal num_moves
            num_moves += bool(moves)
            if moves and num_moves == fails_at + 1:
                raise MemoryError("for a moment")
            arrange(moves, slot_bytes)

        return arranged

    for buffer in runner.cache._buffers:
        buffer.arrange = short(buffer.arrange)  # type: ignore[method-assign]
    with contextlib.suppress(GenAIError, MemoryError):
        run(engine)
    run(engine)
    assert num_moves > fails_at
    for text, prompt, count in zip(texts, prompts, counts, strict=True):
        assert text.finish_reason == "error" or text.generated == greedy_continuation(prompt, count)
    for prompt in prompts:
        again = submit(engine, prompt, 9)
        run(engine)
        assert again.generated == greedy_continuation(prompt, 9), "nothing of it is remembered"
