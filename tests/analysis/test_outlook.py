"""What a run promises, in words: from the record of its last step."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from szpo.analysis import outlook
from szpo.analysis.outlook import Outlook
from szpo.optim import optimizer
from szpo.optim.named_features import Claim
from szpo.optim.rules.look_ahead import LookAhead, look_ahead
from szpo.runs import driver
from tests.support.driving import drive, started
from tests.support.operator_page import SURE
from tests.support.quadratic import settings_of


def change(**fields):
    plain = {name: getattr(SURE, name) for name in LookAhead.__slots__}
    return Outlook(LookAhead(**{**plain, **fields}), 56)


@pytest.mark.parametrize(
    ("fields", "words", "note"),
    [
        ({"share": 0.0, "broken": ("tokens", "margin")}, r"\(length, topic\) hold nowhere",
         "predicted guards (length, topic) hold it at the start"),
        ({"share": 0.5, "broken": ("logprob",)}, r"\(log-probability\) hold the .* at 50 %",
         "predicted guards (log-probability) hold it at 50 % of the way"),
        ({"drift": 1.8}, "taste has turned", "the taste has turned"),
    ],
)  # fmt: skip
def test_what_holds_it_back_is_named_with_what_to_do(fields, words, note):
    found = change(**fields)
    (remark,) = found.remarks
    assert re.search(words, remark)
    assert "\n" not in remark and found.note == note


def test_why_the_votes_show_nothing_is_said_once_somebody_asked():
    found = change(factor=math.log(8.9))
    assert found.note == "no taste shown yet" and found.remarks == ()
    (remark,) = replace(found, why="the voters disagree").remarks
    assert remark.startswith("no taste shown yet (Bayes factor 8.9, it takes 9)")
    assert remark.endswith("stays near the start: the voters disagree")


def test_the_last_step_says_what_was_looked_ahead_to(tmp_path):
    settings, ledger, policy = started(tmp_path)
    seen = []

    def foresee(state):
        seen.append(look_ahead(state.settings, state.carried))
        return seen[-1].to_json()

    with ledger:
        assert outlook.read(ledger) is None
        drive(settings, ledger, policy, until_step=1)
        assert outlook.read(ledger) is None  # nobody looked ahead
        drive(settings, ledger, policy, until_step=3, outlook=foresee)
        found = outlook.read(ledger)
        assert found == Outlook(seen[-1], 24)
        assert len(seen) == 2 and len(found.found.ahead) == 4
        body = list(ledger.events("step"))[-1]["body"]
        assert outlook.of_report(body["extra"], 24) == found


def test_a_forecast_that_cannot_be_made_ends_no_run(monkeypatch):
    state = optimizer.init(settings_of(rule="regression", N=1))
    assert driver._outlook(state)["ahead"] == ()

    def fail(*_):
        raise np.linalg.LinAlgError("singular")

    monkeypatch.setattr(driver.look_ahead, "look_ahead", fail)
    assert driver._outlook(state) is None
    assert driver._outlook(optimizer.init(settings_of())) is None  # known


def test_a_line_of_a_step_says_what_its_votes_taught():
    likely = Claim("commas", False, 0.97, 1.0)
    assert change(taught=(likely,)).note == "fewer commas (97 %)"
    early = change(taught=(likely,), factor=1.0)
    assert early.note == "no taste shown yet, perhaps fewer commas"


def test_what_was_taught_survives_the_record():
    taught = (Claim("comma", False, 0.97, 0.7, "commas"), Claim("i", True, 0.3, 1.0))
    found = change(taught=taught, unnamed=0.1, chance=0.2).found
    assert LookAhead.from_json(found.to_json()) == found
    old = {k: v for k, v in found.to_json().items() if k != "chance"}
    old["taught"] = [{k: v for k, v in c.items() if k != "group"} for c in old["taught"]]
    assert LookAhead.from_json(old).taught[0].group == ""
