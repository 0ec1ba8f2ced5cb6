"""Opens HTML files in headless Chromium and tells what is seen, as JSON on standard output.

usage: page_check.py CHROMIUM [--shots=FOLDER] FILE ...

Each FILE is opened at the widths of a phone and of a desktop, in light and in dark. For each view the facts are listed that a test
asserts on; with --shots a picture of the whole page is written into FOLDER, which takes longer than all the rest. Chromium is driven by its DevTools protocol
(https://chromedevtools.github.io/devtools-protocol/) over two pipes, so nothing but the standard library is needed.
"""

import base64
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VIEWS = [(w, h, scheme) for w, h in [(360, 740), (800, 1000), (1280, 800)] for scheme in ["light", "dark"]]
PATIENCE = 30  # seconds for any one answer

FACTS = r"""(() => {
  const shown = (e) => { const b = e.getBoundingClientRect(); return b.width > 0 && b.height > 0; };
  const texts = (svg) => [...svg.querySelectorAll("text")].map((e) => [e.textContent, e.getBoundingClientRect()]);
  const overlaps = [], outside = [];
  for (const svg of [...document.querySelectorAll("svg[role=img]")].filter(shown)) {
    const found = texts(svg), box = svg.getBoundingClientRect();
    const name = svg.querySelector("title").textContent;
    found.forEach(([a, p], i) => {
      // A pixel of slack: boxes of text are higher and wider than its glyphs.
      if (p.left < box.left - 1 || p.right > box.right + 1) outside.push(`${name}: ${a}`);
      for (const [b, q] of found.slice(i + 1)) {
        const across = Math.min(p.right, q.right) - Math.max(p.left, q.left);
        const down = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
        if (across > 1 && down > 3) overlaps.push(`${name}: ${a} | ${b}`);
      }
    });
  }
  const verdict = document.querySelector("#verdict-word");
  const style = verdict ? getComputedStyle(verdict) : null;
  return JSON.stringify({
    title: document.title,
    width: document.documentElement.scrollWidth,
    height: document.documentElement.scrollHeight,
    images: [...document.images].length,
    undecoded: [...document.images].filter((i) => !(i.complete && i.naturalWidth > 0)).length,
    images_without_alt: [...document.images].filter((i) => !i.alt).length,
    charts: [...document.querySelectorAll("figure.chart")].map((f) => ({
      id: f.id,
      drawings: [...f.querySelectorAll("svg[role=img]")].filter(shown).length,
      smallest: Math.min(...[...f.querySelectorAll("svg[role=img] text")].filter(shown)
        .map((t) => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a)),
      says: f.querySelector(".nothing")?.textContent ?? "",
    })),
    overlaps, outside,
    verdict: verdict ? verdict.textContent.trim() : "",
    verdict_bottom: verdict ? verdict.getBoundingClientRect().bottom : -1,
    verdict_colour: style ? style.color : "",
    ground: getComputedStyle(document.body).backgroundColor,
    banner: !!document.querySelector("#not-checked") && shown(document.querySelector("#not-checked")),
    headings: [...document.querySelectorAll("h1,h2,h3,h4,h5,h6")].map((h) => Number(h.tagName[1])),
    ids_twice: [...document.querySelectorAll("[id]")].map((e) => e.id).filter((id, i, all) => all.indexOf(id) !== i),
  });
})()"""

# Sorts every sortable table by its last column, then tries what the page's policy has to refuse.
SORT = r"""(() => {
  const buttons = [...document.querySelectorAll("table.sortable")].map((t) => t.querySelectorAll("thead button")[1]);
  const clicked = buttons.filter((b) => b);
  clicked.forEach((b) => b.click());
  const sorted = clicked.map((b) => {
    const keys = [...b.closest("table").tBodies[0].rows].map((r) => Number(r.cells[1].dataset.key ?? -Infinity));
    return keys.every((k, i) => i === 0 || keys[i - 1] >= k);
  });
  return JSON.stringify(sorted);
})()"""

REFUSED = r"""new Promise((resolve) => {
  const refused = new Set();
  document.addEventListener("securitypolicyviolation", (e) => refused.add(e.effectiveDirective));
  new Image().src = "http://127.0.0.1:9/image.png";
  const style = document.createElement("style");
  style.textContent = "body { color: red }";
  document.head.append(style);
  const script = document.createElement("script");
  script.textContent = "document.title = 'injected'";
  document.head.append(script);
  fetch("http://127.0.0.1:9/").catch(() => {});
  setTimeout(() => resolve(JSON.stringify([...refused].sort())), 100);
})"""


class Browser:
    """Chromium with a pipe for commands (its descriptor 3) and one for answers and events (its descriptor 4)."""

    def __init__(self, program, profile):
        command_read, self.commands = os.pipe()
        self.answers, answer_write = os.pipe()

        def arrange():
            # Away from 3 and 4 first, in case one of the pipes has these numbers already.
            a, b = os.dup2(command_read, 103), os.dup2(answer_write, 104)
            os.dup2(a, 3)
            os.dup2(b, 4)
            os.close(a)
            os.close(b)

        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage",
                 "--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-pipe",
                 f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen([program, *flags], preexec_fn=arrange, close_fds=False,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        os.close(command_read)
        os.close(answer_write)
        os.set_blocking(self.answers, False)
        self.buffer = b""
        self.number = 0
        self.events = []

    def message(self):
        """The next answer or event."""
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.buffer:
            try:
                part = os.read(self.answers, 1 << 20)
                if not part:
                    raise SystemExit("chromium ended:\n" + self.process.stderr.read().decode(errors="replace")[-2000:])
                self.buffer += part
            except BlockingIOError:
                if time.monotonic() > end:
                    raise SystemExit(f"chromium said nothing for {PATIENCE} s") from None
                time.sleep(0.002)
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, session=None, **params):
        """Sends a command and waits for its answer; events on the way are kept."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": params}
        if session:
            command["sessionId"] = session
        os.write(self.commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self.message()
            if message.get("id") == self.number:
                if "error" in message:
                    raise SystemExit(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def wait(self, method):
        """Waits for an event."""
        while not any(e.get("method") == method for e in self.events):
            self.events.append(self.message())

    def close(self):
        self.call("Browser.close")
        self.process.wait(PATIENCE)
        self.process.stderr.close()


def evaluate(browser, session, expression):
    result = browser.call("Runtime.evaluate", session, expression=expression, awaitPromise=True, returnByValue=True)
    if "exceptionDetails" in result:
        raise SystemExit(f"the page raised: {result['exceptionDetails']}")
    return json.loads(result["result"]["value"])


def complaints(events):
    """What the page logged, and what it asked the network for."""
    errors, requests = [], []
    for e in events:
        params = e.get("params", {})
        if e.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            errors.append(params["entry"]["text"])
        elif e.get("method") == "Runtime.exceptionThrown":
            errors.append(params["exceptionDetails"]["text"])
        elif e.get("method") == "Runtime.consoleAPICalled":
            errors.append(f"console.{params['type']}")
        elif e.get("method") == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if params.get("type") != "Document" and not url.startswith("data:"):
                requests.append(url)
    return errors, requests


def view(browser, session, url, width, height, scheme):
    browser.events.clear()
    browser.call("Emulation.setDeviceMetricsOverride", session, width=width, height=height, deviceScaleFactor=1,
                 mobile=width < 500)
    browser.call("Emulation.setEmulatedMedia", session, features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.call("Page.navigate", session, url=url)
    browser.wait("Page.loadEventFired")
    facts = evaluate(browser, session, FACTS)
    facts["errors"], facts["requests"] = complaints(browser.events)
    return facts


def main():
    program, *files = sys.argv[1:]
    shots = files.pop(0).removeprefix("--shots=") if files[0].startswith("--shots=") else None
    found = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            browser.call(f"{domain}.enable", session)
        for file in map(Path, files):
            views = []
            for width, height, scheme in VIEWS:
                facts = view(browser, session, file.resolve().as_uri(), width, height, scheme)
                if shots:
                    picture = browser.call("Page.captureScreenshot", session, captureBeyondViewport=True)
                    shot = Path(shots) / f"{file.stem}-{width}-{scheme}.png"
                    shot.write_bytes(base64.b64decode(picture["data"]))
                views.append({"width": width, "height": height, "scheme": scheme, "facts": facts})
            sorted_tables = evaluate(browser, session, SORT)
            refused = evaluate(browser, session, REFUSED)
            title = evaluate(browser, session, "JSON.stringify(document.title)")
            found[file.stem] = {"views": views, "sorted": sorted_tables, "refused": refused, "title_after": title}
        browser.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
