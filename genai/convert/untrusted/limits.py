"""A bound on this process's memory while a stranger's graph is run: a graph can ask for any amount."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil

_FACTOR = 8
_SPARE_BYTES = 6 << 30


@contextmanager
def bounded_memory(model_bytes: int) -> Iterator[None]:
    """Let the process's address space grow by eight times the model and 6 GiB, no further; then allocations fail.

    Where the system has no such limit (Windows), nothing is bounded.
    """
    try:
        import resource
    except ImportError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = psutil.Process().memory_info().vms + _FACTOR * model_bytes + _SPARE_BYTES
    limits = [limit for limit in (wanted, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
