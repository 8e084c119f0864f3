from collections import Counter
from types import SimpleNamespace

import pytest

from szpo import seeds
from szpo.config import settings_file
from szpo.errors import RunError, UsageError
from szpo.ledger.database import Ledger
from szpo.types import Comparison
from szpo.voting import counting, panel_evaluator
from szpo.voting.evaluator import check_evaluator, check_judge
from szpo.voting.panel_evaluator import (
    FunctionPanel,
    LedgerEvaluator,
    OpenComparisons,
    PanelEvaluator,
    leave_to_people,
)
from szpo.voting.panel_factory import StartingPolicy, as_factory, load_factory
from szpo.voting.service import VoteService
from tests.support.asking import ROW, open_run
from tests.support.plugged import plug
from tests.support.quadratic import QuadraticPolicy, ValueJudge, go, new_ledger, settings_of


class Keyed:
    """Answers by the key alone."""

    def judge(self, comparison, *, panelist, plus_side, key):
        return "AB"[seeds.integer(key, 0, 2)]


SKIPPING = ValueJudge(skips=1.0)


def run(path, judges, until=2, **changes):
    settings = settings_of(**changes)
    ledger = new_ledger(path, settings)
    panel = PanelEvaluator(VoteService(ledger), judges)
    go(settings, ledger, QuadraticPolicy(settings), panel, until_step=until)
    return ledger


def test_shipped_evaluators_keep_the_contract():
    check_evaluator(lambda service: PanelEvaluator(service, [Keyed()] * 3))

    def serve(service):
        ann = service.enroll("person", "ann")
        while (seat := service.assign(ann)) is not None:
            service.cast(seat.id, "A", idem=seat.id)

    check_evaluator(LedgerEvaluator, serve=serve)
    check_judge(Keyed())


class Base:
    def __init__(self, service):
        self.service = service
        self.panel = PanelEvaluator(service, [Keyed()] * 2)

    def submit(self, comparisons):
        self.panel.submit(comparisons)

    def poll(self, step):
        self.panel.poll(step)

    def turn_round(self, votes):
        for row in votes:
            other = "A" if row["choice"] == "B" else "B"
            self.service.cast(row["assignment"], other, idem=f"turned-{row['vote']:012}")


class Silent(Base):
    def submit(self, comparisons):
        pass


class Restless(Base):
    """Each look turns one more vote round."""

    def poll(self, step):
        self.turn_round(self.service.ledger.votes()[-1:])


class Changing(Base):
    def submit(self, comparisons):
        self.panel.submit(comparisons)
        self.turn_round(self.service.ledger.votes())


@pytest.mark.parametrize(
    ("broken", "words"),
    [(Silent, "has M votes"), (Restless, "nothing new must change"), (Changing, "second submit")],
)
def test_the_broken_clause_of_an_evaluator_is_named(broken, words):
    with pytest.raises(RunError, match=words):
        check_evaluator(broken)


def test_a_judge_must_draw_from_the_key_and_answer_in_letters():
    class Moody:
        count = 0

        def judge(self, comparison, *, panelist, plus_side, key):
            self.count += 1
            return "AB"[self.count % 2]

    class Wordy:
        def judge(self, comparison, *, panelist, plus_side, key):
            return "the first"

    with pytest.raises(RunError, match="two answers for the same"):
        check_judge(Moody())
    with pytest.raises(RunError, match="'the first'"):
        check_judge(Wordy())


@pytest.mark.parametrize("m", [1, 2, 3])
def test_work_is_even_over_the_panel_and_sides_over_the_screen(tmp_path, m):
    with run(tmp_path / "a.db", [Keyed()] * 5, until=4, N=10, M=m, D=1) as ledger:
        rows = ledger.votes()
    for step in range(4):
        here = [row for row in rows if row["step"] == step]
        work = Counter(row["panelist"] for row in here)
        assert len(work) == 5 and set(work.values()) == {2 * m}
        assert Counter(row["plus_side"] for row in here) == {"A": 5 * m, "B": 5 * m}
    # Nobody keeps the same place from step to step.
    assert len({tuple(r["panelist"] for r in rows if r["step"] == s) for s in range(4)}) == 4


def test_a_skip_goes_to_the_next_in_line(tmp_path):
    with run(tmp_path / "a.db", [SKIPPING, Keyed(), SKIPPING], N=4, M=1) as ledger:
        rows = ledger.votes()
        assert len(counting.counted(ledger, 0)) == 4
    answered = {row["panelist"] for row in rows if row["choice"] != "skip"}
    assert len(answered) == 1
    assert any(row["choice"] == "skip" for row in rows)


def test_a_panel_that_cannot_reach_m_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="M = 8 votes need 8 panelists; the panel has 5"):
        run(tmp_path / "a.db", [Keyed()] * 5, M=8)
    with pytest.raises(RunError, match="everybody has been asked; let others vote"):
        run(tmp_path / "b.db", [SKIPPING] * 2)
    with pytest.raises(UsageError, match="no judges"):
        run(tmp_path / "c.db", [])


def test_a_panel_in_process_and_one_at_the_doors_leave_the_same_rows(tmp_path):
    """The same judges, once as a panel and once as visitors who take seats one by one."""
    settings = settings_of(M=2)
    ledgers = {}
    for name in ("in process", "at the door"):
        ledger = ledgers[name] = new_ledger(tmp_path / f"{name}.db", settings)
        service = VoteService(ledger)
        judge = ValueJudge()
        inside = PanelEvaluator(service, [judge] * 3)

        def visit(service=service, judge=judge, ledger=ledger):
            ids = [service.enroll("simulated", f"panel-{i}") for i in range(3)]
            open_step = next(r["step"] for r in ledger.steps() if r["state"] == "open")
            comparisons = ledger.comparisons(open_step)
            panel_evaluator.answer(service, dict.fromkeys(ids, judge), comparisons)

        evaluator = inside if name == "in process" else LedgerEvaluator(service)
        go(settings, ledger, QuadraticPolicy(settings), evaluator, until_step=2, wait=visit)
    inside, outside = ledgers.values()
    for table in ("panelists", "comparisons", "answers", "assignments", "votes", "updates"):
        rows = [
            [
                {k: v for k, v in row.items() if not k.endswith("_us") and k != "row_sha256"}
                for row in ledger.query(f"SELECT * FROM {table}")
            ]
            for ledger in (inside, outside)
        ]
        if table == "updates":
            for row in (*rows[0], *rows[1]):
                del row["prev_sha256"]
        assert rows[0] == rows[1], table
        assert rows[0]
    for ledger in ledgers.values():
        ledger.close()


class Always:
    def judge(self, comparison, *, panelist, plus_side, key):
        return "A"


def brief(*, size=5, **settings):
    return SimpleNamespace(judges=(Always(),) * size, spec={"given": sorted(settings)})


@pytest.fixture
def register(monkeypatch):
    """Registers one object under the name "brief"."""

    return lambda found: plug(monkeypatch, evaluators=("brief", found))


def config_of(*sets):
    return settings_file.load(sets=["panel.kind=brief", *sets])


def test_a_function_is_called_with_the_settings_and_its_judges_are_asked(register):
    register(brief)
    factory = load_factory("brief")
    assert factory.check(config_of(), ()) is None
    start = StartingPolicy(answers=lambda: ((), ()))
    new = factory.build(config_of("panel.size=3"), start)
    given = ["beta", "logprob", "reward", "rows", "seed"]
    assert new.spec == {"given": ["answers", *given]} and len(new.judges) == 3
    assert isinstance(new.evaluator(None), PanelEvaluator)
    assert factory.build(config_of(), StartingPolicy(), {}).spec == {"given": given}
    with pytest.raises(UsageError, match=r'"brief" takes no changes; name it without "\+side=.3"'):
        load_factory("brief+side=.3")


def test_beta_is_the_one_on_record(register):
    register(lambda *, beta, **rest: SimpleNamespace(judges=(Always(),), spec={"beta": beta}))
    config, factory = config_of("panel.beta=2.5"), load_factory("brief")
    assert factory.build(config, StartingPolicy()).spec == {"beta": 2.5}
    for recorded, beta in [({}, 2.5), ({"calibration": {"beta": 7.0}}, 7.0)]:
        assert factory.build(config, StartingPolicy(), recorded).spec == {"beta": beta}


def test_a_panel_with_an_evaluator_of_its_own_is_left_as_it_is():
    own = SimpleNamespace(spec={}, evaluator=lambda service: "mine")
    factory = as_factory("own", lambda **settings: own)
    assert factory.build(config_of(), StartingPolicy()) is own


def test_what_a_panel_or_a_factory_lacks_is_named(register):
    register(lambda **settings: SimpleNamespace(spec={}))
    with pytest.raises(UsageError, match='panel "brief" gave SimpleNamespace without judges'):
        load_factory("brief").build(config_of(), StartingPolicy())
    register(SimpleNamespace(build=brief))
    with pytest.raises(UsageError, match="SimpleNamespace without check; register"):
        load_factory("brief")
    register("no panel at all")
    with pytest.raises(UsageError, match="str without check, build; register a fun"):
        load_factory("brief")


def test_a_poll_reads_a_steps_comparisons_once_and_then_new_votes_only(tmp_path, monkeypatch):
    with open_run(tmp_path, n=8, m=2, identical={(0, 3)}) as ledger:
        service, step = VoteService(ledger), OpenComparisons(ledger)
        ids = [service.enroll("person", f"p{i}") for i in range(2)]
        plain, read = Ledger.stream, []

        def stream(self, sql, parameters=()):
            for row in plain(self, sql, parameters):
                if "votes v" in sql or "answers" in sql:
                    read.append(row)
                yield row

        monkeypatch.setattr(Ledger, "stream", stream)
        assert [lack for _, lack in step.lacking()] == [2] * 7
        assert len(read) == 8 * 2  # the answers of every comparison, two rows each
        for number in range(14):
            seat = service.assign(ids[number % 2])
            service.cast(seat.id, "A", idem=f"key-{number:016}")
            read.clear()
            lacks = [lack for _, lack in step.lacking()]
            assert sum(lacks) == 13 - number and lacks == sorted(lacks)  # those begun first
            assert len(read) == 1, "the new vote"
            read.clear()
            assert [lack for _, lack in step.lacking()] == lacks and not read


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_panelists_have_equal_turns_and_of_an_even_panel_each_meets_every_comparison(size):
    """As many comparisons as panelists: each round begins one later, if the panel is even."""
    ids = [f"p{i}" for i in range(size)]
    firsts = [panel_evaluator.seat_order(3, 0, seat, ids)[0] for seat in range(size * size)]
    met = {(seat % size, who) for seat, who in enumerate(firsts)}
    assert Counter(firsts) == dict.fromkeys(ids, size)
    assert len(met) == (size if size % 2 else size * size)


def test_the_chance_of_a_judge_is_its_own_at_every_comparison():
    here = [Comparison(f"c{k}-{n}", 0, k, n, (ROW,)) for k in range(2) for n in range(2)]
    keys = {panel_evaluator.judge_key(7, each, who) for each in here for who in ("ann", "bob")}
    assert len(keys) == 8


def test_a_function_gets_the_batches_as_they_stand():
    seen = []
    judge_of = FunctionPanel(lambda prompts, a, b: seen.append((a, b)) or "a")
    asked = Comparison("c", 0, 0, 0, (ROW,))
    for side in ("A", "B"):
        judge_of.judge(asked, panelist="p", plus_side=side, key=bytes(16))
    plus, minus = [ROW.plus.text], [ROW.minus.text]
    assert plus != minus and seen == [(plus, minus), (minus, plus)]


def test_a_panel_elsewhere_leaves_people_what_they_have_before_them(tmp_path):
    with open_run(tmp_path, n=4, m=1) as ledger:
        service = VoteService(ledger)
        seat = service.assign(service.enroll("person", "ann"))
        asked = [(each, 1) for each in ledger.comparisons(0)]
        found = leave_to_people(ledger, asked, 1)
        assert {each.id for each, _ in found} == {c.id for c, _ in asked} - {seat.comparison}
        assert len(leave_to_people(ledger, asked, 2)) == 2
        assert leave_to_people(ledger, asked, 0) == asked
