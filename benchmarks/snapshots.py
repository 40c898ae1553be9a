"""What chats pay for with a model whose rows have states: shares of prompts that are found, and what that takes.

Chats with one system prompt take turns, each turn with another question behind all that was said before. Told are the
share of each turn's prompt that was known beforehand, and how many snapshots the prefix cache holds in how many bytes.
Then the time to a first token: of a prompt that nobody has seen, and of one that goes on from it.

python -m benchmarks.snapshots PACKAGE [--chats 8] [--turns 5] [--system 300] [--question 40] [--answer 40]
                                       [--known 1024] [--new 16] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from genai.config import EngineConfig
from genai.llm.llm import LLM
from genai.llm.results import Generation


def measure(llm: LLM, *, num_chats: int, num_turns: int, lengths: tuple[int, int, int]) -> list[tuple[int, int]]:
    """For each turn: tokens of all chats' prompts, and how many of them were found; lengths: as the arguments."""
    rng = np.random.default_rng(0)
    num_system, num_question, num_answer = lengths
    system = _drawn(rng, llm, num_system)
    chats = [list(system) for _ in range(num_chats)]
    told = []
    for _ in range(num_turns):
        num_tokens = num_cached = 0
        for chat in chats:
            chat.extend(_drawn(rng, llm, num_question))
            answer = llm.generate(chat, max_new_tokens=num_answer, temperature=0, ignore_eos=True)
            num_tokens += len(chat)
            num_cached += answer.usage.cached_tokens
            chat.extend(answer.token_ids)
        told.append((num_tokens, num_cached))
    return told


def first_tokens(llm: LLM, *, num_known: int, num_new: int, rounds: int) -> list[tuple[float, float, int]]:
    """Each round's seconds to the first token: of `num_known` tokens never seen, and of those and `num_new` more.

    Beside them how many tokens were found the second time.
    """
    rng = np.random.default_rng(1)
    told = []
    for _ in range(rounds):
        prompt = _drawn(rng, llm, num_known)
        cold, first = _timed(llm, prompt)
        known, second = _timed(llm, [*prompt, *first.token_ids, *_drawn(rng, llm, num_new - 1)])
        told.append((cold, known, second.usage.cached_tokens))
    return told


def _timed(llm: LLM, prompt: list[int]) -> tuple[float, Generation]:
    started = perf_counter()
    answer = llm.generate(prompt, max_new_tokens=1, temperature=0, ignore_eos=True)
    return perf_counter() - started, answer


def _drawn(rng: np.random.Generator, llm: LLM, count: int) -> list[int]:
    return [int(token) for token in rng.integers(0, llm.config.vocab_size, count)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--chats", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--system", type=int, default=300)
    parser.add_argument("--question", type=int, default=40)
    parser.add_argument("--answer", type=int, default=40)
    parser.add_argument("--known", type=int, default=1024)
    parser.add_argument("--new", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    with LLM(options.package, EngineConfig()) as llm:
        lengths = (options.system, options.question, options.answer)
        told = measure(llm, num_chats=options.chats, num_turns=options.turns, lengths=lengths)
        status, per_row = llm.engine.cache_status, llm.cache_shape.bytes_per_row
        waits = first_tokens(llm, num_known=options.known, num_new=options.new, rounds=options.rounds)
    print(f"a row's states {per_row:,} B, a token {llm.cache_shape.bytes_per_token:,} B")
    for turn, (num_tokens, num_cached) in enumerate(told, start=1):
        print(f"turn {turn}: {num_cached:,} of {num_tokens:,} tokens found, {num_cached / num_tokens:.1%}")
    cold, known, found = (statistics.median(values) for values in zip(*waits, strict=True))
    share = statistics.median(after / before for before, after, _ in waits)
    print(f"first token after {cold:.2f} s, with {found:,} tokens known {known:.3f} s: {share:.1%}")
    print(f"{status.num_snapshots} snapshots; blocks and snapshots take {status.prefix_bytes:,} B")


if __name__ == "__main__":
    main()
