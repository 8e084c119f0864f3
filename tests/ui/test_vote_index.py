"""What the browser of comparisons reads: states of votes, filters, pages, files; no browser."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import chain
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from szpo.analysis import evidence
from szpo.data import spreadsheets
from szpo.errors import UsageError
from szpo.types import Answer
from szpo.voting import second_seats, steps
from szpo_ui.operator import (
    state,
    vote_export,
    vote_filter,
    vote_pages,
    votes_page,
    word_search,
)
from szpo_ui.operator.vote_index import VoteIndex
from szpo_ui.web import credentials, security
from tests.support import voiding
from tests.support.browser import NARROW, ZOOMED, Stage, cast, make, misfits, violations
from tests.support.cases import case
from tests.support.many_votes import make as make_many
from tests.support.outline import Outline
from tests.support.xss_corpus import PAYLOADS

FORMULA = '=HYPERLINK("http://x.example")'


def texts(step: int, i: int, side: str) -> Answer:
    """Answers that differ in a word; one is a formula, one Chinese, one was cut."""
    if (step, i, side) == (0, 0, "plus"):
        return Answer(FORMULA)
    if (step, i, side) == (0, 1, "plus"):
        return Answer("我喜欢喝绿茶。")
    if (step, i, side) == (1, 0, "minus"):
        return Answer("Crème brûlée, then cof", "length")
    return Answer(f"Answer {i} of round {step + 1} is {'amber' if side == 'plus' else 'cobalt'}.")


def fill(stage: Stage, look: Callable[[], None] = lambda: None) -> dict[str, int]:
    """A run with a vote in every state; ``look`` is called after each change. Names votes."""
    found: dict[str, int] = {}

    def note(name: str, receipt: Any) -> None:
        found[name] = receipt.vote
        look()

    service = stage.site.service
    stage.advance()
    look()
    cleo = service.assign(stage.panelist("Cleo"))
    seat = service.assign(stage.panelist("Ada"))
    note("Ada first", cast(stage, "Ada", "minus", seat=seat, details={"notes": {"1": "A"}}))
    note("Ada changed", cast(stage, "Ada", "plus", seat=seat, details={"notes": {"0": "tie"}}))
    note("Bob", cast(stage, "Bob", "minus", details={"report": True, "comment": "rude words"}))
    note("Dan skips", cast(stage, "Dan", "skip", skip_reason="language", details={"fast": True}))
    steps.close(
        stage.ledger, 0, steps.Closing("operator", actor="Olga", reason="enough", quorum=0.5)
    )
    look()
    note("Cleo late", cast(stage, "Cleo", "tie", seat=cleo))
    stage.advance()
    look()
    spare = service.assign(stage.panelist("Dan"))
    stage.clock.forward(300)  # he has had time to read it, so others get it too
    for name in ("Ada", "Bob"):
        for _ in range(2):
            note(f"{name} in round 2", cast(stage, name, "plus"))
    note("Dan spare", cast(stage, "Dan", "minus", seat=spare))
    stage.advance()
    look()
    gold = service.ask("calibration", stage.panelist("Ada"))
    note("Ada gold", cast(stage, "Ada", "minus", seat=gold))
    service.amend(found["Ada gold"], "exclude", "asleep", "Olga")
    service.amend(found["Bob"], "exclude", "afterwards", "Olga")  # its update was made with it
    look()
    note("Bob void", cast(stage, "Bob", "plus"))
    voiding.void(stage.ledger, 2, "broken", "Olga")
    look()
    stage.advance()
    look()
    note("Bob open", cast(stage, "Bob", "minus", skip_reason=None, details={"comment": "zebra"}))
    return found


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The run of `fill`."""
    stage = make(tmp_path_factory.mktemp("votes") / "run.db", text=texts, sets=["panel.spare=1"])
    with stage.ledger:
        yield stage, fill(stage)


def read_on(index: VoteIndex, *, live: bool = False, words: bool = True) -> VoteIndex:
    """The index, up to date."""
    while index.advance(live=live, words=words):
        pass
    return index


@contextmanager
def indexed(stage: Stage, *, live: bool = False) -> Iterator[VoteIndex]:
    """An index that is up to date."""
    with closing(VoteIndex(stage.ledger.path, stage.clock)) as made:
        yield read_on(made, live=live)


@pytest.fixture
def index(filled):
    with indexed(filled[0]) as made:
        yield made


def read(index: VoteIndex, **chosen: str) -> dict[str, Any]:
    return vote_pages.read(index, vote_filter.parse(chosen.items()))


def page_of(stage: Stage, index: VoteIndex, **chosen: str) -> str:
    found = vote_filter.parse(chosen.items())
    return votes_page.render(stage.site, found, **votes_page.read(found, index))


def exported(index: VoteIndex, file_type: str, **chosen: str) -> str:
    found = vote_filter.parse(chosen.items())
    with vote_export.write(lambda look: look(index), found, file_type) as file:
        return file.read().decode()


def dump(index: VoteIndex) -> dict[str, list[tuple[Any, ...]]]:
    """The index's tables."""
    tables = ("shown", "given", "asked", "prompts")
    return {
        name: [tuple(row.values()) for row in index.ledger.query(f"SELECT * FROM temp.{name}")]
        for name in tables
    }


# ---- what stands in the index ----


def test_every_vote_is_counted_or_has_the_reason_why_not(filled, index):
    names = {number: name for name, number in filled[1].items()}
    votes = [vote for item in read(index)["comparisons"] for vote in item["votes"]]
    states = {names.get(vote["vote"], "Bob in round 2"): vote["state"] for vote in votes}
    assert states == {
        "Ada first": "changed", "Ada changed": "counted", "Bob": "counted",
        "Dan skips": "skipped", "Cleo late": "late", "Ada in round 2": "counted",
        "Bob in round 2": "counted", "Ada gold": "excluded", "Bob void": "void",
        "Bob open": "open", "Dan spare": "spare",
    }  # fmt: skip


def test_what_counts_is_what_the_other_figures_count(tmp_path):
    make_many(tmp_path / "run.db", steps=3, comparisons=4, people=3)
    with closing(VoteIndex(tmp_path / "run.db")) as index:
        read_on(index)
        rows = index.ledger.query("SELECT vote, state, verdict, choice FROM temp.given")
        votes = list(evidence.read(index.ledger).votes)
    assert len(rows) == len(votes) == 36
    assert {(r["vote"], r["state"] == "counted", r["verdict"], r["choice"]) for r in rows} == {
        (vote.vote, vote.counted, vote.verdict, vote.choice) for vote in votes
    }


@pytest.mark.parametrize("live", [False, True])
def test_reading_on_gives_what_reading_anew_gives(staged, live):
    stage = staged(begun=False, text=texts, sets=["panel.spare=1"])
    with closing(VoteIndex(stage.ledger.path, stage.clock)) as follower:
        looks = 0

        def look() -> None:
            nonlocal looks
            looks += 1  # the switch goes on and off
            read_on(follower, live=live and looks % 3 != 0, words=looks > 4)

        fill(stage, look)
        read_on(follower, live=live)
        with indexed(stage, live=live) as fresh:
            assert dump(follower) == dump(fresh)
            assert (follower.read, follower.hidden) == (fresh.read, fresh.hidden)


# ---- what an open round keeps to itself ----


def test_an_open_round_gives_nothing_away_until_the_switch_or_its_end(filled, index):
    (item,) = read(index, state="open")["comparisons"]
    (given,) = item["votes"]
    assert item["open"] and item["sides"] == vote_pages.UNNAMED and item["step"] == 3
    says = ("panelist", "choice", "verdict", "plus_side", "notes", "remark", "reported")
    assert [given[name] for name in says] == ["Bob", None, None, None, {}, None, None]
    assert read(index, q="zebra")["total"] == 0
    minus = read(index, answer="minus")["comparisons"]
    assert item["number"] not in [each["number"] for each in minus]
    with indexed(filled[0], live=True) as live:
        (shown,) = read(live, q="zebra")["comparisons"]
        assert shown["number"] == item["number"] and shown["tally"] == (0, 1)
        assert (shown["preferred"], item["preferred"]) == (1, None)
        assert shown["votes"][0]["verdict"] == "minus"
        assert dump(read_on(live, words=False)) == dump(index)


# ---- filters, search, pages ----


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ({"panelist": "Dan"}, {"Dan skips", "Dan spare"}),
        ({"panelist": "Ada", "state": "not"}, {"Ada first", "Ada gold"}),
        ({"answer": "tie"}, {"Cleo late"}),
        ({"answer": "skip", "fast": "1"}, {"Dan skips"}),
        ({"note": "1"}, {"Ada first", "Ada changed"}),
        ({"reported": "1"}, {"Bob"}),
        ({"kind": "gold"}, {"Ada gold"}),
        ({"state": "void"}, {"Bob void"}),
        ({"q": "RUDE"}, {"Bob"}),
        ({"q": "asleep"}, {"Ada gold"}),
        ({"panelist": "Bob", "note": "1"}, set()),  # the note on his comparison is Ada's
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_filter_finds_the_votes_that_meet_it(filled, index, chosen, names):
    page = read(index, **chosen)
    votes = [vote for item in page["comparisons"] for vote in item["votes"]]
    found = {vote["vote"] for vote in votes if vote["chosen"]}
    wanted = {filled[1][name] for name in names}
    assert wanted <= found if "q" in chosen else wanted == found
    if "q" not in chosen:
        assert page["votes"] == len(wanted)


FOUND = [
    ("绿茶", 1), ("绿 茶", 1), ("茶绿", 0), ("creme brul", 1), ("CRÈME", 1),
    ('"brûlée then"', 1), ('"then brûlée"', 0), ("brûlée coff", 0), ("hyperlink", 1),
    ("ound", 0),
]  # fmt: skip


def test_words_are_found_by_their_beginnings_in_any_case_script_and_accent(index):
    for query, total in FOUND:
        with case(query, total):
            assert read(index, q=query)["total"] == total


@pytest.mark.parametrize("query", ['"', 'amber" OR 1', "*", "NEAR(", "a:b", "-x", "😀", "'; --"])
def test_no_search_is_read_as_a_command(index, query):
    try:
        assert read(index, q=query)["total"] <= index.of
    except UsageError as error:
        assert str(error).startswith("search: there is no letter and no number")


def test_marked_words_join_to_the_text():
    for text, query, marked in (
        ("Tea, TEA and steam.", "tea", ["Tea", "TEA"]),
        ("我喜欢喝绿茶。", "绿茶", ["绿茶"]),
        ("in the rain; in  the rain", '"in the"', ["in the", "in  the"]),
    ):
        pieces = word_search.mark(text, query)
        assert "".join(piece.text for piece in pieces) == text
        assert [piece.text for piece in pieces if piece.differs] == marked


@pytest.mark.parametrize("sort", vote_filter.SORTS)
def test_pages_hold_each_comparison_once_forward_and_backward(index, sort, monkeypatch):
    chosen = vote_filter.parse([("sort", sort)])
    found = vote_pages.read(index, chosen)
    whole = [item["number"] for item in found["comparisons"]]
    assert len(whole) == found["total"] > 1
    size = len(whole) // 2
    monkeypatch.setattr(vote_pages, "SIZE", size)

    def walk(query: str | None, way: str) -> Iterator[list[int]]:
        while query is not None:
            page = read(index, **dict(pair.split("=") for pair in query.split("&") if pair))
            yield [item["number"] for item in page["comparisons"]]
            query = page[way]

    forward = list(walk(chosen.query(), "older"))
    assert list(chain.from_iterable(forward)) == whole
    assert [len(page) for page in forward[:-1]] == [size] * (len(forward) - 1) != []
    last = read(index, sort=sort)
    while last["older"] is not None:
        last = read(index, **dict(pair.split("=") for pair in last["older"].split("&")))
    back = [[item["number"] for item in last["comparisons"]], *walk(last["newer"], "newer")]
    assert back == forward[::-1]


def test_comparisons_that_divide_people_most_come_first(index):
    """Two for plus and one, a spare one, for minus; two for plus; nobody else has two answers."""
    found = read(index, sort="split")["comparisons"]
    assert [item["split"] for item in found if item["step"] == 1] == [0.3333, 0.0]
    everything = [item["split"] for item in found]
    assert everything == sorted(everything, key=lambda split: -(split or 0))
    assert None not in everything


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"round": "x"}, "round cannot be 'x'"), ({"round": "0"}, "round cannot be '0'"),
        ({"kind": "fun"}, "kind cannot be 'fun'"), ({"after": "1;2"}, "after cannot be '1;2'"),
        ({"colour": "red"}, "no field colour; there are q"), ({"q": "x" * 201}, "q cannot be"),
        ({"q": "!?"}, "no letter and no number"),
    ],
)  # fmt: skip
def test_a_filter_that_is_none_is_refused_in_one_line(given, words):
    with pytest.raises(UsageError, match=words.replace("?", r"\?")) as refused:
        vote_filter.parse(given.items())
    assert "\n" not in str(refused.value)


def test_an_address_says_the_whole_filter_and_nothing_else():
    given = {"q": "green tea", "round": "2", "panelist": "P & Co", "note": "1", "sort": "split"}
    chosen = vote_filter.parse([*given.items(), ("kind", ""), ("after", "3.4")])
    assert chosen.query() == "q=green+tea&round=2&panelist=P+%26+Co&note=1&sort=split"
    assert chosen.query(after=chosen.after).endswith("&after=3.4")


# ---- files ----


def test_the_table_has_a_line_for_each_vote_and_prompt_and_no_formula(index):
    content = exported(index, "csv", round="1")
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    assert len(rows) == 5 * 3  # Ada's answer and its change, Bob, Dan, Cleo; three prompts each
    assert "\n=" not in content and ",=" not in content and ',"=' not in content
    formula = [row["plus"] for row in rows if "HYPERLINK" in row["plus"]]
    assert formula and set(formula) == {spreadsheets.guard(FORMULA)} != {FORMULA}
    first = next(row for row in rows if row["panelist"] == "Ada" and row["row"] == "1")
    assert (first["round"], first["state"], first["counted"], first["seconds"]) == (
        "1", "changed", "0", "20.0",
    )  # fmt: skip
    assert first["note"] == ("plus" if first["plus_side"] == "A" else "minus")


def test_json_lines_hold_the_votes_that_were_chosen_and_no_open_round(filled, index):
    def lines(**chosen: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in exported(index, "jsonl", **chosen).splitlines()]

    everything = lines()
    assert {line["round"] for line in everything} == {1, 2, 3, None}  # the fourth is open
    assert "zebra" not in json.dumps(everything)
    of_bob = lines(panelist="Bob")
    assert {v["panelist"] for line in of_bob for v in line["votes"]} == {"Bob"}
    assert sum(len(line["votes"]) for line in of_bob) == 4
    (gold,) = lines(kind="gold")
    assert gold["repeats"] in {line["comparison"] for line in everything}
    assert gold["votes"][0]["remark"] == "asleep"


def test_a_page_says_that_the_index_is_not_whole_until_votes_and_words_are_read(filled):
    with closing(VoteIndex(filled[0].ledger.path, filled[0].clock)) as index:
        seen = []
        while index.advance(live=False):
            seen.append(read(index)["is_whole"])
        assert seen == [False] * len(seen) and len(seen) > 3
        assert read(index)["is_whole"] and read(index)["votes"] == 12
        amber = read(index, q="amber")
        assert not amber["is_whole"] and amber["total"] == 0
        assert vote_pages.numbers(index, vote_filter.parse([("q", "amber")])) is None
        amber = read(read_on(index), q="amber")
        assert amber["is_whole"] and amber["total"] > 3


def test_a_second_persons_answer_is_named_as_such_and_tells_how_far_people_agree(staged):
    stage = staged()
    for name in ("Ada", "Ada", "Bob", "Bob"):
        cast(stage, name, "plus")
    stage.advance()
    cleo = stage.panelist("Cleo")
    seat = second_seats.serve(stage.site.service, cleo, 1.0)
    assert seat is not None
    page = {"view": "formatted", "device": "wide", "language": "de"}
    answer = cast(stage, "Cleo", "minus", seat=seat, details=page)
    with indexed(stage) as index:
        found = read(index, state="second")
        assert read(index, state="late")["total"] == 0
    (item,) = found["comparisons"]
    assert found["votes"] == 1 and item["comparison"] == seat.comparison
    (own,) = (given for given in item["votes"] if given["state"] == "second")
    assert (own["vote"], own["panelist"], own["verdict"]) == (answer.vote, "Cleo", "minus")
    assert own["remark"] is None, "what the page adds is no remark of hers"
    given, second, _ = state.count(stage.ledger)
    assert (given["Cleo"], dict(second)) == (1, {"Ada": 0, "Bob": 0, "Cleo": 1})
    assert item["split"] == pytest.approx(1 / 3, abs=1e-4), "two for plus, the second for minus"


def test_markdown_is_formatted_with_its_search_marks_up_to_a_bound(staged):
    def markdown(step: int, i: int, side: str) -> str:
        return f"**Green tea** {i}, {side}." if i else f"No sign in {side} of it"

    chosen = vote_filter.parse([("q", "tea")])
    for view, box in (("formatted", " checked"), ("plain", ">")):
        stage = staged(view, text=markdown, sets=[f"panel.view={view}"])
        with indexed(stage, live=True) as index:
            page = page_of(stage, index, q="tea")
            assert f'id="vb-formatted" autocomplete="off"{box}' in page
            first, second, third = read(index, q="tea")["comparisons"][-1]["rows"]
            assert first["answers"][0].formatted is None and str(first["answers"][0])[:2] == "No"
            assert str(second["answers"][0].formatted).startswith(
                '<p dir="auto"><strong>Green <span class="sz-diff">tea</span></strong> 1, '
            )
            # A bound on the characters of a page: the third row is over it, one pair alone is not.
            room = sum(len(str(text)) for row in (first, second) for text in row["answers"])
            (item,) = vote_pages._comparisons(index, [1], chosen, vote_pages.ALONE, room)
            over = [row["answers"][1].formatted is None for row in item["rows"]]
            assert over == [True, False, True]
            assert third["answers"][1].formatted is not None


def test_the_preferred_text_and_what_differs_are_marked_in_plain_words(filled, index):
    page = page_of(filled[0], index, round="2")
    assert re.findall(r"preferred, \d : \d", page).count("preferred, 2 : 1") == 3, (
        "its three prompts"
    )
    won = re.findall(r'<div class="vb-won"><p class="op-side">(\w+ \w+)', page)
    assert won == ["first text"] * 6, "plus, whom both comparisons' votes prefer"
    assert page.count('<span class="sz-diff">amber</span>') == 5
    plain = re.sub(r"<details>.*?</details>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert not re.search(r"\b(plus|minus|direction)\b", plain)
    assert "Direction 1; plus wrote the first text" in page


def test_words_of_preferred_texts_are_told_for_the_votes_that_a_filter_finds(filled, index):
    def told(**chosen: str) -> dict[str, Any]:
        return vote_pages.winning_words(index, vote_filter.parse(chosen.items()))

    # Two comparisons of three prompts; one pair is of other words.
    both = told(round="2")
    assert both == {"won": [("amber", 6, 0)], "lost": [("cobalt", 0, 5)], "comparisons": 2}
    dan = told(round="2", panelist="Dan")
    assert dan == {"won": [], "lost": [], "comparisons": 1}, "three pairs say nothing"
    assert told(state="open")["comparisons"] == 0, "an open round gives nothing away"
    page = page_of(filled[0], index, round="2")
    assert '<a href="?q=amber&amp;round=2">amber</a>' in page and "6 : 0" in page


def test_hostile_texts_are_text_on_the_page_and_exact_in_the_file(staged):
    def hostile(step: int, i: int, side: str) -> str:
        return PAYLOADS[(2 * i + (side == "plus")) % len(PAYLOADS)]

    sets = [f"optimizer.rows={len(PAYLOADS)}", "optimizer.comparisons=1"]
    stage = staged(text=hostile, sets=sets)
    cast(stage, "Ada", "plus", details={"comment": PAYLOADS[0]})
    with indexed(stage, live=True) as index:
        page = Outline(page_of(stage, index))
        line = json.loads(exported(index, "jsonl"))
    for tag, attrs in page.found:
        assert tag not in ("img", "iframe", "object", "svg", "style", "base"), (tag, attrs)
        assert not [name for name in attrs if name.startswith("on") or name == "style"], attrs
    assert all(attrs.get("src") for attrs in page.all("script"))
    assert {row[side] for row in line["rows"] for side in ("plus", "minus")} >= set(PAYLOADS[:40])


pytest_plugins = ["tests.support.browser"]
PAGES = ("operator",)

ADDRESSES = ("/operate/votes?q=answer", "/operate-api/votes.csv", "/operate-api/votes.jsonl")


def play(stage: Stage, rounds: int) -> None:
    """Rounds voted by Ada and Bob; Bob reports one and leaves a remark, and one vote is open."""
    stage.advance()
    for step in range(rounds):
        told = {"notes": {"1": "A"}, "report": True, "comment": PAYLOADS[step]}
        for _ in range(2):
            cast(stage, "Ada")
        for _ in range(2):
            cast(stage, "Bob", "tie" if step % 2 else "plus", details=told)
        stage.advance()
    cast(stage, "Ada")


@pytest.mark.full
def test_an_operator_gets_a_page_and_files_and_others_are_led_elsewhere(stage):
    stage.advance()
    page = httpx.get(f"{stage.url}{ADDRESSES[0]}")
    assert page.headers["location"] == f"/login?next={quote(ADDRESSES[0])}"
    with stage.client("panelist", "Ada") as client:
        assert client.get(ADDRESSES[0]).headers["location"] == "/panel/"
    with stage.client("operator", "Olga") as client:
        page, *files = (client.get(address) for address in ADDRESSES)
        assert [reply.status_code for reply in (page, *files)] == [200, 200, 200]
        assert page.headers["content-security-policy"] == security.OWN_POLICY
        assert not re.search(r"<script>|<style|\sstyle=|\son\w+=", page.text)
        # Relative links alone: the page may lie below a run's prefix.
        assert not re.search(r"""(href|src|action)=["']/""", page.text)
        assert 'filename="run-votes.csv"' in files[0].headers["content-disposition"]
        short = client.get("/operate/votes?q=answer&kind=&round=&sort=newest")
        assert (short.status_code, short.headers["location"]) == (303, "votes?q=answer")
        wrong = client.get("/operate/votes?round=first")
        assert wrong.status_code == 400 and "filter: round cannot be" in wrong.text
        assert client.get("/operate-api/votes.csv?round=first").status_code == 400
        assert client.get("/operate-api/votes.xlsx").status_code == 404
        credentials.revoke(stage.ledger, "Olga", "root")
        assert [client.get(address).status_code for address in ADDRESSES[1:]] == [403, 403]


@pytest.mark.parametrize("stage", [{"lag": 1}], indirect=True)
def test_answers_written_ahead_are_not_said_to_take_votes(stage):
    """They led the list of a run that had ended, and nobody would ever be asked about them."""
    stage.advance()
    with stage.client("operator", "Olga") as client:
        page = client.get("/operate/votes").text
    assert (page.count("not asked yet"), page.count("takes votes")) == (2, 2)
    assert page.count("What the votes say is shown once it is closed") == 2


def test_an_operator_goes_from_a_figure_to_the_votes_behind_it(stage, operator, monkeypatch):
    monkeypatch.setattr(vote_pages, "SIZE", 3)
    play(stage, 2)
    page = operator().new_page()
    page.goto("/operate/")
    page.wait_for_selector("#op-root[data-version]")
    votes = page.locator(".op-people tbody tr").first.locator("td[data-label=Votes]")
    assert " ".join(votes.inner_text().split()) == "5 votes of Ada 4 counted"  # one is open
    votes.locator("a").click()
    items = page.locator(".vb-item")
    items.first.wait_for()
    assert page.url.endswith("/operate/votes?panelist=Ada&kind=train")
    page.get_by_text("5 comparisons, 5 votes", exact=True).wait_for()  # once the index is whole
    assert page.locator("#f-panelist").input_value() == "Ada"
    # The open round: no side is named, and the vote says nothing.
    opened = items.first
    assert "takes votes" in opened.inner_text()
    sides = set(opened.locator(".op-side").all_inner_texts())
    assert sides == set(vote_pages.UNNAMED)
    assert opened.locator(".vb-says").inner_text() == "voted"
    assert "first text" in items.nth(1).locator(".vb-says").first.inner_text()
    assert items.nth(1).locator(".vb-won .sz-diff").first.inner_text() == "amber"
    # Paging, forward and back.
    first = items.locator("h3").all_inner_texts()
    page.get_by_role("link", name="Next page").click()
    page.get_by_role("link", name="Previous page").wait_for()
    assert not set(items.locator("h3").all_inner_texts()) & set(first)
    page.get_by_role("link", name="Previous page").click()
    page.get_by_role("link", name="Next page").wait_for()
    assert items.locator("h3").all_inner_texts() == first
    # A search and a filter by keyboard; the address is the filter.
    page.goto("/operate/votes")
    page.locator("#f-q").fill("amber round 2")
    page.get_by_text("Filter and sort").click()
    page.locator("#f-answer").select_option("tie")
    page.get_by_label("reported").check()
    page.locator("#f-q").press("Enter")
    page.wait_for_url("**/operate/votes?q=amber+round+2&answer=tie&reported=1")
    page.get_by_text("2 comparisons, 2 votes", exact=True).wait_for()
    assert set(page.locator(".op-sample .sz-diff").all_inner_texts()) == {"amber", "round", "2"}
    assert page.locator(".vb-chosen .vb-who").all_inner_texts() == ["Bob", "Bob"]
    assert page.locator(".vb-other .vb-who").all_inner_texts() == ["Ada", "Ada"]
    with page.expect_download() as got:
        page.get_by_role("link", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(got.value.path().read_text())))
    assert {(row["panelist"], row["verdict"], row["round"]) for row in rows} == {
        ("Bob", "tie", "2")
    }
    assert len(rows) == 2 * 3
    # A link that is passed on leads through the login to what was filtered.
    url = page.url
    page.context.clear_cookies()
    page.goto(url)
    invited = stage.invitation("operator", "Olga")
    page.get_by_label("Name").fill("Olga")
    page.get_by_label("Code", exact=True).fill(invited.code)
    page.keyboard.press("Enter")
    page.wait_for_url(url)
    page.get_by_text("2 comparisons, 2 votes", exact=True).wait_for()
    for scheme, size in (("light", NARROW), ("dark", ZOOMED)):
        page.emulate_media(color_scheme=scheme)
        page.reload()
        assert violations(page, ("moderate", "serious", "critical")) == [], scheme
        assert misfits(page, *size, root="body", bar=".op-top") == []
