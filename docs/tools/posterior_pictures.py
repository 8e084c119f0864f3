"""Write docs/screens/visualize*.png and posterior.gif, from the real page.

Needs Chromium (see tests/support/browser.py). From anywhere: python
docs/tools/posterior_pictures.py
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "ui")]

from PIL import Image
from playwright.sync_api import sync_playwright

from szpo_ui import visualize as mounts
from tests.support import browser

SCREENS = ROOT / "docs" / "screens"
LOOKS = {
    "visualize": {"viewport": {"width": 1280, "height": 900}},
    "visualize-dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "visualize-phone": {"viewport": {"width": 390, "height": 844}},
}
ANSWERS = 5
"""Suggested pairs that are answered before a picture is taken."""


def picture(page: Any, name: str) -> None:
    """Store what the page shows, with 128 colours."""
    page.wait_for_timeout(2500)  # the particles' way
    shot = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    small = shot.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small.save(SCREENS / f"{name}.png", optimize=True)
    print(f"{name}.png")


def main() -> None:
    """Answer a few suggested pairs for weights (1.5, 1), then look."""
    with (
        browser.serve(mounts.application(mounts.example)) as address,
        sync_playwright() as playwright,
    ):
        chromium = playwright.chromium.launch(
            executable_path=str(browser.CHROMIUM), args=list(browser.FLAGS)
        )
        for name, look in LOOKS.items():
            page = chromium.new_page(base_url=address, **look)
            page.goto("/visualize/")
            for _ in range(ANSWERS):
                page.wait_for_selector("#vz-root[data-ready=true]", timeout=60_000)
                x, y = page.evaluate("szpoVisualize.scene().suggested.delta")
                better = "The first" if 1.5 * x + y > 0 else "The second"
                page.get_by_role("button", name=better).click()
            page.wait_for_selector("#vz-root[data-ready=true]", timeout=60_000)
            picture(page, name)
            if name == "visualize":
                with page.expect_download(timeout=120_000) as saving:
                    page.get_by_role("button", name="Save GIF").click()
                saving.value.save_as(SCREENS / "posterior.gif")
            page.close()
        chromium.close()


if __name__ == "__main__":
    main()
