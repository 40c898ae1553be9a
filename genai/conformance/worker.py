"""The process that rows are tried in: `python -m genai.conformance.worker DEVICE SLOW|QUICK`.

Reads the names of rows, one on a line, and writes of each its result, a line of JSON. A runtime that crashes takes only
this process with it. Whatever the runtime prints goes to the standard error.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys

from genai.conformance import all_cases
from genai.conformance.probe import probe


def main() -> None:
    """Try rows until there are no more names."""
    device, pace = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    cases = {case.name: case for case in all_cases()}
    for line in sys.stdin:
        result = probe(cases[line.rstrip("\n")], device, timings=pace == "SLOW")  # type: ignore[arg-type]
        print(json.dumps(dataclasses.asdict(result)), file=answers, flush=True)


if __name__ == "__main__":
    main()
