"""A run in coordinates of named features, from the command line to the verified file."""

import json
import re
import shlex
import shutil
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import szpo
from szpo.analysis import html_report, taught_taste
from szpo.cli.app import call
from szpo.config import settings_file
from szpo.config.optimizer import record_settings
from szpo.failpoints import arm
from szpo.features import described_taste, dictionary, user_features
from szpo.features.user_features import choose
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.optim.named_features import NamedFeatures
from szpo.policies import subspace_setup
from szpo.policies.subspaces import FEATURE_MAP
from szpo.replay import verification
from szpo.runs import assemble, budget
from szpo.voting import shown_features
from szpo.voting.recorded_step import read_step
from tests.support import folder_run
from tests.support.tampering import change_event, failure_of, forge, rewrite

pytestmark = pytest.mark.full


def arguments(folder: Path, model: Path, *sets: str) -> list[str]:
    return folder_run.arguments(
        folder, "subspace.kind=features", "subspace.samples=384", "run.votes=16",
        "panel.reward=length:3", *sets, model_folder=model,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("named")
    assert call(arguments(folder, folder_run.model(folder))) == 0
    return folder / "runs" / "folder.db"


def test_each_step_records_what_its_texts_differ_in_and_all_is_recomputed(finished):
    with Ledger.open(finished) as ledger:
        settings = recorded_settings(ledger)
        named = settings.features
        assert named is not None and named.dictionary == dictionary.digest()
        assert set(named.names) <= set(dictionary.BY_NAME)
        for step in range(2):
            inputs = read_step(ledger, step).inputs(ledger, settings)
            entries = shown_features.entries_of(named)
            mine = shown_features.differences_of(named, ledger.comparisons(step), entries)
            assert inputs.text_differences is not None and inputs.scores is not None
            np.testing.assert_array_equal(inputs.text_differences, mine)
            assert inputs.text_differences.any()
            o = settings.section
            assert inputs.scores.shape == (o.K, o.N, named.components)
        assert verification.verify(ledger).ok
        found = taught_taste.last_findings(ledger)
        assert found is not None and found.taught is not None
        assert {each.feature for each in found.taught} <= set(named.names)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda claims: claims[0].update(chance=0.0), "chance"),
        (lambda claims: claims[0].update(more=not claims[0]["more"]), "findings.taught"),
        (lambda claims: claims.pop(0), "findings.taught"),
    ],
)
def test_a_forged_claim_is_found(finished, tmp_path, change, words):
    path = Path(shutil.copy(finished, tmp_path / "run.db"))
    change_event(path, "step", 1, lambda body: change(body["extra"]["findings"]["taught"]))
    rewrite(path)
    assert words in str(failure_of(path)) and "events row step 1" in str(failure_of(path))


def test_the_library_and_the_command_say_what_the_votes_taught(finished, capsys):
    with szpo.Tuner.resume(finished) as tuner:
        lesson = tuner.taught()
    assert lesson is not None and str(lesson).startswith("16 votes: ")
    assert call(["show", str(finished)]) == 0
    shown = capsys.readouterr().out
    assert str(lesson) in " ".join(shown.split())
    ruler = re.findall(r"^ *([\d.]+ nats?)  \S", shown.partition("what nats look like")[2], re.M)
    assert ruler == ["0 nats", "0.5 nats", "1 nat", "2.5 nats", "5 nats"]
    assert call(["show", str(finished), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["taught"]["text"] == str(lesson)


def test_what_can_be_taught_is_told_before_and_after(finished, capsys):
    folder = finished.parent.parent
    assert call([*arguments(folder, folder / "llama"), "--plan"]) == 0
    assert "taught not at all" in capsys.readouterr().err
    assert call(["doctor", str(finished)]) in (0, 1)
    assert "taught not at all" in capsys.readouterr().out
    with Ledger.open(finished, readonly=True) as ledger:
        page = html_report.render(ledger)
    assert "What this model can be taught" in page and "not at all: " in page


def test_changed_features_are_found_even_where_every_hash_was_made_anew(finished, tmp_path):
    def change(body):
        row = body["features"][0][0]
        row[next(i for i, value in enumerate(row) if value)] += 1

    path = shutil.copy(finished, tmp_path / "folder.db")
    number = change_event(path, "regressors", 1, change)
    assert failure_of(path).row == str(number)  # by the chain
    rewrite(path)
    assert failure_of(path).problem == "features are not those of its texts"


@pytest.mark.parametrize("damage", ["a name twice", "no scales", "no site", "the map"])
def test_damaged_coordinates_are_refused_in_a_line(finished, tmp_path, capsys, damage):
    path = tmp_path / "folder.db"
    shutil.copy(finished, path)
    with Ledger.open(finished, readonly=True) as ledger:
        spec = json.loads(ledger.row["spec"])
        (row,) = ledger.query("SELECT * FROM tensors WHERE name = ?", (FEATURE_MAP,))
    space = spec["space"]
    names = space["features"]["names"]
    if damage == "a name twice":
        names[0] = names[1]
    elif damage == "no scales":
        del space["features"]["scales"]
    elif damage == "no site":
        space["sites"][0]["other"] = 1
    else:
        shape = json.dumps([1, *json.loads(row["shape"])])
        forge(path, "UPDATE tensors SET shape = ? WHERE name = ?", (shape, FEATURE_MAP))
    forge(path, "UPDATE runs SET spec = ?", (json.dumps(spec),))
    rewrite(path)
    assert call(["run", "--resume", str(path)]) == 5
    (said,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "error: folder.db: the coordinates on record are damaged (" in said


def test_a_dictionary_of_another_version_is_not_asked(finished, monkeypatch, capsys):
    monkeypatch.setattr(dictionary, "digest", lambda: "0" * 64)
    with Ledger.open(finished, readonly=True) as ledger:
        assert verification.verify(ledger).ok  # from the recorded numbers
    assert call(["run", "--resume", str(finished)]) == 2  # it would fit votes to other values
    assert "of another version of the dictionary" in _line(capsys)
    with Ledger.open(finished, readonly=True) as ledger:
        named = recorded_settings(ledger).features
        assert named is not None and shown_features.entries_of(named) == {}
        monkeypatch.setattr(dictionary, "EARLIER", frozenset({named.dictionary}))
        assert list(shown_features.entries_of(named)) == list(named.names)  # it counts the same


OWN = ("keyword:w20+w22", "regex:w[0-9]2", "tests.support.own_feature:starts")


def test_a_run_without_coordinates_counts_own_features_and_runs_none_from_its_record(
    tmp_path, monkeypatch, capsys
):
    """Cut before the features are drawn, then after; code must be given anew, words need not."""
    code = tmp_path / "counted_here.py"
    code.write_text("def starts(prompt, answer):\n    return int(answer[:1] == prompt[:1])\n")
    monkeypatch.syspath_prepend(tmp_path)
    model, mine = folder_run.model(tmp_path), (*OWN[:2], "counted_here:starts")
    sets = (
        f"features.add={json.dumps([*mine, 'keyword:zebra', 'say: cheerful, zesty'])}",
        "subspace.kind=none", "optimizer.D=1", "run.votes=8",
        "panel.reward=keyword:w20,w22",
    )  # fmt: skip
    run = tmp_path / "runs" / "folder.db"
    with arm("cp3:raise"):
        assert call(folder_run.arguments(tmp_path, *sets, model_folder=model)) not in (0, 2)
    assert 'say: not understood: "cheerful", "zesty"; szpo' in _line(capsys)  # not English
    again = [word for name in mine[1:] for word in ("--feature", name)]

    def refuse(*_):
        raise AssertionError("the record was run")

    def needs_features() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(user_features, "importlib", SimpleNamespace(import_module=refuse))
            patched.setattr(user_features, "matches", refuse)
            for more in ([], ["--votes", "+8"]):
                assert call(["run", "--resume", str(run), *more]) == 2
                assert "a record never runs code; give them again" in _line(capsys)
            assert call(["verify", str(run)]) == 0
            with Ledger.open(run) as ledger:
                words = shlex.split(budget.describe_more(ledger))
        assert words[words.index("--feature") :] == again

    needs_features()
    assert call(["run", "--resume", str(run), *again]) == 0
    assert "keyword:zebra is (nearly) the same in all 256 base answers" in _line(capsys)
    with Ledger.open(run) as ledger:
        settings = recorded_settings(ledger)
        named = settings.features
        assert named is not None and "keyword:zebra" not in named.names
        assert named.own == tuple(map(astuple, choose(mine)[1]))
        assert all(each[-1] for each in named.own), "digests"
        entries = shown_features.entries_of(named, mine)
        assert list(entries) == list(named.names)
        found = shown_features.differences_of(named, ledger.comparisons(1), entries)
        inputs = read_step(ledger, 1).inputs(ledger, settings)
        np.testing.assert_array_equal(inputs.text_differences, found)
        assert found[..., [named.names.index(name) for name in mine]].any()
    needs_features()
    assert f"values of {mine[1]}, {mine[2]} are recorded, not recomputed" in _line(capsys)
    code.write_text(code.read_text() + "# changed\n")
    assert call(["run", "--resume", str(run), "--votes", "+8", *again]) == 2
    assert "its code, version or judge is not the recorded one" in _line(capsys)


def _line(capsys: pytest.CaptureFixture[str]) -> str:
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


def test_words_of_the_settings_are_in_the_recorded_prior_and_change_no_set_up():
    named = NamedFeatures(("commas", "i"), (0, 1), (1, 1), ((1,), (2,)), 0, "")
    sets = ["subspace.kind=features", "features.add=say: no commas; zesty"]
    config, plain = (settings_file.load(sets=sets[:n]) for n in (2, 1))
    both = (each.optimizer_settings((("z", (1,)),), 1.0, named) for each in (config, plain))
    made, without = both
    assert made.features is not None and made.features.said == ("commas",)
    assert record_settings(made)["features"]["said"] == ["commas"]
    assert "said" not in record_settings(without)["features"]
    _, told = described_taste.read(["no commas; zesty"], named.names)
    assert assemble.describe_words(config, named, ()) == told and len(told) == 2
    keys = [subspace_setup.setup_key(each, "0", "fp32", ()) for each in (config, plain)]
    assert keys[0] == keys[1]


ROWS = ("subspace.kind=none", "optimizer.rule=regression", "optimizer.D=1")


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["subspace.kind=full", "features.add=['keyword:sea']"], "go with subspace.kind"),
        (["subspace.kind=features", "features.drop=['comas']"], 'did you mean "comma'),
        (["subspace.kind=features", "features.add=['no-such']"], "it is none of regex:PATTERN"),
        (["subspace.kind=features", "features.add=say: !"], "say: needs words, as in say: cheer"),
        (
            ["subspace.kind=features", "rule=sign", "features.add=say: warm"],
            "say: with optimizer.rule regression",
        ),
        (["subspace.kind=features", "features.add=like: our.txt"], "it is none of regex:PATTERN"),
        (["subspace.kind=features", "features.prior=a.json"], "goes with hidden states: subspace"),
        ([*ROWS, "features.layer=0", "features.prior=a.json"], "layer above 0"),
        ([*ROWS, "features.prior=a.json"], "a.json"),
    ],
)
def test_features_that_cannot_be_had_are_refused_before_a_model_loads(
    tmp_path, sets, words, capsys
):
    assert call([*folder_run.arguments(tmp_path, *sets, model_folder=tmp_path), "--plan"]) == 2
    assert words in _line(capsys)
