"""The int4 folder that onnxruntime-genai's builder writes, run by onnxruntime-genai and, converted, by us.

    python -m benchmarks.converted [MODEL] [--lengths 64,512] [--batches 1,8] …      options as side_by_side's

Same rounded weights on both sides, so what differs is attention, the cache and the loop around the graph. Our own int4
package and, for divergences, our float32 one take part too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.environments import ROOT
from benchmarks.protocol import LoadOptions
from benchmarks.results import as_json, as_markdown
from benchmarks.side_by_side import Entry, Run, compare, settings_from
from genai.convert import convert
from genai.convert.options import CONVERTER
from genai.models import is_package

ORIGINAL = Entry(name="onnxruntime-genai-int4", peer="onnxruntime-genai", precision="int4")
CONVERTED = Entry(name="converted-int4", peer="ours", precision="int4")
ENTRIES = (
    ORIGINAL,  # first: it builds the folder
    CONVERTED,
    Entry(name="ours-int4", peer="ours", precision="int4"),
    Entry(name="ours-f32", peer="ours", precision="f32"),
)


class ConvertedRun(Run):
    """A side-by-side run in which one contestant is another's folder, converted."""

    def _options(self, entry: Entry) -> LoadOptions:
        options = super()._options(entry)
        if entry != CONVERTED:
            return options
        folder = self._folder / ORIGINAL.peer / ORIGINAL.precision
        return replace(options, package=str(converted(folder, self._folder / CONVERTER / CONVERTED.precision)))


def converted(folder: Path, package: Path) -> Path:
    """The package made of a folder, converted unless that was done since the folder was written; returns `package`."""
    config = package / "genai.json"
    if not is_package(package) or config.stat().st_mtime < (folder / "model.onnx").stat().st_mtime:
        print(convert(folder, package).as_text(), file=sys.stderr)
    return package


def main(arguments: Sequence[str]) -> None:
    """Measure, print Markdown, and keep it with the JSON in benchmarks/results."""
    settings = replace(settings_from(arguments), entries=ENTRIES, ragged=0, plot=None)
    results = compare(settings, ConvertedRun)
    markdown = as_markdown(results, [ORIGINAL.name])
    folder = ROOT / "results"
    folder.mkdir(exist_ok=True)
    (folder / "converted.json").write_text(json.dumps(as_json(results, [ORIGINAL.name]), indent=1))
    (folder / "converted.md").write_text(markdown)
    print(markdown)


if __name__ == "__main__":
    main(sys.argv[1:])
