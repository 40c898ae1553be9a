"""What the engine is for, measured on a real model: prefixes, pace, groups, and many requests at once.

prefix   time to first token of a prompt whose first 1,024 tokens are known, against the same prompt cold
pace     time between tokens of running streams while 2,048-token prompts keep arriving: 99th percentile / median
groups   a decode step of seven short rows with and without one 4k row beside them
ragged   64 requests of different lengths arriving at random, against the same ones one after another

python -m benchmarks.engine [--model smollm2-135m-instruct] [--only prefix,pace] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import genai
from benchmarks.measure import interleaved
from genai.engine.request import Request
from genai.engine.sequence import Sequence as Text
from genai.engine.sequence import State
from genai.llm.llm import LLM
from genai.options.generation_config import GenerationConfig

Row = dict[str, float]


def settings(num_tokens: int) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=num_tokens, ignore_eos=True)


def prompt_of(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(1000, 40_000) for _ in range(length)]


def submit(llm: LLM, prompt: list[int], num_tokens: int) -> Text:
    return llm.engine.submit(Request(prompt=prompt, config=settings(num_tokens))).first


def run_until(llm: LLM, is_done: Callable[[], bool]) -> None:
    while not is_done():
        llm.engine.step()


def prefix(llm: LLM, rounds: int) -> Row:
    """Cold and warm prompts of 1,024 + 32 tokens, interleaved; every round has a prefix of its own."""
    rng = random.Random(0)
    known: list[int] = []

    def seconds(kind: str) -> float:
        if kind == "cold":
            known[:] = prompt_of(rng, 1024)
        sequence = submit(llm, known + prompt_of(rng, 32), 1)
        run_until(llm, lambda: sequence.finish_reason is not None)
        return sequence.timeline.first_token - sequence.timeline.submitted

    times = interleaved(["cold", "warm"], rounds, seconds)
    cold, warm = statistics.median(times["cold"]), statistics.median(times["warm"])
    return {"cold_s": cold, "warm_s": warm, "warm / cold": warm / cold}


def pace(llm: LLM, rounds: int) -> Row:
    """Four streams run while prompts of 2,048 tokens come in, one as soon as the last has its first token."""
    rng = random.Random(1)
    streams = [submit(llm, prompt_of(rng, 32), 10_000) for _ in range(4)]
    run_until(llm, lambda: all(len(stream.generated) > 4 for stream in streams))
    gaps: list[float] = []
    last = {id(stream): stream.timeline.last_token for stream in streams}
    for _ in range(rounds):
        arriving = submit(llm, prompt_of(rng, 2048), 1)
        while arriving.finish_reason is None:
            llm.engine.step()
            for stream in streams:
                if stream.timeline.last_token != last[id(stream)]:
                    gaps.append(stream.timeline.last_token - last[id(stream)])
                    last[id(stream)] = stream.timeline.last_token
    llm.engine.cancel_all()
    median, worst = statistics.median(gaps), statistics.quantiles(gaps, n=100)[98]
    return {"median_ms": median * 1e3, "p99_ms": worst * 1e3, "p99 / median": worst / median}


def groups(llm: LLM, rounds: int) -> Row:
    """Steps of the short rows alone, of all eight, and of the long row alone, each phase many steps long."""
    rng = random.Random(2)
    short = [submit(llm, prompt_of(rng, 64 + 8 * n), 10_000) for n in range(7)]
    run_until(llm, lambda: all(text.generated for text in short))
    long = submit(llm, prompt_of(rng, 4000), 10_000)
    run_until(llm, lambda: bool(long.generated))
    everything = [*short, long]

    def seconds(kind: str) -> float:
        for text in everything:
            if kind == ("long" if text is not long else "short"):
                text.pause(State.HELD)
            else:
                text.resume()
        llm.engine.step()
        started = time.perf_counter()
        for _ in range(4):
            llm.engine.step()
        return (time.perf_counter() - started) / 4

    times = interleaved(["short", "long", "together"], rounds, seconds)
    llm.engine.cancel_all()
    short_s, long_s, both_s = (statistics.median(times[kind]) for kind in ("short", "long", "together"))
    ratio = (both_s - long_s) / short_s
    return {"short_ms": short_s * 1e3, "long_ms": long_s * 1e3, "together_ms": both_s * 1e3, "short's share": ratio}


def ragged(llm: LLM, rounds: int) -> Row:
    """64 requests, prompts of 16 to 256 tokens and answers of 16 to 96: at once, and one after another."""
    rng = random.Random(3)
    requests = [(prompt_of(rng, rng.randint(16, 256)), rng.randint(16, 96)) for _ in range(64)]
    arrivals = sorted(rng.uniform(0, 5) for _ in requests)
    num_tokens = sum(count for _, count in requests)
    first_tokens: list[float] = []

    def seconds(kind: str) -> float:
        started = time.perf_counter()
        if kind == "one by one":
            for prompt, count in requests:
                text = submit(llm, prompt, count)
                run_until(llm, lambda text=text: text.finish_reason is not None)  # type: ignore[misc]
            return time.perf_counter() - started
        texts: list[Text] = []
        while len(texts) < len(requests) or llm.engine.has_work:
            while len(texts) < len(requests) and time.perf_counter() - started >= arrivals[len(texts)]:
                texts.append(submit(llm, *requests[len(texts)]))
            if llm.engine.has_work:
                llm.engine.step()
        first_tokens.extend(text.timeline.first_token - text.timeline.submitted for text in texts)
        return time.perf_counter() - started

    times = interleaved(["together", "one by one"], rounds, seconds)
    together, alone = statistics.median(times["together"]), statistics.median(times["one by one"])
    return {
        "together_tokens_per_s": num_tokens / together,
        "one_by_one_tokens_per_s": num_tokens / alone,
        "together / one by one": alone / together,
        "first_token_median_s": statistics.median(first_tokens),
    }


PARTS: dict[str, tuple[Callable[[LLM, int], Row], int, dict[str, object]]] = {
    "prefix": (prefix, 5, {}),
    "pace": (pace, 4, {"prefix_cache_bytes": 0}),
    "groups": (groups, 8, {}),
    "ragged": (ragged, 1, {"prefix_cache_bytes": 0}),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--only", default=",".join(PARTS), help="comma-separated: " + ", ".join(PARTS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    results: dict[str, Row] = {}
    for name in options.only.split(","):
        measure, rounds, engine_options = PARTS[name]
        with genai.load(options.model, precision=options.precision, max_batch=8, **engine_options) as llm:
            results[name] = measure(llm, rounds)
        print(f"{name:8}", ", ".join(f"{key} {value:.3g}" for key, value in results[name].items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
