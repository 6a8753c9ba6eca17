"""Server-sent events: what of the runs is new."""

import json
from collections.abc import AsyncIterator, Collection
from time import monotonic
from typing import Any

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from graftwork.serve._shelf import PERIOD, Shelf, Snapshot

MOST_STREAMS = 32
_PING, _PATIENCE = 10.0, 20.0
"""Seconds between two signs of life, and seconds that a reader may take for one of them."""


class Events:
    """Streams of events, a limited number at once.

    A stream holds no queue: it tells the newest state of each run when the reader has taken the one before. A reader
    that takes nothing for 20 seconds is let go.

    Args:
        shelf: The runs.
        most: Streams that may be open at once.
    """

    def __init__(self, shelf: Shelf, *, most: int = MOST_STREAMS) -> None:
        self._shelf, self._free = shelf, most

    def response(self, wanted: Collection[str]) -> Any:
        """Answer with a stream about some runs, by id; about all where none is named."""

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            if self._free < 1:
                busy = PlainTextResponse("too many pages are open; close some", 503, {"retry-after": "5"})
                await busy(scope, receive, send)
                return

            async def send_soon(message: Message) -> None:
                with anyio.fail_after(_PATIENCE):
                    await send(message)

            self._free -= 1
            try:
                stream = StreamingResponse(self._tell(wanted), media_type="text/event-stream")
                await stream(scope, receive, send_soon)
            finally:
                self._free += 1

        return answer

    async def _tell(self, wanted: Collection[str]) -> AsyncIterator[str]:
        told: dict[str, int] = {}
        spoke = monotonic()
        yield "retry: 1000\n\n"
        while True:
            for one in await run_in_threadpool(self._shelf.snapshots):
                if (not wanted or one.id in wanted) and told.get(one.id) != one.revision:
                    told[one.id], spoke = one.revision, monotonic()
                    yield f"event: run\ndata: {json.dumps(_news(one))}\n\n"
            if monotonic() - spoke > _PING:
                spoke = monotonic()
                yield ": still there\n\n"
            await anyio.sleep(PERIOD)


def _news(snapshot: Snapshot) -> dict[str, Any]:
    """What an event tells of a run."""
    run = snapshot.run
    last = run.rounds[-1] if run is not None and run.rounds else None
    return {
        "id": snapshot.id,
        "revision": snapshot.revision,
        "state": snapshot.state,
        "generation": None if last is None else last.generation,
        "best": None if run is None else run.best,
        "training_flops": None if last is None else last.training_flops,
        "seconds": None if last is None else last.seconds,
    }
