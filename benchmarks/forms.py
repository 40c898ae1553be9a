"""A model in llama.cpp's forms, Q2_K to Q8_0: bytes of file and package, divergence from float32, time of a step.

    python -m benchmarks.forms [MODEL.gguf] [--forms Q4_K_M,Q8_0] [--length 64] [--rounds 9]

llama.cpp makes each form of the model's file (blocks are rounded a second time). Ours and llama.cpp then run it beside
each other; each one's divergence is from float32 of the same file, so that it tells what running costs, not the form.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.compared import label_of
from benchmarks.environments import ROOT
from benchmarks.quantized import FORMS, quantize
from benchmarks.results import Results, as_json, markdown_table
from benchmarks.side_by_side import ENTRIES, REFERENCE, Settings, compare
from genai import models

WANTED = ("Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "IQ4_XS")
OURS = "ours-auto"
THEIRS = ("llama.cpp-gguf", "llama.cpp-newest-gguf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What a run found of one form."""

    name: str
    results: Results

    def row(self) -> tuple[str, ...]:
        """Its line of the table: MB of the file and of ours, KL and milliseconds of ours and of theirs."""
        found = {each.name: each for each in self.results.contestants}
        cell = self.results.cells[0]
        file = next((found[name].disk_bytes for name in THEIRS if name in found), 0)
        package = found[OURS].disk_bytes
        kl = [found[name].mean_kl if name in found else None for name in (OURS, *THEIRS)]
        return (
            self.name,
            f"{file / 1e6:.1f}",
            f"{package / 1e6:.1f}",
            f"{package / file:.2f}" if file else "",
            *("" if each is None else f"{each:.4f}" for each in kl),
            *(f"{cell.median(name) * 1e3:.1f}" if name in cell.rounds else "" for name in (OURS, *THEIRS)),
        )


def form_of(model: Path, name: str, settings: Settings) -> Form:
    """Make a form of a file, unless that was done, and run it. Raises: PeerUnavailableError."""
    file = ROOT / ".envs" / "models" / f"{label_of(str(model))}-{name}" / f"{label_of(str(model))}-{name}.gguf"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        quantize(model, partial, name)
        os.replace(partial, file)
    return Form(name=name, results=compare(replace(settings, model=str(file))))


def as_markdown(forms: Sequence[Form]) -> str:
    """The table, and whatever went wrong."""
    measured = [f"{what} {who}" for what in ("KL", "ms") for who in ("ours", *THEIRS)]
    table = markdown_table(("", "file MB", "package MB", "ratio", *measured), [form.row() for form in forms])
    notes = "\n".join(f"- {form.name}: {note}" for form in forms for note in form.results.notes)
    return f"{table}\n\n{notes}" if notes else table


def settings_from(arguments: Sequence[str]) -> tuple[Path, list[str], Settings]:
    """The command line: the model's file, the forms, and how each is measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forms", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct", help="a .gguf file or a known name")
    parser.add_argument("--forms", default=",".join(WANTED), help=f"some of {','.join(FORMS)}")
    parser.add_argument("--length", type=int, default=64, help="tokens of context (default 64)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    chosen = parser.parse_args(arguments)
    if unknown := set(names := chosen.forms.split(",")) - set(FORMS):
        parser.error(f"--forms {sorted(unknown)[0]!r}: must be of {', '.join(FORMS)}")
    settings = Settings(
        model=str(models.checkpoint(chosen.model)),
        entries=tuple(entry for entry in ENTRIES if entry.name in (OURS, *THEIRS, REFERENCE)),
        prefills=(),
        lengths=(chosen.length,),
        batches=(1,),
        rounds=chosen.rounds,
        steps=8,
        threads=chosen.threads,
        pause=0.05,
        patience=3,
    )
    return Path(settings.model), names, settings


def main(arguments: Sequence[str]) -> None:
    """Measure, print Markdown, keep JSON in benchmarks/results."""
    model, names, settings = settings_from(arguments)
    forms = [form_of(model, name, settings) for name in names]
    (ROOT / "results").mkdir(exist_ok=True)
    kept = {form.name: as_json(form.results, [OURS]) for form in forms}
    (ROOT / "results" / "forms.json").write_text(json.dumps(kept, indent=1))
    print(as_markdown(forms))


if __name__ == "__main__":
    main(sys.argv[1:])
