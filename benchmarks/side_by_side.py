"""Ours beside its peers, on the same weights, in one interleaved run.

    python -m benchmarks.side_by_side [MODEL | FILE.gguf | FOLDER] [--only ours-int4,llama.cpp-gguf] [--lengths 64] …
    python -m benchmarks.side_by_side --only ours-auto,ours-int4 --before ../earlier      has anything got slower?

Each contestant is a process that holds its model (and, while decoding is measured, its batch), and is asked for a few
steps at a time, A, B, C, A, B, C, …, while the others are idle. All get the same token ids and the same thread count.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks import environments, plots
from benchmarks.compared import READ_GGUF, Compared, label_of
from benchmarks.environments import ROOT, PeerUnavailableError
from benchmarks.measure import FloatArray, divergence
from benchmarks.protocol import LoadOptions
from benchmarks.results import Cell, Contestant, Results, as_json, as_markdown
from benchmarks.rounds import Action, quiet_rounds
from benchmarks.texts import ANSWER_LENGTHS, PROMPT_LENGTHS, english_tokens, prompts, ragged_requests
from benchmarks.workers import PeerError, Worker
from genai import models
from genai.bench import machine
from genai.config import EngineConfig, Precision

T = TypeVar("T")

REFERENCE = "ours-f32"
BASELINES = ("ours-auto", "ours-int4")
FIDELITY_TOKENS = 512
WARM_UP = 2
RAGGED_ROWS = 8
"""Rows that ours has for ragged requests, if no larger batch is measured: the engine's own default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A runtime and the precision that it runs at. checkout: ours, as it is in another checkout."""

    name: str
    peer: str
    precision: Precision = "auto"
    checkout: Path | None = None

    def worker(self, log: Path) -> Worker:
        """Its process, in an environment that is made first. Raises: PeerUnavailableError."""
        if self.checkout is not None:
            return Worker(self.name, environments.checkout_command(self.checkout), log, self.checkout)
        environments.install(self.peer)
        return Worker(self.name, environments.worker_command(self.peer), log)


ENTRIES = (
    Entry(name="ours-auto", peer="ours", precision="auto"),
    Entry(name="ours-int8", peer="ours", precision="int8"),
    Entry(name="ours-int4", peer="ours", precision="int4"),
    Entry(name="ours-f32", peer="ours", precision="f32"),
    Entry(name="onnxruntime-genai-int4", peer="onnxruntime-genai", precision="int4"),
    Entry(name="llama.cpp-gguf", peer="llama-cpp-python"),
    Entry(name="llama.cpp-newest-gguf", peer="xllamacpp"),
    Entry(name="openvino-genai-gguf", peer="openvino-genai"),
    Entry(name="transformers-f32", peer="transformers", precision="f32"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to measure: `rounds` rounds, each of `steps` decode steps (or one prefill) of every contestant.

    ragged: so many requests of different lengths, in `ragged_rounds` rounds; 0 for none; plot: a folder for plots.
    """

    model: str
    entries: tuple[Entry, ...]
    prefills: tuple[int, ...]
    lengths: tuple[int, ...]
    batches: tuple[int, ...]
    rounds: int
    steps: int
    threads: int
    pause: float
    patience: int
    ragged: int = 0
    ragged_rounds: int = 1
    plot: Path | None = None

    @property
    def max_batch(self) -> int:
        """Most rows that come up."""
        return max(*self.batches, RAGGED_ROWS if self.ragged else 1)

    @property
    def max_length(self) -> int:
        """Room for the longest context and everything decoded from it."""
        ragged = PROMPT_LENGTHS[1] + ANSWER_LENGTHS[1] if self.ragged else 0
        decoded = WARM_UP + self.rounds * self.patience * self.steps + max(self.batches)
        return max(FIDELITY_TOKENS, ragged, *self.prefills, *(length + decoded for length in self.lengths)) + 8


class Run:
    """One comparison: the contestants that could be had, and what is measured on them."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self.settings = settings
        self.results = Results(
            model=settings.model,
            machine=machine(EngineConfig(num_threads=settings.threads, device="cpu")),
            settings={
                "prefills": list(settings.prefills),
                "lengths": list(settings.lengths),
                "batches": list(settings.batches),
                "rounds": settings.rounds,
                "steps": settings.steps,
                "ragged": settings.ragged,
                "ragged_rounds": settings.ragged_rounds,
                "started": datetime.now().isoformat(timespec="seconds"),
            },
        )
        self._stack = stack
        self._compared = Compared(settings.model, ROOT / ".envs" / "models")
        self._folder = self._compared.folder
        self._workers: dict[str, Worker] = {}
        self._tokens = english_tokens(models.package(settings.model, precision="auto", device="cpu"))

    def load(self) -> None:
        """Start and load every contestant; one that cannot be had becomes a note."""
        for entry in self.settings.entries:
            _say(f"loading {entry.name}")
            try:
                worker = self._stack.enter_context(entry.worker(ROOT / "results" / "logs" / f"{entry.name}.log"))
                options = self._options(entry)
                version, seconds = worker.load(options)
            except (PeerUnavailableError, PeerError) as error:
                self.results.notes.append(f"{entry.name} is left out: {error}")
                continue
            self._workers[entry.name] = worker
            size = self._compared.disk_bytes(entry.peer, options)
            self.results.contestants.append(
                Contestant(name=entry.name, version=version, load_seconds=seconds, disk_bytes=size)
            )

    def measure_fidelity(self) -> None:
        """Every contestant's divergence from our float32 graph, on the same tokens."""
        if REFERENCE not in self._workers:
            self.results.notes.append(f"no divergences: {REFERENCE} does not take part")
            return
        tokens = self._tokens[:FIDELITY_TOKENS]
        with tempfile.TemporaryDirectory() as folder:
            reference = self._logits(REFERENCE, tokens, Path(folder))
            for contestant in [each for each in self.results.contestants if each.name in self._workers]:
                is_reference = contestant.name == REFERENCE
                other = reference if is_reference else self._logits(contestant.name, tokens, Path(folder))
                if reference is not None and other is not None:
                    found = divergence(reference, other)
                    contestant.mean_kl, contestant.top1 = found.mean_kl, found.top1

    def measure_prefill(self, length: int) -> None:
        """Time from a prompt to its first token."""
        (prompt,) = prompts(self._tokens, 1, length)
        able = self._able(lambda worker: worker.prefill(prompt))  # the first run of a shape is not counted
        cell = Cell(title=f"Prefill, {length} tokens", kind="prefill", length=length, work=length)
        self._measure(cell, lambda worker: [worker.prefill(prompt)], able)

    def measure_decode(self, length: int, batch: int) -> None:
        """Time of a decode step, in one state that every contestant holds."""
        batch_prompts = prompts(self._tokens, batch, length)
        able = self._able(lambda worker: worker.start(batch_prompts))
        able = self._able(lambda worker: worker.decode(WARM_UP), able)
        steps = self.settings.steps
        title = f"Decode, batch {batch}, context {length}"
        cell = Cell(title=title, kind="decode", length=length, batch=batch, work=batch)
        self._measure(cell, lambda worker: worker.decode(steps), able)
        self._able(Worker.stop, [name for name in able if name in self._workers])

    def measure_ragged(self, number: int) -> None:
        """Requests of different lengths: ours has them all at once, each peer one after another."""
        requests = ragged_requests(self._tokens, number)
        able = self._able(lambda worker: worker.ragged(requests[:1]))
        cell = Cell(
            title=f"Ragged, {number} requests",
            kind="ragged",
            batch=number,
            work=sum(count for _, count in requests),
            baselines=[entry.name for entry in self.settings.entries if entry.peer == environments.OURS],
        )
        once = replace(self.settings, rounds=self.settings.ragged_rounds, patience=1)  # a round takes minutes
        self._measure(cell, lambda worker: [worker.ragged(requests)], able, once)

    def measure_memory(self) -> None:
        """Resident memory, before whole sequences of logits are asked for."""
        for contestant in self.results.contestants:
            if contestant.name in self._workers:
                contestant.rss, contestant.peak = self._try(contestant.name, Worker.memory) or (0, 0)

    def _options(self, entry: Entry) -> LoadOptions:
        is_ours, reads_gguf = entry.peer == environments.OURS, entry.peer in READ_GGUF
        package = models.package(self.settings.model, precision=entry.precision, device="cpu") if is_ours else ""
        return LoadOptions(
            gguf=str(self._compared.gguf()) if reads_gguf else "",
            hf_folder="" if is_ours or reads_gguf else str(self._compared.hf_folder()),
            package=str(package),
            work=str(self._folder / entry.peer),
            precision=entry.precision,
            threads=self.settings.threads,
            max_length=self.settings.max_length,
            max_batch=self.settings.max_batch,
        )

    def _logits(self, name: str, tokens: list[int], folder: Path) -> FloatArray | None:
        _say(f"logits of {name}")
        return self._try(name, lambda worker: worker.logits(tokens, folder / "logits.npy"))

    def _measure(
        self,
        cell: Cell,
        measure: Callable[[Worker], list[float]],
        names: Sequence[str],
        settings: Settings | None = None,
    ) -> None:
        """Interleaved rounds of the same for each of these contestants; without one that fails, all over again."""
        _say(cell.title)
        if not names:
            return
        workers = {name: self._workers[name] for name in names}
        actions = {
            name: Action(run=partial(measure, worker), process_id=worker.process_id) for name, worker in workers.items()
        }
        settings = settings or self.settings
        try:
            found = quiet_rounds(actions, settings.rounds, patience=settings.patience, pause=settings.pause)
        except PeerError as error:
            self._note(error)
            self._measure(cell, measure, [name for name in names if name != error.name], settings)
            return
        self.results.cells.append(replace(cell, rounds=found.results, disturbance=found.disturbance))

    def _able(self, action: Callable[[Worker], object], names: Sequence[str] | None = None) -> list[str]:
        """The contestants (of these) that can do this; a note says why another cannot."""
        able = []
        for name in list(self._workers) if names is None else names:
            try:
                action(self._workers[name])
                able.append(name)
            except PeerError as error:
                self._note(error)
        return able

    def _try(self, name: str, action: Callable[[Worker], T]) -> T | None:
        """What a contestant answers; None, and a note, if it cannot."""
        try:
            return action(self._workers[name])
        except PeerError as error:
            self._note(error)
            return None

    def _note(self, error: PeerError) -> None:
        """Write down a failure; who died takes no further part."""
        self.results.notes.append(str(error))
        if not self._workers[error.name].is_alive:
            del self._workers[error.name]


def compare(settings: Settings, kind: type[Run] = Run) -> Results:
    """Measure everything that the settings ask for; kind: who loads the contestants."""
    with ExitStack() as stack:
        run = kind(settings, stack)
        run.load()
        for length in settings.prefills:
            run.measure_prefill(length)
        for length in settings.lengths:
            for batch in settings.batches:
                run.measure_decode(length, batch)
        run.measure_memory()
        run.measure_fidelity()
        if settings.ragged:
            run.measure_ragged(settings.ragged)
        return run.results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.side_by_side", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "model",
        nargs="?",
        default="smollm2-135m-instruct",
        help="a known name, a .gguf file, a Hugging Face folder or a hub id; who cannot read it is left out",
    )
    parser.add_argument("--only", help=f"some of {','.join(entry.name for entry in ENTRIES)}")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="also ours as it was, from another checkout")
    parser.add_argument("--prefills", type=_numbers, default=(64, 512), help="prompt lengths (default 64,512)")
    parser.add_argument("--lengths", type=_numbers, default=(64, 512), help="context lengths (default 64,512)")
    parser.add_argument("--batches", type=_numbers, default=(1, 8), help="batch sizes (default 1,8)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=8, help="decode steps in a round (default 8)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--pause", type=float, default=0.05, help="seconds of rest before each measurement")
    parser.add_argument(
        "--patience", type=int, default=3, help="measure up to this many times as many rounds for quiet"
    )
    parser.add_argument("--ragged", type=int, default=0, metavar="N", help="also N requests of different lengths")
    parser.add_argument("--ragged-rounds", type=int, default=1, help="rounds of these, minutes each (default 1)")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw plots (SVG) into this folder")
    return parser


def settings_from(arguments: Sequence[str]) -> Settings:
    """The command line as settings; exits with a message on a bad one."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    names = chosen.only.split(",") if chosen.only else [entry.name for entry in ENTRIES]
    if unknown := set(names) - {entry.name for entry in ENTRIES}:
        parser.error(f"--only {sorted(unknown)[0]!r}: must be of {', '.join(entry.name for entry in ENTRIES)}")
    if min(chosen.rounds, chosen.steps, chosen.threads, chosen.ragged_rounds) < 1:
        parser.error("--rounds, --steps, --threads and --ragged-rounds must be at least 1")
    if chosen.ragged < 0:
        parser.error(f"--ragged {chosen.ragged}: a number of requests, 0 for none")
    return Settings(
        model=chosen.model,
        entries=_entries(names, chosen.before),
        prefills=chosen.prefills,
        lengths=chosen.lengths,
        batches=chosen.batches,
        rounds=chosen.rounds,
        steps=chosen.steps,
        threads=chosen.threads,
        pause=chosen.pause,
        patience=max(1, chosen.patience),
        ragged=chosen.ragged,
        ragged_rounds=chosen.ragged_rounds,
        plot=chosen.plot,
    )


def _entries(names: Sequence[str], before: Path | None) -> tuple[Entry, ...]:
    """The contestants of these names; with another checkout, each of ours also as it is there."""
    chosen = [entry for entry in ENTRIES if entry.name in names]
    ours = [entry for entry in chosen if before is not None and entry.peer == environments.OURS]
    return (*chosen, *(replace(entry, name=entry.name.replace("ours", "before"), checkout=before) for entry in ours))


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(",") if part)
    if any(number < 1 for number in numbers):
        raise argparse.ArgumentTypeError("numbers from 1, between commas")
    return numbers


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> None:
    """Measure, print Markdown, and keep it with the JSON in benchmarks/results."""
    settings = settings_from(arguments)
    results = compare(settings)
    can_draw = settings.plot is not None and plots.can_draw()
    if settings.plot and not can_draw:
        results.notes.append(plots.NEEDS)
    folder = ROOT / "results"
    folder.mkdir(exist_ok=True)
    markdown = as_markdown(results, BASELINES)
    name = label_of(settings.model)
    (folder / f"{name}.json").write_text(json.dumps(as_json(results, BASELINES), indent=1))
    (folder / f"{name}.md").write_text(markdown)
    print(markdown)
    if settings.plot and can_draw:
        for path in plots.draw(results, settings.plot):
            _say(f"drawn: {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
