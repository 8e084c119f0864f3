"""Signs of low effort as the operator reads them: each with its reason, in words."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from szpo.analysis import agreement
from szpo.analysis.vote_rows import VoteRow
from szpo_ui import operator_page
from tests.support.operator_page import text
from tests.support.overview import ballot
from tests.support.overview import page as numbers


def known(right: int, of: int, **more: str) -> list[VoteRow]:
    """Answers to comparisons shown a second time, so many as before."""
    made = []
    for i in range(of):
        verdict, sides = "plus" if i < right else "minus", {"choice": "AB"[i % 2], **more}
        made.append(ballot(100 + i, "plus", comparison=f"x{i}", **sides))
        made.append(ballot(i, verdict, repeats=f"x{i}", comparison=f"y{i}", **sides))
    return made


def contrary() -> list[VoteRow]:
    """Three vote on each of 32 directions; P-01 against the two others, sides in turn."""
    return [
        ballot(
            3 * i + place, verdict, step=i, comparison=f"c{i}", panelist=name,
            plus_side="AB"[i % 2], choice="AB"[(i + (verdict == "minus")) % 2], words_plus=50,
        )
        for i in range(32)
        for place, (name, verdict) in enumerate(
            [("P-01", "minus"), ("P-02", "plus"), ("P-03", "plus")]
        )
    ]  # fmt: skip


def fond_of_length() -> list[VoteRow]:
    """Each judges 24 rows; P-01 takes the longer answer in all, the others in half."""
    return [
        ballot(
            3 * i + place, "plus", panelist=f"P-0{place + 1}", plus_side="AB"[i % 2],
            choice="AB"[i % 2], words_plus=20 if place and i % 4 < 2 else 40, words_minus=30,
        )
        for i in range(24)
        for place in range(3)
    ]  # fmt: skip


ABSENT = dict.fromkeys(("online", "excluded", "cast", "second", "access"))


def turns(count: int, run: int = 0) -> list[VoteRow]:
    """Votes for A and B in turn, after so many for A."""
    return [ballot(i, "plus" if i < run or i % 2 else "minus") for i in range(count)]


@pytest.mark.parametrize(
    ("code", "message", "votes"),
    [
        ("fast", "12 of 12 votes sooner than texts can be read",
         [ballot(i, ("plus", "minus")[i % 2], dwell_ms=900) for i in range(12)]),
        ("skim", "12 of 12 votes in less than a quarter of the reading time",
         [ballot(i, ("plus", "minus")[i % 2], dwell_ms=14_000) for i in range(12)]),
        ("side", "chose the left side in 12 of 12 votes", turns(12, run=12)),
        ("run", "chose the same side 14 times in a row", turns(28, run=14)),
        ("repeat", "the same vote in 1 of 6 repeats", known(1, 6)),
        ("rest", "with the others in 0 of 32 votes", contrary()),
        ("skips", "could not judge 4 of 12",
         turns(8) + [ballot(50 + i, "skip") for i in range(4)]),
        ("longer", "the longer answer in 24 of 24, the others in 50 %", fond_of_length()),
        ("random", "to 1 for votes at random", [*known(0, 3), *known(60, 60, panelist="P-02")]),
    ],
)  # fmt: skip
def test_each_flag_has_its_reason(code, message, votes):
    told = numbers(votes)
    first, *others = agreement.panelists(told)
    assert message in dict(first["flags"])[code]
    assert not [flag for row in others for flag in row["flags"]]
    programs = replace(told, panelists=dict.fromkeys(told.panelists, "simulated"))
    assert agreement.panelists(programs)[0]["flags"] == ()


@pytest.mark.parametrize(
    ("run", "shown"), [(12, "! chose the left side in 12 of"), (0, "nothing")]
)
def test_flags_or_nothing_is_shown(run, shown):
    (row,) = agreement.panelists(numbers(turns(12, run=run)))
    table = operator_page._environment().get_template("operate/people.html")
    page = table.render(b=SimpleNamespace(people=[{**ABSENT, "row": row}]), access={})
    assert shown in text(page)


def test_somebody_without_votes_has_one_sentence_and_no_row_of_dashes():
    table = operator_page._environment().get_template("operate/people.html")
    told = replace(numbers(turns(12)), panelists={"P-09": "person", "P-01": "person"})
    rows = [{**ABSENT, "row": row, "cast": row["votes"]} for row in agreement.panelists(told)]
    new = next(each for each in rows if each["row"]["name"] == "P-09")
    voted = next(each for each in rows if each["row"]["name"] == "P-01")
    page, other = (
        table.render(b=SimpleNamespace(people=[each]), access={}) for each in (new, voted)
    )
    assert "No votes yet" in page and "–" not in page and "Exclude" in page
    assert "No votes yet" not in other and "–" in other
