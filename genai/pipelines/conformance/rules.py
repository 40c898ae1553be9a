"""What the interface means, a function for each rule: its docstring is the rule, its body the test.

A rule raises `Violation` with what was seen, `Refused` where the backend says by name that it has not what is asked
for, `Undecided` where the model's texts are too short to tell.
"""

from __future__ import annotations

from collections.abc import Mapping

from genai.errors import ConfigError, TokenizerError
from genai.pipelines.conformance.subject import Refused, Subject, Undecided, expect
from genai.pipelines.text2text import GenerationInput, Generator

_HOT = {"do_sample": True, "temperature": 5.0, "max_new_tokens": 8}
_OPTIONS: Mapping[str, Mapping[str, object]] = {
    "min_p": {"min_p": 0.125},
    "presence_penalty": {"presence_penalty": 0.5},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 3},
    "logit_bias": {"logit_bias": {65: 1.0}},
    "bad_words": {"bad_words": ("x",)},
    "stop_token_ids": {"stop_token_ids": (65,)},
    "min_length": {"min_length": 3},
    "echo": {"echo": True},
    "logprobs": {"logprobs": True},
    "num_beam_groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "regex": {"regex": "[a-c]+"},
    "lark": {"lark": 'start: "a"'},
}
"""Options that backends differ in, each with a value that is not its default."""


def a_string_is_an_inputs_text(subject: Subject) -> None:
    """A plain string is a `GenerationInput` of that text, and is continued as it stands."""
    plain, wrapped = subject.run(), subject.run(GenerationInput(subject.prompt))
    expect(plain.text == wrapped.text, f"{plain.text!r} of the string, {wrapped.text!r} of the input")


def a_result_agrees_with_itself(subject: Subject) -> None:
    """`texts` begins with `text`; `finish_reason` is "length" where the limit ended it, else "stop"."""
    result = subject.run(max_new_tokens=4)
    expect(result.texts == (result.text,), f"texts={result.texts} beside text={result.text!r}")
    expect(0 < len(result.token_ids) <= 4, f"{len(result.token_ids)} tokens with max_new_tokens=4")
    was_cut = len(subject.run(max_new_tokens=5).token_ids) > len(result.token_ids)
    wanted = "length" if was_cut else "stop"
    expect(result.finish_reason == wanted, f"finish_reason={result.finish_reason!r} after {result.token_ids}")


def greedy_texts_are_the_same_each_time(subject: Subject) -> None:
    """Without sampling a text depends on its input and configuration alone, and a limit only cuts it."""
    long, again, short = (subject.run(max_new_tokens=count).token_ids for count in (8, 8, 4))
    expect(long == again, f"{long}, then {again}")
    expect(long[: len(short)] == short, f"{short} with max_new_tokens=4, {long} with 8")


def a_configuration_holds_until_another(subject: Subject) -> None:
    """What was set is what `get_generation_config` gives, and calls do not change it."""
    config = subject.configure(max_new_tokens=3)
    for _ in range(2):
        seen = subject.pipeline.get_generation_config()
        expect(seen == config, f"max_new_tokens={seen.max_new_tokens} after 3 was set, or another option changed")
        subject.pipeline(subject.prompt)


def nothing_is_ignored(subject: Subject) -> None:
    """An option is taken, or refused by its name as it is set; then the earlier configuration stays in force."""
    for name, options in _OPTIONS.items():
        before = subject.configure()
        config = before.updated(**options)
        try:
            subject.pipeline.set_generation_config(config)
        except ConfigError as error:
            is_named = any(each in str(error) for each in (name, *options))
            expect(is_named, f"{name} is refused without its name: {error}")
            config = before
        expect(subject.pipeline.get_generation_config() == config, f"{name} was neither taken nor refused")


def max_length_counts_the_prompt(subject: Subject) -> None:
    """`max_length` is a limit on the tokens of prompt and text together."""
    prompt = subject.tokens(5)
    result = subject.run(GenerationInput(token_ids=prompt), max_length=7, max_new_tokens=None)
    expect(len(result.token_ids) <= 2, f"{len(result.token_ids)} tokens after 5 with max_length=7")


def token_ids_are_taken_as_they_are(subject: Subject) -> None:
    """An input of token ids is continued from just these: a text's first tokens, given back, by the rest of it."""
    generator = subject.generator()
    generator.append_input_tokens(subject.prompt)
    prompt = list(generator.token_ids)
    generator.close()
    whole = subject.tokens(8)
    rest = subject.run(GenerationInput(token_ids=[*prompt, *whole[:4]]), max_new_tokens=4).token_ids
    expect(rest == whole[4:], f"{whole[:4]} are continued with {rest}, not {whole[4:]}")


def an_end_token_ends_a_text(subject: Subject) -> None:
    """A token of `eos_token_ids` ends the text, which does not hold it; the finish reason is "stop"."""
    tokens = subject.tokens(8)
    place = _first_new(tokens)
    before = subject.run(max_new_tokens=place)
    result = subject.run(eos_token_ids=(*(subject.own.eos_token_ids or ()), tokens[place]))
    expect(result.finish_reason == "stop", f"finish_reason={result.finish_reason!r}")
    expect(result.token_ids[:place] == tokens[:place], f"{result.token_ids} where {tokens[: place + 1]} ends")
    expect(len(result.token_ids) <= place + 1, f"goes on after the end: {result.token_ids}")
    expect(result.text == before.text, f"{result.text!r}, without its end token {before.text!r}")


def min_new_tokens_keeps_a_text_going(subject: Subject) -> None:
    """No end token is chosen before there are `min_new_tokens`."""
    tokens = subject.tokens(8)
    ends = (*(subject.own.eos_token_ids or ()), tokens[_first_new(tokens)])
    result = subject.run(eos_token_ids=ends, min_new_tokens=6)
    expect(len(result.token_ids) >= 6, f"{len(result.token_ids)} tokens with min_new_tokens=6")


def a_stop_string_ends_a_text(subject: Subject) -> None:
    """A text ends before the first of `stop_strings`, for the reason "stop"; what is before it may be cut by tokens."""
    whole = subject.run().text
    place = next((place for place in range(1, len(whole)) if whole.index(whole[place]) == place), None)
    if place is None:
        raise Undecided(f"the text {whole!r} has no second letter")
    result = subject.run(stop_strings=(whole[place],))
    expect(result.finish_reason == "stop", f"finish_reason={result.finish_reason!r}")
    expect(whole[:place].startswith(result.text), f"{result.text!r}, not the beginning of {whole[:place]!r}")


def pieces_joined_are_the_text(subject: Subject) -> None:
    """A streamer gets the text piece by piece, the same as without one; None and False let it go on."""
    whole = subject.run()
    for answer in (None, False):
        pieces: list[str] = []

        def keep(piece: str, *, kept: list[str] = pieces, answer: bool | None = answer) -> bool | None:
            kept.append(piece)
            return answer

        result = subject.run(streamer=keep)
        expect("".join(pieces) == result.text, f"pieces {pieces} of {result.text!r}")
        expect(result.token_ids == whole.token_ids, f"{result.token_ids} streamed, {whole.token_ids} whole")


def nothing_is_told_that_is_taken_back(subject: Subject) -> None:
    """Pieces join to the text with stop strings, too, and where a letter takes several tokens: half of either waits."""
    num_tried = 0
    for options in ({}, *({**_HOT, "max_new_tokens": 12, "rng_seed": seed} for seed in range(4))):
        whole = subject.run(None, None, **options).text
        stops = [stop for stop in _stops_of(whole) if "\ufffd" not in stop]
        num_tried += len(stops)
        for given in ((), *((stop,) for stop in stops)):
            pieces: list[str] = []
            text = subject.run(None, pieces.append, **options, stop_strings=given).text
            seen = f"pieces {pieces} and text {text!r} with stop_strings={given!r}"
            expect("".join(pieces) == text, seen)
            expect(not any(stop in text for stop in given), seen)
            if not options:  # greedy: the same again
                before, found, _ = whole.partition(given[0]) if given else (whole, "", "")
                expect(before.startswith(text) if found else text == whole, f"{seen}, not of {whole!r}")
    if not num_tried:
        raise Undecided("the texts have less than eight letters")


def a_streamer_may_end_a_text(subject: Subject) -> None:
    """A streamer that returns True gets no more pieces; the text ends there, for the reason "cancelled"."""
    pieces: list[str] = []

    def enough(piece: str) -> bool:
        pieces.append(piece)
        return len(pieces) == 2

    result = subject.run(streamer=enough, max_new_tokens=16)
    if len(pieces) < 2:
        raise Undecided(f"the text comes in {len(pieces)} pieces")
    expect(len(pieces) == 2, f"{len(pieces)} pieces, the second of which was enough")
    expect(result.finish_reason == "cancelled", f"finish_reason={result.finish_reason!r}")
    expect(result.text == "".join(pieces), f"{result.text!r} of the pieces {pieces}")


def a_streamers_error_is_the_callers(subject: Subject) -> None:
    """What a streamer raises reaches who called the pipeline, which can be called again."""
    before, raised = subject.run(), False

    def fail(_: str) -> None:
        raise LookupError("the streamer's own")

    try:
        subject.run(streamer=fail)
    except LookupError:
        raised = True
    expect(raised, "the streamer's error was swallowed")
    after = subject.run()
    expect(after.token_ids == before.token_ids, f"{after.token_ids} afterwards, {before.token_ids} before")


def a_streamer_reads_one_text(subject: Subject) -> None:
    """With beams there is nothing to stream: a streamer is refused."""
    subject.configure(num_beams=2)
    try:
        subject.pipeline(subject.prompt, lambda _: None)
    except ConfigError:
        return
    expect(False, "a streamer was taken beside num_beams=2")


def a_seed_makes_a_text(subject: Subject) -> None:
    """The same seed gives the same sampled text, others give others, and it is 0 unless another is given."""
    first, again = (subject.run(None, None, **_HOT, rng_seed=7).token_ids for _ in range(2))
    expect(first == again, f"{first}, then {again} with the same seed")
    others = {subject.run(None, None, **_HOT, rng_seed=seed).token_ids for seed in range(1, 6)}
    expect(len(others) > 1, f"{first} with each of five seeds at temperature 5")
    unset, zero = subject.run(None, None, **_HOT).token_ids, subject.run(None, None, **_HOT, rng_seed=0).token_ids
    expect(unset == zero, f"{unset} without a seed, {zero} with 0")


def no_seed_is_another_text_each_time(subject: Subject) -> None:
    """`rng_seed=None` draws anew."""
    texts = {subject.run(None, None, **_HOT, rng_seed=None).token_ids for _ in range(6)}
    expect(len(texts) > 1, f"six times {texts} at temperature 5")


def one_candidate_is_greedy(subject: Subject) -> None:
    """Sampling among the single most probable token is greedy."""
    greedy, narrow = subject.run().token_ids, subject.run(None, None, **_HOT, top_k=1).token_ids
    expect(greedy == narrow, f"{narrow} with top_k=1, {greedy} greedily")


def a_repetition_penalty_is_the_samplings(subject: Subject) -> None:
    """`repetition_penalty` applies only with `do_sample`, as the preview says."""
    penalty = {"repetition_penalty": 5.0, "max_new_tokens": 16}
    plain = subject.run(max_new_tokens=16).token_ids
    if plain == subject.run(None, None, **penalty, do_sample=True, top_k=1).token_ids:
        raise Undecided("nothing in the text repeats itself, or the prompt: a penalty changes nothing")
    penalised = subject.run(None, None, **penalty).token_ids
    expect(plain == penalised, f"{penalised} with a penalty of 5, {plain} without, both greedy")


def beams_give_as_many_texts_as_asked(subject: Subject) -> None:
    """`num_return_sequences` texts, the best first, which is `text` and has the `token_ids`."""
    result = subject.run(num_beams=3, num_return_sequences=2, max_new_tokens=4)
    expect(len(result.texts) == 2, f"{len(result.texts)} texts with num_return_sequences=2")
    expect(result.text == result.texts[0], f"text={result.text!r} beside {result.texts}")
    expect(0 < len(result.token_ids) <= 4, f"{len(result.token_ids)} tokens with max_new_tokens=4")


def messages_are_the_whole_conversation(subject: Subject) -> None:
    """A pipeline remembers nothing from call to call: the same messages give the same text, whatever came between."""
    if subject.messages is None:
        raise Undecided("the model has no chat template")
    ask = GenerationInput(messages=subject.messages)
    try:
        first = subject.run(ask).token_ids
    except TokenizerError as error:
        raise Undecided(f"the model takes no messages: {error}") from error
    subject.run(GenerationInput(messages=[{"role": "user", "content": "Remember the number 7."}]))
    again = subject.run(ask).token_ids
    expect(first == again, f"{first} at first, {again} after another conversation")


def a_generator_writes_the_calls_text(subject: Subject) -> None:
    """Step by step comes the text that a call gives; `token_ids` are the prompt's and the text's."""
    wanted = subject.run()
    generator = subject.generator()
    generator.append_input_tokens(subject.prompt)
    prompt, text = list(generator.token_ids), ""
    while not generator.is_done():
        text += generator.generate_next_token()
    tokens = tuple(generator.token_ids[len(prompt) :])
    generator.close()
    expect(tokens == wanted.token_ids, f"{tokens} step by step, {wanted.token_ids} of the call")
    expect(text == wanted.text, f"{text!r} step by step, {wanted.text!r} of the call")


def a_generator_says_when_it_is_done(subject: Subject) -> None:
    """After the end `is_done` is true, and asking for another token is an error."""
    generator = subject.generator(max_new_tokens=2)
    generator.append_input_tokens(subject.prompt)
    expect(not generator.is_done(), "is done before its first token")
    steps = 0
    while not generator.is_done() and steps < 3:
        generator.generate_next_token()
        steps += 1
    expect(steps <= 2, "is not done after max_new_tokens=2")
    try:
        generator.generate_next_token()
    except ConfigError:
        generator.close()
        return
    expect(False, "gives a token after its end")


def generators_go_on_beside_each_other(subject: Subject) -> None:
    """Two generators and a call, their steps in turns, do not change each other's texts."""
    wanted = subject.tokens(4)
    first, second = subject.generator(max_new_tokens=4), subject.generator(max_new_tokens=4)
    first.append_input_tokens(subject.prompt)
    second.append_input_tokens(subject.prompt)
    sizes = len(first.token_ids), len(second.token_ids)
    for _ in range(4):
        for generator in (first, second):
            generator.generate_next_token()
        subject.pipeline(subject.prompt)
    for name, generator, size in zip(("first", "second"), (first, second), sizes, strict=True):
        expect(tuple(generator.token_ids[size:]) == wanted, f"the {name}: {generator.token_ids[size:]}, not {wanted}")
        generator.close()


def a_generator_keeps_its_configuration(subject: Subject) -> None:
    """A generator has the configuration that was in force when it was made."""
    generator = subject.generator(max_new_tokens=3)
    subject.configure(max_new_tokens=6)
    generator.append_input_tokens(subject.prompt)
    before = len(generator.token_ids)
    _finish(generator)
    expect(len(generator.token_ids) - before <= 3, f"{len(generator.token_ids) - before} tokens, made for 3")
    generator.close()


def a_closed_pipeline_says_so(subject: Subject) -> None:
    """After `close`, which may be called twice, a call is a `ConfigError`."""
    pipeline = subject.create()
    pipeline.close()
    pipeline.close()
    try:
        pipeline(subject.prompt)
    except ConfigError:
        return
    expect(False, "a closed pipeline still writes")


def _first_new(tokens: tuple[int, ...]) -> int:
    """The first place but the very first whose token was not there before. Raises: Undecided."""
    for place in range(1, 6):
        if tokens[place] not in tokens[:place]:
            return place
    raise Undecided(f"the text repeats itself: {tokens}")


def _stops_of(text: str) -> list[str]:
    """Stop strings: three that are in a text, one that only begins in it, and one that begins at its end."""
    middle = len(text) // 2
    if middle < 4:
        return []
    other = next(letter for letter in "~^|" if letter not in text)
    return [text[1:4], text[middle - 1 : middle + 2], text[-3:], text[1:3] + other, text[-2:] + other]


def _finish(generator: Generator) -> None:
    for _ in range(16):
        if generator.is_done():
            return
        generator.generate_next_token()
    raise Refused("does not end")
