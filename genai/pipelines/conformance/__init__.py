"""The interface's semantics as tests that anybody's backend can run.

    python -m genai.pipelines.conformance onnxruntime-genai path/to/model

or in a test suite, with pytest:

    from genai.pipelines.conformance import RULES, Rule, Subject

    @pytest.fixture(scope="module")
    def subject():
        subject = Subject(create=lambda: MyPipeline(MODEL, []))
        yield subject
        subject.close()

    @pytest.mark.parametrize("rule", RULES, ids=str)
    def test_the_interface(subject, rule):
        rule.check(subject)

What a backend refuses by name it need not have, unless the rule is one that all must keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from genai.errors import GenAIError
from genai.pipelines.conformance import rules
from genai.pipelines.conformance.subject import Refused, Subject, Undecided, Violation

__all__ = ["RULES", "Finding", "Outcome", "Refused", "Rule", "Subject", "Undecided", "Violation", "check"]

Outcome: TypeAlias = Literal["kept", "refused", "undecided", "broken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One thing that the interface means. is_basic: every backend has it; the others may refuse it by name."""

    test: Callable[[Subject], None]
    is_basic: bool = True

    @property
    def name(self) -> str:
        """A short name, without spaces."""
        return self.test.__name__

    @property
    def says(self) -> str:
        """The rule in a sentence."""
        return " ".join((self.test.__doc__ or "").split())

    def __str__(self) -> str:
        return self.name

    def check(self, subject: Subject) -> Outcome:
        """Whether a backend keeps it: "kept", "refused" or "undecided". Raises: Violation, for errors of ours too."""
        try:
            self.test(subject)
        except Refused as error:
            if self.is_basic:
                raise Violation(f"refused, but every backend has it: {error}") from error
            return "refused"
        except Undecided:
            return "undecided"
        except Violation:
            raise
        except GenAIError as error:
            raise Violation(f"{type(error).__name__}: {error}") from error
        return "kept"


RULES: tuple[Rule, ...] = (
    *(
        Rule(test=test)
        for test in (
            rules.a_string_is_an_inputs_text,
            rules.a_result_agrees_with_itself,
            rules.greedy_texts_are_the_same_each_time,
            rules.a_configuration_holds_until_another,
            rules.nothing_is_ignored,
            rules.max_length_counts_the_prompt,
            rules.a_stop_string_ends_a_text,
            rules.pieces_joined_are_the_text,
            rules.nothing_is_told_that_is_taken_back,
            rules.a_streamer_may_end_a_text,
            rules.a_streamers_error_is_the_callers,
            rules.a_seed_makes_a_text,
            rules.no_seed_is_another_text_each_time,
            rules.one_candidate_is_greedy,
            rules.a_repetition_penalty_is_the_samplings,
            rules.messages_are_the_whole_conversation,
            rules.a_closed_pipeline_says_so,
        )
    ),
    *(
        Rule(test=test, is_basic=False)
        for test in (
            rules.an_end_token_ends_a_text,
            rules.min_new_tokens_keeps_a_text_going,
            rules.beams_give_as_many_texts_as_asked,
            rules.a_streamer_reads_one_text,
            rules.token_ids_are_taken_as_they_are,
            rules.a_generator_writes_the_calls_text,
            rules.a_generator_says_when_it_is_done,
            rules.generators_go_on_beside_each_other,
            rules.a_generator_keeps_its_configuration,
        )
    ),
)
"""All rules: first those that every backend keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of a rule. seen: where it is broken, what was seen."""

    rule: Rule
    outcome: Outcome
    seen: str = ""


def check(subject: Subject) -> Iterator[Finding]:
    """Try every rule; an error that the backend raises is a rule broken."""
    for rule in RULES:
        try:
            yield Finding(rule=rule, outcome=rule.check(subject))
        except Violation as error:
            yield Finding(rule=rule, outcome="broken", seen=str(error))
        except Exception as error:  # the backend's own
            yield Finding(rule=rule, outcome="broken", seen=f"{type(error).__name__}: {error}")
