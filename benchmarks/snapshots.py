"""What chats pay for with a model whose rows have states: shares of prompts that are found, and what that takes.

Chats with one system prompt take turns, each turn with another question behind all that was said before. Told are the
share of each turn's prompt that was known beforehand, and how many snapshots the prefix cache holds in how many bytes.

python -m benchmarks.snapshots PACKAGE [--chats 8] [--turns 5] [--system 300] [--question 40] [--answer 40]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genai.config import EngineConfig
from genai.llm.llm import LLM


def measure(llm: LLM, *, num_chats: int, num_turns: int, lengths: tuple[int, int, int]) -> list[tuple[int, int]]:
    """For each turn: tokens of all chats' prompts, and how many of them were found; lengths: as the arguments."""
    rng = np.random.default_rng(0)

    def drawn(count: int) -> list[int]:
        return [int(token) for token in rng.integers(0, llm.config.vocab_size, count)]

    num_system, num_question, num_answer = lengths
    system = drawn(num_system)
    chats = [list(system) for _ in range(num_chats)]
    told = []
    for _ in range(num_turns):
        num_tokens = num_cached = 0
        for chat in chats:
            chat.extend(drawn(num_question))
            answer = llm.generate(chat, max_new_tokens=num_answer, temperature=0, ignore_eos=True)
            num_tokens += len(chat)
            num_cached += answer.usage.cached_tokens
            chat.extend(answer.token_ids)
        told.append((num_tokens, num_cached))
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--chats", type=int, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--system", type=int, default=300)
    parser.add_argument("--question", type=int, default=40)
    parser.add_argument("--answer", type=int, default=40)
    options = parser.parse_args(arguments)
    with LLM(options.package, EngineConfig()) as llm:
        lengths = (options.system, options.question, options.answer)
        told = measure(llm, num_chats=options.chats, num_turns=options.turns, lengths=lengths)
        status, per_row = llm.engine.cache_status, llm.cache_shape.bytes_per_row
    print(f"a row's states {per_row:,} B, a token {llm.cache_shape.bytes_per_token:,} B")
    for turn, (num_tokens, num_cached) in enumerate(told, start=1):
        print(f"turn {turn}: {num_cached:,} of {num_tokens:,} tokens found, {num_cached / num_tokens:.1%}")
    print(f"{status.num_snapshots} snapshots; blocks and snapshots take {status.prefix_bytes:,} B")


if __name__ == "__main__":
    main()
