"""What drafts from the text itself gain where a text repeats, and cost where it does not.

    python -m benchmarks.speculative [--model smollm2-135m-instruct] [--only rename,story] [--rounds 5] [--json FILE]

Each text is generated plainly and with prompt lookup, in turn; a ratio is the median of the rounds' own ratios of
decode time per token, prefill and the first token left out. Edits should be at least 1.8 times as fast, free text at
most 5 % slower. "same" says whether both texts are the same to the end; if not, after how many tokens they part.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import genai
from benchmarks.measure import paired_ratio
from benchmarks.results import markdown_table
from benchmarks.rounds import Action, quiet_rounds
from benchmarks.texts import ENGLISH
from genai.llm.llm import LLM
from genai.llm.results import Generation

EDITING, FREE = "editing", "free text"
NUM_TOKENS = 256

CODE = '''class Account:
    """Money that belongs to somebody."""

    def __init__(self, owner, balance):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive")
        self.balance += amount
        return self.balance

    def withdraw(self, amount):
        if amount > self.balance:
            raise ValueError("not enough money")
        self.balance -= amount
        return self.balance

    def transfer(self, other, amount):
        self.withdraw(amount)
        other.deposit(amount)
        return self.balance
'''
PEOPLE = [
    ("Anna", "Oslo"),
    ("Ben", "Lima"),
    ("Clara", "Rome"),
    ("David", "Cairo"),
    ("Eva", "Paris"),
    ("Frank", "Tokyo"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A request, and what kind of text it asks for."""

    kind: str
    message: str
    options: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """plain, lookup: milliseconds of each generated token, round by round; parts_at: None if the texts are the same."""

    kind: str
    plain: list[float]
    lookup: list[float]
    speed: float
    num_tokens: int
    num_drafted: int
    num_accepted: int
    parts_at: int | None
    disturbance: float


def tasks() -> dict[str, Task]:
    paragraphs = ENGLISH.read_text(encoding="utf-8").split("\n\n")
    page, story = "\n\n".join(paragraphs[:2]), "\n\n".join(paragraphs[:9])
    table = json.dumps([{"name": name, "city": city} for name, city in PEOPLE], indent=1)
    edits = {
        "rename": f"Repeat this text word for word, but write Susan instead of Margaret:\n\n{page}",
        "summarise": f"Summarise this text in a few sentences:\n\n{story}",
        "correct": f"Correct the spelling of this text and repeat it in full:\n\n{paragraphs[10]}\n\n{paragraphs[11]}",
        "code": f"Rewrite this code with the name total instead of balance. Give all of it:\n\n```python\n{CODE}```",
        "json": f"Add an age to every person and give all of it:\n\n```json\n{table}\n```",
    }
    free = {
        "story": "Write a story about a lighthouse.",
        "letter": "Write a letter to a friend about your summer.",
        "explain": "Explain how a bicycle works.",
        "poem": "Write a poem about rain.",
    }
    return {name: Task(kind=EDITING, message=message, options={}) for name, message in edits.items()} | {
        name: Task(kind=FREE, message=message, options={"temperature": 1.0, "seed": 1})
        for name, message in free.items()
    }


def measured(llm: LLM, task: Task, rounds: int, patience: int) -> Result:
    """Both ways in turn; a round that other programs disturbed is measured again."""
    message = [{"role": "user", "content": task.message}]
    config = llm.generation_config.updated(max_new_tokens=NUM_TOKENS, **task.options)

    def plainly() -> Generation:
        return llm.generate(message, config)

    def with_lookup() -> Generation:
        return llm.generate(message, config, speculative="prompt_lookup")

    plainly()  # the prompt is in the prefix cache from now on
    ways = {"plain": plainly, "lookup": with_lookup}
    actions = {name: Action(run=run, process_id=os.getpid()) for name, run in ways.items()}
    found = quiet_rounds(actions, rounds, patience=patience)
    plain, lookup = ([token_ms(result) for result in found.results[name]] for name in actions)
    one, other = found.results["plain"][0], found.results["lookup"][0]
    assert other.drafts is not None
    return Result(
        kind=task.kind,
        plain=plain,
        lookup=lookup,
        speed=1 / paired_ratio(lookup, plain),
        num_tokens=len(other.token_ids),
        num_drafted=other.drafts.num_drafted,
        num_accepted=other.drafts.num_accepted,
        parts_at=parting(one.token_ids, other.token_ids),
        disturbance=found.disturbance,
    )


def token_ms(result: Generation) -> float:
    return 1e3 / result.timings.tokens_per_second


def parting(one: Sequence[int], other: Sequence[int]) -> int | None:
    """After how many tokens two texts part; None if they are the same."""
    if list(one) == list(other):
        return None
    shared = (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(shared, min(len(one), len(other)))


def as_markdown(results: Mapping[str, Result]) -> str:
    header = ["", "tokens", "plain, ms a token", "lookup, ms", "speed", "drafted", "accepted", "same"]
    rows = [
        [
            name,
            str(result.num_tokens),
            f"{statistics.median(result.plain):.1f}",
            f"{statistics.median(result.lookup):.1f}",
            f"{result.speed:.2f}",
            str(result.num_drafted),
            str(result.num_accepted),
            "yes" if result.parts_at is None else f"up to {result.parts_at}",
        ]
        for name, result in results.items()
    ]
    return markdown_table(header, rows)


def summary(results: Mapping[str, Result]) -> str:
    lines = []
    for kind in (EDITING, FREE):
        speeds = [result.speed for result in results.values() if result.kind == kind]
        if speeds:
            lines.append(f"{kind}: {statistics.median(speeds):.2f} times as fast, {min(speeds):.2f} at least")
    worst = max(result.disturbance for result in results.values())
    return "\n".join([*lines, f"other programs took at most {worst:.0%} of the processors"])


def main(arguments: Sequence[str] | None = None) -> None:
    known = tasks()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--only", default=",".join(known), help="comma-separated: " + ", ".join(known))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=int, default=2, help="disturbed rounds are measured up to so many times")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    with genai.load(options.model, precision=options.precision, max_batch=1) as llm:
        results: dict[str, Result] = {}
        for name in options.only.split(","):
            results[name] = measured(llm, known[name], options.rounds, options.patience)
            print(f"{name}: {results[name].speed:.2f}", file=sys.stderr, flush=True)
    print(f"{as_markdown(results)}\n\n{summary(results)}")
    if options.json:
        options.json.write_text(json.dumps({name: asdict(result) for name, result in results.items()}, indent=1))


if __name__ == "__main__":
    main()
