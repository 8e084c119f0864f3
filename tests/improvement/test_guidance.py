"""A run of `known` whose directions the verdicts' own taste guides, on a tiny random model."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from szpo.cli.app import call
from szpo.failpoints import arm
from szpo.ledger import canonical, guided_spans, theta
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.optim import parameters
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.optim.schedule import mu_at
from szpo.policies import span_measurement as measuring
from szpo.policies import subspace_setup
from szpo.policies.subspaces import Subspace
from szpo.replay import replay, verification
from szpo.runs import assemble
from tests.support import folder_run
from tests.support.tampering import failure_of, forge, read, rewrite

pytestmark = pytest.mark.full

SETS = (
    "optimizer.rule=known", "optimizer.K=1", "optimizer.N=8", "optimizer.D=1", "run.votes=104",
    "panel.reward=length:6", "generation.max_new_tokens=6",
)  # fmt: skip


def arguments(folder, *sets):
    return folder_run.arguments(folder, *SETS, *sets, model_folder=folder / "llama")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guided")
    folder_run.model(folder)
    assert call(arguments(folder)) == 0
    return folder / "runs" / "folder.db"


def test_verdicts_propose_and_every_step_is_recomputed(finished):
    with Ledger.open(finished, readonly=True) as ledger:
        settings, events = recorded_settings(ledger), list(ledger.events(guided_spans.SPAN))
        assert settings.guides and settings.regressors is not None and settings.features is None
        assert len(events) == len(settings.spans) >= 2
        last = 0
        for event in events:
            body = event["body"]
            assert body["verdicts"] >= last + 40
            last = body["verdicts"]
            noise, inside = body["nats"]
            assert abs(np.log(inside / noise)) < 0.7  # as far as 24 answers tell
        report = verification.verify(ledger)
        assert report.ok and {each.promise for each in report.steps} == {"exact"}
        assert "recorded, not recomputed; every direction and step is" in report.note


def test_both_parts_of_a_direction_cost_the_same(finished):
    """By fresh answers along other directions than those by which they were scaled."""
    with Ledger.open(finished, readonly=True) as ledger:
        span, parts = recorded_settings(ledger).spans[0], assemble.reopen(ledger, panel=False)
        present = replay.fold(ledger, span.first)
        share, policy = parts.settings.section.guided, parts.language
        mu, asked = mu_at(parts.settings, span.first), parts.prompts.train
        host = parts.base.host
        here = Subspace("full", policy.subspace.sites, {}, present, {})
        probe = subspace_setup.probe_of(host, here, asked, policy.sampling, 99)

        def cost(at, weight):
            alone = dataclasses.replace(span, **at)
            space = Space(99, here.layout, Law(), (alone,))
            drawn = [parameters.direction(space, span.first, k) for k in range(16)]
            ways = [{n: v / weight for n, v in each.items()} for each in drawn]
            return measuring.measure_cost(probe, present, ways, mu, "fresh")

        noise = cost({"mixing": ((0.0,),)}, np.sqrt(1 - share))
        inside = cost({"noise": 0.0}, np.sqrt(share))
    assert abs(np.log(inside / noise)) < 1.2, (noise, inside)


def test_the_sense_of_a_proposal_is_nothing():
    rng = np.random.default_rng(0)
    one, two = ({"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4)} for _ in range(2))
    root = rng.normal(size=(10, 10))

    def axes(*proposals):
        flat = np.stack([np.concatenate([v.ravel() for v in each.values()]) for each in proposals])
        rows = measuring.find_axes(flat @ root @ root.T @ flat.T)
        rows = np.stack([measuring.orient(row, proposals) for row in rows])
        return rows @ flat

    there, back = axes(one, two), axes({n: -v for n, v in one.items()}, two)
    np.testing.assert_allclose(there, back, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(there @ root @ root.T @ there.T, np.eye(2), atol=1e-9)


def test_a_killed_run_ends_like_one_that_was_not(finished, tmp_path, monkeypatch):
    """Killed before its first span was committed, and after it with its step not planned."""
    folder_run.model(tmp_path)
    path = tmp_path / "runs" / "folder.db"

    def killed(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(guided_spans, "append", killed)
        assert call(arguments(tmp_path)) == 130
    with Ledger.open(path, readonly=True) as ledger:
        steps = len(ledger.steps())
        assert steps >= 5 and not recorded_settings(ledger).spans
    with arm("cp1:raise"):
        assert call(["run", "--resume", str(path)]) != 0
    with Ledger.open(path, readonly=True) as ledger:
        assert len(recorded_settings(ledger).spans) == 1 and len(ledger.steps()) == steps
    assert call(["run", "--resume", str(path)]) == 0
    with Ledger.open(path, readonly=True) as mine, Ledger.open(finished, readonly=True) as whole:
        assert theta.theta_digests(mine) == theta.theta_digests(whole)
        made = [[e["body"] for e in each.events(guided_spans.SPAN)] for each in (mine, whole)]
        for one, other in zip(*made, strict=True):
            assert one | {"taste_sha256": other["taste_sha256"]} == other  # it names the folder


@pytest.mark.parametrize("damage", ["a number", "the first step", "a proposal"])
def test_a_changed_span_is_refused_even_where_every_hash_was_made_anew(finished, tmp_path, damage):
    path = shutil.copy(finished, tmp_path / "folder.db")

    def change(body):
        if damage == "a number":
            body["mixing"][0][0] *= 1.5
        elif damage == "the first step":
            body["first"] -= 1

    if damage == "a proposal":
        row = read(path, "SELECT name, bytes FROM tensors WHERE name LIKE 'proposed/0/%'")[0]
        values = np.frombuffer(row["bytes"], "<f4") * np.float32(2)
        sql = "UPDATE tensors SET bytes = ? WHERE name = ?"
        forge(path, sql, (values.tobytes(), row["name"]))
    else:
        (event,) = read(path, "SELECT event, body FROM events WHERE kind = 'span' LIMIT 1")
        body = json.loads(event["body"])
        change(body)
        sql = "UPDATE events SET body = ? WHERE event = ?"
        forge(path, sql, (canonical.canonical(body), event["event"]))
    assert failure_of(path) is not None  # by the chain
    rewrite(path)
    found = failure_of(path)
    assert found is not None
    assert found.table == {"a number": "updates", "the first step": "events"}.get(
        damage, "tensors"
    )


@pytest.mark.parametrize("damage", ["none", "one", "text", "absent"])
def test_a_strangers_span_that_is_sound_in_itself_is_refused(finished, tmp_path, damage):
    """Its proposal lacks weights, to which a later one of all would not fit, or verdicts."""
    path = shutil.copy(finished, tmp_path / "folder.db")
    with Ledger.open(path) as ledger:
        number = len(recorded_settings(ledger).spans)
        whole = {name: np.ones(shape, np.float32) for name, shape in ledger.layout}
        part = dict(list(whole.items())[: {"none": 0, "one": 1}.get(damage)])
        notes = {"verdicts": "x" if damage == "text" else 104, "nats": [1, 1], "answers": 1}
        if damage == "absent":
            del notes["verdicts"]
        for of, proposal in (([number], part), ([number, number + 1], whole)):
            mixing = [[0.1] * len(of)]
            guided_spans.append(
                ledger, proposal, first=13, noise=0.4, of=of, mixing=mixing, notes=notes
            )
    for line in (["run", "--resume", path, "--votes", "+8"], ["verify", path], ["sample", path]):
        assert call([*map(str, line)]) == 5
