"""Draws the pictures of the operator's page: python docs/tools/operator_screenshots.py.

A made-up panel of five votes fourteen rounds: four like one direction, the fifth clicks left.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from szpo.ledger import orders, run_spec
from szpo.optim import parameters
from szpo.voting import lease, pauses
from szpo_ui import app
from tests.support.browser import CHROMIUM, FLAGS, Stage, context, make, serve

SETS = (
    "optimizer.N=5", "optimizer.M=2", "guards.kl=15", "guards.length=[0, 14]",
)  # fmt: skip


def played(path: Path, rounds: int = 14) -> Stage:
    """A run in the middle of things."""
    stage, coin = make(path, sets=SETS), random.Random(4)
    service, space = stage.site.service, run_spec.recorded_settings(stage.ledger).space
    people = [stage.panelist(f"P-0{i}") for i in range(1, 6)]
    stage.advance()
    for number in range(rounds):
        likes = parameters.direction_vector(space, number, 0)[0] > 0
        left = True
        while left:
            left = False
            for person in coin.sample(people, len(people)):
                lazy = person == people[-1]
                seat = service.assign(person)
                if seat is None:
                    continue
                left = True
                seconds = 1.5 if lazy else coin.uniform(9, 40)
                stage.clock.forward(seconds * 3)
                plus = likes == (coin.random() < 0.76)
                side = seat.plus_side if plus else {"A": "B", "B": "A"}[seat.plus_side]
                choice = "A" if lazy else "tie" if coin.random() < 0.07 else side
                service.cast(
                    seat.id, choice, idem=seat.id, dwell_ms=round(1000 * seconds),
                    details={"fast": lazy},
                )  # fmt: skip
        stage.advance()
    order = orders.place_order(stage.ledger, "samples", "Olga", {"prompts": 2})
    columns = [
        {"name": name, "step": step, "theta_sha256": "0" * 64, "answers": [
            [f"The sea is {word} today, and the wind comes from the west.", "stop"],
            [f"I am sorry that your parcel is late. {word.capitalize()} news follows.", "length"],
        ]}
        for name, step, word in (("base", None, "grey"), ("current", rounds - 1, "bright"))
    ]  # fmt: skip
    prompts = ["Describe the sea in one sentence.", "A customer’s parcel is late. Answer kindly."]
    body = {"prompts": prompts, "columns": columns}
    orders.settle(stage.ledger, orders.get(stage.ledger, order), body)
    return stage


def picture(page: Page, name: str, ready: str = "#op-root[data-version]") -> None:
    """Save what is on the page, with few enough colours to be small."""
    page.wait_for_selector(ready)
    whole = not name.startswith("votes")
    if not whole:  # its policy refuses an inline style
        page.wait_for_timeout(500)
    else:
        page.add_style_tag(content=".op-top { position: static !important; }")
    file = ROOT / "docs" / "screens" / f"{name}.png"
    page.screenshot(path=str(file), full_page=whole)
    Image.open(file).convert("RGB").quantize(128).save(file, optimize=True)


def main() -> None:
    """Draw them all."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        first = make(Path(folder) / "support-tone-08.db", sets=SETS)
        pauses.pause(first.ledger, "szpo serve", "waiting for the operator")
        for stage, names in (
            (played(Path(folder) / "support-tone-07.db"), ("operate", "operate-dark")),
            (first, ("operate-before",)),
        ):
            with serve(app.create(stage.site)) as stage.url, lease.hold(stage.ledger):
                for name in names:
                    scheme = "dark" if name.endswith("dark") else "light"
                    size = {"width": 1280, "height": 900}
                    made = context(
                        browser, stage, "operator", "Olga", viewport=size, color_scheme=scheme
                    )
                    page = made.new_page()
                    page.goto("/operate/")
                    picture(page, name)
                    if stage is not first:  # what was voted on
                        page.goto("/operate/votes")
                        picture(page, name.replace("operate", "votes"), ready="article")
                    made.close()
            stage.ledger.close()
        browser.close()


if __name__ == "__main__":
    main()
