"""Print what pyproject.toml needs at run time, a requirement a line: `python requirements.py cpu server`.

An image that installs this first, and the project itself afterwards, keeps its libraries in a layer that new code
leaves as it is.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
for extra in sys.argv[1:]:
    project["dependencies"] += project["optional-dependencies"][extra]
print(*project["dependencies"], sep="\n")
