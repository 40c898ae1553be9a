"""`genai serve` with replicas: a Ray of its own or one that is there, applications on it, and a graceful end.

SIGTERM or Ctrl-C   replicas answer new requests with 503; when all accepted ones have ended, or after
                    `drain_timeout`, the applications go, and with them the Ray if it was ours
SIGHUP              the same, unless it was started to ignore that (nohup)
a second one        ends at once
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from genai import models
from genai.config import set_environment
from genai.progress import Progress
from genai.runtime.host import default_threads
from server.cluster.own_ray import own_ray
from server.cluster.plan import plans
from server.lifecycle import hangups
from server.logs import configure_logging
from server.settings import Settings

_log = logging.getLogger(__name__)

CALLBACK = "server.cluster.door.callback"
"""What Ray's proxies are to call to build the door in front of them."""
ENVIRONMENT = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": CALLBACK,
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""What Ray's processes are to have in their environment, on each machine."""
_LOG = {"RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0"}
"""How replicas' lines come to this process's log: all of them, and plainly."""


def run(settings: Settings, progress: Progress) -> None:
    """Serve until a signal comes. Raises: GenAIError if that cannot be, or replicas cannot load their models."""
    configure_logging(settings.log_format, settings.log_level)
    address = settings.cluster.address
    made = plans(settings, default_threads() if address is None else None)
    with _signals() as asked, ExitStack() as held:
        set_environment({**ENVIRONMENT, **_LOG})
        if address is None:
            _fetch(settings, progress)
            processors = sum(plan.num_threads * plan.cluster.most for plan in made)
            _log.info("starting Ray on this machine, with %d processors", processors)
            held.enter_context(own_ray(processors))
        from server.cluster.serving import Serving  # imports Ray, which reads the environment

        serving = held.enter_context(Serving(settings, made, address))
        if serving.wait_until_running(asked.came):
            _log.info("replicas are ready: http://%s:%d", settings.host, settings.port)
            serving.wait(asked.came)
            serving.drain()


def _fetch(settings: Settings, progress: Progress) -> None:
    """Have each model's package here before several replicas ask for it at once."""
    for model in settings.models.values():
        device = settings.engine_config(model).device
        precision = model.precision or settings.precision
        room = models.room_for(model.adapters.values(), model.lora_slots, model.max_rank)
        models.package(model.source, precision=precision, device=device, room=room, progress=progress)


class Signals:
    """Whether the process was asked to end."""

    def __init__(self) -> None:
        self.came = threading.Event()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """A signal came. Raises: KeyboardInterrupt for a second one, which ends whatever is being done."""
        if self.came.is_set():
            raise KeyboardInterrupt
        self.came.set()


@contextmanager
def _signals() -> Iterator[Signals]:
    asked = Signals()
    numbers = (signal.SIGINT, signal.SIGTERM, *hangups())
    before = {number: signal.signal(number, asked.handle) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
