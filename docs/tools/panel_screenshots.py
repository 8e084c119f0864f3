"""Write docs/screens/panel-*.png: the panelist's page in each of its states, from the real one.

Needs Chromium (see tests/support/browser.py). From anywhere:
python docs/tools/panel_screenshots.py [state …]
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "ui")]

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.support import browser, panel_states

SCREENS = ROOT / "docs" / "screens"
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 780}
BOTH = {"welcome", "vote", "chosen", "waiting", "closed", "finished", "sheet-chosen"}
"""States that are also taken in dark colours, and on a phone."""
SETTLE_MS = 400


def picture(page: Any, name: str) -> None:
    """Store what the page shows, with 128 colours."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(SETTLE_MS)
    shot = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    small = shot.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small.save(SCREENS / f"panel-{name}.png", optimize=True)
    print(f"panel-{name}.png")


def main(wanted: set[str]) -> None:
    """Walk through a run of batches and one of rows, and take their states."""
    SCREENS.mkdir(exist_ok=True)
    walked = panel_states.walk, panel_states.walk_rows
    for walk, sets in zip(walked, (panel_states.SETS, panel_states.ROWS), strict=True):
        take(walk, sets, wanted)


def take(walk: Any, sets: tuple[str, ...], wanted: set[str]) -> None:
    """Walk once; take each state, and some of them in other colours and sizes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        browser.served_run(
            Path(folder) / "run.db", ("panelist",), text=panel_states.text, sets=sets
        ) as stage,
    ):
        chromium = playwright.chromium.launch(
            executable_path=str(browser.CHROMIUM), args=list(browser.FLAGS)
        )

        def context(name: str) -> Any:
            return browser.context(
                chromium, stage, "panelist", name, viewport=WIDE, locale="en-GB"
            )

        for name, page in walk(stage, context):
            if wanted and name not in wanted:
                continue
            picture(page, name)
            if name in BOTH:
                page.evaluate("document.body.classList.add('dark')")
                picture(page, f"{name}-dark")
                page.evaluate("document.body.classList.remove('dark')")
                page.set_viewport_size(PHONE)
                page.evaluate("scrollTo(0, 0)")
                picture(page, f"{name}-phone")
                page.set_viewport_size(WIDE)
        chromium.close()


if __name__ == "__main__":
    main(set(sys.argv[1:]))
