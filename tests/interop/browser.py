# SPDX-License-Identifier: MIT
"""Chromium without a window, spoken to by its DevTools protocol over a pair of pipes."""
import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

from tap import Fault

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")


def find():
    """The path of a browser, or None."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    return None


class Browser:
    """One page.  What it asked for, and what it complained of, is kept."""

    def __init__(self, path, seconds=60):
        self.seconds = seconds
        self.buffer = b""
        self.last = 0
        self.requests = []   # addresses, in order
        self.failures = []   # answers that were no success, requests that failed
        self.complaints = [] # of the console, and exceptions
        self.folder = tempfile.mkdtemp(prefix="browser.", dir=".")
        their_in, our_out = os.pipe()
        our_in, their_out = os.pipe()
        self.to, self.of = our_out, our_in
        command = [
            path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--disable-extensions", "--no-proxy-server", "--hide-scrollbars",
            "--force-color-profile=srgb", "--remote-debugging-pipe",
            f"--user-data-dir={os.path.abspath(self.folder)}", "about:blank",
        ]
        # The browser has the pipes as descriptors 3 and 4.
        high = [os.dup2(fd, number) for fd, number in ((their_in, 103), (their_out, 104))]
        script = 'exec "$@" 3<&103 4>&104 103<&- 104>&-'
        self.log = open(os.path.join(self.folder, "log"), "wb")
        self.process = subprocess.Popen(["bash", "-c", script, "bash"] + command, pass_fds=high,
                                        stdout=self.log, stderr=self.log,
                                        env=dict(os.environ, HOME=os.path.abspath(self.folder)))
        for fd in [their_in, their_out] + high:
            os.close(fd)
        self.session = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(domain + ".enable")

    def close(self):
        os.close(self.to)
        os.close(self.of)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def receive(self, end):
        """The next message; None at the time `end`."""
        while b"\0" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.of], [], [], left)[0]:
                return None
            part = os.read(self.of, 1 << 20)
            if not part:
                raise Fault("the browser has ended")
            self.buffer += part
        line, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(line)

    def note(self, message):
        """Something that nobody asked for."""
        method, about = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Network.responseReceived" and about["response"]["status"] not in (0, 200):
            self.failures.append(f"{about['response']['status']} {about['response']['url']}")
        elif method == "Network.loadingFailed" and not about.get("canceled"):
            self.failures.append(f"{about['errorText']} {about.get('blockedReason', '')}")
        elif method == "Log.entryAdded":
            self.complaints.append(about["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.complaints.append(details.get("exception", details).get("description", "exception"))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(f"console.{about['type']}: {about['args']}")

    def ask(self, method, **params):
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + self.seconds
        while answer := self.receive(end):
            if answer.get("id") != self.last:
                self.note(answer)
            elif "error" in answer:
                raise Fault(f"{method}: {answer['error']}")
            else:
                return answer["result"]
        raise Fault(f"{method}: the browser does not answer")

    def run(self, expression):
        """The value of a JavaScript expression."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True,
                          awaitPromise=True)
        if "exceptionDetails" in answer:
            raise Fault(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_until(self, expression):
        """Until a JavaScript expression is true."""
        end = time.monotonic() + self.seconds
        while not (value := self.run(expression)):
            if time.monotonic() > end:
                raise Fault(f"still not so after {self.seconds} s: {expression}")
            time.sleep(0.1)
        return value

    def open(self, url):
        self.ask("Page.navigate", url=url)
        self.wait_until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def look(self, width, height, scheme="light", ratio=1):
        """A window of that size and colour scheme."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height,
                 deviceScaleFactor=ratio, mobile=False)
        self.ask("Emulation.setEmulatedMedia",
                 features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path):
        """All of the page, as PNG."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        image = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True,
                         clip={"x": 0, "y": 0, "width": size["width"], "height": size["height"],
                               "scale": 1})
        with open(path, "wb") as file:
            file.write(base64.b64decode(image["data"]))
