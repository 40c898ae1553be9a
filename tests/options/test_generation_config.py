"""How options are written: aliases, "off", nested and flat, contradictions, and back from JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest

from genai.errors import ConfigError
from genai.options.generation_config import (
    SIZE_MAX,
    BeamSearchConfig,
    ConstraintConfig,
    DryConfig,
    GenerationConfig,
    SamplingConfig,
    XtcConfig,
    config_from_data,
)


@pytest.mark.parametrize(
    ("alias", "own"),
    [
        ({"max_tokens": 5}, {"max_new_tokens": 5}),
        ({"max_completion_tokens": 5}, {"max_new_tokens": 5}),
        ({"min_tokens": 2}, {"min_new_tokens": 2}),
        ({"stop": ["a"]}, {"stop_strings": ("a",)}),
        ({"eos_token_id": 3}, {"eos_token_ids": (3,)}),
        ({"seed": 7}, {"rng_seed": 7}),
        ({"random_seed": 7}, {"rng_seed": 7}),
        ({"repeat_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"bad_words_ids": [[1, 2]]}, {"bad_words": [(1, 2)]}),
        ({"num_return_sequences": 3}, {"n": 3}),
        ({"num_beams": 3, "early_stopping": True}, {"num_beams": 3, "stop_criteria": "EARLY"}),
        ({"num_beams": 3, "early_stopping": False}, {"num_beams": 3, "stop_criteria": "HEURISTIC"}),
        ({"num_beams": 3, "early_stopping": "never"}, {"num_beams": 3, "stop_criteria": "NEVER"}),
        ({"prompt_lookup_num_tokens": 6}, {"speculative": "prompt_lookup", "draft_length": 6}),
        ({"num_assistant_tokens": 6}, {"draft_length": 6}),
        ({"json_object": True}, {"json_schema": '{"type": "object"}'}),
        ({"xtc_probability": 0.5}, {"xtc": XtcConfig(probability=0.5)}),
        ({"dry_multiplier": 0.5}, {"dry": DryConfig(multiplier=0.5), "do_sample": False}),
    ],
    ids=",".join,
)
def test_other_names_mean_the_same(alias: dict[str, object], own: dict[str, object]) -> None:
    assert GenerationConfig().updated(**alias) == GenerationConfig().updated(**own)
    assert GenerationConfig().updated(**alias) != GenerationConfig()


def test_num_return_sequences_counts_beams_where_there_are_some() -> None:
    config = GenerationConfig().updated(num_beams=4, num_return_sequences=2)
    assert (config.n, config.beam_search_config.num_return_sequences, config.num_choices) == (1, 2, 2)
    assert GenerationConfig().updated(n=5).num_choices == 5


@pytest.mark.parametrize("off", [None, 0, SIZE_MAX])
def test_off_is_written_in_three_ways(off: int | None) -> None:
    assert GenerationConfig().updated(do_sample=False, top_k=off, no_repeat_ngram_size=off) == GenerationConfig()
    assert GenerationConfig().updated(num_beams=2, no_repeat_ngram_size=off) == GenerationConfig().updated(num_beams=2)


@pytest.mark.parametrize("name", ["top_p", "typical_p", "repetition_penalty", "min_p", "presence_penalty"])
@pytest.mark.parametrize("off", [None, 0])
def test_filters_that_are_off(name: str, off: int | None) -> None:
    assert GenerationConfig().updated(**{name: off, "do_sample": False}) == GenerationConfig()


@pytest.mark.parametrize("off", [None, SIZE_MAX])
def test_no_limit(off: int | None) -> None:
    assert GenerationConfig().updated(max_new_tokens=off, max_length=off) == GenerationConfig()


def test_nested_and_flat_are_the_same() -> None:
    nested = GenerationConfig(
        max_new_tokens=3,
        sampling_config=SamplingConfig(do_sample=True, temperature=0.5, logit_bias={3: -1.0}),
        constraint=ConstraintConfig(kind="regex", grammar="a+"),
    )
    flat = GenerationConfig().updated(max_new_tokens=3, temperature=0.5, logit_bias={"3": -1}, regex="a+")
    assert nested == flat
    beams = BeamSearchConfig(num_beams=4, num_beam_groups=2, diversity_penalty=0.5, length_penalty=2)
    assert GenerationConfig(beam_search_config=beams) == GenerationConfig().updated(
        num_beams=4, num_beam_groups=2, diversity_penalty=0.5, length_penalty=2.0
    )


def test_a_configuration_survives_json() -> None:
    config = GenerationConfig().updated(
        max_new_tokens=9,
        stop=["a", "b"],
        eos_token_ids=[1, 2],
        temperature=0.3,
        logit_bias={5: 2.5},
        bad_words=["x", [1, 2]],
        suppress_tokens=[7],
        allowed_token_ids=[1, 2, 3],
        xtc_probability=0.1,
        dry_multiplier=0.8,
        dry_sequence_breakers=["\n"],
        json_schema={"type": "object"},
        speculative="prompt_lookup",
        n=2,
    )
    assert config_from_data(json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1, "rng_seed": 2}, "same option"),
        ({"seed": 1, "random_seed": 2}, "same option"),
        ({"min_new_tokens": 5, "max_new_tokens": 3}, "min_new_tokens=5 is above max_new_tokens=3"),
        ({"min_length": 5, "max_length": 3}, "min_length=5 is above max_length=3"),
        ({"top_logprobs": 3}, "needs logprobs=True"),
        ({"num_beams": 4, "num_return_sequences": 5}, "num_return_sequences=5 is above num_beams=4"),
        ({"num_beams": 4, "num_beam_groups": 3}, "cannot be shared"),
        ({"num_beams": 4, "diversity_penalty": 0.5}, "num_beam_groups above 1"),
        ({"num_beams": 4, "temperature": 0.5}, "do_sample cannot be had with num_beams"),
        ({"num_beams": 4, "n": 2}, "n cannot be had"),
        ({"num_beams": 4, "stop": "x"}, "stop_strings cannot be had"),
        ({"num_beams": 4, "logprobs": True}, "logprobs cannot be had"),
        ({"num_beams": 4, "early_stopping": "soon"}, "early_stopping='soon'"),
        ({"stop_criteria": "SOON"}, "stop_criteria='SOON'"),
        ({"stop_criteria": "EARLY"}, "stop_criteria='EARLY' needs num_beams above 1"),
        ({"length_penalty": 2.0}, r"length_penalty=2.0 needs num_beams above 1"),
        (
            {"beam_search_config": BeamSearchConfig(num_beams=2, num_return_sequences=2), "num_beams": 1},
            "above num_beams",
        ),
        ({"beam_search_config": BeamSearchConfig(no_repeat_ngram_size=2)}, "no_repeat_ngram_size=2 needs num_beams"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"regex": "a", "choices": ["b"]}, "cannot be had together"),
        ({"json_object": "yes"}, "json_object='yes'"),
        ({"regex": 3}, "regex is a string"),
        ({"json_schema": 3}, "json_schema is a string or an object"),
        ({"choices": []}, "choices"),
        ({"choices": [""]}, "non-empty"),
        ({"speculative": "magic"}, "speculative='magic'"),
        ({"draft_length": 0}, "draft_length=0"),
        ({"n": 0}, "n=0"),
        ({"n": True}, "n=True"),
        ({"bad_words": [[]]}, "non-empty"),
        ({"bad_words": [[-1]]}, "bad_words"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"logit_bias": {"a": 1}}, "logit_bias maps"),
        ({"logit_bias": {1: float("nan")}}, r"logit_bias\[1\]"),
        ({"xtc_probability": 2}, "xtc_probability=2"),
        ({"dry_base": 0.5}, "dry_base"),
        ({"dry_window": -3}, "dry_window"),
        ({"presence_penalty": float("inf")}, "presence_penalty"),
        ({"beam_search_config": 3}, "is a BeamSearchConfig, not int"),
        ({"constraint": 3}, "constraint"),
    ],
)
def test_contradictions_and_bad_values_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationConfig().updated(**options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {1, 2}),
        ({"eos_token_ids": [3]}, {3}),
        ({"eos_token_ids": []}, set()),
        ({"stop_token_ids": 4}, {1, 2, 4}),
        ({"eos_token_ids": [3], "stop_token_ids": [4]}, {3, 4}),
        ({"ignore_eos": True}, set()),
        ({"ignore_eos": True, "eos_token_ids": [3], "stop_token_ids": [4]}, {4}),
    ],
    ids=str,
)
def test_which_tokens_end_a_text(options: dict[str, object], expected: set[int]) -> None:
    assert GenerationConfig().updated(**options).ends((1, 2)) == expected
