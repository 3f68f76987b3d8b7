"""A headless Chromium, spoken to through the pipe of its own protocol."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)


@dataclass
class Visit:
    """What happened while a page was opened."""

    requested: list[str] = field(default_factory=list)  # addresses
    complaints: list[str] = field(default_factory=list)  # errors and warnings
    answers: list[Any] = field(default_factory=list)  # of the expressions evaluated


def visit(address: str, expressions: list[str], profile: Path) -> Visit:
    """Open a page, note what it fetches and complains of, evaluate expressions."""
    to_read, to_write = os.pipe(), os.pipe()
    arguments = [
        CHROMIUM or "", "--headless=new", "--no-sandbox", "--disable-gpu",
        "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run",
        "--disable-background-networking", "--window-size=1200,900", "about:blank",
    ]  # fmt: skip
    # the protocol is on the descriptors 3 and 4
    shell = f'exec "$@" 3<&{to_write[0]} 4>&{to_read[1]}'
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", *arguments],
        pass_fds=(to_write[0], to_read[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_write[0])
    os.close(to_read[1])
    with os.fdopen(to_write[1], "wb") as out, os.fdopen(to_read[0], "rb") as back:
        talk = _Talk(out, back)
        try:
            return _visit(talk, address, expressions)
        finally:
            talk.ask("Browser.close")
            process.wait(timeout=60)


def _visit(talk: "_Talk", address: str, expressions: list[str]) -> Visit:
    target = talk.ask("Target.createTarget", url="about:blank")["targetId"]
    attached = talk.ask("Target.attachToTarget", targetId=target, flatten=True)
    talk.session = attached["sessionId"]
    for room in ("Page", "Network", "Log", "Runtime"):
        talk.ask(f"{room}.enable")
    talk.ask("Page.navigate", url=address)
    talk.wait_for("Page.loadEventFired")
    found = Visit()
    for expression in expressions:
        answer = talk.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True,
            awaitPromise=True,
        )  # fmt: skip
        found.answers.append(answer["result"].get("value"))
    for method, what in talk.events:
        if method == "Network.requestWillBeSent":
            found.requested.append(what["request"]["url"])
        elif method == "Log.entryAdded":
            found.complaints.append(what["entry"]["text"])
        elif method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            found.complaints.append(json.dumps(what))
    return found


class _Talk:
    """Questions and answers, and the events between them."""

    def __init__(self, out: Any, back: Any):
        self.session: str | None = None
        self.events: list[tuple[str, Any]] = []
        self._out, self._back, self._n = out, back, 0
        self._rest = b""

    def ask(self, method: str, **parameters: Any) -> Any:
        self._n += 1
        message = {"id": self._n, "method": method, "params": parameters}
        if self.session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self.session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while True:
            reply = self._next()
            if reply.get("id") == self._n:
                assert "error" not in reply, reply
                return reply["result"]

    def wait_for(self, method: str) -> None:
        while method not in [name for name, _ in self.events]:
            self._next()

    def _next(self) -> Any:
        while b"\0" not in self._rest:
            more = os.read(self._back.fileno(), 1 << 16)
            assert more, "the browser has gone"
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self.events.append((message["method"], message.get("params")))
        return message
