"""What few recorded votes foretell of votes on other prompts."""

import json

import numpy as np
import pytest
from scipy import special

from szpo.errors import UsageError
from szpo_simulators import preferences
from szpo_simulators.bench_study import REPORTED
from szpo_simulators.preferences import DICTIONARY, JOINT, LIKELY, PRIORS, WORDS, VoteDifferences

PROMPTS, ANSWERS, K = 120, 5, 6


def make_votes(weight, each=1, length=0):
    """Votes on all pairs of five answers to each prompt, about feature 2: logit = weight × x₂.

    A single answer's features are standard normal, so differences have two spreads of one.
    """
    rng = np.random.default_rng(0)
    values = rng.normal(size=(PROMPTS, ANSWERS, K))
    a, b = np.triu_indices(ANSWERS, 1)
    x = (values[:, a] - values[:, b]).reshape(-1, K).repeat(each, axis=0)
    won = rng.random(len(x)) < special.expit(weight * x[:, 2])
    item = np.arange(PROMPTS * len(a)).repeat(each)
    return VoteDifferences(np.where(won, 1, -1)[:, None] * x, length, item, item // len(a))


def score(judged, fit, votes, splits=8, words=0.75):
    """Share right and nats a vote at one number of votes, with the widths of a run."""
    prior = next(p for p in PRIORS if p["fit"] == fit and p["words"] in (None, words))
    seeds = list(range(REPORTED, REPORTED + splits))
    found = preferences.score_fit(judged, {**prior, "votes": [votes], "seeds": seeds})
    asked = sum(found["asked"])
    assert found["mean"] == pytest.approx(sum(found["nats"][0]) / asked)
    return sum(found["right"][0]) / asked, found["mean"]


def test_a_taste_for_one_feature_is_foretold_by_the_dictionary_and_not_by_the_number_of_words():
    """No forecast is better than the law of the votes, σ(2x₂); the fit comes near it."""
    judged = make_votes(2.0)
    mine = np.isin(judged.prompt, judged.half(reported=True))
    best = np.log(2 * special.expit(2 * judged.named[mine, 2])).mean()
    right, nats = score(judged, DICTIONARY, 120)
    assert 0.85 * best < nats < best + 0.02 and right > 0.75
    assert abs(score(judged, WORDS, 60)[1]) < 0.02
    assert abs(score(make_votes(0.0), DICTIONARY, 120)[1]) < 0.02


@pytest.mark.full
def test_votes_about_nothing_but_which_answer_it_is_foretell_no_other_prompt():
    """Each answer has a quality that no regressor carries, and stands in four pairs.

    Two hundred states tell the answers to forty prompts apart: fitted on some pairs they foretell
    others of the same answers, as a split by pairs would report, and nothing of other prompts.
    """
    rng = np.random.default_rng(5)
    a, b = np.triu_indices(ANSWERS, 1)
    quality, marks = rng.normal(size=(40, ANSWERS, 1)), rng.normal(size=(40, ANSWERS, 200))
    sign = np.sign(quality[:, a] - quality[:, b])
    gap = (sign * (marks[:, a] - marks[:, b])).reshape(400, 200)
    item = np.arange(400)
    judged = VoteDifferences(rng.normal(size=(400, 2)), 0, item, item // 10, gap)
    joint = next(p for p in PRIORS if p["fit"] == JOINT)
    (x, prior), states, order = judged.regressors(joint), judged.dense(joint), rng.permutation(400)
    (seen, asked), both = ((each[order[:300]], each[order[300:]]) for each in (x, states))
    by_pairs = preferences.foretell(prior, seen, asked, tuple(both))
    assert (by_pairs > 0.5).mean() > 0.7 and np.log(2 * by_pairs).mean() > 0.1
    right, nats = score(judged, JOINT, 100, splits=20)
    assert abs(right - 0.5) < 0.06 and nats < 0.01


def test_prompts_are_apart_and_pairs_get_their_first_votes_in_turns():
    judged = make_votes(1.0, each=3)
    orders = []
    for seed in (0, 1, REPORTED, REPORTED + 1):
        fitted, left_out = judged.split(seed)
        half = set(judged.half(seed >= REPORTED))
        read, rest = ({*judged.prompt[each]} for each in (fitted, left_out))
        assert not read & rest and read | rest == half and len(rest) == len(half) // 3
        assert len({*fitted}) == len(fitted) == 30 * len(read) and len(left_out) == 30 * len(rest)
        assert len({*judged.prompt[fitted[: len(read)]]}) == len(read)
        assert len({*judged.item[fitted[: 10 * len(read)]]}) == 10 * len(read)
        orders.append(fitted[:20].tolist())
    assert len({*map(tuple, orders)}) == 4
    assert not set(judged.half(False)) & set(judged.half(True))


@pytest.mark.full
def test_a_file_of_votes_becomes_one_table(tmp_path):
    """Longer answers win: all that is scored is right, and the words' own row is ahead."""
    file, lines = tmp_path / "votes.jsonl", []
    for i in range(60):
        texts = [" ".join(["rain"] * (2 + 3 * j + i % 3)) + "." for j in range(3)]
        lines += [
            {"prompt": f"Say {i}.", "chosen": texts[a], "rejected": texts[b]}
            for a, b in ((1, 0), (2, 1), (2, 0))
        ]
    file.write_text("\n".join(map(json.dumps, lines)))
    rows = preferences.main(file, model=False, quick=True, folder=tmp_path)
    assert [row["fit"] for row in rows] == [WORDS, DICTIONARY, LIKELY]
    assert rows[0]["votes"] == [15, 30, 60] and rows[0]["seeds"][0] == REPORTED
    table = next(tmp_path.glob("*/preferences.csv")).read_text().splitlines()
    assert table[0] == "regressors / votes,15,30,60"
    assert table[1].startswith(f"{WORDS},100% +.")


@pytest.mark.full
def test_what_cannot_be_split_or_has_nothing_to_compare_with_is_refused(tmp_path):
    file = tmp_path / "votes.jsonl"
    lines = [{"prompt": f"Say {i}.", "chosen": "Yes.", "rejected": "No."} for i in range(60)]
    file.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UsageError, match=r"too few prompts .* give a file with 480"):
        preferences.main(file, model=False, folder=tmp_path)
    with pytest.raises(UsageError, match="the number of words differs in fewer than 5 pairs"):
        preferences.main(file, model=False, quick=True, folder=tmp_path)
    file.write_text(json.dumps({"prompt": "?", "chosen": "Yes.", "rejected": "Yes."}))
    with pytest.raises(UsageError, match="0 votes to read"):
        preferences.main(file, model=False, quick=True, folder=tmp_path)
