"""A headless Chromium, driven over a pipe by its DevTools protocol with nothing but the standard library."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

import numpy as np

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]
PATIENCE = 60  # seconds for one answer


def find():
    """The path of a browser, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page of a browser of its own; use it in a ``with``."""

    def __init__(self, path, width=1280, height=1000):
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        commands, self._out = os.pipe()
        self._in, answers = os.pipe()
        # The browser reads 3 and writes 4: both ends move out of the way of these first (sh takes one digit only).
        given = [commands, answers]
        commands, answers = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in given)
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "bash", path, *FLAGS, f"--user-data-dir={self._profile}"],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (*given, commands, answers):  # so that the browser's end is seen here
            os.close(end)
        self._number, self._buffer, self._session, self._scripts, self.events = 0, b"", None, True, []
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
            self.size(width, height)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._session = None
        with contextlib.suppress(OSError, AssertionError):
            self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for end in (self._in, self._out):
            with contextlib.suppress(OSError):
                os.close(end)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method, **parameters):
        """Call a method of the protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def size(self, width, height, scale=1):
        """The window in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)

    def theme(self, name):
        """The reader's preference, "light" or "dark"."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def scripts(self, allowed):
        """Allow or forbid scripts, from the next page on."""
        self.call("Emulation.setScriptExecutionDisabled", value=not allowed)
        self._scripts = allowed

    def open(self, url):
        """Load a page and wait until it is complete; return the seconds it took."""
        self.events.clear()
        started = time.perf_counter()
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        return time.perf_counter() - started

    def js(self, expression):
        """The value of a JavaScript expression, a promise's result included."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition, seconds=30):
        """Wait until a JavaScript expression is true."""
        until = time.monotonic() + seconds
        while not self.js(condition):
            assert time.monotonic() < until, f"{condition} is not true after {seconds} s"
            time.sleep(0.02)

    def type(self, text):
        """Press the keys of a text, where the focus is."""
        for key in text:
            for kind in ("keyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key=key, **({"text": key} if kind == "keyDown" else {}))

    def click(self, selector):
        """Click on the middle of the first element of a selector, as a mouse does."""
        find = f"document.querySelector({json.dumps(selector)})"
        self.js(f"{find}.scrollIntoView({{block: 'center'}})")
        box = self.js(
            f"(() => {{ const b = {find}.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def screenshot(self, path=None):
        """A screenshot of the window, (h, w, 3) uint8, once everything in it is drawn."""
        from PIL import Image  # here, since every test loads this module, also on a machine for GPUs that has no Pillow

        if self._scripts:
            self.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 100))))")
        else:
            time.sleep(0.5)
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def problems(self):
        """Complaints of pages since `open`: errors of the script, violations of the policy, requests to a network."""
        self.js("1")  # all earlier messages have been read
        found = []
        for event in self.events:
            name, facts = event.get("method"), event.get("params", {})
            if name == "Runtime.exceptionThrown":
                found.append(str(facts["exceptionDetails"]))
            elif name == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
                found.append(facts["entry"]["text"])
            elif name == "Network.requestWillBeSent":
                url = facts["request"]["url"]
                found += [url] if not url.startswith(("file:", "data:", "blob:", "about:")) else []
        return found

    def _receive(self):
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0, until - time.monotonic()))
            assert ready, f"the browser has not answered for {PATIENCE} s"
            data = os.read(self._in, 1 << 20)
            assert data, "the browser has ended"
            self._buffer += data
        answer, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(answer)
