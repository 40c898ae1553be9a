"""`genai serve` with replicas, as tests run it: lines on its input deploy other settings; SIGINT ends it."""

from __future__ import annotations

import json
import sys
import threading

from genai.progress import silent
from server.cluster.plan import plans
from server.cluster.running import run
from server.settings import Settings, load_settings


def settings_of(line: str) -> Settings:
    return load_settings(flags=json.loads(line))


def obey() -> None:
    """Deploy what comes; says so once Ray knows."""
    for line in sys.stdin:
        from server.cluster.serving import deploy  # which imports Ray: not before it has its environment

        deploy(plans(settings_of(line), processors=2))
        print("deployed", flush=True)


if __name__ == "__main__":
    threading.Thread(target=obey, daemon=True).start()
    run(settings_of(sys.argv[1]), silent)
