"""The engines against plain decoding, one row at a time, and their contract."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from szpo.cli.app import call
from szpo.errors import RunError, UsageError
from szpo.failpoints import arm
from szpo.ledger.database import Ledger
from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas
from szpo.models.flat_attention import Canary
from szpo.models.local_engines import FlatEngine, GenerateEngine, check_engine, engine_for
from szpo.models.sampling import Sampling, draw
from szpo.replay import verification
from szpo.runs import driver, pair_choice
from szpo.runs import samples as sample_check
from szpo.voting import lease, pauses
from szpo.voting.recorded_step import text_digest
from szpo_ui import operator_controls, operator_page
from szpo_ui.operator_controls import Command
from szpo_ui.site import of_ledger
from tests.support import folder_run
from tests.support.tiny_models import ARCHITECTURES, STOP, WORDS, adapted, questions


def one_by_one(
    model: Any, sites: Any, deltas: Deltas, prompt: list[int], member: int, draws: np.ndarray,
    sampling: Sampling,
) -> tuple[int, ...]:  # fmt: skip
    ids, new = list(prompt), []
    mine = Deltas(deltas.A, {k: b[member : member + 1] for k, b in deltas.B.items()})
    with torch.inference_mode(), attach_deltas(model, sites, mine):
        for t in range(sampling.max_new_tokens):
            logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1:]
            new.append(int(draw(logits, torch.from_numpy(draws[t : t + 1]), sampling)))
            ids.append(new[-1])
            if new[-1] == STOP:
                break
    return tuple(new)


@pytest.mark.full
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("layers", [None, pytest.param([2, 3], marks=pytest.mark.slow)])
def test_flat_batch_says_what_single_rows_say(name, layers):
    model, sites, deltas = adapted(name, layers)
    prompts, members = questions(count=4, repeats=2, members=3)
    sampling = Sampling(max_new_tokens=14)
    draws = np.random.default_rng(0).random((len(prompts), 14))
    # Small limits force several chunks of prompts and several groups of rows.
    engine = FlatEngine(AdaptedModel(model, sites, (STOP,)), max_rows=10, max_tokens=20)
    made = engine.generate(prompts, members, deltas, sampling, draws, canary=True)
    expected = [
        one_by_one(model, sites, deltas, p, m, u, sampling)
        for p, m, u in zip(prompts, members, draws, strict=True)
    ]
    assert list(made) == expected
    assert len(set(expected)) > 12  # the rows really differ


def test_finished_rows_leave_and_the_others_go_on():
    model, sites, deltas = adapted("llama")
    prompts, members = questions(count=6, repeats=2, members=3)
    sampling = Sampling(max_new_tokens=12)
    draws = np.random.default_rng(5).random((len(prompts), 12))
    free = FlatEngine(AdaptedModel(model, sites))
    free = free.generate(prompts, members, deltas, sampling, draws)
    # Make the words that rows say early the end tokens: rows then end at many different places.
    stops = sorted({row[i % 9] for i, row in enumerate(free)})
    ended = FlatEngine(AdaptedModel(model, sites, tuple(stops))).generate(
        prompts, members, deltas, sampling, draws
    )
    for whole, cut in zip(free, ended, strict=True):
        end = next((i for i, token in enumerate(whole) if token in stops), 11)
        assert cut == whole[: end + 1]
    assert len({len(row) for row in ended}) > 3


@pytest.mark.parametrize("name", [*ARCHITECTURES, "gemma2"])
def test_every_model_gets_an_engine_that_keeps_the_contract(name):
    model, sites, _ = adapted(name, [2, 3])
    engine = engine_for(AdaptedModel(model, sites, (STOP,)))
    expected = {"gemma2": GenerateEngine}.get(name, FlatEngine)
    assert type(engine) is expected
    check_engine(lambda: engine, sites, WORDS)


def test_generate_engine_and_flat_engine_agree():
    model, sites, deltas = adapted("llama")
    prompts, members = questions(count=3, repeats=1, members=3)
    sampling = Sampling(max_new_tokens=8, temperature=0.7, top_p=0.9)
    draws = np.random.default_rng(3).random((len(prompts), 8))
    one = FlatEngine(AdaptedModel(model, sites, (STOP,)))
    other = GenerateEngine(AdaptedModel(model, sites, (STOP,)))
    wanted, read = one.generate(prompts, members, deltas, sampling, draws), []
    head = model.get_output_embeddings().register_forward_hook(
        lambda _module, given, _out: read.append((given[0].stride()[0], given[0][0].numel()))
    )
    assert other.generate(prompts, members, deltas, sampling, draws) == wanted
    head.remove()
    # A product with a slice of a longer array copies the head's weights for each row.
    assert read and all(step == size for step, size in read)


@pytest.mark.parametrize(
    ("broken", "clause"),
    [("order", "order"), ("deaf", "two different members"), ("blind", "canary")],
)
def test_check_engine_names_the_broken_clause(broken, clause):
    model, sites, _ = adapted("llama")
    inner = FlatEngine(AdaptedModel(model, sites, (STOP,)))

    class Broken:
        def generate(self, prompts, members, deltas, sampling, uniforms, *, canary=False):
            if broken == "order":
                uniforms = np.roll(uniforms, 1, axis=0)
            if broken == "deaf":
                members, canary = [0] * len(members), False
            canary = canary and broken != "blind"
            return inner.generate(prompts, members, deltas, sampling, uniforms, canary=canary)

        logprobs = inner.logprobs

    def make():
        return Broken()

    with pytest.raises(RunError, match=clause):
        check_engine(make, sites, WORDS)


def test_logprobs_are_those_of_a_plain_pass():
    model, sites, deltas = adapted("qwen2")
    prompts, members = questions(count=3, repeats=1, members=3)
    completions = [[7, 8, 9][: 1 + i % 3] for i in range(len(prompts))]
    completions[4] = []
    found = FlatEngine(AdaptedModel(model, sites)).logprobs(
        prompts, completions, members, deltas, temperature=0.5
    )
    assert [len(values) for values in found] == [len(c) for c in completions]
    for i in (0, 5, 8):
        mine = Deltas(deltas.A, {k: b[members[i] : members[i] + 1] for k, b in deltas.B.items()})
        ids = torch.tensor([[*prompts[i], *completions[i]]])
        with torch.inference_mode(), attach_deltas(model, sites, mine):
            logp = (model(ids).logits[0] / 0.5).log_softmax(-1)
        begin = len(prompts[i]) - 1
        expected = [float(logp[begin + t, token]) for t, token in enumerate(completions[i])]
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize(("one", "other"), [(0, 1), (0, 35), (33, 38)])
@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_equal_members_are_seen_whatever_blocks_they_fall_into(one, other, rows):
    model, sites, deltas = adapted("llama", members=40)
    for b in deltas.B.values():
        b[other] = b[one]
    prompts, members = questions(count=1, repeats=1, members=40)
    engine = GenerateEngine(AdaptedModel(model, sites), max_rows=rows)
    draws = np.full((40, 1), 0.5)
    with pytest.raises(RunError, match=f"members {one} and {other} give identical logits"):
        engine.generate(prompts, members, deltas, Sampling(max_new_tokens=1), draws, canary=True)


def test_the_canary_compares_members_that_share_a_prompt_and_takes_none_for_another():
    # Rows of one prompt and member that fall into two blocks are filled twice.
    watch = Canary()
    one, other = torch.zeros(3), torch.ones(3)
    watch.see([(0, 0), (0, 1)], torch.stack([one, other]))
    watch.see([(0, 1), (1, 0)], torch.stack([other, one]))
    watch.judge()
    watch.see([(1, 1)], torch.stack([one]))
    watch.judge()  # equal on one prompt, different on another
    with pytest.raises(RunError, match="members 0 and 2"):
        watch.see([(0, 2)], torch.stack([one]))
        watch.judge()
    watch = Canary()
    row = torch.ones(3)
    watch.see([(0, 0), (0, 1), (1, 2)], torch.stack([row, row + 1, row]))
    watch.judge()  # members 0 and 2 are equal, but answered different prompts
    watch.see([(2, 0), (2, 2)], torch.stack([row, row]))
    with pytest.raises(RunError, match="members 0 and 2"):
        watch.judge()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of random weights: nearly all that it writes is cut off."""
    return folder_run.model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch):
    def turn(desk):
        pauses.pause(desk._ledger, "the test")

    monkeypatch.setattr(driver.LeaseHolder, "do_one_turn", turn)


def begin(folder: Path, model: Path, *sets: str, flags: Sequence[str] = ()) -> Path:
    folder.mkdir(exist_ok=True)
    people = ("panel.kind=people", "run.seed=0")
    line = folder_run.arguments(folder, *people, *sets, model_folder=model)
    assert call([*line, *flags]) == 1  # paused, by whomever
    return folder / "runs" / "folder.db"


def opened(ledger: Ledger) -> bool:
    return bool(ledger.query("SELECT 1 FROM steps WHERE opened_us IS NOT NULL"))


def paused_by(ledger: Ledger) -> str | None:
    return lease.controller(ledger)["paused_by"]  # type: ignore[no-any-return]


@pytest.mark.full
def test_bad_samples_close_a_run_until_somebody_opens_it(tmp_path, model, capsys):
    path = begin(tmp_path, model)
    printed = capsys.readouterr()
    assert printed.err.count("\nsample") == 3, "the others would push the operator's link away"
    assert "12 sample answers: cut off" in printed.err
    assert "people could not judge these answers:" in printed.err
    assert "--accept-samples" in printed.err
    with Ledger.open(path) as ledger:
        found = sample_check.read_check(ledger)
        assert found is not None and len(found.samples) == sample_check.SAMPLES
        assert found.shares.cut.hits > 6 and found.shares.off_topic is not None
        assert {each.margin is None for each in found.samples} == {False}
        assert "cut off, bound 50%" in found.refusal
        assert paused_by(ledger) == sample_check.PAUSED_BY and not opened(ledger)

    # Going on is not enough: nothing is drawn again, and the run stays paused.
    assert call(["run", "--resume", str(path)]) == 1
    assert "sample (" not in capsys.readouterr().err
    with Ledger.open(path) as ledger:
        assert len(list(ledger.events(sample_check.DRAWN_EVENT))) == 1
        assert paused_by(ledger) == sample_check.PAUSED_BY

        # Nor is an operator's start, unless the box is ticked.
        site = of_ledger(ledger)
        shown = operator_page.page(site)
        assert "The run is paused:" in shown and shown.count('op-sample"') == 12
        with pytest.raises(UsageError, match=r"people could not judge .* tick the box"):
            operator_controls.act(site, "Olga", Command(do="start"))
        assert paused_by(ledger) == sample_check.PAUSED_BY
        operator_controls.act(site, "Olga", Command(do="start", anyway=True))
        assert paused_by(ledger) is None
        accepted = sample_check.read_check(ledger)
        assert accepted is not None and (accepted.accepted, accepted.refusal) == ("Olga", "")
        assert "Opened all the same by Olga" in operator_page.page(site)

    assert call(["run", "--resume", str(path)]) == 1
    with Ledger.open(path) as ledger:
        assert opened(ledger) and paused_by(ledger) == "the test"
        assert verification.verify(ledger).ok
        # While the run goes on, the same shares come from what people read.
        recent = sample_check.recent_shares(ledger)
        # Two sides, two rows, four comparisons, and the round ahead is written too.
        assert recent is not None and recent.cut.of == 2 * 2 * 4 * 2
        assert "Answers of the last rounds" in operator_page.page(of_ledger(ledger))


@pytest.mark.full
@pytest.mark.parametrize("cut", ["", "cp3:raise", "cp4:raise"])
def test_nothing_but_the_first_round_is_drawn_before_it_opens(tmp_path, model, monkeypatch, cut):
    """Killed before the samples are recorded, or between them and the round, it draws the same."""
    drawn, plain = [], FlatEngine.generate
    monkeypatch.setattr(
        FlatEngine, "generate",
        lambda engine, prompts, *args, **how: (
            drawn.append(len(prompts)) or plain(engine, prompts, *args, **how)
        ),
    )  # fmt: skip
    still = ["subspace.kind=none", "optimizer.D=1"]
    with arm(cut) if cut else nullcontext():
        path = begin(tmp_path, model, *still)
    if cut:
        assert call(["run", "--resume", str(path)]) == 1
    assert sum(drawn) == 4 * pair_choice.FEWER * (2 if cut else 1)  # four rows
    with Ledger.open(path) as ledger:
        assert paused_by(ledger) == sample_check.PAUSED_BY and not opened(ledger)
        (event,) = ledger.events(sample_check.DRAWN_EVENT)
        (made,) = ledger.events("generated")
        rows = [row for each in ledger.comparisons(0) for row in each.rows]
        found = sample_check.read_check(ledger)
        samples = [(each.prompt, text_digest(each.answer.text)) for each in found.samples]
        first = [
            (row.prompt.text, candidates[place])
            for place in range(pair_choice.FEWER)
            for row, candidates in zip(rows, made["body"]["pool"]["candidates"], strict=True)
        ]
        assert samples == first[: sample_check.SAMPLES]
        assert event["event"] < made["event"] and verification.verify(ledger).ok


def samples_and_answers(path: Path) -> tuple[Any, list[Any], list[str]]:
    with Ledger.open(path, readonly=True) as ledger:
        found = sample_check.read_check(ledger)
        assert opened(ledger)
        answers = ledger.query("SELECT i, plus, minus FROM answers ORDER BY 2, 3")
        accepted = [event["actor"] for event in ledger.events(sample_check.ACCEPTED)]
        return None if found is None else found.samples, answers, accepted


@pytest.mark.full
def test_a_flag_opens_it_and_the_check_moves_no_other_draw(tmp_path, model, monkeypatch):
    at_once = begin(tmp_path / "a", model, flags=["--accept-samples"])
    by_flag = begin(tmp_path / "b", model)
    assert call(["run", "--resume", str(by_flag), "--accept-samples"]) == 1
    monkeypatch.setattr(sample_check, "check_once", lambda *_: None)
    unchecked = begin(tmp_path / "c", model)
    first, second, third = map(samples_and_answers, (at_once, by_flag, unchecked))
    assert first[0] == second[0] and len(first[0]) == sample_check.SAMPLES and third[0] is None
    assert first[1] == second[1] == third[1]
    assert first[2] == second[2] == ["szpo run --accept-samples"] and third[2] == []


@pytest.mark.full
def test_answers_that_end_open_by_themselves(tmp_path, model, capsys):
    few = tmp_path / "few.txt"  # two to train on, of which no topic can be told
    few.write_text("w20 w21\nw22 w23\nw24 w25\n", encoding="utf-8")
    path = begin(tmp_path, model, "generation.stop=[' w1']", f"prompts.path={few}")
    assert "people could not judge" not in capsys.readouterr().err
    samples, _, accepted = samples_and_answers(path)
    assert len(samples) == sample_check.SAMPLES and accepted == []
