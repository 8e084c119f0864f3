"""Settings: defaults, authority, round trip through TOML, and the words of refusals."""

import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.cli.app import call
from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.config.tables import IMPROVE_NATS
from szpo.errors import UsageError
from szpo.runs import budget
from tests.support.cases import case


@pytest.mark.parametrize(
    ("sets", "rule"),
    [
        (("optimizer.D=4",), "regression"),
        (("optimizer.M=2", "optimizer.weighting=skill"), "regression"),
        (("subspace.dim=auto", "run.votes=2000"), "regression"),  # 64
        (("subspace.dim=65",), "known"),
        (("subspace.kind=full",), "known"),
        (("optimizer.mu=1",), "known"),
        (("optimizer.kl_step=0.1",), "known"),  # regression has none, so another rule is meant
    ],
)
def test_auto_is_regression_in_small_subspaces_where_it_has_all_that_is_set(sets, rule):
    config = settings_file.load(sets=sets)
    o = config.optimizer
    assert o.rule == rule
    # What is left out is as the rule asks by default: on either side eight votes of a panelist.
    asked = (8, 1, 4.5) if rule == "regression" else (1, 8, 1.62)
    assert (o.K, o.N, o.kl_radius) == asked
    if config.subspace.kind != "full":
        made = config.optimizer_settings((("z", (config.dim,)),), 1.0)
        assert made.section.rule == rule
    again = Config.model_validate(config.model_dump(mode="json"))  # as a ledger records it
    assert again == config


@pytest.mark.parametrize(
    ("sets", "kind", "samples"),
    [
        ((), "features", 1024),
        (("subspace.samples=4096",), "features", 4096),
        (("subspace.samples=255",), "none", 255),  # too few for the directions of features
        (("subspace.samples=255", "optimizer.D=8"), "features", 255),  # whose votes explain less
        (("subspace.kind=features", "subspace.samples=96"), "features", 96),
        (("optimizer.rule=known",), "full", 384),
        (("optimizer.rule=sign",), "full", 384),
        (("optimizer.mu=1",), "full", 384),  # so the rule is known
    ],
)
def test_auto_is_coordinates_of_features_where_the_rule_can_use_them(sets, kind, samples):
    config = settings_file.load(sets=sets)
    assert (config.coordinates, config.samples) == (kind, samples)
    again = Config.model_validate(config.model_dump(mode="json"))
    assert again.coordinates == kind


def test_directions_are_guided_where_a_model_of_this_process_moves_all_its_weights():
    """Elsewhere known and sign keep their own step; so they do where they compare one-sided."""
    wide = (("w", (100, 100)),)
    servers = ["engine.kind=vllm", 'engine.address=["http://a"]']
    cases = [
        ([], True, (0.8, 0.05, 3.0)),
        (["optimizer.rule=known"], True, (0.8, 0.03, 3.0)),
        (["optimizer.guided=0"], True, (0.0, 0.03, "off")),
        (["optimizer.kl_step=0.1", "optimizer.kl_budget=1"], True, (0.8, 0.1, 1.0)),
        (["optimizer.pairing=forward"], True, (0.0, 0.03, "off")),
        ([], False, (0.0, 0.03, "off")),
        (["optimizer.kl_budget=1"], False, (0.0, 0.03, 1.0)),
        (servers, True, (0.0, 0.03, "off")),
    ]
    for sets, guides, wanted in cases:
        config = settings_file.load(sets=["optimizer.rule=sign", *sets])
        made = config.optimizer_settings(wide, 1.0, guides=guides).section
        with case(sets, guides):
            assert (made.guided, made.kl_step, made.kl_budget) == wanted
    assert config.coordinates == "full"


@pytest.mark.parametrize(("votes", "steps"), [(8, 1), (15, 1), (16, 2), (299, 37)])
def test_a_step_that_votes_cannot_pay_whole_is_not_begun(votes, steps):
    assert settings_file.load(sets=[f"run.votes={votes}"]).steps == steps


@pytest.mark.parametrize("name", sorted(settings_file.presets()))
def test_presets_are_valid_and_survive_the_written_file(name):
    config = settings_file.load(preset_name=name)
    long, short = (settings_file.to_toml(config, every=every) for every in (True, False))
    assert settings_file.check(tomllib.loads(long)) == config
    assert settings_file.check(tomllib.loads(short)) == config
    assert len(short) < len(long) / 3


def test_runs_for_people_improve_as_far_as_szpo_improve_does():
    assert settings_file.load(preset_name="people").improve.nats == IMPROVE_NATS


def test_people_wait_for_no_measurement_in_the_middle_of_a_run():
    assert settings_file.load(preset_name="people").measured_along == 0
    assert settings_file.load(preset_name="demo").measured_along > 0  # a program can wait


def test_init_explains_ten_settings_and_what_was_set_or_all(tmp_path):
    def written(*more: str) -> tuple[set[str], str]:
        file = tmp_path / "run.toml"
        assert call(["init", str(file), "--force", *more]) == 0
        text, keys, section = file.read_text(encoding="utf-8"), set(), ""
        for line in text.splitlines():
            if line.startswith("["):
                section = line.strip("[]")
            elif found := re.match(r"(?:# )?(\w+) =", line):
                keys.add(f"{section}.{found[1]}")
        return keys, text

    keys, text = written()
    assert keys == settings_file.MATTER and len(keys) == 10
    assert len(text.splitlines()) < 60 and "szpo init --all" in text
    assert written("--set", "guards.kl=2")[0] == settings_file.MATTER | {"guards.kl"}
    every = {f"{s}.{k}" for s, keys in settings_file.SECTIONS.items() for k in keys}
    assert written("--all")[0] == every


@pytest.mark.full
@given(
    seed=st.integers(0, 2**63 - 1),
    mu=st.floats(1e-6, 1e6),
    system=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    stop=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=3),
)
def test_written_settings_read_back_the_same(seed, mu, system, stop):
    tree = {
        "run": {"seed": seed},
        "optimizer": {"mu": mu},
        "prompts": {"system": system},
        "generation": {"stop": stop},
    }
    config = settings_file.check(tree)
    for every in (True, False):
        text = settings_file.to_toml(config, every=every)
        assert settings_file.check(tomllib.loads(text)) == config


@pytest.mark.parametrize("key", ["N = 1", "D = 1", "K = 8"])
def test_what_is_usual_under_another_rule_is_written(key):
    """The default of ``regression`` is none of ``known``."""
    config = settings_file.check(tomllib.loads(f'[optimizer]\nrule = "known"\n{key}'))
    text = settings_file.to_toml(config, every=False)
    assert settings_file.check(tomllib.loads(text)) == config


def test_every_key_has_a_comment():
    for section, keys in settings_file.SECTIONS.items():
        for key in keys:
            assert settings_file.describe_key(section, key).endswith("."), f"{section}.{key}"


def test_set_wins_over_file_and_file_over_preset(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[run]\nvotes = 80\nseed = 5\n")
    config = settings_file.load(file, preset_name="tiny", sets=["seed=7"])
    assert (config.run.seed, config.run.votes, config.model.name) == (7, 80, "tiny")


@pytest.mark.parametrize(
    ("text", "section", "key", "value"),
    [
        ("K=4", "optimizer", "K", 4),
        ("reward=keyword:sea,sun", "panel", "reward", "keyword:sea,sun"),
        ('generation.stop=["\\n"]', "generation", "stop", ["\n"]),
        ("run.votes=none", "run", "votes", None),
        ("run.name=none", "run", "name", "none"),
        ("mu = 0.5", "optimizer", "mu", 0.5),
        ("folder=here", "run", "folder", "here"),
    ],
)
def test_set_reads_toml_and_plain_text(text, section, key, value):
    assert settings_file.parse_assignment(text) == {section: {key: value}}


def test_refusals_say_what_is_wrong_and_how_many_mistakes_there_are():
    cases = [
        (["optimizer.sigmaa=1"], 'unknown key "sigmaa" in [optimizer]'),
        (["optimzer.mu=1"], 'unknown key "optimzer"; did you mean "optimizer"?'),
        (["samples=1"], '"samples" is ambiguous; write subspace.samples or evaluation.samples'),
        (["model=tiny"], '"model" is a section; name its key, such as model.name'),
        (["seed"], "write it as section.key=value"),
        (["run.votes=none"], "run.votes must be a whole number"),
        (["run.votes=7"], "settings: run.votes 7 is less than one step, which takes 8 "),
        (["N=64"], "run.votes 240 is less than one step, which takes 512"),
        (
            ["subspace.kind=features", "subspace.samples=31"],
            "samples 31 is too few for subspace.dim 8; give at least 32",
        ),
        (["panel.kind=judge", "optimizer.M=2"], "answers the same whenever"),
        (["optimizer.rule=sgin"], 'optimizer.rule must be one of "auto", "known", "sign", '),
        (
            ["subspace.dim=most"],
            'dim must be "auto" or a whole number >= 1 and <= 256 (got "most")',
        ),
        (["kl_budget=0"], 'kl_budget must be "off" or a finite number > 0 (got 0)'),
        (["question="], 'panel.question must be text that is not empty (got "")'),
        (["question=" + "x" * 201], "panel.question must be text of 200 characters or fewer"),
        (["judge.model=a.safetensors", "references=a"], "a scorer reads no principles"),
        (["guards.length=5"], "guards.length must be a list such as [5, 60] (got 5)"),
        (["guards.length=[9, 3]"], "guards.length: [9.0, 3.0] must be two lengths, the lower one"),
        *(
            (["optimizer.rule=regression", key], "plays no part in the rule regression; leave")
            for key in ("kl_step=0.1", "link=probit", "guided=.5")
        ),
    ]
    for sets, words in cases:
        with case(sets, words), pytest.raises(UsageError, match=re.escape(words)):
            settings_file.load(sets=sets)
    with pytest.raises(UsageError, match=r"\(and 2 more\)$"):
        settings_file.load(sets=["mu=0", "N=0", "panel.size=0"])
    with pytest.raises(UsageError, match=r'"demmo"; there are: .*, tiny; did you mean "demo"\?$'):
        settings_file.load(preset_name="demmo")


def test_a_settings_file_of_endless_size_is_not_read(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("#" * 1_000_001)
    with pytest.raises(UsageError, match="1,000,001 bytes; at most 1,000,000 are read"):
        settings_file.load(path)


def test_auto_takes_as_many_coordinates_as_the_votes_can_tell_apart():
    def dim(votes: int) -> int:
        sets = ["subspace.dim=auto", f"run.votes={votes}"]
        return settings_file.load(preset_name="demo", sets=sets).dim

    # one per thirty votes, a power of two from 4 to 64
    assert [dim(v) for v in (64, 240, 480, 10_000)] == [4, 8, 16, 64]
    assert settings_file.load(preset_name="demo").dim == 8


def test_a_key_that_says_what_holds_under_the_rule_anyway_may_stand():
    """So another rule can be asked of a preset: its idle keys stand, or are taken back."""
    config = settings_file.load(sets=["optimizer.rule=sign", "optimizer.kl_budget=off"])
    assert config.optimizer.rule == "sign"
    chosen = ["optimizer.rule=regression", "subspace.kind=features", "optimizer.kl_step=none"]
    assert settings_file.load(preset_name="published", sets=chosen).optimizer.rule == "regression"
    with pytest.raises(UsageError, match="must be a table"):
        settings_file.check({"optimizer": 3})


@pytest.mark.parametrize("name", ["published", "published-sign"])
def test_the_published_presets_draw_two_batches_and_record_the_trimmed_estimate(name):
    config = settings_file.load(preset_name=name)
    assert config.optimizer.pairing == "forward"
    told = dict(budget.describe_cost(budget.estimate_cost(config), config))
    assert "v ~ N(0, I);" in told["a step"]


def test_adapters_keep_their_radius_beside_a_file_of_every_default():
    every = settings_file.check({"optimizer": {"rule": "regression", "kl_radius": 4.5}})
    assert every.in_adapters(["smollm2"]).optimizer.kl_radius == 2.0
