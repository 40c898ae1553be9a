"""Our applications on a Ray that runs: deployed, waited for, drained, and taken away again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation

from genai.errors import GenAIError
from server.cluster.plan import GRACE_SECONDS, Plan
from server.cluster.registry import remove_entry
from server.ray_serve import application
from server.settings import Settings

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_QUIET = {"log_level": "WARNING", "enable_access_log": False}


class Serving:
    """The applications of some settings, from the block's beginning to its end; others' stay as they are.

    address: where Ray is; None: this process is connected to it. Raises: GenAIError if it is not there.
    """

    def __init__(self, settings: Settings, plans: Sequence[Plan], address: str | None) -> None:
        self._settings = settings
        self._plans = plans
        self._address = address

    def __enter__(self) -> Self:
        """Deploy them, without waiting until they run."""
        settings = self._settings
        if self._address is not None:
            _connect(self._address)
        options = HTTPOptions(
            host=settings.host, port=settings.port, request_timeout_s=settings.request_timeout + GRACE_SECONDS
        )
        try:
            serve.start(proxy_location=ProxyLocation.EveryNode, http_options=options, logging_config=_QUIET)
            logging.getLogger("ray.serve").setLevel(logging.WARNING)
            deploy(self._plans)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take them away."""
        self._leave()

    def _leave(self) -> None:
        with suppress(Exception):  # whatever is left of Ray: it is to end
            for plan in self._plans:
                remove_entry(plan.name)
            if self._address is not None:  # our own ends as a whole
                for plan in self._plans:
                    serve.delete(plan.name)
        ray.shutdown()

    def wait_until_running(self, ending: threading.Event) -> bool:
        """Whether all of them run; False if the process is to end. Raises: GenAIError if one cannot."""
        told = -1
        wanted = sum(plan.cluster.fewest for plan in self._plans)
        while not ending.wait(_POLL_SECONDS):
            known = serve.status().applications
            ours = [known[plan.name] for plan in self._plans if plan.name in known]
            if failed := [each for each in ours if each.status == "DEPLOY_FAILED"]:
                raise GenAIError(f"the replicas cannot be started: {_reason(failed[0])}")
            states = [deployment.replica_states for each in ours for deployment in each.deployments.values()]
            running = sum(count for state in states for name, count in state.items() if name == "RUNNING")
            if told != running:
                told = running
                _log.info("replicas: %d of %d are ready", running, wanted)
            if len(ours) == len(self._plans) and all(each.status == "RUNNING" for each in ours):
                return True
        return False

    def wait(self, ending: threading.Event) -> None:
        """Until the process is to end. Raises: GenAIError if Ray has gone."""
        while not ending.wait(_POLL_SECONDS):
            if not ray.is_initialized():
                raise GenAIError("Ray has ended")

    def drain(self) -> None:
        """Let accepted requests end, while replicas refuse new ones."""
        seconds = self._settings.drain_timeout
        _log.info("draining: accepted requests have %g s to end", seconds)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not sum(self._num_active(plan) for plan in self._plans):
                return
            time.sleep(_POLL_SECONDS)
        _log.warning("requests are cut off: drain_timeout is over")

    def _num_active(self, plan: Plan) -> int:
        """How many requests an application answers still; it takes no new ones."""
        with suppress(Exception):  # replicas that have gone have nothing to end
            answers = serve.get_app_handle(plan.name).broadcast("drain")
            return sum(each for each in answers.results(timeout_s=5, return_exceptions=True) if isinstance(each, int))
        return 0


def deploy(plans: Sequence[Plan]) -> None:
    """Ask for applications as they are planned, without waiting for them; those that run go over to what is new."""
    targets = [serve.RunTarget(application(plan), name=plan.name, route_prefix=plan.route) for plan in plans]
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def _connect(address: str) -> None:
    try:
        ray.init(address=address, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise GenAIError(f"no Ray answers at {address} (see `ray status`): {error}") from None


def _reason(application: object) -> str:
    """The line in which a replica says what it raised."""
    messages = [getattr(application, "message", "")]
    messages += [each.message for each in getattr(application, "deployments", {}).values()]
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0]]
    return (errors or lines or ["see the log"])[-1]
