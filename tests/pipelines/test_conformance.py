"""The interface's rules: kept by the backends here, and each is broken by a backend that does not keep it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from genai.config import EngineConfig
from genai.errors import ConfigError, TokenizerError
from genai.llm.llm import LLM
from genai.options.generation_config import GenerationConfig
from genai.pipelines import Device, DeviceFactory, GenerationInput, GenerationResult, Streamer, Text2TextPipelineFactory
from genai.pipelines.backends.native import NativeGenerator, NativePipeline
from genai.pipelines.conformance import RULES, Rule, Subject, Violation
from genai.pipelines.conformance.__main__ import main
from tests.pipelines.alphabet import write_alphabet
from tests.tiny_package import BEGIN_ID, tiny_package

BY_NAME = {rule.name: rule for rule in RULES}
REFUSED_BY_ORT = {"an_end_token_ends_a_text", "min_new_tokens_keeps_a_text_going"}
"""It takes other end tokens beside the model's own only, which its configuration does not tell."""


@pytest.fixture(scope="module", name="folder")
def folder_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tmp_path_factory.mktemp("models") / "tiny", temperature=0.7)


def loaded(folder: Path) -> LLM:
    return LLM(folder, EngineConfig(device="cpu", max_batch=4, num_threads=1, max_seq_len=300))


@pytest.fixture(scope="module")
def native(folder: Path) -> Iterator[Subject]:
    subject = Subject(create=lambda: NativePipeline(loaded(folder)))
    yield subject
    subject.close()


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_native(native: Subject, rule: Rule) -> None:
    assert rule.check(native) == "kept"


@pytest.fixture(scope="module")
def alphabet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    folder, factory = write_alphabet(tmp_path_factory.mktemp("alphabet")), Text2TextPipelineFactory.get_instance()
    subject = Subject(create=lambda: factory.create("onnxruntime-genai", folder), prompt="ba")
    yield subject
    subject.close()


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed")
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_onnxruntime_genai(alphabet: Subject, rule: Rule) -> None:
    assert rule.check(alphabet) == ("refused" if rule.name in REFUSED_BY_ORT else "kept")


class Altered(NativePipeline):
    """The native backend with one thing wrong."""

    def sourced(self, source: GenerationInput | str) -> GenerationInput | str:
        return source

    def streaming(self, streamer: Streamer) -> Streamer:
        return streamer

    def resulting(self, result: GenerationResult) -> GenerationResult:
        return result

    def __call__(self, source: GenerationInput | str, streamer: Streamer | None = None) -> GenerationResult:
        told = None if streamer is None else self.streaming(streamer)
        return self.resulting(super().__call__(self.sourced(source), told))


class Templated(Altered):
    def sourced(self, source: GenerationInput | str) -> GenerationInput | str:
        return f"user: {source}" if isinstance(source, str) else source


class Beginning(Altered):
    def sourced(self, source: GenerationInput | str) -> GenerationInput | str:
        tokens = () if isinstance(source, str) else source.token_ids or ()
        return GenerationInput(token_ids=[BEGIN_ID, *tokens]) if tokens else source


class Forgetting(Altered):
    def resulting(self, result: GenerationResult) -> GenerationResult:
        self._config = self._config.updated(max_new_tokens=5)
        return result


class Deaf(Altered):
    def streaming(self, streamer: Streamer) -> Streamer:
        return lambda piece: bool(streamer(piece)) and False


class Swallowing(Altered):
    def streaming(self, streamer: Streamer) -> Streamer:
        def told(piece: str) -> bool | None:
            try:
                return streamer(piece)
            except LookupError:
                return True

        return told


class Stammering(Altered):
    def streaming(self, streamer: Streamer) -> Streamer:
        return lambda piece: streamer(piece + piece)


class Parting(Altered):
    """Tells each token's own text, which may be half a letter."""

    def told(self, tokens: Sequence[int]) -> list[str]:
        return [self._llm.tokenizer.decode([token]) for token in tokens]

    def __call__(self, source: GenerationInput | str, streamer: Streamer | None = None) -> GenerationResult:
        result = super().__call__(source)
        for piece in self.told(result.token_ids) if streamer is not None else ():
            streamer(piece)
        return result


class Hasty(Parting):
    """Tells whole letters, at once: the beginning of a stop string, too."""

    def told(self, tokens: Sequence[int]) -> list[str]:
        detokenizer = self._llm.tokenizer.detokenizer()
        return [*map(detokenizer.push, tokens), detokenizer.finish()]


class Misreporting(Altered):
    def resulting(self, result: GenerationResult) -> GenerationResult:
        return replace(result, finish_reason="stop" if result.finish_reason == "length" else "length")


class Halving(Altered):
    def resulting(self, result: GenerationResult) -> GenerationResult:
        return replace(result, texts=result.texts[:1])


class Remembering(Altered):
    before: tuple[object, ...] = ()

    def sourced(self, source: GenerationInput | str) -> GenerationInput | str:
        if isinstance(source, str) or source.messages is None:
            return source
        self.before = (*self.before, *source.messages)
        return GenerationInput(messages=list(self.before))  # type: ignore[arg-type]


class Configured(Altered):
    """Something else is in force than what was set; what was set is told."""

    def other(self, config: GenerationConfig) -> GenerationConfig:
        return config

    def __call__(self, source: GenerationInput | str, streamer: Streamer | None = None) -> GenerationResult:
        mine = self._config
        self._config = self.other(mine)
        try:
            return super().__call__(source, streamer)
        finally:
            self._config = mine


class Longer(Configured):
    def other(self, config: GenerationConfig) -> GenerationConfig:
        return config.updated(max_new_tokens=(config.max_new_tokens or 7) + 1, max_length=None)


class Unstopped(Configured):
    def other(self, config: GenerationConfig) -> GenerationConfig:
        return config.updated(stop_strings=(), eos_token_ids=None)


class Early(Configured):
    def other(self, config: GenerationConfig) -> GenerationConfig:
        return config.updated(min_new_tokens=0)


class OneSeed(Configured):
    def other(self, config: GenerationConfig) -> GenerationConfig:
        return config.updated(rng_seed=3)


class NoSeed(Configured):
    def other(self, config: GenerationConfig) -> GenerationConfig:
        return config.updated(rng_seed=None)


class Wide(Configured):
    def other(self, config: GenerationConfig) -> GenerationConfig:
        return config.updated(top_k=0)


class Sampling(Configured):
    def other(self, config: GenerationConfig) -> GenerationConfig:
        return config.updated(do_sample=True, temperature=5.0, rng_seed=None, num_beams=1, num_return_sequences=1)


class Penalising(Altered):
    def __call__(self, source: GenerationInput | str, streamer: Streamer | None = None) -> GenerationResult:
        sampling = self._config.sampling_config
        if sampling.repetition_penalty != 1.0 and not sampling.do_sample:
            return self._narrow(source)
        return super().__call__(source, streamer)

    def _narrow(self, source: GenerationInput | str) -> GenerationResult:
        """Greedy by another way, with the penalty."""
        mine = self._config
        self._config = mine.updated(do_sample=True, top_k=1)
        try:
            return super().__call__(source)
        finally:
            self._config = mine


class Ignoring(Altered):
    def set_generation_config(self, config: GenerationConfig) -> None:
        self._config = config.updated(echo=False, logit_bias={})


class Beamless(Altered):
    def __call__(self, source: GenerationInput | str, streamer: Streamer | None = None) -> GenerationResult:
        mine = self._config
        if streamer is not None:
            self._config = mine.updated(num_beams=1)
        try:
            return super().__call__(source, streamer)
        finally:
            self._config = mine


class Immortal(Altered):
    def close(self) -> None:
        """Keeps its model."""


class Restless(Altered):
    """Its generators never end."""

    def generator(self) -> NativeGenerator:
        made = NativePipeline.generator(self)
        made.is_done = lambda: False  # type: ignore[method-assign]
        return made


class Shared(Altered):
    """All generators are one."""

    one: NativeGenerator | None = None

    def generator(self) -> NativeGenerator:
        self.one = self.one or NativePipeline.generator(self)
        return self.one


class Late(Altered):
    """Its generators have whatever configuration is in force later."""

    def generator(self) -> NativeGenerator:
        mine = self._config
        self._config = mine.updated(max_new_tokens=9)
        made = NativePipeline.generator(self)
        self._config = mine
        return made


BROKEN: dict[str, Callable[[LLM], NativePipeline]] = {
    "a_string_is_an_inputs_text": Templated,
    "a_result_agrees_with_itself": Misreporting,
    "greedy_texts_are_the_same_each_time": Sampling,
    "a_configuration_holds_until_another": Forgetting,
    "nothing_is_ignored": Ignoring,
    "max_length_counts_the_prompt": Longer,
    "a_stop_string_ends_a_text": Unstopped,
    "pieces_joined_are_the_text": Stammering,
    "nothing_is_told_that_is_taken_back": Parting,
    "a_streamer_may_end_a_text": Deaf,
    "a_streamers_error_is_the_callers": Swallowing,
    "a_seed_makes_a_text": NoSeed,
    "no_seed_is_another_text_each_time": OneSeed,
    "one_candidate_is_greedy": Wide,
    "a_repetition_penalty_is_the_samplings": Penalising,
    "messages_are_the_whole_conversation": Remembering,
    "a_closed_pipeline_says_so": Immortal,
    "an_end_token_ends_a_text": Unstopped,
    "min_new_tokens_keeps_a_text_going": Early,
    "beams_give_as_many_texts_as_asked": Halving,
    "a_streamer_reads_one_text": Beamless,
    "token_ids_are_taken_as_they_are": Beginning,
    "a_generator_writes_the_calls_text": Late,
    "a_generator_says_when_it_is_done": Restless,
    "generators_go_on_beside_each_other": Shared,
    "a_generator_keeps_its_configuration": Late,
}


def test_every_rule_can_be_broken() -> None:
    assert BROKEN.keys() == BY_NAME.keys()


@pytest.fixture(scope="module", name="llm")
def llm_fixture(folder: Path) -> Iterator[LLM]:
    with loaded(folder) as llm:
        yield llm


@pytest.mark.parametrize("name", BROKEN)
def test_broken(llm: LLM, name: str) -> None:
    with pytest.raises(Violation):
        BY_NAME[name].check(Subject(create=lambda: BROKEN[name](llm)))


def test_a_stop_strings_beginning_is_told(llm: LLM) -> None:
    with pytest.raises(Violation, match=r"stop_strings=\('"):
        BY_NAME["nothing_is_told_that_is_taken_back"].check(Subject(create=lambda: Hasty(llm)))


def test_half_a_letter_is_told(llm: LLM) -> None:
    with pytest.raises(Violation, match=r"stop_strings=\(\)"):
        BY_NAME["nothing_is_told_that_is_taken_back"].check(Subject(create=lambda: Parting(llm)))


def test_refused_by_name_or_missing(llm: LLM) -> None:
    """What is not basic may be refused; what is basic may not."""

    class Poor(Altered):
        def set_generation_config(self, config: GenerationConfig) -> None:
            for given, name in ((config.is_beam_search, "num_beams"), (bool(config.stop_strings), "stop_strings")):
                if given:
                    raise ConfigError(f"poor cannot do {name}")
            super().set_generation_config(config)

    subject = Subject(create=lambda: Poor(llm))
    assert BY_NAME["beams_give_as_many_texts_as_asked"].check(subject) == "refused"
    with pytest.raises(Violation, match=r"refused, but every backend has it: poor cannot do stop_strings"):
        BY_NAME["a_stop_string_ends_a_text"].check(subject)
    assert BY_NAME["messages_are_the_whole_conversation"].check(replace(subject, messages=None)) == "undecided"

    class Untemplated(Altered):
        def __call__(self, source: GenerationInput | str, streamer: Streamer | None = None) -> GenerationResult:
            if isinstance(source, GenerationInput) and source.messages:
                raise TokenizerError("this model has no chat template")
            return super().__call__(source, streamer)

    subject = Subject(create=lambda: Untemplated(llm))
    assert BY_NAME["messages_are_the_whole_conversation"].check(subject) == "undecided"


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Text2TextPipelineFactory, "get_instance", lambda: factory)
    monkeypatch.setattr(DeviceFactory, "get_instance", lambda: devices)
    factory, devices = Text2TextPipelineFactory(), DeviceFactory()
    factory.register("deaf", lambda path, on: Deaf(loaded(folder)))
    devices.register("deaf", lambda: [Device("CPU")])
    assert main(["deaf", "model", "GPU"]) == 2
    assert "deaf has no device 'GPU'; it has CPU" in capsys.readouterr().err
    assert main(["deaf", "model"]) == 1
    told = capsys.readouterr().out
    assert told.count("\n") == len(RULES) + 1
    assert "broken     A streamer that returns True gets no more pieces" in told
    assert "pieces, the second of which was enough" in told
    assert main(["nobody", "model"]) == 2
    assert "Unregistered GenAI framework: nobody" in capsys.readouterr().err
