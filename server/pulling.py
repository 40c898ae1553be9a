"""Bringing a model here while the server runs: in a thread, with its progress as steps, broken off with its client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TypeAlias

from genai.errors import DownloadError, GenAIError, ModelNotFoundError
from server.errors import ApiError
from server.lifecycle import draining
from server.loading import LeavingError
from server.settings import ModelSettings
from server.state import ServerState

Step: TypeAlias = tuple[str, int, int]
"""What is being done, how much of it has been, and how much there is (0: not known)."""


@dataclass(slots=True, kw_only=False, eq=False)
class Pull:
    """One model on its way."""

    settings: ModelSettings
    state: ServerState
    _latest: Step | None = None
    _is_given_up: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def steps(self) -> AsyncGenerator[Step, None]:
        """The newest step each time there is one; ends when the model is here. Raises: ApiError."""
        loop = asyncio.get_running_loop()
        work = asyncio.ensure_future(asyncio.to_thread(self._bring, loop))
        work.add_done_callback(self._ended)
        try:
            while not work.done():
                await self._changed.wait()
                self._changed.clear()
                if self._latest is not None:
                    step, self._latest = self._latest, None
                    yield step
            await work
        except (ModelNotFoundError, DownloadError) as error:
            raise ApiError(404, str(error), code="model_not_found", param="model") from None
        except LeavingError:
            raise draining() from None
        except GenAIError as error:
            raise ApiError(400, str(error), code="invalid_value", param="model") from None
        finally:
            self._is_given_up = True

    def _ended(self, work: asyncio.Future[None]) -> None:
        """Its error is seen to, though nobody may wait for it any more."""
        if not work.cancelled():
            work.exception()
        self._changed.set()

    def _bring(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the thread: fetch and build."""
        from genai import models

        def progress(label: str, done: int, total: int) -> None:
            if self._is_given_up or self.state.lifecycle.is_draining:
                raise LeavingError
            self._latest = (label, done, total)
            loop.call_soon_threadsafe(self._changed.set)

        settings = self.state.settings
        models.package(
            self.settings.source,
            precision=self.settings.precision or settings.precision,
            device=settings.engine_config(self.settings).device,
            progress=progress,
        )
