"""The native backend is `LLM`, under the preview's names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from genai.config import EngineConfig
from genai.errors import ConfigError
from genai.llm.llm import LLM
from genai.pipelines import DeviceFactory, GenerationInput, Text2TextPipelineFactory
from genai.pipelines.backends.native import NativePipeline
from tests.pipelines.options import GIVEN, config_with
from tests.tiny_package import tiny_package

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = tiny_package(tmp_path_factory.mktemp("models") / "tiny", temperature=0.7)
    with LLM(folder, EngineConfig(device="cpu", max_batch=4, num_threads=1, max_seq_len=300)) as loaded:
        yield loaded


@pytest.fixture
def pipeline(llm: LLM) -> NativePipeline:
    made = NativePipeline(llm)
    made.set_generation_config(made.get_generation_config().updated(max_new_tokens=12, ignore_eos=True))
    return made


def test_created_by_name(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "tiny", max_position=100)
    devices = [each for each in DeviceFactory.get_instance().enumerate("native") if each.identifier == "CPU"]
    pipeline = Text2TextPipelineFactory.get_instance().create("native", folder, devices)
    pipeline.set_generation_config(pipeline.get_generation_config().updated(max_new_tokens=3))
    assert len(pipeline(PROMPT).token_ids) == 3
    pipeline.close()
    with pytest.raises(ConfigError, match="closed"):
        pipeline(PROMPT)


def test_the_models_own_configuration_at_first_with_the_previews_seed(llm: LLM) -> None:
    sampling = NativePipeline(llm).get_generation_config().sampling_config
    assert (sampling.do_sample, sampling.temperature, sampling.rng_seed) == (True, 0.7, 0)


@pytest.mark.parametrize(
    "source",
    [
        GenerationInput(PROMPT),
        GenerationInput(token_ids=list(PROMPT.encode())),
        GenerationInput(messages=[{"role": "user", "content": PROMPT}]),
    ],
    ids=["text", "token_ids", "messages"],
)
def test_the_text_is_the_models_whole_and_streamed(llm: LLM, pipeline: NativePipeline, source: GenerationInput) -> None:
    prompt = next(each for each in (source.text, source.token_ids, source.messages) if each is not None)
    expected = llm.generate(prompt, pipeline.get_generation_config())
    pieces: list[str] = []
    for result in (pipeline(source), pipeline(source, pieces.append)):
        assert (result.text, list(result.token_ids)) == (expected.text, expected.token_ids)
        assert (result.finish_reason, result.texts) == (expected.finish_reason, (expected.text,))
        assert result.generation is not None
        assert result.generation.usage.prompt_tokens == expected.usage.prompt_tokens
    assert "".join(pieces) == expected.text


def test_a_streamer_ends_a_text(llm: LLM, pipeline: NativePipeline) -> None:
    pieces: list[str] = []

    def enough(piece: str) -> bool:
        pieces.append(piece)
        return len(pieces) == 2

    result = pipeline(PROMPT, enough)
    assert result.finish_reason == "cancelled"
    assert (result.text, len(pieces)) == ("".join(pieces), 2)
    assert len(result.token_ids) < 12
    llm.loop.settle()
    assert not llm.engine.running


def test_a_streamer_reads_one_text(pipeline: NativePipeline) -> None:
    for options in ({"n": 2}, {"num_beams": 2, "do_sample": False}):
        pipeline.set_generation_config(pipeline.get_generation_config().updated(**{"n": 1, "num_beams": 1, **options}))
        assert len(pipeline(PROMPT).texts) == options.get("n", 1)
        with pytest.raises(ConfigError, match="a streamer reads one text"):
            pipeline(PROMPT, print)
        pipeline.set_generation_config(pipeline.get_generation_config().updated(n=1, num_beams=1))


def test_repetition_penalty_is_the_samplings(llm: LLM, pipeline: NativePipeline) -> None:
    options = {"repetition_penalty": 5.0, "do_sample": False, "max_new_tokens": 12, "ignore_eos": True}
    pipeline.set_generation_config(pipeline.get_generation_config().updated(**options))
    plain = llm.generate(PROMPT, **{**options, "repetition_penalty": 1.0})
    assert list(pipeline(PROMPT).token_ids) == plain.token_ids != llm.generate(PROMPT, **options).token_ids
    sampled = pipeline.get_generation_config().updated(do_sample=True)
    pipeline.set_generation_config(sampled)
    assert list(pipeline(PROMPT).token_ids) == llm.generate(PROMPT, sampled).token_ids


@pytest.mark.parametrize("name", GIVEN)
def test_every_option_is_taken(pipeline: NativePipeline, name: str) -> None:
    pipeline.set_generation_config(config_with(name))
    assert pipeline.get_generation_config() == config_with(name)


def test_step_by_step(pipeline: NativePipeline) -> None:
    expected = pipeline(PROMPT)
    generator = pipeline.generator()
    generator.append_input_tokens(PROMPT)
    texts = []
    while not generator.is_done():
        texts.append(generator.generate_next_token())
    assert generator.token_ids == [*PROMPT.encode(), *expected.token_ids]
    assert "".join(texts) == expected.text
    generator.close()
    generator.append_input_tokens("Once")
    generator.append_input_tokens(list(b" upon a time"))
    generator.generate_next_token()
    assert generator.token_ids == [*PROMPT.encode(), expected.token_ids[0]]
    generator.close()
