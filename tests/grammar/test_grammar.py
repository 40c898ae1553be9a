"""Constraints along a text: what masks allow, forced tokens, taking back, copies, ends of sequence, bounds."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from genai.decoding.constraint import Constraint
from genai.errors import ConfigError, GenAIError, QueueFullError, TokenizerError
from genai.grammar import grammar as module
from genai.grammar.grammar import GrammarConstraint, Grammars
from genai.options.generation_config import ConstraintConfig, ConstraintKind, constraint_of
from tests.tiny_package import BEGIN_ID, END_ID, VOCAB_SIZE, byte_tokenizer

PERSON = json.dumps(
    {
        "type": "object",
        "properties": {"first name": {"type": "string", "maxLength": 9}, "kind": {"enum": ["north", "north east"]}},
        "required": ["first name", "kind"],
        "additionalProperties": False,
    }
)


def word_tokenizer() -> tokenizers.Tokenizer:
    """A byte-level BPE whose tokens are pieces of JSON, so that a text can be written in many ways."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|end|>", "<|pad|>"])
    tokenizer.train_from_iterator(
        [PERSON, '{"first name":"north","kind":"north east"}', "yes no yes sir"] * 50, trainer
    )
    return tokenizer


WORDS = word_tokenizer()
NUM_WORDS = WORDS.get_vocab_size()
WORD_END = 0
BYTES = Grammars(byte_tokenizer(), VOCAB_SIZE, (END_ID,))
GRAMMARS = Grammars(WORDS, NUM_WORDS, (WORD_END,))
CASES = [
    constraint_of(options)
    for options in (
        {"json_schema": PERSON},
        {"json_object": True},
        {"regex": "(yes|no)( sir){0,3}"},
        {"regex": "[a-c]*é{1,3}"},
        {"choices": ["yes", "yes sir", "no", "north"]},
        {"choices": ["<|end|>", "it is <|pad|>!"]},
        {"lark": 'start: ("north" | NAME)+ "!"\nNAME: /[a-z]{3}/'},
        {"lark": f"start: <[1]> %json {PERSON}"},
    )
]


def config(kind: ConstraintKind, grammar: str | tuple[str, ...]) -> ConstraintConfig:
    return ConstraintConfig(kind=kind, grammar=grammar)


def at_bytes(kind: ConstraintKind, grammar: str | tuple[str, ...]) -> GrammarConstraint:
    return BYTES.constraint(config(kind, grammar))


def allows(constraint: Constraint, text: str) -> bool:
    """Whether a byte after the other may come, and then the end."""
    for byte in text.encode():
        if not constraint.mask()[byte]:
            return False
        constraint.accept(byte)
    return bool(constraint.mask()[END_ID])


def advanced(constraint: GrammarConstraint, choices: list[int]) -> list[int]:
    """Accept tokens that the mask allows, picked by numbers; stops at an end of sequence."""
    tokens: list[int] = []
    for choice in choices:
        allowed = np.flatnonzero(constraint.mask())
        if not allowed.size:
            break
        tokens.append(int(allowed[choice % allowed.size]))
        constraint.accept(tokens[-1])
    return tokens


@pytest.mark.parametrize(
    ("kind", "grammar", "yes", "no"),
    [
        ("regex", "[a-c]+", ["a", "abc"], ["", "abd", "d"]),
        ("regex", "^(?:a|bc)$", ["a", "bc"], ["b", "abc"]),
        ("regex", "", [""], ["a"]),
        ("regex", ".é?\\n", ["xé\n", "€\n"], ["\n", "x"]),
        ("choices", ("yes", "yes sir", 'a "b"\n\\\x7f😀'), ["yes", "yes sir", 'a "b"\n\\\x7f😀'], ["yes s", "no", ""]),
        ("lark", 'start: "<" /[0-9]+/ ">" // <|end|>\n', ["<12>"], ["<>", "12"]),
        ("lark", 'start: call+\ncall: "f(" %json {"type": "integer"} ")"', ["f(3)f(-1)"], ["f(x)", ""]),
        ("json_schema", '{"type": "object"}', ['{"a": [1, "x", null]}', "{}"], ["[]", '{"a"}', '"{}"']),
        ("json_schema", '{"enum": [1.5, "é", {"a": []}]}', ["1.5", '"é"', '{"a":[]}'], ["1.50", '"e"', "{}"]),
    ],
)
def test_each_kind_allows_what_matches_and_nothing_else(
    kind: ConstraintKind, grammar: str | tuple[str, ...], yes: list[str], no: list[str]
) -> None:
    constraint = at_bytes(kind, grammar)
    for text in yes:
        assert allows(constraint.copy(), text), text
    for text in no:
        assert not allows(constraint.copy(), text), text


def test_white_space_is_allowed_but_not_without_end() -> None:
    constraint = at_bytes("json_schema", '{"type": "array", "items": {"type": "null"}}')
    assert allows(constraint.copy(), "[ null,\n    null ]")
    assert allows(constraint.copy(), "[\n\t\tnull\n]")
    assert not allows(constraint.copy(), "[  ]")
    assert not allows(constraint.copy(), "[\n" + " " * 41)


def test_the_end_may_come_exactly_where_the_text_may_end() -> None:
    constraint = GRAMMARS.constraint(config("choices", ("yes", "yes sir")), frozenset({WORD_END, 7, 300}))
    ends = [WORD_END, 7, 300]
    assert not constraint.mask()[ends].any()
    assert not constraint.is_complete
    for token in WORDS.encode("yes").ids:
        constraint.accept(token)
    assert constraint.mask()[ends].all()
    assert np.count_nonzero(constraint.mask()) > 3, "it may also go on"
    assert constraint.is_complete
    constraint.accept(300)
    assert constraint.is_complete
    assert not constraint.mask().any()
    assert constraint.forced() == []
    constraint.rollback(1)
    assert constraint.mask()[ends].all()


def test_without_an_end_of_sequence_a_finished_text_is_complete_and_allows_nothing() -> None:
    constraint = GRAMMARS.constraint(config("regex", "ab?"), frozenset())
    constraint.accept(WORDS.encode("a").ids[0])
    assert constraint.is_complete
    assert np.flatnonzero(constraint.mask()).tolist() == WORDS.encode("b").ids, "it goes on as long as it can"
    constraint.accept(WORDS.encode("b").ids[0])
    assert constraint.is_complete
    assert not constraint.mask().any()


def test_a_token_that_ends_texts_is_no_part_of_one() -> None:
    letter = ord("b")
    constraint = BYTES.constraint(config("regex", "a[bc]"), frozenset({letter}))
    constraint.accept(ord("a"))
    assert np.flatnonzero(constraint.mask()).tolist() == [ord("c")]
    constraint.accept(ord("c"))
    assert np.flatnonzero(constraint.mask()).tolist() == [letter]


def test_special_tokens_and_padding_never_come() -> None:
    grammars = Grammars(byte_tokenizer(), VOCAB_SIZE + 100, (END_ID,))
    constraint = grammars.constraint(config("regex", "(?s:.)*"))
    mask = constraint.mask()
    assert mask.shape == (VOCAB_SIZE + 100,)
    assert mask.dtype == np.bool_
    assert mask[ord("a")]
    assert mask[END_ID]
    assert not mask[BEGIN_ID]
    assert not mask[VOCAB_SIZE:].any()


def test_logits_for_fewer_tokens_than_the_tokenizer_has() -> None:
    grammars = Grammars(byte_tokenizer(), 100, (END_ID,))
    constraint = grammars.constraint(config("regex", "[a-z]+"))
    assert np.flatnonzero(constraint.mask()).tolist() == [97, 98, 99]


def test_text_that_spells_special_tokens_is_spelled() -> None:
    constraint = GRAMMARS.constraint(config("choices", ("it <|end|>s", "<|end|>")))
    tokens: list[int] = []
    while not constraint.is_complete:
        tokens += constraint.forced() or [int(np.flatnonzero(constraint.mask())[0])]
        for token in tokens[len(constraint._tokens) :]:
            constraint.accept(token)
    assert WORDS.decode(tokens, skip_special_tokens=True) in {"it <|end|>s", "<|end|>"}
    assert WORD_END not in tokens


def test_a_grammar_may_ask_for_a_special_token_by_its_id() -> None:
    constraint = BYTES.constraint(config("lark", f'start: <[{BEGIN_ID}]> "a" <[{BEGIN_ID}]>'))
    for token in (BEGIN_ID, ord("a"), BEGIN_ID):
        assert np.flatnonzero(constraint.mask()).tolist() == [token]
        constraint.accept(token)
    assert np.flatnonzero(constraint.mask()).tolist() == [END_ID]
    constraint.rollback(2)
    assert np.flatnonzero(constraint.mask()).tolist() == [ord("a")]


def test_a_forbidden_token_raises_and_changes_nothing() -> None:
    constraint = at_bytes("regex", "ab")
    for token in (ord("b"), END_ID, BEGIN_ID, -1, VOCAB_SIZE):
        with pytest.raises(GenAIError, match=f"token {token} does not follow the constraint after 0 tokens"):
            constraint.accept(token)
    assert allows(constraint, "ab")
    with pytest.raises(GenAIError, match="cannot take back 3 tokens of 2"):
        constraint.rollback(3)
    with pytest.raises(GenAIError, match="cannot take back -1"):
        constraint.rollback(-1)
    constraint.rollback(2)
    assert allows(constraint, "ab")


def test_a_mask_stays_as_it_is() -> None:
    constraint = at_bytes("regex", "[ab][cd]")
    first = constraint.mask()
    before = first.copy()
    assert constraint.mask() is first, "made once for a step"
    with pytest.raises(ValueError, match="read-only"):
        first[0] = True
    constraint.accept(ord("a"))
    constraint.mask()
    assert np.array_equal(first, before)


def test_what_has_no_choice_is_forced() -> None:
    constraint = GRAMMARS.constraint(config("json_schema", PERSON))
    assert constraint.forced() == [], "the brace may be a token of its own, or one with what follows"
    for token in WORDS.encode('{"').ids:
        constraint.accept(token)
    assert WORDS.decode(constraint.forced()) == "first name"


@settings(max_examples=150, deadline=None)
@given(case=st.sampled_from(CASES), data=st.data())
def test_forced_tokens_are_those_that_masks_allow_one_by_one(case: ConstraintConfig, data: st.DataObject) -> None:
    constraint = GRAMMARS.constraint(case)
    for _ in range(data.draw(st.integers(1, 6))):
        stepwise = constraint.copy()
        for token in constraint.forced():
            assert np.flatnonzero(stepwise.mask()).tolist() == [token]
            stepwise.accept(token)
        advanced(constraint, data.draw(st.lists(st.integers(0, 10**6), max_size=4)))


@settings(max_examples=150, deadline=None)
@given(case=st.sampled_from(CASES), data=st.data())
def test_taken_back_copied_and_repeated_texts_are_as_if_they_had_only_been_written(
    case: ConstraintConfig, data: st.DataObject
) -> None:
    """The masks after any tokens are those of a new constraint that accepts the same ones."""
    constraint, tokens = GRAMMARS.constraint(case), list[int]()
    for _ in range(data.draw(st.integers(1, 6))):
        match data.draw(st.sampled_from(["go on", "take back", "copy", "look ahead"])):
            case "go on":
                tokens += advanced(constraint, data.draw(st.lists(st.integers(0, 10**6), max_size=12)))
            case "take back":
                num_tokens = data.draw(st.integers(0, len(tokens)))
                constraint.rollback(num_tokens)
                del tokens[len(tokens) - num_tokens :]
            case "copy":
                original, constraint = constraint, constraint.copy()
                advanced(original, data.draw(st.lists(st.integers(0, 10**6), max_size=3)))
            case "look ahead":
                constraint.forced()
        fresh = GRAMMARS.constraint(case)
        for token in tokens:
            fresh.accept(token)
        assert np.array_equal(fresh.mask(), constraint.mask())
        assert fresh.is_complete == constraint.is_complete
        assert fresh.forced() == constraint.forced()


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_can_be_a_choice(text: str) -> None:
    constraint = BYTES.constraint(config("choices", (text or "x", "another")))
    assert allows(constraint, text or "x")


@pytest.mark.parametrize(
    ("kind", "grammar", "message"),
    [
        ("regex", "a(b", "regex: .*unclosed group"),
        ("regex", "a)|(b", "regex: .*unopened group"),
        ("regex", "(?=a)b", "regex: .*look-around"),
        ("regex", "a\\", "regex: a backslash at the end"),
        ("regex", "\ud800", "regex holds a lone surrogate"),
        ("regex", "((a{100}){100}){100}", "counted repetitions come to more than 30000"),
        ("regex", "a" * 20_000, "regex has 20000 characters; a constraint has at most 16384"),
        ("choices", ("\ud800",), "lone surrogate"),
        ("choices", ("a" * 70_000,), "choices have 70000 characters together; a constraint has at most 65536"),
        ("lark", 'start: "a', r"lark: 1\(10\): lexer error"),
        ("lark", "start: a", 'lark: at 1.* unknown name: "a"'),
        ("lark", "start: start", "lark: no text can follow it"),
        ("lark", 'start: a\na[max_tokens=3]: "x"', "lark, line 2: 'max_tokens' is not supported"),
        ("lark", 'start: a\na[capture, lazy]: "x"', "lark, line 2: 'capture' is not supported"),
        ("lark", 'start: "<|end|>" <|end|>', r"lark, line 1: <\|end\|> is not supported: .* by its id"),
        ("lark", f"start: <[{END_ID}]>", "token <.257.> ends the text"),
        ("lark", "start: <[999]>", "token <.999.> .* not in the vocabulary"),
        ("lark", 'start: %json {"not": {}}', "json_schema: 'not' at # is not supported"),
        ("lark", 'start: %json {"type": ', "lark, line 1: what follows %json is not JSON"),
        ("lark", '%llguidance {"allow_invalid_utf8": true}\nstart: "a"', "'allow_invalid_utf8' is not supported"),
        ("lark", "start: X\nX: /(a{999}){99}/", "lark, line 2: .*counted repetitions"),
        ("lark", "start: X\nX: /a/ " + "& /a/" * 9, "lark: '&' is not supported more than 8 times"),
        ("lark", "start: " + "(" * 30_000, "lark: .*too deeply nested"),
        ("lark", "start: " + "x" * 40_000, "lark has 40007 characters; a constraint has at most 32768"),
        ("json_schema", "{", "json_schema is not JSON"),
    ],
)
def test_a_grammar_that_cannot_be_followed_is_refused_with_the_reason(
    kind: ConstraintKind, grammar: str | tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        BYTES.constraint(config(kind, grammar))


HOSTILE: dict[str, ConstraintConfig] = {
    "rules in a chain": config(
        "lark", "start: r0\n" + "".join(f"r{n}: r{n + 1}\n" for n in range(2000)) + 'r2000: "a"'
    ),
    "terminals in a chain": config(
        "lark", "start: T0\n" + "".join(f'T{n}: T{n + 1} "x"\n' for n in range(1500)) + 'T1500: "a"'
    ),
    "terminals that double": config(
        "lark", "start: T0\n" + "".join(f"T{n}: T{n + 1} T{n + 1}\n" for n in range(40)) + 'T40: "a"'
    ),
    "rules that double": config(
        "lark", "start: r0\n" + "".join(f"r{n}: r{n + 1} r{n + 1}\n" for n in range(40)) + 'r40: "a"'
    ),
    "ambiguous": config("lark", 'start: e\ne: e e | "a" | e "a" | "aa" |'),
    "long and without a choice": config("regex", "(ab){9999}"),
    "states without end": config("regex", "(a|b)*a(a|b){500}"),
    "references in a chain": config(
        "json_schema",
        json.dumps(
            {
                "$ref": "#/$defs/0",
                "$defs": {str(n): {"items": {"$ref": f"#/$defs/{n + 1}"}} for n in range(900)} | {"900": {}},
            }
        ),
    ),
    "alternatives that multiply": config(
        "json_schema",
        json.dumps({"allOf": [{"anyOf": [{"required": [f"{n}{option}"]} for option in "abcd"]} for n in range(12)]}),
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grammars_are_refused_or_followed(name: str) -> None:
    """None ends the process or runs on: larger ones of their kind made llguidance itself crash, or take minutes."""
    reason = ""
    try:
        advanced(GRAMMARS.constraint(HOSTILE[name]), [3] * 20)
    except GenAIError as error:
        reason = str(error)
    assert len(reason) < 500


def test_a_grammar_is_compiled_once_and_only_some_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[ConstraintConfig] = []
    original = module.Grammar.__init__

    def counted(self: module.Grammar, vocabulary: module.Vocabulary, config: ConstraintConfig) -> None:
        compiled.append(config)
        original(self, vocabulary, config)

    monkeypatch.setattr(module.Grammar, "__init__", counted)
    monkeypatch.setattr(module, "NUM_KEPT_GRAMMARS", 2)
    grammars = Grammars(byte_tokenizer(), VOCAB_SIZE, (END_ID,))
    for regex in "aabacab":
        grammars.constraint(config("regex", regex))
    assert [each.grammar for each in compiled] == ["a", "b", "c", "b"]


def test_a_grammar_that_failed_is_compiled_anew() -> None:
    grammars = Grammars(byte_tokenizer(), VOCAB_SIZE, (END_ID,))
    first = grammars.constraint(config("regex", "ab"))
    first._grammar.is_broken = True
    assert allows(grammars.constraint(config("regex", "ab")), "ab")
    assert grammars.constraint(config("regex", "ab"))._grammar is not first._grammar


def test_a_grammar_that_takes_too_long_is_given_up_and_others_wait_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = Grammars(byte_tokenizer(), VOCAB_SIZE, (END_ID,))
    known = grammars.constraint(config("regex", "known"))
    may_go_on, original = threading.Event(), module.compiled
    with monkeypatch.context() as patch:
        patch.setattr(module, "COMPILE_SECONDS", 0.05)
        patch.setattr(module, "compiled", lambda *given: (may_go_on.wait(), original(*given))[1])
        with pytest.raises(ConfigError, match=r"regex: it takes more than 0 s to compile; make it simpler"):
            grammars.constraint(config("regex", "slow"))
        with pytest.raises(QueueFullError, match="another constraint is still being compiled"):
            grammars.constraint(config("regex", "other"))
        assert grammars.constraint(config("regex", "known"))._grammar is known._grammar
        may_go_on.set()
    assert allows(grammars.constraint(config("regex", "other")), "other")


def test_the_first_failure_leaves_the_way_free() -> None:
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    grammars = Grammars(tokenizer, 1, (0,))
    for _ in range(2):
        with pytest.raises(TokenizerError, match="this model's tokenizer cannot be constrained"):
            grammars.constraint(config("regex", "a"))


def test_llguidance_is_imported_with_the_first_constraint() -> None:
    code = "import sys, genai.grammar.grammar; assert 'llguidance' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent.parent)
