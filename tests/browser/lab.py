"""JupyterLab on this machine, and what a person does in it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Locator, Page

ROOT = Path(__file__).parents[2]
ARTEFACTS = ROOT / "results-tests" / "screenshots"
"""Git ignores it; people look at it."""

CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",  # views in 3D are drawn by the processor
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCREEN = {"width": 1280, "height": 800}
START_S = 90
# without it JupyterLab asks whether to fetch news from the network
NO_NEWS = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}


@dataclass(frozen=True)
class Lab:
    """A running server."""

    url: str
    token: str

    def address(self, notebook: str) -> str:
        """Return the address of a notebook, relative to the server's folder."""
        return f"{self.url}lab/tree/{notebook}?token={self.token}"


@contextmanager
def serve(folder: Path, home: Path) -> Iterator[Lab]:
    """Serve ``folder`` on loopback behind a token; ``home`` keeps settings and the log."""
    token = secrets.token_hex(16)
    config = home / "config" / "labconfig"
    config.mkdir(parents=True)
    (config / "page_config.json").write_text(json.dumps(NO_NEWS))
    environment = {
        **os.environ,
        "HOME": str(home),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}",
        f"--LabApp.workspaces_dir={home / 'workspaces'}",
        f"--LabApp.user_settings_dir={home / 'settings'}",
    ]
    log = home / "jupyterlab.log"
    with open(log, "wb") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield Lab(_url(server, home / "runtime", log), token)
    finally:
        server.terminate()  # it ends its kernels
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _url(server: subprocess.Popen[bytes], runtime: Path, log: Path) -> str:
    until = time.monotonic() + START_S
    while time.monotonic() < until and server.poll() is None:
        for file in runtime.glob("jpserver-*.json"):
            try:
                return str(json.loads(file.read_text())["url"])
            except ValueError:  # being written
                pass
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text()[-2000:]}")


class Person:
    """Someone who works in a notebook."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        """What scripts threw in the browser."""
        page.on("dialog", lambda dialog: dialog.accept())  # leave unsaved changes
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, address: str) -> None:
        """Open a notebook, and wait until its kernel is there."""
        self.page.goto(address)
        self.page.locator(".jp-Notebook").first.wait_for(timeout=1000 * START_S)
        kernel = self.page.locator(".jp-Toolbar-kernelName", has_text="Python 3")
        question = self.page.locator('.jp-Dialog:has-text("Select Kernel") .jp-mod-accept')
        until = time.monotonic() + START_S
        while not kernel.count() and time.monotonic() < until:
            if question.count():  # now and then, on a slow machine: the kernels were not yet known
                question.first.click()
            self.page.wait_for_timeout(200)
        self.wait_until_idle()

    def wait_until_idle(self, seconds: float = 90) -> None:
        """Wait until the kernel has nothing to do."""
        idle = self.page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
        idle.first.wait_for(state="attached", timeout=1000 * seconds)

    def run_all(self, seconds: float) -> None:
        """Choose Run All Cells from the menu, and wait until the last cell has its number."""
        self.choose("Run", "Run All Cells")
        self.page.wait_for_timeout(300)
        dialog = self.page.locator(".jp-Dialog")
        assert not dialog.count(), dialog.first.inner_text()
        waiting = self.page.locator(".jp-InputPrompt", has_text="[*]")
        until = time.monotonic() + seconds
        self.wait_until_idle(seconds)
        while waiting.count() and time.monotonic() < until:
            self.page.wait_for_timeout(100)
        self.wait_until_idle(max(1.0, until - time.monotonic()))
        assert waiting.count() == 0, "cells are still waiting"

    def choose(self, menu: str, item: str) -> None:
        """Click an item of a menu."""
        self.page.locator(f'.lm-MenuBar-itemLabel:text-is("{menu}")').click()
        self.page.locator(f'.lm-Menu-itemLabel:text-is("{item}")').click()

    def save(self) -> None:
        """Save the notebook, and wait until nothing in it is unsaved."""
        self.page.keyboard.press("Escape")
        self.choose("File", "Save Notebook")
        unsaved = self.page.locator(".lm-TabBar-tab.jp-mod-current.jp-mod-dirty")
        unsaved.wait_for(state="detached", timeout=30_000)

    def find(self, selector: str, cell: str) -> Locator:
        """Scroll to the cell with this text, and wait until its output shows something.

        Cells far from the screen may not be in the page yet, so it scrolls until the cell is.
        """
        wanted = self.page.locator(".jp-CodeCell", has_text=cell).first
        self.page.locator(".jp-Notebook").first.hover(position={"x": 20, "y": 300})
        for step in [0] + 100 * [500] + 200 * [-500]:
            self.page.mouse.wheel(0, step)
            self.page.wait_for_timeout(50)
            if wanted.count():
                break
        wanted.scroll_into_view_if_needed()
        found = wanted.locator(selector).first
        found.wait_for(timeout=30_000)
        self._settle(found)
        return found

    def _settle(self, found: Locator) -> None:
        """Scroll until it stays where it is: cells above may still grow, and the page be empty."""
        before = None
        for _ in range(80):
            found.scroll_into_view_if_needed()
            box = found.bounding_box()
            if box is not None and box == before and 0 <= box["y"] < SCREEN["height"]:
                return
            before = box
            self.page.wait_for_timeout(120)

    def slide(self, control: Locator, key: str, times: int = 1) -> None:
        """Move an ipywidgets slider by keyboard."""
        handle = control.locator(".noUi-handle").first
        handle.focus()
        for _ in range(times):
            self.page.keyboard.press(key)

    def screenshot(self, name: str) -> Path:
        """Keep what the screen shows."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTEFACTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path


def problems(page: Page) -> list[str]:
    """Return what screen readers would stumble over, but for pages inside the page."""
    from axe_playwright_python.sync_playwright import Axe

    options = {"iframes": False, "resultTypes": ["violations"]}
    found = Axe().run(page, options=options).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]
