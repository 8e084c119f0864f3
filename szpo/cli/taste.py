"""Commands of a taste: show and save what a run's votes like, score texts."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import typer

from szpo import files
from szpo.cli import console, run_paths
from szpo.data import preference_files
from szpo.errors import RunError, UsageError
from szpo.files import quoted
from szpo.ledger.database import Ledger
from szpo.optim.vote_regression import BAYES_FACTOR_NEEDED
from szpo.runs import taste_files
from szpo.taste import LIKELY, Feature, Taste
from szpo.types import FEATURE_GRID, Answer, Floats, Prompt

if TYPE_CHECKING:
    from szpo.analysis.in_words import InWords
    from szpo.analysis.run_taste import Shown
    from szpo.policies.lora_policy import LoraPolicy


Ends: TypeAlias = "tuple[tuple[Shown, ...], tuple[Shown, ...]]"
"""The answers that a direction likes most, and least."""
LISTED: Final = 0.01
"""Features with smaller weights, in logits, are only counted."""
TASTE = typer.Option(..., "--taste", help="A taste on file (taste.json), or the name of a run.")
FEATURE = typer.Option(
    [],
    "--feature",
    help="A feature of your own that is code, as the run has it; a file never runs code.",
)
BEST_OF = typer.Option(
    1, "--best-of", min=1, max=64, help="Show the best of so many answers by a taste."
)
LIKED = typer.Option(
    None, "--taste", help="With --best-of: a taste.json or a run; default: this run's taste."
)
NAMED = typer.Option(
    None,
    "--features",
    help="Fit the votes of any run to these features, with commas between; an argument after a "
    'colon (keyword:sea+sun), a comma inside one as \\, and "all" for the whole dictionary. With '
    "--several and --cluster: in which tastes may differ.",
)
LIST: Final = ("feature", "what more of it is called; unit (group)")
YES = typer.Option(False, "--yes", help="Write it though it describes one or two people.")


def taste(
    run: str | None = run_paths.RUN,
    out: Path | None = typer.Option(None, "--out", help="Write the taste to this .json file."),
    as_prompt: bool = typer.Option(
        False, "--as-prompt", help="Print what is liked as one instruction for a system turn."
    ),
    cluster: int | None = run_paths.CLUSTER,
    chosen: str | None = NAMED,
    pairs: Path | None = typer.Option(
        None, "--pairs", help="Instead of a run: a file of chosen and rejected answers."
    ),
    model: str = typer.Option(
        "smollm2", "--model", help="With --pairs: whose hidden states are read."
    ),
    name: str | None = typer.Option(
        None, "--name", help="What you call the part that no words of the dictionary say."
    ),
    several: bool = typer.Option(
        False, "--several", help="Instead, test whether the votes come from one taste or several."
    ),
    listing: bool = typer.Option(False, "--list", help="List the features that there are."),
    yes: bool = YES,
    feature: list[str] = FEATURE,
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Show what a run's votes like, and save it as a file that scores any text."""
    if listing:
        from szpo.analysis.features import meanings

        known = meanings()
        return console.emit(known) if as_json else console.table(LIST, [*known.items()])
    if out is not None and out.suffix != ".json":
        raise UsageError(f"--out {out}: a taste is written as .json")
    if pairs is not None:
        if run is not None or chosen or cluster is not None or feature:
            raise UsageError("--pairs takes the place of a run; leave out RUN and its options")
        found, said, shown = of_pairs(pairs, model)
        found = found if name is None else _called(found, name)
        _write(found, out)
        source = f"pairs of {pairs}"
        _tell(found, said, shown, source, out, as_prompt=as_prompt, as_json=as_json)
        return
    if several:
        from szpo.cli import clusters

        return clusters.show(run_paths.find(run, folder), chosen, as_json=as_json)
    if chosen and cluster is None:
        if out is not None or as_prompt:
            raise UsageError("--features without --cluster fits votes, and writes no taste")
        return show_named(run_paths.find(run, folder), chosen, as_json)
    from szpo.analysis import run_taste, taught_taste

    path = run_paths.find(run, folder)
    with run_paths.look(path) as ledger:
        only = None
        if cluster is not None:
            from szpo.cli.clusters import members_of

            only = frozenset(members_of(ledger, chosen, cluster))
        found, words = run_taste.read(ledger, feature, only=only)
        shown = run_taste.extremes(ledger, found)
    if name is not None:
        found = _called(found, name)
        with Ledger.open(path) as ledger:
            taught_taste.give_name(ledger, name, "operator")
    if out is not None or as_prompt or as_json:
        ask(found, yes)
    _write(found, out)
    who = {0: "programs", 1: "one person"}.get(found.people, f"{found.people} people")
    source = f"{console.count(found.verdicts, 'vote')} of {who}"
    _tell(found, words, shown, source, out, as_prompt=as_prompt, as_json=as_json)


def of_pairs(file: Path, name: str) -> tuple[Taste, InWords | None, Ends]:
    """The taste of a file of chosen and rejected answers, in words, and what shows it."""
    from szpo.analysis import pair_taste
    from szpo.models import loading

    pairs = preference_files.read(file, preference_files.find_format(file)).pairs
    rows = pair_taste.differing(pairs)
    console.doing(f"loading {name}, and reading {console.count(2 * len(rows), 'answer')}")
    found = pair_taste.fit_pairs(pairs, loading.load(name))
    return found.taste, found.words, (found.most, found.least)


def _called(found: Taste, name: str) -> Taste:
    """The taste with a name for its direction."""
    from szpo.analysis import taught_taste

    if found.direction is None:
        raise UsageError("--name: all that these votes like has words; see --features")
    return replace(found, called=taught_taste.require_name(name))


def _write(found: Taste, out: Path | None) -> None:
    if out is not None:
        with files.write_whole(out) as draft, draft.open("x", encoding="utf-8") as file:
            file.write(json.dumps(found.to_json(), ensure_ascii=False, indent=1) + "\n")


def _tell(
    found: Taste, words: InWords | None, shown: Ends, source: str, out: Path | None, *,
    as_prompt: bool, as_json: bool,
) -> None:  # fmt: skip
    """Print a taste; ``source``: what it was learned from, in words."""
    if as_json:
        console.emit({**found.to_json(), "words": found.words, "sha256": found.sha256,
                      "instruction": found.instruction(),
                      "in_words": None if words is None else asdict(words)})  # fmt: skip
        return
    if as_prompt:
        if not found.instruction():
            way = "let its panel vote more"
            if found.unsaid >= LIKELY:
                way = "name it (--name), or use --best-of or szpo improve, which need no words"
            raise RunError(f"--as-prompt: {found.words}; {way}")
        console.say(found.instruction())
        return
    console.say(f"{source}: {found.words}")
    console.say()
    every = list(zip(found.features, found.weights.tolist(), strict=True))
    listed = [(each, weight) for each, weight in every if abs(weight) >= LISTED]
    if listed:
        _show_weights(listed, len(every) - len(listed))
    if found.direction is not None:
        console.say(
            f"{100 * found.unsaid:.0f} % for a direction of {found.direction.name}'s hidden states"
            f"{'; ' * bool(words)}{words or ''}. Of the answers, in logits above their mean,"
        )
        for sense, texts in zip(("most", "least"), shown, strict=True):
            console.say(f"it likes {sense}:")
            for each in texts:
                above = (each.value - found.direction.mean) / FEATURE_GRID
                console.say(f"  {above:+.1f}  {' '.join(each.text.split())}")
    if out is not None:
        console.say(f"wrote {out}; szpo score FILE --taste {quoted(out)} scores texts by it")
    elif found.describes:
        console.say(found.describes)


def show_named(path: Path, chosen: str, as_json: bool) -> None:
    """Show which of the chosen features the votes of a run are about."""
    from szpo.analysis import features, named_votes

    asked = features.parse(chosen)
    with run_paths.look(path) as ledger:
        votes = named_votes.read_votes(ledger, asked)
    kept = np.flatnonzero(votes.x.any(0))
    still = [each.name for i, each in enumerate(asked) if i not in kept]
    if not len(kept):
        raise RunError(f"{', '.join(still)}: the same on both sides of every pair")
    scale, found = named_votes.fit(replace(votes, x=votes.x[:, kept]))
    names = [asked[i].name for i in kept]
    weights = (found.signal * found.w).tolist()
    sizes = found.less.tolist(), found.more.tolist(), scale.tolist()
    rows = sorted(zip(names, weights, *sizes, strict=True), key=lambda row: -abs(row[1]))
    odds = math.exp(min(found.log_factor, 700.0))
    if as_json:
        columns = "feature", "weight", "less", "more", "deviation"
        return console.emit(
            {"features": [dict(zip(columns, row, strict=True)) for row in rows], "still": still,
             "odds": odds, "shown": odds >= BAYES_FACTOR_NEEDED, "votes": len(votes.y)}
        )  # fmt: skip
    console.say(
        f"{console.count(len(votes.y), 'vote')}: odds of {odds:.2g} that they are about these "
        f"features (it takes {BAYES_FACTOR_NEEDED:g} to show a taste)"
    )
    console.say()
    console.table(
        ("feature", "weight", "less is liked", "more is liked", "standard deviation"),
        [
            (name, round(weight, 3), f"{less:.0%}", f"{more:.0%}", round(size, 3))
            for name, weight, less, more, size in rows
        ],
    )
    console.say(
        "weight: logits for one standard deviation more of the feature between the sides, "
        "expected over all explanations"
    )
    if still:
        console.warn(f"{', '.join(still)}: the same on both sides of every pair")


def _show_weights(listed: Sequence[tuple[Feature, float]], left: int) -> None:
    console.table(
        ("feature", "weight", "counts from", "to", "usual"),
        [
            (
                each.name,
                round(weight, 3),
                *(round(at / FEATURE_GRID, 3) for at in (each.low, each.high, each.mean)),
            )
            for each, weight in sorted(listed, key=lambda row: -abs(row[1]))
        ],
    )
    if left:
        console.say(f"and {left} more below {LISTED:g}")
    console.say(
        "weight: logits for one standard deviation more of the feature, expected over all "
        "explanations; from, to and usual: in standard deviations; beyond from and to a text "
        "counts no further"
    )


def score(
    file: Path = typer.Argument(..., help="Records of prompt and completion: .jsonl or .csv."),
    liked: str = TASTE,
    out: Path | None = typer.Option(None, "--out", help="Write the records with scores: .jsonl."),
    feature: list[str] = FEATURE,
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Score answers by a taste: higher is liked more, 0 is a usual text of those voted on."""
    if out is not None and out.suffix != ".jsonl":
        raise UsageError(f"--out {out}: scores are written as .jsonl")
    found = load(liked, folder, feature)
    examples = preference_files.read_examples(file)
    prompts = [prompt.text for prompt, _ in examples]
    texts = [answer.text for _, answer in examples]
    read = states_of(found, examples)
    scored = found.score(prompts, texts, given=feature, states=read)
    scores = [round(float(each), 4) for each in scored]
    records = [
        {"prompt": prompt, "completion": text, "score": value}
        for prompt, text, value in zip(prompts, texts, scores, strict=True)
    ]
    if out is not None:
        with files.write_whole(out) as draft, draft.open("x", encoding="utf-8") as written:
            written.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in records)
    if as_json:
        console.emit(records)
        return
    console.say(f"{console.count(len(records), 'answer')} by: {found.words}")
    if out is not None:
        console.say(f"wrote {out}")
        return
    for value, text in sorted(zip(scores, texts, strict=True), reverse=True):
        console.say(f"{value:+8.3f}  {' '.join(text.split())}")


def load(text: str, folder: Path, given: Sequence[str] = ()) -> Taste:
    """The taste on file or of a run.

    Raises:
        UsageError: there is none, or its features cannot be counted here.
    """
    path = Path(text)
    if path.suffix != ".json":
        from szpo.analysis import run_taste

        with run_paths.look(run_paths.find(text, folder)) as ledger:
            return run_taste.read(ledger, given)[0]
    found = taste_files.read(path)
    try:
        found.entries(given)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return found


def best(
    judge: Taste, policy: LoraPolicy, prompt: Prompt, answers: Sequence[Answer],
    start: Sequence[Answer], given: Sequence[str] = (),
) -> Answer:  # fmt: skip
    """The answer that the taste scores highest beside the start's; the first of equal ones."""
    judge.require_model(policy.loaded.sha256, policy.loaded.name)
    found, usual = (judge.read(policy, [prompt] * len(x), x, given) for x in (answers, start))
    return answers[int(judge.score(**found, starts=judge.starts(**usual)).argmax())]


def states_of(found: Taste, examples: Sequence[tuple[Prompt, Answer]]) -> Floats | None:
    """The hidden states of answers by the taste's own model; None where it is about none.

    Raises:
        UsageError: the model cannot be loaded, or is another one now.
    """
    if (way := found.direction) is None:
        return None
    from szpo import cache
    from szpo.models import identity, loading, named_models, states

    if named_models.is_hub_id(way.name) and cache.hub_copy(way.name) is None:
        raise UsageError(  # a stranger's file downloads nothing
            f"taste: it is about hidden states of {way.name}, which is not on this machine; if "
            f"you want that model: szpo fetch {way.name}"
        )
    here = identity.read(named_models.locate(way.name))
    found.require_model(here.sha256, way.name)  # nor does it load another model
    console.doing(f"loading {way.name}, whose hidden states the taste is about")
    model = loading.load(way.name)
    console.doing(f"reading {console.count(len(examples), 'answer')}")
    return states.of_texts(model, examples, way.layer)


def ask(found: Taste, yes: bool) -> None:
    """Ask before what can be passed on describes single persons."""
    if found.describes and not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"{found.describes}; then add --yes")
        console.complain(found.describes)
        if not typer.confirm("Write it?", err=True):
            raise UsageError("nothing was written")
