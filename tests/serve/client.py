"""A browser without a screen or a network: it calls the application."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

TOKEN = "a-token-of-tests"
HOST = "127.0.0.1:8420"
KNOWN = {"host": HOST, "cookie": f"graftwork-8420={TOKEN}"}
OWN = {**KNOWN, "origin": f"http://{HOST}"}


@dataclass
class Answer:
    """What came back."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    sent: bytes = b""

    @property
    def text(self) -> str:
        plain = gzip.decompress(self.sent) if self.headers.get("content-encoding") == "gzip" else self.sent
        return plain.decode()


def scope(address: str, method: str, headers: dict[str, str]) -> dict[str, Any]:
    path, _, query = address.partition("?")
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": raw,
        "server": ("127.0.0.1", 8420),
        "client": ("127.0.0.1", 50000),
        "root_path": "",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }


async def ask(app: Any, address: str, method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
    """One request and its whole answer."""
    answer, requests = Answer(), [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if not requests:
            await asyncio.sleep(3600)
        return requests.pop()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            answer.sent += message.get("body", b"")

    await app(scope(address, method, KNOWN if headers is None else headers), receive, send)
    return answer


def get(app: Any, address: str, method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
    """`ask` outside of a loop."""
    return asyncio.run(ask(app, address, method, headers))


@asynccontextmanager
async def listening(app: Any, address: str, *, stuck: bool = False) -> AsyncIterator["asyncio.Queue[Any]"]:
    """A stream of events that is read on; a ``stuck`` reader takes nothing after the head."""
    messages: asyncio.Queue[Any] = asyncio.Queue()
    gone = asyncio.Event()

    async def receive() -> Any:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        messages.put_nowait(message)
        if stuck and message["type"] == "http.response.body":
            await asyncio.sleep(3600)

    task = asyncio.create_task(app(scope(address, "GET", KNOWN), receive, send))
    try:
        yield messages
    finally:
        gone.set()
        await asyncio.wait([task], timeout=5)
        assert isinstance(task.exception(), TimeoutError) if stuck else task.exception() is None
