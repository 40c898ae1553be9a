"""The measurement is of what it says: the first turn finds the system prompt only, later ones all but what is new."""

from __future__ import annotations

from pathlib import Path

from benchmarks.snapshots import first_tokens, measure
from genai.config import EngineConfig
from genai.llm.llm import LLM
from tests.mixed_package import mixed_package


def test_measures_what_it_says(tmp_path: Path) -> None:
    folder = mixed_package(tmp_path / "states", has_sinks=False, has_states=True)
    with LLM(folder, EngineConfig(device="cpu", num_threads=1, max_seq_len=300)) as llm:
        told = measure(llm, num_chats=3, num_turns=2, lengths=(100, 10, 6))
        waits = first_tokens(llm, num_known=100, num_new=2, rounds=2)
    assert [found for _, _, found in waits] == [100, 100]
    assert told == [(330, 96), (3 * 126, 3 * (126 - 11))]
