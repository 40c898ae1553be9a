from __future__ import annotations

import pytest

from genai.errors import ConfigError
from genai.options.generation_config import GenerationConfig
from genai.pipelines.backends.options import in_force, options_set, refuse_others, with_preview_seed
from tests.pipelines.options import GIVEN, all_options, config_with


def test_every_option_is_looked_at() -> None:
    """A new option has to be added to the table, and so to what each adapter does about it."""
    assert GIVEN.keys() == all_options()


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
