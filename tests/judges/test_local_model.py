"""A transformers model as a judge: its odds, its texts, its control words."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from szpo import seeds
from szpo.cli.app import call
from szpo.config import settings_file
from szpo.config.judge import Judge
from szpo.data import prompts
from szpo.errors import IntegrityError, UsageError
from szpo.evaluators.checks import check_judge
from szpo.evaluators.panel_factory import StartingPolicy
from szpo.judges import judge_panel, prompting
from szpo.judges.backends import JudgeError, Question
from szpo.judges.llm_judge import LanguageJudge
from szpo.judges.local_model import LEAD, Local
from szpo.ledger.database import Ledger
from szpo.models import loading
from szpo.policies import language_model
from szpo.policies.responder import LocalHost
from szpo.runs import assemble
from szpo.types import Prompt
from tests.support import folder_run, tiny_models

KEY = seeds.derive(0, "test")


@pytest.fixture(scope="module")
def tiny():
    return loading.load("tiny", dtype="fp32")


def local(loaded, **options):
    return Local(*LocalHost(loaded).beside(loaded.name), **options)


def lettered(path):
    """A small random Llama whose word list holds A and B."""
    folder = folder_run.model(path)
    file = folder / "tokenizer.json"
    text = file.read_text(encoding="utf-8").replace('"w318"', '"A"').replace('"w319"', '"B"')
    file.write_text(text, encoding="utf-8")
    return folder


def asked(*texts):
    return [Question(Prompt.user(text), KEY) for text in texts]


def test_odds_are_those_of_a_plain_forward_pass(tiny):
    texts = ("Which, A or B?", "Say B. " * 20)
    found = local(tiny).weigh(asked(*texts), prompting.LETTERS)
    for text, reply in zip(texts, found, strict=True):
        ids = list(loading.encode(tiny.tokenizer, Prompt.user(text)))
        tails = [
            tiny.tokenizer(f"{LEAD} {x}", add_special_tokens=False)["input_ids"] for x in "AB"
        ]
        same = next(i for i, (a, b) in enumerate(zip(*tails, strict=False)) if a != b)
        with torch.inference_mode():
            rows = torch.tensor([ids + tails[0][:same]])
            logp = tiny.model(rows).logits[0, -1].double().log_softmax(-1)
        wanted = [float(logp[tail[same]]) for tail in tails]
        assert np.allclose(reply.odds, wanted, atol=1e-5)
        assert reply.tokens_in == rows.shape[1]


def test_what_is_written_follows_from_the_key(tiny):
    warm = local(tiny, temperature=1.0, max_tokens=12)
    one, again = warm.write(asked("Describe the sea.", "Describe the sea."))
    assert one == again and one.text and one.tokens_out > 0
    other = warm.write([Question(Prompt.user("Describe the sea."), seeds.derive(1, "test"))])[0]
    assert other.text != one.text
    cut = local(tiny, max_tokens=2).write(asked("Describe the sea."))[0]
    assert (cut.ended, cut.tokens_out) == (False, 2)


def test_a_question_that_is_too_long_is_reported_and_not_asked(tiny):
    for replies in (
        local(tiny).write(asked("sea " * 600, "Describe the sea.")),
        local(tiny).weigh(asked("sea " * 600, "Describe the sea."), prompting.LETTERS),
    ):
        assert replies[0].final and "and the model reads 512" in replies[0].failure
        assert replies[1].failure is None


@pytest.mark.full
@given(parts=st.lists(st.sampled_from(["<end>", "<pad>", "sea", "\n", "<", "end>"]), max_size=8))
def test_no_answer_holds_a_control_token(tiny, parts):
    """The tokenizer reads <end> as the end of everything wherever it stands: it must not stand."""
    reserved = local(tiny).reserved
    assert {"<end>", "<pad>"} <= set(reserved)
    control = {tiny.tokenizer.convert_tokens_to_ids(word) for word in reserved}
    text = prompting.quote("".join(parts), reserved)
    assert not control & set(tiny.tokenizer(text)["input_ids"])


def test_a_local_judge_keeps_the_contract_and_says_when_it_cannot_be_read(tiny):
    soft = Judge(ask="soft", conflict="debias")
    check_judge(LanguageJudge(local(tiny), soft, "better"))
    with pytest.raises(JudgeError, match="judge tiny: no verdict in the last line"):
        check_judge(LanguageJudge(local(tiny, max_tokens=8), Judge(retries=0), "better"))


@pytest.mark.full
def test_a_model_judges_a_run_of_itself_and_a_resume_wants_the_same_one(tmp_path):
    """With the run's own model as judge it is loaded once; another model is refused afterwards."""
    folder = lettered(tmp_path)
    sets = ["panel.kind=judge", f"judge.model={folder}", "judge.ask=soft", "judge.conflict=debias"]
    path = folder_run.make(tmp_path, *sets, model_folder=folder)
    with Ledger.open(path) as ledger:
        parts = assemble.reopen(ledger, say=lambda text: None)
        (made,) = parts.panel.judges
        assert made.backend.facts is parts.base.loaded
        assert {row["choice"] for row in ledger.votes()} <= {"A", "B"}
        recorded = dict(ledger.spec["panel"], model_sha256="0" * 64)
        with pytest.raises(IntegrityError, match="judge: model is not what this run began with"):
            judge_panel.judge.build(parts.config, StartingPolicy(host=parts.base.host), recorded)


def test_the_panel_counts_an_opinion_once():
    loaded = dataclasses.replace(tiny_models.loaded("llama"), name="smollm2")

    def members(**settings):
        config = settings_file.check({"panel": {"kind": "judge", "size": 5}, "judge": settings})
        return len(judge_panel.judge.build(config, StartingPolicy(host=LocalHost(loaded))).judges)

    assert members() == 1
    assert members(temperature=0.7) == 5
    with pytest.raises(UsageError, match="its tokenizer cannot tell A from B"):
        members(ask="soft", draw=True)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("principles", "# only a remark\n\n", "no principle; write one on each line"),
        ("references", '{"prompt": "x"}', 'line 1: give {"prompt": "…", "reference": "…"}'),
        ("references", "{", "line 1 is not JSON"),
        ("references", '{"prompt": "other", "reference": "y"}', "no prompt of this run has a"),
    ],
)
def test_files_of_a_judge_are_checked_before_anything_is_loaded(tmp_path, name, content, words):
    file = tmp_path / "file"
    file.write_text(content, encoding="utf-8")
    config = settings_file.check({"panel": {"kind": "judge"}, "judge": {name: str(file)}})
    with pytest.raises(UsageError) as caught:
        judge_panel.judge.check(config, prompts.load_shipped().train)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["judge.ask=soft", "optimizer.rows=8"], 'or ask row by row: judge.batches = "rows"'),
        (["judge.max_tokens=400", "judge.batches=rows"], "lower generation.max_new_tokens or"),
        (["judge.ask=grades", "judge.max_tokens=500"], "500 for its reply"),
    ],
)
def test_a_question_longer_than_its_model_reads_is_refused_before_any_work(
    tmp_path, monkeypatch, capsys, sets, words
):
    """The tiny model reads 512 tokens."""
    monkeypatch.setattr(language_model, "prepare", lambda *a: pytest.fail("the set-up began"))
    every = [word for text in ("panel.kind=judge", "judge.model=tiny", *sets)
             for word in ("--set", text)]  # fmt: skip
    assert call(["run", "--preset", "tiny", "--folder", str(tmp_path), *every]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith(
        "error: judge tiny reads 512 tokens, and its longest question needs "
    )
    assert words in message
