"""Judges behind an endpoint: every fault of the stub, whole runs, and the key that nobody sees."""

import contextlib
import json
import logging
import math
import re
import socket
import threading
from dataclasses import replace

import pytest

from szpo import keyed_requests
from szpo.cli import console
from szpo.cli.app import call
from szpo.config import settings_file
from szpo.config.tables import Judge
from szpo.errors import UsageError
from szpo.judges import endpoint, judge_factory, llm_judge, round_progress
from szpo.judges.llm_judge import LanguageJudge, tokens
from szpo.judges.prompting import JudgeError, Question
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.runs import budget, controller
from szpo.types import Prompt
from szpo.voting import applied_step, lease
from szpo.voting.service import VoteService
from tests.support import yard_run
from tests.support.judging import comparison
from tests.support.stub_endpoint import (
    LONGEST_WAIT_S,
    SCRIPTS,
    StubReply,
    answers,
    completion,
    longer,
    stub_endpoint,
)

PATIENCE_S = (60, 0.1)
"""A short one only where nobody answers: a slow machine must not look like a slow endpoint."""
KEY = "sk-very-secret-0123456789"
PAIR = comparison(("a long answer to it", "short"))


@pytest.fixture(autouse=True)
def asked_once(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(endpoint, "ATTEMPTS", 1)
    monkeypatch.setattr(llm_judge, "RETRIES", 0)


def asked(stub, **settings):
    chosen = Judge(**{"base_url": stub.url, **settings})
    made = LanguageJudge(endpoint.connect(chosen), chosen, "better")
    return made.opinion(PAIR, panelist="p", plus_side="A", key=bytes(16))


def refused(stub, **settings):
    """The line with which a judge ends the run."""
    with pytest.raises(JudgeError) as caught:
        asked(stub, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("ask", ["verdict", "soft"])
def test_a_judge_that_prefers_the_longer_answer_is_understood(ask):
    with stub_endpoint("longer") as stub:
        found = asked(stub, ask=ask, model="some/model")
    assert (found.choice, found.details["orders"]) == ("A", [("A", "A")])
    assert found.details["tokens"] == [200, 20]
    assert {request["model"] for request in stub.requests} == {"some/model"}
    assert answers(stub.requests[1]) == [("A", "short"), ("B", "a long answer to it")]
    if ask == "soft":
        # The stub's odds differ by .02 for each of the 14 characters: p = σ(.28) = .56954.
        assert round(found.details["p"], 5) == 0.56955
        assert stub.requests[0]["max_tokens"] == 1 and stub.requests[0]["logprobs"] is True


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("nonsense", "no clear verdict in the reply"),
        ("cut", "no clear verdict in the reply, which was cut at judge.max_tokens"),
        ("no-choices", "the reply has no readable choice"),
        ("no-text", "the reply has no text"),
        ("other-json", "the reply has no readable choice"),
        ("no-json", "the reply is not a chat completion"),
        ("429", "HTTP 429"),
        ("500", "HTTP 500"),
        ("silent", "no answer within 0.1 s"),
    ],
)
def test_every_fault_has_a_name_and_ends_the_run(script, words, monkeypatch):
    monkeypatch.setattr(endpoint, "TIMEOUT_S", PATIENCE_S[script == "silent"])
    with stub_endpoint(script) as stub:
        assert refused(stub).startswith(f"judge smollm2: {words}")


WHOLE = json.dumps(completion("I counted.\nVerdict: A").body)
HOSTILE = {
    "long": StubReply(WHOLE[:-1] + ' "x": "' + "y" * 1_000_000 + '"}'),
    "nested": StubReply("[" * 200_000 + "]" * 200_000),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_reply_is_cut(kind, monkeypatch):
    monkeypatch.setattr(endpoint, "REPLY_BYTES", 500_000)
    with stub_endpoint(lambda request, before: HOSTILE[kind]) as stub:
        assert re.search("the reply (is not a chat|has no)", refused(stub))


def test_a_reply_is_never_unpacked():
    packed = StubReply(WHOLE, headers={"content-encoding": "gzip"})
    with stub_endpoint(lambda request, before: packed) as stub:
        assert asked(stub).choice == "tie"  # A in both orders
    assert stub.headers[0]["accept-encoding"] == "identity"


def test_a_reply_that_goes_on_and_on_is_given_up(monkeypatch):
    """A byte now and then: no single wait is long, all of them together are."""
    line, stop = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def drip():
        wire, _ = line.accept()
        wire.recv(65_536)
        wire.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        with contextlib.suppress(OSError):
            while not stop.wait(0.02):
                wire.sendall(b" ")
        wire.close()

    dripping = threading.Thread(target=drip, daemon=True)
    dripping.start()
    url = f"http://127.0.0.1:{line.getsockname()[1]}/v1"
    chosen = Judge(base_url=url)
    monkeypatch.setattr(endpoint, "TIMEOUT_S", 0.5)
    (reply,) = endpoint.connect(chosen).write([Question(Prompt.user("?"), bytes(16))])
    assert reply.failure.startswith("no answer within 0.5 s, tried once (a lower judge.max_tokens")
    assert reply.final
    stop.set()
    dripping.join()
    line.close()


@pytest.mark.parametrize(("code", "words"), [("401", "refuses the key"), ("404", "does not know")])
def test_what_no_second_try_mends_always_stops(code, words, monkeypatch):
    monkeypatch.setattr(endpoint, "ATTEMPTS", 5)
    with stub_endpoint(code) as stub, pytest.raises(JudgeError, match=words):
        asked(stub)
    assert len(stub.requests) == 1


WORDS = {"error": {"message": f"You exceeded your quota,\n pay {KEY}\x1b[2K", "code": "quota"}}
SOON = {"retry-after-ms": "1"}
USED_UP = {"message": "Please retry in 5s.", "code": "insufficient_quota"}


@pytest.mark.parametrize(
    ("status", "body", "headers", "words"),
    [
        (402, WORDS, {}, "wants to be paid (HTTP 402: You exceeded your quota, pay [key]"),
        (429, WORDS, {}, "has no quota left for the key (HTTP 429: You exceeded"),
        (429, {"error": USED_UP}, {}, "has no quota left"),
        (429, {"detail": "slow down"}, SOON, "HTTP 429, tried 3 times (slow down)"),
        (413, {"error": {"message": "too long"}}, SOON, "HTTP 413 (too long)"),
        (503, {"error": "loading"}, SOON, "HTTP 503, tried 3 times (loading)"),
        (429, {"error": {"message": "try again in 10m0s"}}, {"retry-after": "600"},
         "HTTP 429, tried once (try again in 10m0s);"),
    ],
)  # fmt: skip
def test_a_server_is_quoted_and_asked_again_only_where_that_may_help_within_two_minutes(
    status, body, headers, words, monkeypatch
):
    monkeypatch.setattr(endpoint, "ATTEMPTS", 3)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    reply = StubReply(body, status, headers)
    with stub_endpoint(lambda request, before: reply) as stub:
        said = refused(stub)
    assert words in said and "\x1b" not in said
    assert len(stub.requests) == (3 if "tried 3" in words else 1)


BILLING = "Visit https://platform.example/account/billing to raise it."
LIMITS = {
    "of a free tier": (f"Limit reached on requests per min. Try again in 10ms. {BILLING}", {}),
    "with a header": (f"Too many requests. {BILLING}", {"retry-after": "0.01"}),
    "by its code": ({"message": BILLING, "code": "rate_limit_exceeded"}, {"retry-after-ms": "1"}),
    "of a quota for a minute": (
        "You exceeded your current quota, check your plan and billing. Please retry in 0.01s.", {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LIMITS)
def test_a_rate_limit_that_names_a_billing_page_is_waited_for(kind, monkeypatch):
    monkeypatch.setattr(endpoint, "ATTEMPTS", 3)
    said, headers = LIMITS[kind]
    limit = StubReply(
        {"error": {"message": said} if isinstance(said, str) else said}, 429, headers
    )
    with stub_endpoint(lambda r, n: limit if n < 2 else longer(r, n)) as stub:
        assert asked(stub).choice == "A"
    assert len(stub.requests) == 4  # two refusals, then one for each order


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Please try again in 20s.", 20), ("try again in 6m0s", 360), ("retry in 28.4s", 28.4),
        ("try again in 350ms", 0.35), ("Please try again in 1m3.5s", 63.5), ("retry after 2 s", 2),
        ("try again in a while, 3s at most", None), ("slow down", None),
        (f"try again in {'9' * 5000}m", None), (f"retry in {'9' * 5000}s", None),
    ],
)  # fmt: skip
def test_the_wait_that_a_server_asks_for_in_words(text, seconds):
    assert endpoint._wait_s(text) == seconds


def spoken(**message):
    end = message.pop("end", "stop")
    reply = completion(None, end=end)
    reply.body["choices"][0]["message"].update(message)
    return reply


def failed(reply, words):
    """A reply in whose choice a gateway passes on an error of the server behind it."""
    reply.body["choices"][0]["error"] = {"code": 502, "message": words}
    return reply


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (spoken(content="", end="length"), "cut at judge.max_tokens"),
        (spoken(reasoning_content="A?", end="length"), "cut at judge.max_tokens"),
        (spoken(refusal="I can't\n judge that."), "the judge refuses (I can't judge that.)"),
        (spoken(content="", reasoning="A?"), "the reply has thoughts and no text"),
        (spoken(content="", end="content_filter"), "broke the reply off (content_filter)"),
        (spoken(content="Verdict: A", end="content_filter"), "broke the reply off"),
        (spoken(content=None, end="tool_calls"), "the reply has no text (tool_calls)"),
        (failed(spoken(content="", end="error"), "Upstream gone"), "(Upstream gone)"),
        (StubReply([{"error": {"message": "no such key"}}], 400), "HTTP 400 (no such key)"),
        (StubReply({"error": {"message": "Provider\n down"}}), "readable choice (Provider down)"),
        (StubReply({"detail": "warming up"}), "no readable choice (warming up)"),
        (StubReply("<html>busy</html>", headers={"content-type": "text/html"}), "(<html>busy"),
        (StubReply("sorry, busy"), "not a chat completion (sorry, busy)"),
        (StubReply('data: {"id": 1}', headers={"content-type": "text/event-stream"}), "(data: {"),
    ],
)
def test_what_a_server_says_in_place_of_a_verdict_is_passed_on(reply, words):
    with stub_endpoint(lambda request, before: reply) as stub:
        assert words in refused(stub)
    assert all(request["stream"] is False for request in stub.requests)


def test_thoughts_and_texts_in_parts_are_told_apart():
    listed = [{"type": "thinking", "thinking": "B?"}, {"type": "text", "text": "Verdict: tie"}]
    with stub_endpoint(lambda request, before: spoken(content=listed)) as stub:
        assert asked(stub).choice == "tie"


def modern(request, status):
    """A server of models that take neither max_tokens nor a temperature."""
    for name, more in (
        ("max_tokens", "Use 'max_completion_tokens' instead."),
        ("temperature", ""),
    ):
        if name in request:
            words = f"Unsupported parameter: '{name}' is not supported with this model. {more}"
            return StubReply({"error": {"message": words}}, status)
    return longer(request, 0)


@pytest.mark.parametrize("status", [400, 422])
def test_parameters_are_sent_as_a_model_wants_them(status):
    with stub_endpoint(lambda request, before: modern(request, status)) as stub:
        assert asked(stub, max_tokens=99).choice == "A"
    assert len(stub.requests) == 4  # each is refused once, then one for each order
    assert all(request["max_completion_tokens"] == 99 for request in stub.requests[2:])


@pytest.mark.parametrize("end", ["/", "/chat/completions", "/chat/completions/", "/models"])
def test_an_address_may_be_written_with_what_stands_behind_it(end):
    with stub_endpoint("longer") as stub:
        assert asked(stub, base_url=stub.url + end).choice == "A"
    root = "http://127.0.0.1:1"
    ways = ("", "/", "/v1", "/v1/", "/health")
    assert {keyed_requests.server_root(root + more) for more in ways} == {root}


def test_an_address_without_v1_is_told_of():
    with stub_endpoint("404") as stub, pytest.raises(JudgeError, match="which often ends in /v1"):
        asked(stub, base_url=stub.url.removesuffix("/v1"))


def test_a_judge_that_sends_questions_on_is_refused(monkeypatch):
    """Texts and key go to `judge.base_url` alone."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with stub_endpoint("longer") as other:
        onward = StubReply("", 307, headers={"location": f"{other.url}/chat/completions"})
        with (
            stub_endpoint(lambda request, before: onward) as stub,
            pytest.raises(JudgeError, match=r"sends questions on to another .*HTTP 307"),
        ):
            asked(stub)
        assert len(stub.requests) == 1 and not other.requests


def test_nobody_there_is_reported():
    with socket.socket() as taken:  # bound and not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        chosen = Judge(base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        (reply,) = endpoint.connect(chosen).write([Question(Prompt.user("?"), bytes(16))])
    assert (reply.failure, reply.final) == ("no connection, tried once", True)


@pytest.mark.parametrize(
    ("odds", "says"),
    [
        ((-0.1,), "B is not among the 1 likeliest first tokens"),
        ((10**400, -1), "the reply has no readable choice"),
        ((float("inf"), -1), "a log-probability is not finite"),
    ],
)
def test_odds_need_both_names_among_the_likeliest_and_numbers(odds, says):
    with stub_endpoint(lambda request, before: completion("A", odds=odds)) as stub:
        assert says in refused(stub, ask="soft")


def test_chances_of_a_name_in_several_spellings_add_up():
    def spelt(request, before):
        reply = completion("A", odds=(-2.0, -1.0))
        (first,) = reply.body["choices"][0]["logprobs"]["content"]
        first["top_logprobs"] += [{"token": " a", "logprob": -2.0, "bytes": None}]
        return reply

    with stub_endpoint(spelt) as stub:
        found = asked(stub, ask="soft")
    # 2 e⁻² of A
    read = [reply["odds"] for reply in found.details["replies"]]
    assert read == [pytest.approx([math.log(2) - 2, -1])] * 2


def arguments(folder, stub, *sets):
    return yard_run.arguments(
        folder, "run.name=yard", "panel.kind=judge",
        f"judge.base_url={stub.url}", "optimizer.N=4", *sets,
    )  # fmt: skip


@pytest.mark.spine
def test_a_judge_runs_a_whole_run_and_its_votes_verify(tmp_path, capfd):
    with stub_endpoint("longer") as stub:
        assert call(arguments(tmp_path, stub)) == 0
    path = tmp_path / "runs" / "yard.db"
    with Ledger.open(path, readonly=True) as ledger:
        assert verification.verify(ledger).ok
        assert [row["kind"] for row in ledger.query("SELECT kind FROM panelists")] == ["judge"]
        rows = [r for r in ledger.votes() if r["kind"] == "train"]
        assert len(rows) == 24
        details = [json.loads(row["details"]) for row in rows]
        assert all(len(each["replies"]) == 2 for each in details), "both raw answers"
        assert tokens(ledger) == {"judge-0": (200 * 24, 20 * 24)}
        assert ledger.spec["panel"]["judge"]["base_url"] == stub.url
    capfd.readouterr()
    assert call(["show", str(path)]) == 0
    assert "judge (smollm2), 1 panelist\n" in capfd.readouterr().out


@pytest.fixture
def one_by_one(monkeypatch):
    """The endpoint judges one comparison after another."""
    monkeypatch.setattr(judge_factory, "PARALLEL", 1)


@pytest.mark.full
def test_a_judge_is_asked_about_single_rows_as_often_as_the_plan_said(tmp_path, capfd, one_by_one):
    sets = ("optimizer.D=1", "run.votes=8")
    with stub_endpoint("longer") as stub:
        assert call([*arguments(tmp_path, stub, *sets), "--plan"]) == 0
        assert not stub.requests
        told = " ".join(capfd.readouterr().err.split())
        assert call(arguments(tmp_path, stub, *sets)) == 0
        texts = [each["messages"][-1]["content"] for each in stub.requests]
    assert (
        f"{len(texts)} questions to smollm2, each about one pair, in one of the two orders: "
        "besides instructions and prompts at most 768 tokens to read, 4,096 to write"
    ) in told
    assert len(texts) == 16  # 8 rows; of 2 answers of 24 tokens, and a reply of 256
    assert all("Request 1:" in text and "Request 2" not in text for text in texts)
    first = [re.findall(r"^Answer of (.) to request 1:\n(.*)", text, re.M) for text in texts]
    orders = [[shown for _, shown in each] for each in first]
    assert orders[::2] == [each[::-1] for each in orders[1::2]]


def test_the_plan_of_batches_says_what_a_judge_reads():
    sets = "panel.kind=judge", "optimizer.D=8", "judge.ask=grades"
    config = settings_file.load(sets=sets)
    words = (
        "480 questions to smollm2, each about 8 pairs, one side alone: "
        "besides instructions and prompts at most 92,160 tokens to read, 122,880 to write"
    )
    assert words in dict(budget.describe_cost(budget.estimate_cost(config), config))["judge"]


def test_who_waits_for_a_slow_judge_is_told_how_far_it_is(
    tmp_path, capfd, one_by_one, monkeypatch
):
    """The endpoint does not reply before a line has said what is waited for."""
    monkeypatch.setattr(round_progress, "TELL_S", 0.02)
    awaited = {0: "judging: 0 of 4 pairs; no vote yet", 2: "judging: 1 of 4 pairs"}
    said = {text: threading.Event() for text in awaited.values()}
    show = console.complain

    def hear(text):
        show(text)
        for each in said:
            if each in text:
                said[each].set()

    monkeypatch.setattr(console, "complain", hear)

    def slow(request, before):
        told = before not in awaited or said[awaited[before]].wait(LONGEST_WAIT_S)
        return (longer if told else SCRIPTS["nonsense"])(request, before)

    with stub_endpoint(slow) as stub:
        assert call(arguments(tmp_path, stub, "run.votes=4")) == 0
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.full
def test_a_run_stops_with_one_line_keeps_its_votes_and_is_resumed(tmp_path, capfd, one_by_one):
    broken = True

    def script(request, before):
        return (SCRIPTS["500"] if broken and before >= 5 else longer)(request, before)

    with stub_endpoint(script) as stub:
        assert call(arguments(tmp_path, stub)) == 1
        err = capfd.readouterr().err
        said = "error: judge smollm2: HTTP 500, tried once (stub 500); all votes cast are stored"
        assert said in err
        assert "Traceback" not in err
        path = tmp_path / "runs" / "yard.db"
        with Ledger.open(path, readonly=True) as ledger:
            before = [(row["assignment"], row["details"]) for row in ledger.votes()]
        assert len(before) == 2, "two comparisons had both orders when it broke"
        broken = False
        assert call(["run", "--resume", str(path)]) == 0
    with Ledger.open(path, readonly=True) as ledger:
        after = [(row["assignment"], row["details"]) for row in ledger.votes()]
        assert after[:2] == before and len(after) == 24
        assert verification.verify(ledger).ok


def test_a_judge_visits_a_run_for_people_and_leaves_them_their_seats(tmp_path, capfd, monkeypatch):
    """M = 2: one vote is the judge's and one a person's."""
    noted: list[str] = []
    monkeypatch.setattr(console, "doing", noted.append)
    monkeypatch.setattr(round_progress, "TELL_S", 0)
    from szpo.runs import assemble, driver, samples

    with stub_endpoint("longer") as stub:
        line = yard_run.arguments(
            tmp_path, "panel.kind=people", 
            "optimizer.M=2", "run.votes=8", "optimizer.N=4",
            "run.name=mixed", f"run.folder={tmp_path / 'runs'}",
        )  # fmt: skip
        config = settings_file.load(sets=[line[i + 1] for i, w in enumerate(line) if w == "--set"])
        parts = assemble.build(config, say=lambda text: None)
        path = assemble.new_path(config)
        visit = ["judge", str(path), "--once", "--name", "stub", 
                 "--set", f"judge.base_url={stub.url}"]  # fmt: skip
        with assemble.create_ledger(parts, path) as ledger:
            samples.accept_samples(ledger, "test")
            service = VoteService(ledger)
            ann = service.enroll("person", "ann")

            def people():
                assert call(visit) == 0
                while (seat := service.assign(ann)) is not None:
                    service.cast(seat.id, "A", idem=seat.id)

            done = controller.run(
                replace(driver.prepare(ledger, parts, by_hand=True), wait=people)
            )
            assert isinstance(done, applied_step.Outcome) and done.status == "finished"
            kinds = ledger.query(
                "SELECT p.kind, count(*) AS n FROM votes v JOIN assignments a USING (assignment) "
                "JOIN panelists p USING (panelist) GROUP BY p.kind ORDER BY p.kind"
            )
            asked = sum(not c.identical for c in ledger.comparisons(0))
            assert {row["kind"]: row["n"] for row in kinds} == {"judge": asked, "person": asked}
            assert [e["body"]["name"] for e in ledger.events("judge")] == ["stub"]
            assert verification.verify(ledger).ok
    said = capfd.readouterr()
    assert f"{asked} votes cast: nothing else is open" in said.out
    assert "stub-0: " in said.out and noted[-1].startswith("judging: ")
    assert re.search(rf"judging: [0-3] of {asked} pairs[;,]", said.err)  # who is first varies


@pytest.mark.full
def test_the_key_stands_nowhere(tmp_path, monkeypatch, capfd, caplog):
    """Not where the server sends it back in its words, nor in a refusal, a log or a record."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def echo(request, before):
        if before == 3:
            return StubReply({"error": {"message": f"bad key {KEY}", "code": KEY}}, 400)
        return completion(f"Your key is {KEY}.\nVerdict: A")

    with caplog.at_level(logging.DEBUG), stub_endpoint(echo) as stub:
        assert call(arguments(tmp_path, stub)) == 1
        assert stub.headers[0]["authorization"] == f"Bearer {KEY}"
        assert not {"openai-organization", "openai-project"} & {
            name for sent in stub.headers for name, value in sent.items() if value
        }
    path = tmp_path / "runs" / "yard.db"
    for command in ("show", "report", "verify"):
        call([command, str(path)])
    out, err = capfd.readouterr()
    reported = [out, err, caplog.text]
    content = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"Your key is [key]." in content
    assert KEY.encode() not in content and not [text for text in reported if KEY in text]
    with Ledger.open(path) as ledger:
        assert lease.controller(ledger)["paused_by"] is None


def test_a_key_is_asked_for_and_stands_in_no_address():
    with pytest.raises(UsageError, match=r"\$OPENAI_API_KEY is not set"):
        endpoint.connect(Judge(base_url="https://judge.example/v1"))
    for place in ("https://me:secret@judge.example/v1", "https://judge.example/v1?key=secret"):
        with pytest.raises(UsageError, match=r"judge\.base_url must be an address"):
            settings_file.check({"judge": {"base_url": place}})
