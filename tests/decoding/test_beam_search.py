"""Beam search against transformers' own, a slow search for groups, and an enumeration of every text there is."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genai.decoding.beam_search import BeamSearch, Branch, Hypothesis
from genai.decoding.processors import FloatArray
from genai.errors import ConfigError
from genai.options.generation_config import BeamSearchConfig

Tokens = tuple[int, ...]
Model = Callable[[Tokens], FloatArray]
"""Generated tokens to the log probabilities [V] of the next."""

CRITERIA = {"EARLY": True, "HEURISTIC": False, "NEVER": "never"}
PROMPT = [3, 1, 4]
PAD = 19
LENGTH = 9


def random_model(seed: int, vocab_size: int, sharpness: float = 2.0) -> Model:
    """A language model without any structure: each text has log probabilities of its own, always the same."""

    def log_probabilities(tokens: Tokens) -> FloatArray:
        code = [seed, *(token + 1 for token in tokens)]  # NumPy takes [1] and [1, 0] for the same seed
        logits = np.random.default_rng(code).standard_normal(vocab_size) * sharpness
        return (logits - np.log(np.exp(logits).sum())).astype(np.float32)

    return log_probabilities


def searched(
    model: Model,
    config: BeamSearchConfig,
    eos: Sequence[int],
    max_new_tokens: int,
    after: Callable[[BeamSearch, list[Branch], list[Tokens]], None] | None = None,
) -> BeamSearch:
    """Run a search to its end as an engine would, without a cache. after: called after each step."""
    search = BeamSearch(config, frozenset(eos), max_new_tokens)
    live: list[Tokens] = [()]
    while not search.is_done:
        branches = search.step(np.stack([model(tokens) for tokens in live]))
        live = [(*live[branch.parent], branch.token) for branch in branches]
        if after:
            after(search, branches, live)
    assert not live
    return search


class TestAgainstTransformers:
    """A tiny Llama in float32: sequences and scores must be those of `generate(num_beams=...)`."""

    @pytest.fixture(scope="class")
    @classmethod
    def llama(cls) -> Any:
        torch = pytest.importorskip("torch")
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=20,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
            initializer_range=0.6,
            eos_token_id=None,
        )
        return LlamaForCausalLM(config).eval()

    @pytest.fixture(scope="class")
    @classmethod
    def model_after(cls, llama: Any) -> Callable[[list[int]], Model]:
        """A prompt's `Model`: a fresh run over the whole text for each step, remembered across tests."""
        import torch

        @functools.cache
        def log_probabilities(text: Tokens) -> FloatArray:
            with torch.no_grad():
                result: FloatArray = torch.log_softmax(llama(torch.tensor([text])).logits[0, -1], -1).numpy()
            return result

        return lambda prompt: lambda tokens: log_probabilities((*prompt, *tokens))

    @staticmethod
    def theirs(llama: Any, config: BeamSearchConfig, prompt: list[int], eos: list[int]) -> Any:
        import torch

        return llama.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            num_beams=config.num_beams,
            num_return_sequences=config.num_return_sequences,
            length_penalty=config.length_penalty,
            early_stopping=CRITERIA[config.stop_criteria],
            do_sample=False,
            max_new_tokens=LENGTH,
            eos_token_id=eos or None,
            pad_token_id=PAD,
            output_scores=True,
            return_dict_in_generate=True,
        )

    @pytest.mark.parametrize("stop_criteria", list(CRITERIA))
    @pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
    def test_sequences_and_scores(
        self, llama: Any, model_after: Any, length_penalty: float, stop_criteria: str
    ) -> None:
        num_finished = 0
        for seed in (0, 1, 2, 3, 4, 59):  # 59: beams enough end in the very last step
            rng = np.random.default_rng(seed)
            num_beams = int(rng.integers(2, 6))
            config = BeamSearchConfig(
                num_beams=num_beams,
                num_return_sequences=int(rng.integers(1, num_beams + 1)),
                length_penalty=length_penalty,
                stop_criteria=stop_criteria,  # type: ignore[arg-type]
            )
            prompt = rng.integers(4, 19, rng.integers(1, 6)).tolist()
            model = model_after(prompt)
            likely = searched(model, BeamSearchConfig(num_beams=2), [], LENGTH).best()[0].tokens
            eos = [int(token) for token in {*rng.choice(likely, 2), *rng.integers(1, PAD, rng.integers(0, 2))}]
            ours = searched(model, config, eos, LENGTH).best()
            theirs = self.theirs(llama, config, prompt, eos)
            assert len(ours) == len(theirs.sequences)
            for hypothesis, sequence, score in zip(ours, theirs.sequences, theirs.sequences_scores, strict=True):
                padding = [PAD] * (theirs.sequences.shape[1] - len(prompt) - len(hypothesis.tokens))
                assert [*hypothesis.tokens, *padding] == sequence[len(prompt) :].tolist()
                assert hypothesis.score == pytest.approx(float(score), abs=1e-4)
                assert hypothesis.is_finished == (hypothesis.tokens[-1] in eos)
                num_finished += hypothesis.is_finished
        assert num_finished > 1, "an end of sequence must come, or this compares too little"

    def test_without_an_end_of_sequence_token(self, llama: Any, model_after: Any) -> None:
        config = BeamSearchConfig(num_beams=4, num_return_sequences=4)
        theirs = self.theirs(llama, config, PROMPT, [])
        ours = searched(model_after(PROMPT), config, [], LENGTH).best()
        assert [list(hypothesis.tokens) for hypothesis in ours] == theirs.sequences[:, len(PROMPT) :].tolist()
        assert [h.score for h in ours] == pytest.approx(theirs.sequences_scores.tolist(), abs=1e-4)


class TestAgainstEnumeration:
    """With a beam for every text, the search finds all of them, in order."""

    @pytest.mark.parametrize("stop_criteria", list(CRITERIA))
    @pytest.mark.parametrize("length_penalty", [0.0, 1.0, -0.5, 2.5])
    @pytest.mark.parametrize("eos", [[], [0], [0, 2]])
    def test_finds_the_best_of_all_texts(self, length_penalty: float, stop_criteria: str, eos: list[int]) -> None:
        model = random_model(7, 4, sharpness=1.0)
        config = BeamSearchConfig(
            num_beams=100,
            num_return_sequences=12,
            length_penalty=length_penalty,
            stop_criteria=stop_criteria,  # type: ignore[arg-type]
        )
        found = searched(model, config, eos, 3).best()
        texts = [
            (tokens, sum(float(model(tokens[:at])[token]) for at, token in enumerate(tokens)))
            for length in (1, 2, 3)
            for tokens in itertools.product(range(4), repeat=length)
            if not set(tokens[:-1]) & set(eos) and (length == 3 or tokens[-1] in eos)
        ]
        expected = sorted(((total / len(text) ** length_penalty, text) for text, total in texts), reverse=True)
        assert [hypothesis.tokens for hypothesis in found] == [text for _, text in expected[:12]]
        assert [h.score for h in found] == pytest.approx([score for score, _ in expected[:12]], abs=1e-5)
        assert all(h.is_finished == (h.tokens[-1] in eos) for h in found)

    def test_fewer_beams_may_miss_the_best(self) -> None:
        """What looks worse at first is best in the end: two beams see it, one does not."""
        table = {(): [0.6, 0.4], (0,): [0.5, 0.5], (1,): [0.99, 0.01]}

        def model(tokens: Tokens) -> FloatArray:
            return np.log(np.array(table[tokens], np.float32))

        assert searched(model, BeamSearchConfig(num_beams=1), [], 2).best()[0].tokens == (0, 0)
        assert searched(model, BeamSearchConfig(num_beams=2), [], 2).best()[0].tokens == (1, 0)


def slow_group_search(
    model: Model, config: BeamSearchConfig, eos: Sequence[int], max_new_tokens: int
) -> list[tuple[Tokens, float]]:
    """Diverse beam search written from its description (arXiv 1610.02424, section 3), as plainly as can be."""
    size = config.num_beams // config.num_beam_groups
    live: list[dict[Tokens, float]] = [{(): 0.0} for _ in range(config.num_beam_groups)]
    ended: list[dict[Tokens, float]] = [{} for _ in live]

    def normalized(tokens: Tokens, total: float) -> float:
        return total / len(tokens) ** config.length_penalty

    for length in range(1, max_new_tokens + 1):
        taken: Counter[int] = Counter()
        for group, beams in enumerate(live):
            candidates = {
                (*tokens, token): total + float(value) - config.diversity_penalty * taken[token]
                for tokens, total in beams.items()
                for token, value in enumerate(model(tokens))
            }
            ranked = sorted(candidates, key=lambda text: -candidates[text])
            for text in ranked[:size]:
                if text[-1] in eos:
                    ended[group][text] = normalized(text, candidates[text])
            best = sorted(ended[group], key=lambda text: -ended[group][text])[:size]
            ended[group] = {text: ended[group][text] for text in best}
            going_on = [text for text in ranked if text[-1] not in eos][:size]
            live[group] = {text: candidates[text] for text in going_on}
            taken.update(text[-1] for text in going_on)
            if len(ended[group]) == size and beams and length < max_new_tokens:
                reach = max_new_tokens if config.stop_criteria == "NEVER" and config.length_penalty > 0 else length
                best_sum = candidates[ranked[0] if len(live) > 1 else going_on[0]]
                attainable = best_sum / reach**config.length_penalty
                if config.stop_criteria == "EARLY" or attainable <= min(ended[group].values()):
                    live[group] = {}
    for beams, texts in zip(live, ended, strict=True):
        texts.update({text: normalized(text, total) for text, total in beams.items()})
    pooled = [
        sorted(((score, text) for text, score in texts.items()), reverse=True)[:size] for texts in ended
    ]  # ties do not occur: every text has its own random scores
    everything = sorted(itertools.chain.from_iterable(pooled), key=lambda item: -item[0])
    return [(text, score) for score, text in everything[: config.num_return_sequences]]


class TestGroups:
    @pytest.mark.parametrize("stop_criteria", list(CRITERIA))
    @pytest.mark.parametrize(("num_beams", "num_groups"), [(4, 2), (6, 2), (6, 3), (3, 3), (4, 1)])
    def test_against_a_slow_search(self, num_beams: int, num_groups: int, stop_criteria: str) -> None:
        num_finished = 0
        for seed in range(8):
            rng = np.random.default_rng(seed)
            config = BeamSearchConfig(
                num_beams=num_beams,
                num_beam_groups=num_groups,
                diversity_penalty=float(rng.choice([0.0, 0.3, 2.0])) if num_groups > 1 else 0.0,
                length_penalty=float(rng.choice([0.0, 1.0, 1.7, -0.5])),
                num_return_sequences=num_beams,
                stop_criteria=stop_criteria,  # type: ignore[arg-type]
            )
            model = random_model(seed, 9)
            eos = rng.choice(9, rng.integers(1, 4), replace=False).tolist()
            found = searched(model, config, eos, 7).best()
            expected = slow_group_search(model, config, eos, 7)
            assert [hypothesis.tokens for hypothesis in found] == [text for text, _ in expected]
            assert [h.score for h in found] == pytest.approx([score for _, score in expected], abs=1e-5)
            num_finished += sum(hypothesis.is_finished for hypothesis in found)
        assert num_finished > 5

    def test_groups_of_one_avoid_each_others_tokens(self) -> None:
        """Each group is greedy, less the penalty for each earlier group's token of the same step."""
        model, penalty, texts = random_model(3, 6), 3.0, [(), (), ()]
        totals = [0.0, 0.0, 0.0]
        for _ in range(5):
            taken = np.zeros(6)
            for group, tokens in enumerate(texts):
                scores = model(tokens) - penalty * taken
                token = int(scores.argmax())
                taken[token] += 1
                totals[group] += float(scores[token])
                texts[group] = (*tokens, token)  # type: ignore[call-overload]
        config = BeamSearchConfig(
            num_beams=3, num_beam_groups=3, diversity_penalty=penalty, num_return_sequences=3, length_penalty=0
        )
        found = searched(model, config, [], 5).best()
        assert {h.tokens: pytest.approx(h.score, abs=1e-5) for h in found} == dict(zip(texts, totals, strict=True))
        assert len({h.tokens for h in found}) == 3

    def test_without_a_penalty_groups_find_the_same(self) -> None:
        config = BeamSearchConfig(num_beams=4, num_beam_groups=2, num_return_sequences=4)
        first, again, second, again2 = searched(random_model(1, 8), config, [0], 6).best()
        assert (first, second) == (again, again2)
        alone = BeamSearchConfig(num_beams=2, num_return_sequences=2)
        assert searched(random_model(1, 8), alone, [0], 6).best() == [first, second]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_invariants(data: st.DataObject) -> None:
    num_groups = data.draw(st.integers(1, 3))
    size = data.draw(st.integers(1, 4))
    vocab_size = data.draw(st.integers(2, 7))
    config = BeamSearchConfig(
        num_beams=size * num_groups,
        num_beam_groups=num_groups,
        diversity_penalty=data.draw(st.sampled_from([0.0, 0.5, 5.0])) if num_groups > 1 else 0.0,
        length_penalty=data.draw(st.sampled_from([-1.0, 0.0, 1.0, 2.0])),
        num_return_sequences=size * num_groups,
        stop_criteria=data.draw(st.sampled_from(list(CRITERIA))),
    )
    eos = data.draw(st.sets(st.integers(0, vocab_size - 1), max_size=vocab_size))
    length = data.draw(st.integers(1, 6))
    forbidden = data.draw(st.sets(st.integers(0, vocab_size - 1), max_size=vocab_size))
    plain = random_model(data.draw(st.integers(0, 99)), vocab_size)

    def model(tokens: Tokens) -> FloatArray:
        scores = plain(tokens).copy()
        scores[list(forbidden)] = -np.inf
        return scores

    blocks = [range(1)] * num_groups  # the rows of each group's live beams

    def after(search: BeamSearch, branches: list[Branch], live: list[Tokens]) -> None:
        nonlocal blocks
        assert bool(branches) != search.is_done
        assert not {branch.token for branch in branches} & (eos | forbidden)
        ends = list(itertools.accumulate(len(group.live) for group in search._groups))
        before = blocks
        blocks = [range(start, end) for start, end in itertools.pairwise([0, *ends])]
        if not search.is_done:
            assert len(branches) == ends[-1]
            for rows, parents in zip(blocks, before, strict=True):
                assert {branches[row].parent for row in rows} <= set(parents), "a beam comes from its own group"
                assert len({live[row] for row in rows}) == len(rows) <= size, "a group's beams differ"

    search = searched(model, config, sorted(eos), length, after)
    found = search.best()
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    assert len(found) <= config.num_return_sequences
    for hypothesis in found:
        assert np.isfinite(hypothesis.score)
        assert hypothesis.is_finished == (hypothesis.tokens[-1] in eos)
        assert not set(hypothesis.tokens) & forbidden
        assert hypothesis.is_finished or len(hypothesis.tokens) == length


def test_one_beam_is_greedy() -> None:
    model = random_model(5, 30)
    search = searched(model, BeamSearchConfig(), [4], 12)
    tokens: Tokens = ()
    while len(tokens) < 12 and 4 not in tokens:
        tokens = (*tokens, int(model(tokens).argmax()))
    (best,) = search.best()
    # one beam may end and go on: as in transformers, an end is kept only if it is the most probable token
    assert best.tokens == tokens


def test_never_looks_ahead_only_where_longer_is_better() -> None:
    """With a penalty below 0 a text only loses by going on: its present length is the best it can have."""
    config = {"num_beams": 3, "num_return_sequences": 3, "length_penalty": -1.0}
    for seed in range(40):
        model = random_model(seed, 6, sharpness=1.0)
        heuristic, never = (
            searched(model, BeamSearchConfig(**config, stop_criteria=criterion), [0, 1], 8)  # type: ignore[arg-type]
            for criterion in ("HEURISTIC", "NEVER")
        )
        assert heuristic.best() == never.best()
        assert heuristic._num_steps == never._num_steps


def test_equal_scores_go_to_the_first_beam_and_the_smallest_token() -> None:
    search = BeamSearch(BeamSearchConfig(num_beams=2), frozenset(), 9)
    for _ in range(2):
        assert search.step(np.zeros((2, 400), np.float32)) == [Branch(parent=0, token=0), Branch(parent=0, token=1)]


def test_fewer_live_beams_where_fewer_texts_are_possible() -> None:
    scores = np.array([[-1.0, -np.inf, -2.0]], np.float32)
    search = BeamSearch(BeamSearchConfig(num_beams=4, num_return_sequences=4), frozenset({0}), 2)
    assert search.step(np.repeat(scores, 4, axis=0)) == [Branch(parent=0, token=2)]
    assert search.step(scores) == []
    assert [h.tokens for h in search.best()] == [(0,), (2, 0), (2, 2)]


def test_a_dead_end_is_an_end() -> None:
    search = BeamSearch(BeamSearchConfig(num_beams=2), frozenset({0}), 9)
    assert search.step(np.array([[-1.0, -np.inf]], np.float32)) == []
    assert search.is_done
    assert search.best() == [Hypothesis(tokens=(0,), score=-1.0, is_finished=True)]


def test_best_so_far() -> None:
    search = BeamSearch(BeamSearchConfig(num_beams=2, num_return_sequences=2), frozenset({0}), 9)
    assert search.best() == []
    search.step(np.array([[-1.0, -0.5, -3.0]], np.float32))
    assert not search.is_done
    assert [(h.tokens, h.is_finished) for h in search.best()] == [((1,), False), ((0,), True)]


def test_no_tokens_wanted() -> None:
    search = BeamSearch(BeamSearchConfig(num_beams=2), frozenset(), 0)
    assert search.is_done
    assert search.best() == []


def test_scores_are_left_as_they_are() -> None:
    config = BeamSearchConfig(num_beams=2, num_beam_groups=2, diversity_penalty=1.0)
    scores = np.log(np.array([[0.2, 0.5, 0.3]] * 2, np.float32))
    scores.flags.writeable = False
    search = BeamSearch(config, frozenset(), 5)
    search.step(scores)
    search.step(scores)


def test_wrong_number_of_rows() -> None:
    search = BeamSearch(BeamSearchConfig(num_beams=2), frozenset(), 5)
    search.step(np.zeros((1, 4), np.float32))
    with pytest.raises(ValueError, match="3 rows of scores for 2 live beams"):
        search.step(np.zeros((3, 4), np.float32))


def test_a_length_penalty_beyond_float32_is_refused() -> None:
    with pytest.raises(ConfigError, match="length_penalty=50"):
        BeamSearch(BeamSearchConfig(num_beams=2, length_penalty=50.0), frozenset(), 100)
    assert math.isfinite(searched(random_model(0, 5), BeamSearchConfig(length_penalty=-12.0), [], 100).best()[0].score)


def test_a_beam_that_is_complete_ends_as_it_is_and_others_go_on() -> None:
    config = BeamSearchConfig(num_beams=2, num_return_sequences=2, stop_criteria="NEVER", length_penalty=0.0)
    search = BeamSearch(config, frozenset(), 5)
    first = np.array([[-1.0, -2.0]], np.float32)
    assert [branch.token for branch in search.step(first)] == [0, 1]
    none = [-np.inf, -np.inf]
    assert search.step(np.array([none, [-3.0, -np.inf]], np.float32), [True, False]) == [Branch(parent=1, token=0)]
    assert not search.is_done
    assert search.step(np.array([none], np.float32), [True]) == []
    assert search.is_done
    assert search.best() == [
        Hypothesis(tokens=(0,), score=-1.0, is_finished=True),
        Hypothesis(tokens=(1, 0), score=-5.0, is_finished=True),
    ]


def test_a_text_that_is_complete_from_the_beginning_is_empty() -> None:
    search = BeamSearch(BeamSearchConfig(num_beams=2), frozenset(), 5)
    assert search.step(np.full((1, 3), -np.inf, np.float32), [True]) == []
    assert search.best() == [Hypothesis(tokens=(), score=0.0, is_finished=True)]
