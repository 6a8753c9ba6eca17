"""A headless Chromium, driven over the pipe of its DevTools: no driver, no package, no port."""

import base64
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_WAIT = 30.0


class Browser:
    """One page of a Chromium with a profile of its own, that is gone at the end.

    Args:
        program: Name or path of Chromium.
    """

    def __init__(self, program: str = "chromium") -> None:
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        (read, out), (into, write) = os.pipe(), os.pipe()
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        words += ["--remote-debugging-pipe", f"--user-data-dir={self._profile}", "--hide-scrollbars", "about:blank"]
        # Chromium reads from descriptor 3 and writes to 4.
        script = f'exec 8<&{into} 9>&{out}; exec 3<&8 4>&9; exec "$0" "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", script, program, *words], pass_fds=(into, out), stderr=subprocess.DEVNULL
        )
        os.close(into)
        os.close(out)
        self._write, self._read = os.fdopen(write, "wb"), os.fdopen(read, "rb")
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self.problems: list[str] = []
        self.transferred = 0
        self._number, self._session = 0, ""
        threading.Thread(target=self._listen, daemon=True).start()
        (page,) = [one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(20)
        shutil.rmtree(self._profile, ignore_errors=True)

    def _listen(self) -> None:
        rest = b""
        while piece := os.read(self._read.fileno(), 1 << 20):
            *messages, rest = (rest + piece).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._answers[message["id"]].put(message)
                else:
                    self._note(message["method"], message.get("params", {}))

    def _note(self, method: str, found: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(f"exception: {found['exceptionDetails'].get('exception', {}).get('description')}")
        elif method == "Log.entryAdded" and found["entry"]["level"] == "error":
            self.problems.append(f"log: {found['entry']['text']} {found['entry'].get('url', '')}")
        elif method == "Network.loadingFinished":
            self.transferred += int(found["encodedDataLength"])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of DevTools and wait for its answer."""
        self._number += 1
        answer = self._answers[self._number] = queue.Queue()
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        found = answer.get(timeout=120)
        if "error" in found:
            raise RuntimeError(f"{method}: {found['error']}")
        return dict(found["result"])

    def run(self, script: str) -> Any:
        """Run JavaScript in the page; what it gives, as plain data. Promises are waited for."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script[:80]}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def open(self, address: str) -> None:
        """Go to an address and wait until it is loaded."""
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def until(self, condition: str, *, seconds: float = _WAIT) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(
                    f"not within {seconds} s: {condition}; the page says: {self.run('document.body.innerText')[:500]}"
                )
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press a key where the focus is."""
        codes = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "ArrowDown": 40}
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
                **(text if kind == "keyDown" else {}),
            )

    def screen(self, width: int, height: int, *, dark: bool = False) -> None:
        """Take another screen: size in CSS pixels, a phone below 700, and light or dark."""
        phone = width < 700
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Save what the screen shows, or the whole page, as PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
