from __future__ import annotations

import pytest

from genai.errors import ConfigError
from genai.options.generation_config import GenerationConfig
from genai.options.option import entries_of
from genai.pipelines.backends.options import in_force, options_set, refuse_others, with_preview_seed
from tests.pipelines.options import BY_HAND, GIVEN, config_with


def test_values_by_hand_are_of_options_that_there_are() -> None:
    """What is not among them gets a value from its rule, so that every adapter is asked about every option."""
    assert BY_HAND.keys() <= {".".join(entry.path[:2]) for entry in entries_of(GenerationConfig)} <= GIVEN.keys()


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_set_is_found_and_refused(name: str) -> None:
    config = config_with(name)
    assert name in options_set(config)
    with pytest.raises(ConfigError, match=rf"^them cannot do {name}="):
        refuse_others("them", config, options_set(config).keys() - {name})
    refuse_others("them", config, options_set(config).keys())


def test_nothing_is_set_at_first() -> None:
    assert options_set(GenerationConfig()) == {}


def test_repetition_penalty_only_when_sampling() -> None:
    greedy = GenerationConfig().updated(repetition_penalty=1.5)
    assert in_force(greedy).sampling_config.repetition_penalty == 1
    sampled = greedy.updated(do_sample=True)
    assert in_force(sampled) == sampled


def test_the_previews_seed() -> None:
    plain = with_preview_seed(GenerationConfig())
    assert (plain.sampling_config.rng_seed, plain.sampling_config.do_sample) == (0, False)
    assert with_preview_seed(GenerationConfig().updated(seed=4)).sampling_config.rng_seed == 4
