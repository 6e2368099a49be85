"""A real Chromium and real Streamlit servers for the tests in this folder.

`open_app("script.py")` starts `streamlit run` on a free port and returns its address; `chromium_page` is a fresh page
that remembers console errors and requests that left localhost. Without Chromium the tests skip, or fail with
REQUIRE_BROWSER=1.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START_SECONDS = 90
PATIENCE_MS = 60_000  # for a loaded machine; nothing waits longer than it must
# What Chromium says in its console without anything being wrong.
HARMLESS = ("Download the React DevTools", "ResizeObserver loop", "preloaded using link preload")


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium: `CHROMIUM`, the system's, or the one Playwright has downloaded."""
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError:
        _no_browser("playwright is not installed")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
            )
        except Error as error:
            _no_browser(f"no Chromium starts here ({str(error).splitlines()[0]})")
        yield browser
        browser.close()


def _no_browser(reason: str):
    message = f"{reason}; install it with `playwright install chromium` or your system's package manager"
    if os.environ.get("REQUIRE_BROWSER") == "1":
        pytest.fail(f"REQUIRE_BROWSER=1, but {message}", pytrace=False)
    pytest.skip(message)


@pytest.fixture
def new_page(chromium):
    """A function that opens a page in a visitor's own context: `new_page(width=390, color_scheme="dark", …)`.

    Keyword arguments beyond width and height go to Playwright's `new_context`. The page has two lists more than
    Playwright's: `console_errors` and `foreign_requests`.
    """
    yield from _pages(chromium)


@pytest.fixture(scope="module")
def new_module_page(chromium):
    """The same, for a page that the tests of a module share: what it shows takes long to make."""
    yield from _pages(chromium)


def _pages(chromium):
    contexts = []

    def open_page(width: int = 1440, height: int = 1000, **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.console_errors, page.foreign_requests = [], []
        page.on("console", lambda message: _note_console(page, message))
        page.on("pageerror", lambda error: page.console_errors.append(str(error)))
        context.on("request", lambda request: _note_request(page, request.url))
        return page

    yield open_page
    for context in contexts:
        context.close()


def _note_console(page, message) -> None:
    if message.type == "error" and not any(text in message.text for text in HARMLESS):
        page.console_errors.append(message.text)


def _note_request(page, url: str) -> None:
    parts = urlparse(url)
    if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in ("localhost", "127.0.0.1"):
        page.foreign_requests.append(url)


@pytest.fixture
def chromium_page(new_page):
    """A desktop page, 1440×1000, light."""
    return new_page(color_scheme="light")


@pytest.fixture(scope="session")
def open_app(tmp_path_factory):
    """A function that serves a Streamlit script, relative to the repository, and returns its address.

    The same script with the same environment is served once a session. Options: `env`, variables added to the server's
    environment; `fresh=True`, a server of its own.
    """
    servers: dict[tuple, tuple[subprocess.Popen, str]] = {}

    def serve(script: str | Path, env: dict[str, str] | None = None, fresh: bool = False) -> str:
        key = (str(script), tuple(sorted((env or {}).items())), len(servers) if fresh else None)
        if key not in servers or servers[key][0].poll() is not None:
            log = tmp_path_factory.mktemp("server") / "log.txt"
            servers[key] = _start(script, env or {}, log)
        return servers[key][1]

    yield serve
    for process, _ in servers.values():
        process.terminate()
    for process, _ in servers.values():
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _start(script: str | Path, env: dict[str, str], log: Path) -> tuple[subprocess.Popen, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / script), "--server.port", str(port)]
    command += ["--server.address", "localhost", "--server.headless", "true", "--browser.gatherUsageStats", "false"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | env
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
    url = f"http://localhost:{port}"
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2) as answer:
                if answer.status == 200:
                    return process, url
        except OSError:
            time.sleep(0.1)
    process.kill()
    raise RuntimeError(f"streamlit run {script} did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def settled():
    """A function that waits until a page is connected and its script has run: `settled(page)`."""

    def wait(page, timeout: float = PATIENCE_MS) -> None:
        page.wait_for_selector('[data-testid="stApp"][data-test-connection-state="CONNECTED"]', timeout=timeout)
        page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]', timeout=timeout)

    return wait


@pytest.fixture(scope="session")
def serious_violations():
    """A function that lists what axe finds serious or critical on a page, one line each."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

    def run(page, context: str | None = None) -> list[str]:
        found = axe.Axe().run(page, context=context) if context else axe.Axe().run(page)
        return [
            f"{violation['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
            for violation in found.response["violations"]
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]

    return run
