"""Every option of a configuration, with a value that is not its default, and how to ask for it."""

from __future__ import annotations

from genai.errors import ConfigError
from genai.options.generation_config import BeamSearchConfig, GenerationConfig
from genai.options.option import Entry, entries_of

BY_HAND: dict[str, dict[str, object]] = {
    "max_new_tokens": {"max_new_tokens": 7},
    "max_length": {"max_length": 70},
    "min_new_tokens": {"min_new_tokens": 3},
    "min_length": {"min_length": 30},
    "eos_token_ids": {"eos_token_ids": (101, 257)},
    "ignore_eos": {"ignore_eos": True},
    "stop_token_ids": {"stop_token_ids": (101,)},
    "stop_strings": {"stop_strings": ("q",)},
    "n": {"n": 2, "do_sample": True},
    "logprobs": {"logprobs": True},
    "top_logprobs": {"logprobs": True, "top_logprobs": 2},
    "prompt_logprobs": {"prompt_logprobs": 0},
    "echo": {"echo": True},
    "reasoning_effort": {"reasoning_effort": "low"},
    "speculative": {"speculative": "prompt_lookup"},
    "draft_length": {"draft_length": 3},
    "constraint": {"regex": "[a-c]+"},
    "sampling_config.do_sample": {"do_sample": True},
    "sampling_config.rng_seed": {"rng_seed": 9},
    "sampling_config.temperature": {"temperature": 0.5},
    "sampling_config.top_k": {"top_k": 4},
    "sampling_config.top_p": {"top_p": 0.25},
    "sampling_config.min_p": {"min_p": 0.125},
    "sampling_config.typical_p": {"typical_p": 0.75},
    "sampling_config.repetition_penalty": {"repetition_penalty": 1.5, "do_sample": True},
    "sampling_config.presence_penalty": {"presence_penalty": 0.5},
    "sampling_config.frequency_penalty": {"frequency_penalty": 0.25},
    "sampling_config.no_repeat_ngram_size": {"no_repeat_ngram_size": 3},
    "sampling_config.logit_bias": {"logit_bias": {65: 1.0}},
    "sampling_config.bad_words": {"bad_words": ("x",)},
    "sampling_config.suppress_tokens": {"suppress_tokens": (65,)},
    "sampling_config.allowed_token_ids": {"allowed_token_ids": (65,)},
    "sampling_config.xtc": {"xtc_probability": 0.5},
    "sampling_config.dry": {"dry_multiplier": 0.5},
    "beam_search_config.num_beams": {"num_beams": 3},
    "beam_search_config.num_beam_groups": {"num_beams": 4, "num_beam_groups": 2},
    "beam_search_config.diversity_penalty": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "beam_search_config.length_penalty": {"num_beams": 3, "length_penalty": 2.0},
    "beam_search_config.num_return_sequences": {"num_beams": 3, "num_return_sequences": 2},
    "beam_search_config.no_repeat_ngram_size": {
        "beam_search_config": BeamSearchConfig(num_beams=3, no_repeat_ngram_size=2)
    },
    "beam_search_config.stop_criteria": {"num_beams": 3, "stop_criteria": "EARLY"},
}


def _other(entry: Entry) -> dict[str, object]:
    """An option that has no value here yet, with one that is not its default."""
    for value in (True, 3, 0.5, ("q",), (101,)):
        try:
            if entry.option.rule(value, entry.name) != entry.default:
                return {entry.name: value}
        except ConfigError:
            continue
    raise AssertionError(f"{entry.name}: give it a value by hand")


_ENTRIES = {".".join(entry.path[:2]): entry for entry in entries_of(GenerationConfig)}
GIVEN = BY_HAND | {name: _other(entry) for name, entry in _ENTRIES.items() if name not in BY_HAND}


def config_with(name: str) -> GenerationConfig:
    """A configuration in which an option is set."""
    return GenerationConfig().updated(**GIVEN[name])
