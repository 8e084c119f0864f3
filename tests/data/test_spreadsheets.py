"""One guard for every table that leaves szpo: no cell is a formula, and each comes back."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.data import spreadsheets
from tests.support.cases import case

CONTROL = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
RUN = ["=1+1", "+1", "-1", "@sum", "＝1", "  =1", "\ufeff=1", "\u200b@x", "'quoted", "\xa0-2"]


def test_a_cell_never_begins_with_a_control_character():
    for first in CONTROL:
        with case(first):
            assert spreadsheets.guard(f"{first}=1+1") == f"'{first}=1+1"
            assert spreadsheets.guard(first) == f"'{first}"


@pytest.mark.parametrize("text", RUN)
def test_what_a_spreadsheet_would_run_is_text(text):
    assert spreadsheets.guard(text) == f"'{text}"


UNSEEN = (
    "\xad\u034f\u061c\u115f\u1160\u180e\u2066\u2069\u206a\u3164\ufe0f\uffa0\ufff9\u2028\U000e0020"
)


def test_no_sign_of_a_formula_hides_behind_characters_that_are_not_seen():
    for sign in "=+-@＝＋－＠﹢﹣﹦﹫−⁼₌⁺":
        with case(sign):
            for before in ("", *UNSEEN, UNSEEN):
                assert spreadsheets.guard(f"{before}{sign}1+1") == f"'{before}{sign}1+1"
                assert spreadsheets.guard(f"{before}1{sign}1") == f"{before}1{sign}1"


@pytest.mark.parametrize("text", ["", "a", "Tea.", " two words", "3", "ß", "(=1)", "{}"])
def test_ordinary_texts_stay_as_they_are(text):
    assert spreadsheets.guard(text) == text


@given(st.text(alphabet=st.sampled_from("'=+-@ \t\r\n\x00\x0b\x1b\ufeffa7−\u3164\ufe0f")))
def test_the_guard_is_undone_exactly(text):
    assert spreadsheets.unguard(spreadsheets.guard(text)) == text


def test_cells_of_older_tables_are_read_as_they_were_meant():
    # Tables written before the guard knew these: an apostrophe or a NUL stood bare.
    assert spreadsheets.unguard("'tis") == "'tis"
    assert spreadsheets.unguard("\x00=1") == "\x00=1"
    assert spreadsheets.unguard("'=1") == "=1"


@given(st.lists(st.text(alphabet=st.sampled_from("'=\t\r\n\x00\",a")), min_size=1, max_size=4))
def test_a_table_comes_back_cell_by_cell(texts):
    file = io.StringIO(newline="")
    count = spreadsheets.write(
        file, ("text", "number"), ({"text": t, "number": -1} for t in texts)
    )
    assert count == len(texts)
    rows = list(csv.DictReader(io.StringIO(file.getvalue(), newline="")))
    assert [spreadsheets.unguard(row["text"]) for row in rows] == texts
    assert {row["number"] for row in rows} == {"-1"}  # a number is no text
