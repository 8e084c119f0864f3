"""Votes of an earlier run as a new run's own: what cannot be taken is refused in one line."""

import pytest

from szpo.cli.app import call
from szpo.config import settings_file
from szpo.errors import StorageError, UsageError
from szpo.runs import earlier_votes


def test_other_policies_take_no_votes():
    config = settings_file.load(sets=["optimizer.rule=regression", "optimizer.prior=old.db"])
    with pytest.raises(UsageError, match="needs a language model"):
        earlier_votes.check(config, language=False)
    with pytest.raises(StorageError, match=r"old\.db"):
        earlier_votes.check(config, language=True)


def test_a_preference_file_ends_a_run_before_a_model_is_loaded(tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    sets = ["optimizer.rule=regression", f"optimizer.prior={tmp_path / 'p.jsonl'}"]
    line = ["run", "--preset", "tiny", "--folder", str(tmp_path / "runs")]
    assert call([*line, *(word for text in sets for word in ("--set", text))]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "p.jsonl is no run's .db" in error and "szpo baseline dpo --pairs" in error
    assert not list((tmp_path / "runs").glob("*"))
