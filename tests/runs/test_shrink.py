"""Points between a run's start and its end: measured, exported, asked about."""

import json
from pathlib import Path

import numpy as np
import pytest

from szpo.cli.app import call
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.ledger.theta import starting_theta
from szpo.optim import parameters
from szpo.policies.text_guards import TOPIC, Guard, TextFigures
from szpo.replay import replay, verification
from szpo.reports.adapter import fold_adapter_files
from szpo.reports.model_card import Weights
from szpo.runs import assemble, model_process, shrink
from szpo.runs.shrink import Point
from tests.support import folder_run, yard_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return folder_run.make(tmp_path_factory.mktemp("folder"), "evaluation.prompts=4")


def content(path: Path) -> bytes:
    """The ledger as bytes, its log folded in."""
    with Ledger.open(path) as ledger:
        ledger.checkpoint_log()
    return path.read_bytes()


def test_the_ends_of_the_line_are_exact_and_its_points_lie_on_it():
    rng = np.random.default_rng(0)
    a, b = ({"z": rng.normal(size=9).astype(np.float32)} for _ in range(2))
    assert np.array_equal(parameters.between(a, b, 1.0)["z"], b["z"])
    assert np.array_equal(parameters.between(a, b, 0.0)["z"], a["z"])
    half = parameters.between(a, b, 0.5)["z"]
    assert half.dtype == np.float32
    assert np.allclose(half, (a["z"] + b["z"]) / 2, atol=1e-7)


def test_the_largest_point_is_chosen_at_which_every_guard_holds():
    def point(share, ok):
        return Point(share, 1.0, 0.1, TextFigures(-1, 1, 1), (Guard(TOPIC, 1, "", ok),))

    points = [point(0.25, True), point(0.5, True), point(0.7, False), point(1.0, False)]
    best = shrink.largest_that_holds(points)
    assert best is not None and best.share == 0.5
    assert shrink.largest_that_holds(points[2:]) is None


@pytest.mark.full
def test_points_are_measured_and_the_ledger_stays_as_it_is(run, capsys):
    before = content(run)
    words = ["shrink", str(run), "--at", "1", "--at", "0.5", "--samples", "2", "--json"]
    capsys.readouterr()
    assert call(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [point["share"] for point in found["points"]] == [0.5, 1.0]
    near, far = found["points"]
    assert 0 < near["kl"] < far["kl"]  # about a quarter, from few answers
    assert {guard["name"] for guard in near["guards"]} >= {"length against the base"}
    assert near["gain"]["n"] == 4  # one difference for each held-out prompt
    assert call(words) == 0
    assert json.loads(capsys.readouterr().out) == found  # the same seed
    assert call(words[:-1]) == 0
    table = capsys.readouterr().out
    assert "of the way" in table and ("all guards hold as far as" in table or "at none" in table)
    assert content(run) == before


@pytest.mark.full
def test_the_end_of_the_line_is_the_head_and_the_policy_is_put_back(run):
    with Ledger.open(run, readonly=True) as ledger:
        parts = assemble.reopen(ledger, panel=False, say=lambda text: None)
        policy, origin = parts.language, starting_theta(ledger)
    head, asked = policy.digest(), parts.prompts.heldout[:3]
    wanted = policy.kl(asked, seed=5)
    base, end = shrink.measure_points(policy, origin, asked, [1.0], seed=5, samples=1)
    assert (end.kl, end.kl_stderr) == wanted and policy.digest() == head
    assert base.guards == () and end.gain is None
    points = shrink.measure_points(policy, origin, asked, [0.5], seed=5, samples=1)
    next(points)
    next(points)
    points.close()  # given up half-way
    assert policy.digest() == head


def test_an_adapter_at_a_share_is_that_of_the_shrunk_coordinates(run, tmp_path):
    out = tmp_path / "near"
    before = content(run)
    assert call(["shrink", str(run), "--to", "0.5", "--out", str(out)]) == 0
    with Ledger.open(run, readonly=True) as ledger:
        theta = replay.point_on_line(ledger, 0.5)
        digest = parameters.digest(theta, ledger.layout, ledger.basis_sha256)
        assert fold_adapter_files(ledger, Weights(share=0.5)) != fold_adapter_files(ledger)
        assert np.array_equal(theta["z"], replay.fold(ledger)["z"] / 2)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"`{digest}`" in card and "to 0.5 of the way from the run's start" in card
    assert content(run) == before


def test_blind_votes_are_asked_about_a_point_on_the_way(run, tmp_path):
    copy = tmp_path / "copy.db"
    copy.write_bytes(content(run))
    assert call(["shrink", str(copy), "--to", "0.5", "--ask", "2"]) == 0
    with Ledger.open(copy) as ledger:
        parts = assemble.reopen(ledger, panel=False, say=lambda text: None)
        head = parts.policy.digest()
        model_process.fulfil(ledger, parts, lambda text: None)
        (order,) = orders.results(ledger, "final")
        theta = replay.point_on_line(ledger, 0.5)
        wanted = parameters.digest(theta, ledger.layout, ledger.basis_sha256)
        assert order.error is None and order.result is not None
        assert order.result["tuned_sha256"] == wanted != head
        assert parts.policy.digest() == head and len(orders.comparisons(order)) == 2
        assert verification.verify(ledger).ok


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--to", "0.5"], "--to measures nothing; say what to do there: --out or --ask"),
        (["--ask", "3"], "--ask goes with --to, the share of the way from the start"),
        (["--to", "0", "--ask", "3"], "share 0.0 of the way from the start; give one above 0"),
        (["--to", "1.5", "--ask", "3"], "share 1.5 of the way from the start; give one above 0"),
        (["--at", "nan"], "share nan of the way from the start; give one above 0, at most 1"),
        (["--to", "0.333", "--ask", "3"], "--ask takes whole hundredths of the way (got 0.333)"),
    ],
)
def test_what_cannot_work_is_one_line(run, words, reason, capsys):
    before = content(run)
    assert call(["shrink", str(run), *words]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())
    assert content(run) == before


@pytest.mark.full
def test_a_policy_that_is_no_language_model_is_refused(tmp_path, capsys):
    yard = yard_run.finished(tmp_path)
    assert call(["shrink", str(yard)]) == 2
    assert "is not a language model; this needs one" in capsys.readouterr().err
