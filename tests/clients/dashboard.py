#!/usr/bin/env python3
"""Looks at the dashboard with a real browser: dashboard.py URL FOLDER COMMAND...

COMMAND makes the gateway refuse a request whose text the page must then show, without being loaded again: a login as
`<img src=x>`. Screenshots, wide and narrow, light and dark, are left in FOLDER. Speaks the DevTools protocol over pipes
(--remote-debugging-pipe), which needs nothing but Python.
"""

import base64
import json
import os
import select
import subprocess
import sys
import tempfile
import time

PATIENCE = 20
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    def __init__(self, home):
        to_read, self.to_write = os.pipe()
        self.from_read, to_answer = os.pipe()
        program = next(path for path in map(which, BROWSERS) if path)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                     "--remote-debugging-pipe", f"--user-data-dir={home}", "about:blank"]
        # The browser reads from descriptor 3 and writes to 4.
        script = f'exec "$@" 3<&{to_read} 4>&{to_answer}'
        self.process = subprocess.Popen(["bash", "-c", script, "bash", program, *arguments],
                                        pass_fds=(to_read, to_answer), stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_answer)
        self.number, self.buffer, self.session = 0, b"", None
        self.errors, self.urls, self.loaded = [], [], False

    def open(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")

    def call(self, method, **parameters):
        self.number += 1
        number, message = self.number, {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read(PATIENCE)
            if answer is None:
                fail(f"the browser does not answer {method}")
            if answer.get("id") == number:
                if "error" in answer:
                    fail(f"{method}: {answer['error']}")
                return answer["result"]

    def read(self, seconds):
        """Returns the next message, of which events are noted, or None after a while."""
        end = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.from_read], [], [], max(0, end - time.monotonic()))
            if not ready:
                return None
            piece = os.read(self.from_read, 1 << 16)
            if not piece:
                fail("the browser has ended")
            self.buffer += piece
        text, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(text)
        self.note(message.get("method"), message.get("params", {}))
        return message

    def note(self, event, told):
        if event == "Page.loadEventFired":
            self.loaded = True
        elif event == "Network.requestWillBeSent":
            self.urls.append(told["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(told["exceptionDetails"].get("text", "exception"))
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.errors.append(str(told["args"]))
        elif event == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(told["entry"]["text"] + " " + told["entry"].get("url", ""))

    def go(self, url):
        self.loaded = False
        self.call("Page.navigate", url=url)
        self.until("the page to load", lambda: self.loaded)

    def value(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            fail(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def until(self, what, is_so):
        end = time.monotonic() + PATIENCE
        while not is_so():
            if time.monotonic() > end:
                fail(f"waited in vain for {what}")
            self.read(0.1)

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **text)

    def screenshot(self, path, width, scheme):
        narrow = width < 600
        # The picture of the whole page would lack the width of a scrollbar.
        self.call("Emulation.setScrollbarsHidden", hidden=True)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=narrow)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        overflow = self.value("document.documentElement.scrollWidth") - width
        if overflow > 0:
            fail(f"at {width} pixels the page is {overflow} too wide")
        self.rows_are_low(width)
        image = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(image))

    def rows_are_low(self, width):
        """A request's id stays on one line, and no column is so narrow that its text runs down the page."""
        ids = self.value("Math.max(...[...document.querySelectorAll('#problems code')].map(code => code.offsetHeight))")
        if ids > 30:
            fail(f"at {width} pixels a request's id is broken: {ids} pixels high")
        row = self.value("Math.max(...[...document.querySelectorAll('#problems tr')].map(row => row.offsetHeight))")
        if row > 260:
            fail(f"at {width} pixels a row of the problems is {row} pixels high")

    def close(self):
        self.process.kill()
        self.process.wait()


def which(program):
    return next((path for path in (os.path.join(folder, program) for folder in os.environ["PATH"].split(":"))
                 if os.access(path, os.X_OK)), None)


def fail(text):
    sys.exit(text)


def text_of(section):
    return f"document.getElementById('{section}').innerText"


def has_all_sections(browser):
    for section in ("figures", "charts", "transfers", "upstreams", "problems", "cache", "certificates", "configuration"):
        if not browser.value(text_of(section)).strip():
            fail(f"the section {section} is empty")
    lines = browser.value("document.querySelectorAll('#charts svg path.line').length")
    if lines < 3:
        fail(f"the charts have {lines} lines")


def is_brought_up_to_date(browser, command):
    browser.until("the page to be live", lambda: browser.value("document.getElementById('live').innerText") == "live")
    if "<img src=x>" in browser.value(text_of("problems")):
        fail("the page has the problem before it happened")
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    browser.until("the new problem", lambda: "<img src=x>" in browser.value(text_of("problems")))
    if browser.value("document.images.length"):
        fail("a client's name became markup")


def works_with_the_keyboard(browser):
    browser.press("/")
    if browser.value("document.activeElement.id") != "q":
        fail("/ does not lead to the search")
    browser.press("Escape")
    if browser.value("document.activeElement.id") == "q":
        fail("Escape does not lead out of the search")


def main():
    url, folder, command = sys.argv[1], sys.argv[2], sys.argv[3:]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        browser = Browser(home)
        try:
            browser.open()
            browser.go(url)
            has_all_sections(browser)
            is_brought_up_to_date(browser, command)
            works_with_the_keyboard(browser)
            for width in (1280, 390):
                for scheme in ("light", "dark"):
                    browser.screenshot(os.path.join(folder, f"dashboard-{width}-{scheme}.png"), width, scheme)
            foreign = [asked for asked in browser.urls if not asked.startswith((url, "about:", "data:"))]
            if foreign or browser.errors:
                fail(f"foreign: {foreign}, errors: {browser.errors}")
        finally:
            browser.close()


main()
