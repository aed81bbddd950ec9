"""How soon the page that answers in the browser answers, and how long each further picture takes.

    make browser && python -m benchmarks.browser > benchmarks/results/browser.md          Chromium; nothing else running

Each visit is a new process of the browser, which has the page from an earlier visit; the medians of VISITS.
"""

import argparse
import functools
import http.server
import shutil
import statistics
import tempfile
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

from benchmarks.heading import heading
from detector.errors import UserError, run

VISITS = 5
ASK = """async () => {
    const { engine } = await import("./static/engine.js");
    const file = new File([await (await fetch("static/examples/coffee.jpg")).blob()], "coffee.jpg");
    const times = [];
    for (const question of ["predict", "predict", "explain"]) {
        await engine[question](file);
        times.push(performance.now() / 1000); // since the page was asked for
    }
    return times;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=Path("build/browser"), help="(default: %(default)s)")
    folder = parser.parse_args().page
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not (folder / "index.html").is_file() or chromium is None:
        raise UserError(f"this takes Chromium and {folder}/index.html: `make browser`")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as host,
        tempfile.TemporaryDirectory() as profile,
        sync_playwright() as playwright,
    ):
        http.server.SimpleHTTPRequestHandler.log_message = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=host.serve_forever, daemon=True).start()
        visits = []
        for _ in range(VISITS + 1):
            browser = playwright.chromium.launch_persistent_context(
                profile, executable_path=chromium, args=["--no-sandbox"]
            )
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{host.server_port}/")
            page.evaluate("navigator.serviceWorker.ready.then(() => true)")
            visits.append(page.evaluate(ASK))
            browser.close()
        host.shutdown()
    first, again, explained = (statistics.median(times) for times in zip(*visits[1:], strict=True))
    print(heading("The page in the browser", versions=("playwright",)))
    print(f"First answer {first:.2f} s after the page was asked for; on the first visit {visits[0][0]:.2f} s.")
    print(f"Another picture {again - first:.3f} s, an occlusion map {explained - again:.2f} s.")


if __name__ == "__main__":
    run(main)
