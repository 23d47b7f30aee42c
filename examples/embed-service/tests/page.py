"""Drives the service's page in headless Chromium: types sentences, reads the matrix, provokes every error.

    python3 page.py http://127.0.0.1:8080 [screenshots' folder]

Exit status 77: there is no Chromium on this machine. Needs nothing but Python's standard library: Chromium listens on a pipe.
"""

import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

SKIPPED = 77
SENTENCES = [
    "A cat sits on the mat.",
    "A kitten is lying on a rug.",
    "The stock market fell sharply on Tuesday.",
    "<img src=x onerror='document.title=\"injected\"'>",
]
# Of WCAG 2, for text of normal size.
CONTRAST = 4.5


class Browser:
    """A headless Chromium with one page, by the DevTools protocol."""

    def __init__(self, program, profile):
        to_browser, commands = os.pipe()
        messages, from_browser = os.pipe()
        # Chromium reads commands on descriptor 3 and writes messages on 4; high copies first, for either may be one of the two.
        high = [os.dup2(fd, 50 + i) for i, fd in enumerate((to_browser, from_browser))]

        def place():
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        arguments += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--window-size=1200,900", "about:blank"]
        self.process = subprocess.Popen(
            [program, *arguments], preexec_fn=place, pass_fds=(3, 4), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for fd in (to_browser, from_browser, *high):
            os.close(fd)
        self.commands, self.messages = commands, os.fdopen(messages, "rb")
        self.numbers, self.buffer, self.events = itertools.count(1), b"", []
        self.session = None
        page = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]

    def call(self, method, **params):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def read(self):
        while b"\0" not in self.buffer:
            data = self.messages.read1(1 << 20)
            assert data, "Chromium has ended"
            self.buffer += data
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression):
        end = time.monotonic() + 30
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"waited for {expression}"
            time.sleep(0.02)

    def type(self, text):
        self.evaluate("$('sentences').focus(), $('sentences').select()")
        self.call("Input.insertText", text=text)

    def click(self, id):
        box = self.evaluate(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])($('{id}').getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def press_ctrl_enter(self):
        for kind in ("rawKeyDown", "keyUp"):
            key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "modifiers": 2}
            self.call("Input.dispatchKeyEvent", type=kind, **key)

    def screenshot(self, folder, name):
        if folder:
            import base64

            data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
            (pathlib.Path(folder) / f"{name}.png").write_bytes(base64.b64decode(data))

    def close(self):
        self.process.kill()
        self.process.wait()


def expected(base, sentences):
    """The similarities by the service's own answer, without the page."""
    body = json.dumps({"inputs": sentences}).encode()
    request = urllib.request.Request(f"{base}/embed", body, {"content-type": "application/json"})
    rows = json.load(urllib.request.urlopen(request))["embeddings"]
    return [[sum(x * y for x, y in zip(a, b)) for b in rows] for a in rows]


def luminance(rgb):
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in rgb))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


CELLS = """[...$('matrix').rows].map((row) => [...row.cells].slice(1).map((cell) => {
  const rgb = (value) => value.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const style = getComputedStyle(cell);
  return [Number(cell.textContent), rgb(style.backgroundColor), rgb(style.color)];
}))"""


def check_matrix(browser, base):
    browser.type("\n".join(["", *SENTENCES, "   "]))
    browser.click("compare")
    browser.wait_for("$('status').textContent.startsWith('4 sentences')")
    cells, want = browser.evaluate(CELLS), expected(base, SENTENCES)
    assert [len(row) for row in cells] == [4] * 4, cells
    for i, j in itertools.product(range(4), repeat=2):
        value, back, ink = cells[i][j]
        assert abs(value - want[i][j]) <= 0.0051, (i, j, value, want[i][j])
        assert contrast(back, ink) >= CONTRAST, (back, ink)
    # What is more alike is darker.
    assert luminance(cells[0][0][1]) < luminance(cells[0][1][1]) < luminance(cells[0][2][1])
    heads = browser.evaluate("[...$('matrix').rows].map((row) => row.cells[0].title)")
    assert heads == SENTENCES, heads
    assert browser.evaluate("document.title") == "Sentence similarity", "a sentence is text, whatever it says"


def check_errors(browser):
    def refused(words):
        browser.wait_for("!$('error').hidden && !$('compare').disabled")
        said = browser.evaluate("$('error').textContent")
        assert words in said, said
        assert browser.evaluate("$('result').hidden"), "no matrix beside an error"

    browser.type("only one")
    browser.press_ctrl_enter()
    refused("at least two sentences")
    browser.type("\n".join(f"sentence {i}" for i in range(257)))
    browser.press_ctrl_enter()
    refused("257 sentences are more than 256 (--max-sentences) (413)")
    browser.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    browser.type("a\nb")
    browser.press_ctrl_enter()
    browser.wait_for("$('error').textContent.includes('does not answer')")
    browser.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    browser.press_ctrl_enter()
    browser.wait_for("!$('result').hidden && $('error').hidden")


def check_accessibility(browser):
    unnamed = browser.evaluate(
        "[...document.querySelectorAll('textarea, button')].filter((e) => !(e.labels[0]?.textContent || e.textContent)).length"
    )
    assert unnamed == 0, "every control has a name"
    assert browser.evaluate("document.documentElement.lang") == "en"
    scopes = browser.evaluate("[...document.querySelectorAll('#result th')].every((th) => th.scope)")
    assert scopes, "every head of the table says what it is the head of"


def main():
    base, folder = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    names = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    program = next(filter(None, map(shutil.which, filter(None, names))), None)
    if not program:
        print("skipped: there is no Chromium (Debian's package is chromium; the variable CHROMIUM may name one)")
        sys.exit(SKIPPED)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        try:
            for domain in ("Page", "Runtime", "Network"):
                browser.call(f"{domain}.enable")
            browser.call("Page.navigate", url=base)
            browser.wait_for("document.readyState === 'complete' && !!document.getElementById('compare')")
            browser.click("compare")
            browser.wait_for("!$('result').hidden")
            browser.screenshot(folder, "start")
            check_matrix(browser, base)
            browser.screenshot(folder, "matrix")
            check_accessibility(browser)
            check_errors(browser)
            browser.type("only one")
            browser.press_ctrl_enter()
            browser.wait_for("!$('error').hidden")
            browser.screenshot(folder, "error")
            urls = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
            assert urls and all(url.startswith((base, "data:")) for url in urls), urls
            thrown = [e for e in browser.events if e.get("method") == "Runtime.exceptionThrown"]
            assert not thrown, thrown
        finally:
            browser.close()
    print("the page: matrix, errors, accessibility and requests are as they should be")


main()
