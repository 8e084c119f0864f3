"""Pushes to a stand-in hub by the real client: every byte arrives, every failure is one line."""

import json

import pytest

from szpo.analysis import adapter
from szpo.analysis.vote_export import export_votes, write_dataset, write_votes
from szpo.errors import ResourceError, SzpoError
from szpo.voting import step_states
from szpo.voting.service import VoteService
from tests.support import hub_server
from tests.support.asking import open_run

# The client uploads by an argument that its own HTTP library calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "made"
    (made / "data").mkdir(parents=True)
    (made / "README.md").write_text("# A card\n")
    (made / "data" / "votes.jsonl").write_text("{}\n")
    (made / "large.safetensors").write_bytes(bytes(range(256)) * 40)
    return made


def test_a_folder_arrives_byte_by_byte_in_a_private_repository(folder, served):
    pushed = adapter.push_to_hub(folder, "me/votes", kind="dataset")
    assert pushed == f"{served.url}/datasets/me/votes"
    assert served.files == {"me/votes": hub_server.read_folder(folder)}
    assert served.created["me/votes"]["visibility"] == "private"
    assert served.tokens == {f"Bearer {hub_server.TOKEN}", ""}  # none with the presigned upload
    # Once more, into what is there: a new commit, and no fault.
    (folder / "README.md").write_text("# Another card\n")
    adapter.push_to_hub(folder, "me/votes", kind="dataset", public=True)
    assert served.files["me/votes"]["README.md"] == b"# Another card\n"
    adapter.push_to_hub(folder, "me/open", kind="model", public=True)
    assert served.created["me/open"]["visibility"] == "public"


@pytest.mark.parametrize(
    ("part", "status", "code", "words"),
    [
        ("create", 401, 2, "hf auth login"),
        ("commit", 403, 2, "may not write"),
        ("preupload", 404, 2, "no such user or repository"),
        ("commit", 409, 4, "somebody changed it"),
        ("/lfs/", 413, 2, "larger than the hub takes"),
        ("commit", 418, 2, "refuses what was sent"),
        ("create", 500, 6, "it fails; push again later"),
        ("preupload", 429, 6, "too many requests"),
    ],
)
def test_what_the_hub_refuses_is_one_line_and_a_code(part, status, code, words, folder, served):
    served.fail[part] = status
    with pytest.raises(SzpoError, match=words) as found:
        adapter.push_to_hub(folder, "me/votes", kind="model")
    assert found.value.exit_code == code
    assert f"(HTTP {status}); nothing was published" in str(found.value)
    assert "\n" not in str(found.value) and hub_server.TOKEN not in str(found.value)
    assert served.files == {}


def test_a_hub_that_is_not_there_is_one_line(folder, monkeypatch):
    with hub_server.serve() as gone:
        monkeypatch.setenv("HF_ENDPOINT", gone.url)
    with pytest.raises(ResourceError, match=r"cannot be reached .*nothing was published"):
        adapter.push_to_hub(folder, "me/votes", kind="model")


def test_votes_of_an_open_round_leave_the_record_by_no_file(tmp_path):
    with open_run(tmp_path, n=4, m=1) as ledger:
        service = VoteService(ledger)
        seat = service.assign(service.enroll("person", "ann"))
        service.cast(seat.id, "A", idem=seat.id)
        assert len(list(export_votes(ledger))) == 1
        assert write_dataset(ledger, tmp_path / "open") == 0
        for form in ("csv", "jsonl", "db"):
            assert write_votes(ledger, tmp_path / f"open.{form}") == 0
        step_states.close(ledger, 0, "operator", reason="enough", actor="bob")
        assert write_dataset(ledger, tmp_path / "closed") == 1
        for form in ("csv", "jsonl", "db"):
            assert write_votes(ledger, tmp_path / f"closed.{form}") == 1
        (row,) = (tmp_path / "closed/data/votes.jsonl").read_text().splitlines()
        assert "panelist" not in json.loads(row)
        assert "about a whole batch" in (tmp_path / "closed/README.md").read_text()
    (tmp_path / "rows").mkdir()
    with open_run(tmp_path / "rows", n=4, m=1, rows=1) as ledger:
        write_dataset(ledger, tmp_path / "pairs")
        card = (tmp_path / "pairs/README.md").read_text()
        assert "two answers to one prompt" in card and "batch" not in card
