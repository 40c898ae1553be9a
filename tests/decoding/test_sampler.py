"""Samplers: every option against transformers or a definition, how draws are distributed, rows that do not meet."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from genai.decoding.processors import BoolArray, FloatArray
from genai.decoding.sampler import Sampler, choose, scores
from genai.errors import ConfigError, GenAIError, GraphRunError
from genai.options.generation_config import GenerationConfig, SamplingConfig
from tests.grammar.definitions import filtered_weights, without_top_choices


def config_of(**options: object) -> SamplingConfig:
    return GenerationConfig().updated(**options).sampling_config


def logits_of(*values: float) -> FloatArray:
    return np.array(values, np.float32)


def random_logits(seed: int, size: int = 50) -> FloatArray:
    return (np.random.default_rng(seed).standard_normal(size) * 3).astype(np.float32)


def continued(sampler: Sampler, rows: Sequence[FloatArray]) -> list[int]:
    """The tokens chosen for one row of logits after the other."""
    result = []
    for row in rows:
        result += choose([sampler], [row])
        sampler.accept(result[-1])
    return result


class Steps:
    """Allows these tokens at each step. mask_calls: how often it was asked."""

    def __init__(self, steps: Sequence[Sequence[int]], vocab_size: int) -> None:
        self.steps, self.vocab_size, self.accepted, self.mask_calls = steps, vocab_size, list[int](), 0

    def mask(self) -> BoolArray:
        self.mask_calls += 1
        result = np.zeros(self.vocab_size, np.bool_)
        result[list(self.steps[len(self.accepted)])] = True
        return result

    @property
    def is_complete(self) -> bool:
        return len(self.accepted) == len(self.steps) - 1 and not self.steps[-1]

    def accept(self, token: int) -> None:
        assert token in self.steps[len(self.accepted)]
        self.accepted.append(token)

    def forced(self) -> list[int]:
        ahead = self.steps[len(self.accepted) :]
        return [tokens[0] for tokens in itertools.takewhile(lambda tokens: len(tokens) == 1, ahead)]

    def rollback(self, num_tokens: int) -> None:
        del self.accepted[len(self.accepted) - num_tokens :]

    def copy(self) -> Steps:
        result = Steps(self.steps, self.vocab_size)
        result.accepted = self.accepted.copy()
        return result


GREEDY = [
    # options, prompt, tokens of greedy steps, each with the logits 3, 2, 1, 0
    ({}, [], [0, 0, 0, 0]),
    ({"logit_bias": {1: 1.5}}, [], [1, 1, 1, 1]),
    ({"logit_bias": {0: -math.inf}}, [], [1, 1, 1, 1]),
    ({"allowed_token_ids": [2, 3]}, [], [2, 2, 2, 2]),
    ({"suppress_tokens": [0, 2]}, [], [1, 1, 1, 1]),
    ({"suppress_tokens": [0], "bad_words": [[1]]}, [], [2, 2, 2, 2]),
    ({"repetition_penalty": 2.0}, [], [0, 1, 0, 0]),
    ({"repetition_penalty": 4.0}, [0], [1, 2, 0, 0]),
    ({"presence_penalty": 1.5}, [], [0, 1, 0, 0]),
    ({"presence_penalty": 1.5}, [0], [0, 1, 0, 0]),  # the prompt does not count
    ({"frequency_penalty": 0.8}, [], [0, 0, 1, 0]),
    ({"no_repeat_ngram_size": 1}, [1], [0, 2, 3]),
    ({"no_repeat_ngram_size": 2}, [], [0, 0, 1, 0]),
    ({"no_repeat_ngram_size": 3}, [0, 1], [0, 0, 0, 1]),
    ({"bad_words": [[0]]}, [], [1, 1, 1, 1]),
    ({"bad_words": [[0, 0]]}, [], [0, 1, 0, 1]),
    ({"bad_words": [[0, 0], [1, 0, 1]]}, [1], [0, 2, 0, 1]),
    ({"dry_multiplier": 5.0}, [0, 1, 0], [0, 0, 1, 1]),
    ({"dry_multiplier": 5.0, "dry_allowed_length": 1}, [0, 1, 0], [0, 2, 0, 3]),
    ({"dry_multiplier": 0.9, "dry_base": 1.0, "dry_allowed_length": 1}, [0, 0], [0, 0, 0, 0]),
    ({"dry_multiplier": 0.9, "dry_base": 2.0, "dry_allowed_length": 1}, [0, 0, 0], [1, 0, 0, 0]),
    ({"dry_multiplier": 5.0, "dry_window": 3, "dry_allowed_length": 1}, [0, 1, 0, 2, 0], [0, 1, 0, 0]),
]


def greedy_id(value: object) -> str:
    return str(value)


@pytest.mark.parametrize(("options", "prompt", "expected"), GREEDY, ids=greedy_id)
def test_each_option_that_changes_logits(options: dict[str, object], prompt: list[int], expected: list[int]) -> None:
    config = config_of(**options)
    bad_words = [word for word in config.bad_words if isinstance(word, tuple)]
    sampler = Sampler(config, prompt, 4, bad_words=bad_words)
    assert continued(sampler, [logits_of(3, 2, 1, 0)] * len(expected)) == expected


def test_dry_does_not_reach_across_its_breakers() -> None:
    config, text = config_of(dry_multiplier=5.0), [0, 1, 2, 0, 1]
    assert choose([Sampler(config, text, 4)], [logits_of(0, 0, 1, 0.5)]) == [3]
    assert choose([Sampler(config, text, 4, dry_breakers=frozenset({1}))], [logits_of(0, 0, 1, 0.5)]) == [2]


def test_no_end_before_the_least_length() -> None:
    sampler = Sampler(SamplingConfig(), [1], 4, eos_token_ids=frozenset({0, 1, 77}), min_new_tokens=2)
    assert continued(sampler, [logits_of(3, 2, 1, 0)] * 4) == [2, 2, 0, 0]


SETTINGS = [
    {},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 1},
    {"logit_bias": {3: 2.5, 4: -math.inf, 7: -1.0}},
    {"bad_words": [[1], [2, 3], [2, 4], [5, 5, 6], [0, 1, 2, 3, 4, 5]]},
    {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "logit_bias": {3: 2.5, 1: 9.0}, "bad_words": [[4, 4], [3]]},
]


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_logits_change_as_transformers_has_them(options: dict[str, object]) -> None:
    """Random texts over few tokens, in one batch: the best tokens, and on log probabilities the scores for beams."""
    torch = pytest.importorskip("torch")
    rng, size, eos, num_prompt = np.random.default_rng(5), 12, frozenset({6, 7}), 5
    config = config_of(**options)
    rows = [random_logits(seed, size) for seed in range(20)]
    texts = [rng.integers(0, 8, num_prompt + seed % 5).tolist() for seed in range(20)]
    bad_words = [word for word in config.bad_words if isinstance(word, tuple)]
    samplers = []
    for text in texts:
        samplers.append(
            Sampler(config, text[:num_prompt], size, eos_token_ids=eos, min_new_tokens=3, bad_words=bad_words)
        )
        for token in text[num_prompt:]:
            samplers[-1].accept(token)
    best = choose(samplers, rows)
    for row, text, token, scored in zip(rows, texts, best, scores(samplers, rows), strict=True):
        theirs = _theirs(config, num_prompt, eos)(torch.tensor([text]), torch.from_numpy(row)[None])[0]
        assert token == theirs.argmax()
        theirs = _theirs(config, num_prompt, eos)(
            torch.tensor([text]), torch.log_softmax(torch.from_numpy(row)[None], -1)
        )
        np.testing.assert_allclose(scored, theirs[0], rtol=1e-5, atol=1e-6)


def _theirs(config: SamplingConfig, num_prompt: int, eos: frozenset[int]):  # type: ignore[no-untyped-def]
    from transformers import (
        LogitsProcessorList,
        MinNewTokensLengthLogitsProcessor,
        NoBadWordsLogitsProcessor,
        NoRepeatNGramLogitsProcessor,
        RepetitionPenaltyLogitsProcessor,
        SequenceBiasLogitsProcessor,
    )

    result = LogitsProcessorList()
    if config.logit_bias:
        result.append(SequenceBiasLogitsProcessor([[[token], bias] for token, bias in config.logit_bias.items()]))
    if config.repetition_penalty != 1:
        result.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        result.append(NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    if config.bad_words:
        result.append(NoBadWordsLogitsProcessor([list(word) for word in config.bad_words]))
    result.append(MinNewTokensLengthLogitsProcessor(num_prompt, 3, sorted(eos)))
    return result


def test_scores_rule_out_what_the_options_say() -> None:
    config = config_of(allowed_token_ids=[0, 1, 2], presence_penalty=1.0)
    sampler = Sampler(config, [0], 4, constraint=Steps([[0], [1, 2, 3]], 4))
    sampler.accept(0)
    expected = [-math.inf, *np.log([0.25, 0.25]), -math.inf]
    np.testing.assert_allclose(scores([sampler], [logits_of(1, 1, 1, 1)])[0], expected, rtol=1e-5)


def test_scores_are_refused_only_if_no_row_has_any() -> None:
    dead, alive = (Sampler(config_of(allowed_token_ids=[0]), [], 3, bad_words=words) for words in ([[0]], []))
    rows = [logits_of(1, 2, 3)] * 2
    assert (scores([dead, alive], rows) > -np.inf).sum() == 1
    with pytest.raises(GenAIError, match="allowed_token_ids and bad_words rule out every token"):
        scores([dead, dead], rows)
    with pytest.raises(GraphRunError, match="not finite"):
        scores([alive, alive], [rows[0], logits_of(1, math.nan, 2)])


DRAWS: list[dict[str, object]] = [
    {"do_sample": True},
    {"temperature": 0.5},
    {"temperature": 2.0, "top_k": 5},
    {"top_p": 0.8},
    {"min_p": 0.2},
    {"typical_p": 0.5},
    {"xtc_probability": 0.6, "xtc_threshold": 0.15},
    {"xtc_probability": 0.3, "xtc_threshold": 0.1, "top_k": 4},
    {"temperature": 1.5, "top_k": 8, "typical_p": 0.9, "top_p": 0.9, "min_p": 0.05, "xtc_probability": 0.5},
]


@pytest.mark.parametrize("options", DRAWS, ids=str)
def test_draws_follow_the_definition(options: dict[str, object]) -> None:
    """Chi-square over 10,000 draws, within five standard deviations of its mean; nothing comes that cannot."""
    config = config_of(**options, rng_seed=0)
    logits, num_draws = random_logits(3, 12) / np.float32(4), 10_000
    weights = filtered_weights(logits, config)
    expected = weights / weights.sum()
    if config.xtc.probability:
        excluded = without_top_choices(weights, logits, config.xtc.threshold)
        assert (excluded > 0).sum() < (weights > 0).sum(), "XTC has nothing to do here"
        expected += config.xtc.probability * (excluded / excluded.sum() - expected)
    sampler = Sampler(config, [], 12)
    tokens = itertools.chain.from_iterable(choose([sampler] * 100, [logits] * 100) for _ in range(num_draws // 100))
    counts = np.bincount(list(tokens), minlength=12)
    possible = expected > 0
    assert not counts[~possible].any()
    freedom = int(possible.sum()) - 1
    statistic = ((counts - num_draws * expected)[possible] ** 2 / (num_draws * expected[possible])).sum()
    assert statistic <= freedom + 5 * math.sqrt(2 * freedom)


def test_xtc_never_takes_away_the_end_or_a_new_line() -> None:
    config = config_of(xtc_probability=1.0, xtc_threshold=0.1, rng_seed=1)
    logits = logits_of(4, 2.5, 2)

    def drawn(**tokens: frozenset[int]) -> set[int]:
        return set(choose([Sampler(config, [], 3, **tokens)] * 200, [logits] * 200))  # type: ignore[arg-type]

    assert drawn() == {1, 2}
    assert drawn(eos_token_ids=frozenset({0})) == {0, 1, 2}
    assert drawn(newline_tokens=frozenset({0})) == {0, 1, 2}
    assert drawn(eos_token_ids=frozenset({1})) == {1, 2}


MIXED: list[dict[str, object]] = [
    {},
    {"rng_seed": 1},
    {"rng_seed": 2, "temperature": 1.3},
    {"rng_seed": 3, "top_k": 40, "top_p": 0.9},
    {"rng_seed": 4, "top_p": 0.95, "temperature": 2.0},
    {"rng_seed": 5, "typical_p": 0.7, "repetition_penalty": 1.2},
    {"rng_seed": 6, "min_p": 0.02, "xtc_probability": 0.5, "dry_multiplier": 0.8},
    {"rng_seed": 7, "xtc_probability": 0.5, "presence_penalty": 0.7, "frequency_penalty": 0.2},
    {"rng_seed": 8, "top_k": 2000, "typical_p": 0.95, "min_p": 0.001, "no_repeat_ngram_size": 2},
]


@pytest.mark.parametrize("size", [6000, 6007])
def test_rows_do_not_see_each_other(size: int) -> None:
    """Every text is the same alone and in any batch, whatever the other rows ask for."""
    num_steps = 12
    steps = [[random_logits(100 * step + row, size) for row in range(len(MIXED))] for step in range(num_steps)]

    def texts(rows: Sequence[int]) -> dict[int, list[int]]:
        samplers = {row: Sampler(config_of(**MIXED[row]), [1, 2, 3], size) for row in rows}
        found: dict[int, list[int]] = {row: [] for row in rows}
        for step in steps:
            chosen = choose(list(samplers.values()), [step[row] for row in rows])
            for row, token in zip(rows, chosen, strict=True):
                samplers[row].accept(token)
                found[row].append(token)
        return found

    alone = {row: texts([row])[row] for row in range(len(MIXED))}
    assert texts(range(len(MIXED))) == alone
    assert texts([8, 3, 5]) == {row: alone[row] for row in (8, 3, 5)}
    assert len({tuple(text) for text in alone.values()}) == len(alone)


def test_streams() -> None:
    rows = [random_logits(seed) for seed in range(30)]

    def text(seed: int | None, **options: int) -> list[int]:
        return continued(Sampler(SamplingConfig(do_sample=True, rng_seed=seed), [], 50, **options), rows)

    assert text(7) == text(7) == text(7, choice=0)
    assert text(7) != text(8)
    assert text(7, choice=1) == text(7, choice=1)
    assert len({tuple(text(7, choice=choice)) for choice in range(5)}) == 5
    assert text(None) != text(None)


def test_logits_stay_as_they_are() -> None:
    rows = [random_logits(row) for row in range(len(MIXED))]
    before = [row.copy() for row in rows]
    samplers = [Sampler(config_of(**options, logit_bias={4: 1.0}), [1, 2], 50) for options in MIXED]
    samplers += [Sampler(SamplingConfig(), [], 50, constraint=Steps([[3]], 50))]
    choose(samplers, [*rows, rows[0]])
    scores(samplers, [*rows, rows[0]])
    np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"temperature": 0.5}, {"xtc_probability": 1.0}], ids=str)
def test_a_constraint_decides_what_may_come(options: dict[str, object]) -> None:
    steps = [[4, 9], [2], [7, 8, 9], [1]]
    for seed in range(10):
        sampler = Sampler(config_of(**options, rng_seed=seed), [], 50, constraint=Steps(steps, 50))
        for allowed in steps:
            (token,) = choose([sampler], [random_logits(seed)])
            assert token in allowed
            sampler.accept(token)


@pytest.mark.parametrize("options", [{"rng_seed": 1}, {"rng_seed": 1, "top_p": 0.9, "xtc_probability": 0.5}], ids=str)
def test_no_random_number_is_drawn_where_there_is_no_choice(options: dict[str, object]) -> None:
    constrained = Sampler(config_of(**options), [], 50, constraint=Steps([[3], [3], [*range(50)]], 50))
    free = Sampler(config_of(**options), [], 50)
    assert constrained.forced() == [3, 3]
    assert continued(constrained, [random_logits(1)] * 2) == [3, 3]
    assert constrained.forced() == free.forced() == []
    assert choose([constrained], [random_logits(2)]) == choose([free], [random_logits(2)])
    one = Sampler(config_of(**options, allowed_token_ids=[6]), [], 50)
    assert choose([one], [random_logits(1)]) == [6]
    assert one.state() == Sampler(config_of(**options), [], 50).state()


def test_complete_is_what_has_nothing_more_to_say() -> None:
    sampler = Sampler(SamplingConfig(), [], 50, constraint=Steps([[3], []], 50))
    assert not sampler.is_complete
    sampler.accept(3)
    assert sampler.is_complete
    assert not Sampler(SamplingConfig(), [], 50).is_complete


def test_a_constraint_and_allowed_tokens_go_together_and_are_asked_once_a_step() -> None:
    constraint = Steps([[3, 4], [5, 6]], 50)
    sampler = Sampler(config_of(allowed_token_ids=[4, 5, 6], rng_seed=3), [], 50, constraint=constraint)
    (token,) = choose([sampler], [random_logits(1)])
    assert token == 4
    assert constraint.mask_calls == 1
    sampler.accept(4)
    assert choose([sampler], [random_logits(1)])[0] in {5, 6}
    assert constraint.mask_calls == 2


@pytest.mark.parametrize(
    ("sampler", "reason"),
    [
        (
            Sampler(config_of(allowed_token_ids=[0, 1], suppress_tokens=[0, 1]), [], 4),
            "allowed_token_ids and suppress_tokens rule",
        ),
        (
            Sampler(config_of(allowed_token_ids=[0, 1]), [], 4, bad_words=[[0], [1]]),
            "allowed_token_ids and bad_words rule",
        ),
        (Sampler(config_of(no_repeat_ngram_size=1), [0, 1, 2, 3], 4), "no_repeat_ngram_size=1 rules"),
        (Sampler(config_of(logit_bias=dict.fromkeys(range(4), -math.inf)), [], 4), "logit_bias rules"),
        (
            Sampler(
                config_of(top_p=0.5), [], 4, constraint=Steps([[2]], 4), eos_token_ids=frozenset({2}), min_new_tokens=3
            ),
            "the constraint and min_new_tokens=3 rule",
        ),
        (
            Sampler(config_of(top_k=3, allowed_token_ids=[1, 2]), [], 4, constraint=Steps([[0, 3]], 4)),
            "the constraint and allowed",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_that_leave_nothing_are_named_and_no_stream_moves(sampler: Sampler, reason: str) -> None:
    others = [Sampler(config_of(rng_seed=1), [], 4), Sampler(config_of(rng_seed=1, top_p=0.5), [], 4)]
    before = [each.state() for each in others]
    with pytest.raises(GenAIError, match=f"after 0 tokens {reason}"):
        choose([others[0], sampler, others[1]], [logits_of(1, 1, 1, 1)] * 3)
    assert [each.state() for each in others] == before


@pytest.mark.parametrize(
    "options", [{}, {"rng_seed": 1}, {"top_k": 2}, {"top_p": 0.5, "typical_p": 0.5}, {"min_p": 0.1}]
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(options: dict[str, object], value: float) -> None:
    logits = random_logits(0)
    logits[20] = value
    with pytest.raises(GraphRunError, match="not finite"):
        choose([Sampler(config_of(**options), [], 50)], [logits])


EVERYTHING: dict[str, object] = {
    "rng_seed": 5,
    "temperature": 1.2,
    "top_p": 0.95,
    "repetition_penalty": 1.2,
    "presence_penalty": 0.3,
    "frequency_penalty": 0.2,
    "no_repeat_ngram_size": 2,
    "dry_multiplier": 0.8,
    "xtc_probability": 0.5,
}


def sampler_with_everything() -> Sampler:
    constraint = Steps([[*range(40)]] * 100, 50)
    return Sampler(config_of(**EVERYTHING), [1, 2, 1], 50, bad_words=[[3, 4]], constraint=constraint)


def test_rewound_is_as_if_nothing_had_come_after() -> None:
    rows = [random_logits(seed) / np.float32(4) for seed in range(60)]
    sampler = sampler_with_everything()
    text = continued(sampler, rows[:30])
    sampler.rewind(12)
    fresh = sampler_with_everything()
    for token in text[:12]:
        fresh.accept(token)
    fresh.restore(sampler.state())  # the random stream goes on
    assert sampler.num_generated == 12
    assert continued(sampler, rows[30:]) == continued(fresh, rows[30:])
    with pytest.raises(ConfigError, match="cannot rewind to 43 generated tokens: there are 42"):
        sampler.rewind(43)


def test_restored_is_never_stopped() -> None:
    rows = [random_logits(seed) / np.float32(4) for seed in range(40)]
    sampler = sampler_with_everything()
    text = continued(sampler, rows[:20])
    saved = json.dumps(sampler.state())
    other = sampler_with_everything()
    for token in text:
        other.accept(token)
    other.restore(json.loads(saved))
    assert continued(sampler, rows[20:]) == continued(other, rows[20:])


@pytest.mark.parametrize("state", [{}, {"random": 5}, {"random": {"bit_generator": "MT19937"}}, {"random": {}}])
def test_what_is_no_state_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="not a sampler's state"):
        Sampler(SamplingConfig(), [], 3).restore(state)


def test_copies_are_independent() -> None:
    rows = [random_logits(seed) / np.float32(4) for seed in range(40)]
    sampler = sampler_with_everything()
    continued(sampler, rows[:10])
    other = sampler.copy()
    text = continued(sampler, rows[10:])
    assert continued(other, rows[10:]) == text


@pytest.mark.parametrize(
    ("config", "bad_words", "name"),
    [
        (config_of(logit_bias={9: 1.0}), [], "logit_bias"),
        (config_of(allowed_token_ids=[1, 9]), [], "allowed_token_ids"),
        (SamplingConfig(), [[1], [2, 9]], "bad_words"),
    ],
)
def test_tokens_outside_the_vocabulary_are_refused(
    config: SamplingConfig, bad_words: list[list[int]], name: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: token id 9 is outside the vocabulary \(0 to 8\)"):
        Sampler(config, [], 9, bad_words=bad_words)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1e-40, "top_p": 0.9, "min_p": 0.1, "top_k": 5},
        {"temperature": 0.01},
        {"temperature": 0.01, "typical_p": 0.9},
        {"repetition_penalty": 1e300},
        {"repetition_penalty": 1e-300, "temperature": 1e-3},
        {"presence_penalty": 1e300, "frequency_penalty": -1e300, "top_k": 3},
        {"logit_bias": {1: 1e300, 2: -1e300}, "temperature": 2.0},
    ],
    ids=str,
)
def test_extreme_settings_are_survived(options: dict[str, object]) -> None:
    logits = np.full(100, -np.inf, np.float32)
    logits[[1, 2, 42]] = -3, 0, 1e18
    (token,) = choose([Sampler(config_of(**options), [1, 2, 42, 43], 100)], [logits])
    assert token in {1, 2, 42}
