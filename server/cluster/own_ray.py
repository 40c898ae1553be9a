"""A Ray of one's own on this machine: its processes begin with us, take orders from nobody else, and end with us."""

from __future__ import annotations

import logging
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from genai.config import set_environment
from genai.errors import GenAIError

_log = logging.getLogger(__name__)

_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # it would end replicas where others fill the machine's memory
    "RAY_worker_niceness": "0",  # they would give way to whatever else the machine does
}
_OBJECT_STORE_BYTES = 80 << 20
"""Nothing of ours goes through Ray's object store; this is about the least that it takes."""
_TIMES = 4
"""How often it is tried: Ray gives up where a process of its own needs more than 15 seconds, as on a busy machine."""


@contextmanager
def own_ray(processors: int) -> Iterator[None]:
    """Ray with so many processors, and this process connected to it, until the end of the block.

    To be entered before Ray is imported, which reads the environment then. Raises: GenAIError if it does not start.
    """
    set_environment({**_ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    import ray

    folder = tempfile.mkdtemp(prefix="genai-ray-")
    try:
        for time in range(1, _TIMES + 1):
            try:
                ray.init(
                    address="local",
                    num_cpus=processors,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    configure_logging=False,
                    _temp_dir=folder,
                )
                break
            except Exception as error:  # Ray has no kind of its own for this
                ray.shutdown()
                if time == _TIMES:
                    raise GenAIError(f"Ray does not start: {error}") from None
                _log.warning("Ray does not start, once more: %s", error)
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
