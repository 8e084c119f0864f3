"""HTML as an outline."""

import dataclasses
from html.parser import HTMLParser

from szpo.config.tables import Panel
from szpo.runs.status import RoundStatus
from szpo.types import Answer, Assignment, Comparison, Prompt, Row
from szpo_ui import component
from szpo_ui.credentials import Standing
from szpo_ui.screens import Facts, Progress, Screen
from szpo_ui.sheets import sheet

ASKED = Panel(question="Which <b>set</b>?", guideline="Be & stay fair.")
READING = {"vote", "closed", "calib", "final"}
FACTS = Facts(Progress(40, 240), people=6, vote_s=9.0, sheet=8, before=3)
SHOWS = {
    "notes": {}, "fresh": False, "closed": None, "sheet": "seat-1", "verdicts": {}, "undo": None,
    "news": None, "answered": [], "may_change": False, "finals_left": 0,
    "finals_given": 0, "moves": True,
}  # fmt: skip
"""What the templates show beside the fields of a screen."""
VOID = {"input", "meta", "br", "img", "link", "hr"}


def status(**changes):
    given = {
        "step": 13, "rounds": 30, "votes_planned": 240, "state": "open", "votes_in": 5,
        "votes_needed": 8, "opened_us": 0, "deadline_us": None, "paused_by": None,
        "pause_reason": None, "usual_wait_s": 50.0, "generated": False, "version": "v1",
    }  # fmt: skip
    return RoundStatus(**{**given, **changes})


def row(plus, minus, prompt="Say <i>it</i>.", ends=("stop", "stop"), earlier=()):
    asked = Prompt((*earlier, ("user", prompt)))
    return Row(asked, Answer(plus, ends[0]), Answer(minus, ends[1]))


ROWS = (
    row("One answer here.", "One reply here.", earlier=(("system", "Be <brief>."),)),
    row("", "Cut he", ends=("stop", "length")),
    row("Alike.", "Alike."),
)


def shown(plus_side="A", order=(1, 2, 0), rows=ROWS):
    comparison = Comparison("secret-comparison", 13, 0, 1, rows)
    seat = Assignment("seat-1", "secret-comparison", "secret-panelist", plus_side, order, 0)
    return sheet([(comparison, seat)])


def screen(state, **changes):
    given = {"state": state, "name": "P-01", "status": status(), "key": "open.13", "step": 13}
    if state == "sheet":
        rows = [shown(rows=ROWS[:1], order=(0,)), shown("B", (0,), ROWS[1:2])]
        pairs = tuple(pair for each in rows for pair in each.pairs)
        given |= {"sheet": dataclasses.replace(rows[0], pairs=pairs), "verdicts": {"seat-1": "A"}}
        given |= {"seat": "seat-1", "undo": "seat-0", "rows": True, "facts": FACTS}
    if state in READING:
        given |= {"sheet": shown(), "seat": "seat-1", "lease_s": 600.0}
    if state == "closed":
        given["closed"] = {"at_us": 0, "votes_in": 8, "needed": 8}
    if state == "complete":
        given["study"] = Standing(votes=3, needed=3, finished=True, code="C1ABCDEF")
    if state in ("waiting", "finished"):
        given["progress"] = Progress(40, 240, given=8, spent_s=360.0)
        given["news"] = {
            "step": 12, "votes": 8, "people": 3, "same": 3, "pairs": 4, "moved": "further",
        }  # fmt: skip
    given |= changes
    if (sheet := given.pop("sheet", None)) is not None:
        given["paper"] = lambda: sheet
    shows = {name: given.pop(name, other) for name, other in SHOWS.items()}
    return Screen(**given, shows=shows)


def html(state, asked=ASKED, **changes):
    if state == "error":
        return component.render_failure("0badcafe")
    return component.render_page(screen(state, **changes), asked)


class Outline(HTMLParser):
    """Checks nesting, and collects elements with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.text = [], [], ""
        self.feed(str(text))  # a `Markup` would escape text that is added to it
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]
