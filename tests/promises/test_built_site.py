"""The site as a browser gets it: built strictly, then read page by page. `make test-all` only."""

import functools
import os
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.browser import violations

pytest_plugins = ["tests.support.browser"]
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
READ = ("", "tutorials/first-run/", "explanation/how-it-works/", "results/summary/",
        "gallery/", "gallery/05_gridworld/",
        "notebooks/1_quickstart/", "reference/optim/", "reference/settings/",
        "how-to/use-the-taste/", "new/")  # fmt: skip
"""Pages that axe reads: one of each kind."""
WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


class Quiet(SimpleHTTPRequestHandler):
    """Serve files without a line for each request."""

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; the generator warned of nothing but its own future."""
    folder = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(line, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    serving = functools.partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), serving) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def pages(site: Path) -> list[str]:
    """The path of every page below the site's address."""
    found = sorted(site.rglob("index.html"))
    return [f"{each.parent.relative_to(site).as_posix()}/".removeprefix("./") for each in found]


def test_pages_stay_on_their_host_and_fit_a_phone(chromium, site, address):
    asked: list[str] = []
    wide = {}
    failed = []
    view = chromium.new_page(viewport={"width": 320, "height": 640})
    view.on("request", lambda request: asked.append(request.url))
    view.on("response", lambda reply: failed.extend([reply.url] if reply.status >= 400 else []))
    view.on("pageerror", lambda error: failed.append(str(error)))
    for page in pages(site):
        reply = view.goto(f"{address}{page}", wait_until="load")
        assert reply is not None and reply.status == 200
        if (beyond := view.evaluate(WIDE)) > 0:
            wide[page] = beyond
    view.close()
    assert not wide and not failed
    assert asked and not [url for url in asked if not url.startswith((address, "data:", "blob:"))]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(chromium, address, scheme):
    context = chromium.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    view = context.new_page()
    found = {}
    for page in READ:
        view.goto(f"{address}{page}", wait_until="load")
        if wrong := violations(view):
            found[page] = wrong
    context.close()
    assert not found
