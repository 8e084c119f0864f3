"""Commands that only read: show, sample, report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from szpo import files
from szpo.analysis import agreement, improvement, taught_taste
from szpo.cli import console, run_paths
from szpo.cli import taste as tastes
from szpo.cli.taste import BEST_OF, FEATURE, LIKED
from szpo.data.prompts import PromptSet
from szpo.errors import StorageError, SzpoError, UsageError
from szpo.files import quoted
from szpo.ledger import theta
from szpo.ledger.database import Ledger
from szpo.policies import teachable
from szpo.runs import budget, guards, setup_progress, status
from szpo.types import Answer, Prompt

if TYPE_CHECKING:
    from szpo.optim.regression import Findings


def _list_runs(folder: Path, *, as_json: bool) -> None:
    found: list[dict[str, Any]] = []
    for path in run_paths.files(folder):
        try:
            with run_paths.look(path) as ledger:
                helped = improvement.read(ledger)
                total = status.read_results(ledger).as_dict()
                found.append({**total, "improvement": helped.as_dict(), "heldout": helped.short})
        except SzpoError as error:
            console.warn(str(error) if path.name in str(error) else f"{path.name}: {error}")
    if as_json:
        console.emit(found)
    elif not found:
        console.say(f"no runs in {folder}; start one with: szpo run --preset tiny")
    else:
        keys = ("name", "state", "model", "panel", "rule", "steps", "votes", "heldout")
        names = (*keys[:-1], "against the base")
        for run in found:  # the reason of a pause is too long here; szpo show has it
            run["state"] = run["state"].partition(":")[0]
        console.table(names, [[run[key] for key in keys] for run in found])


def show(
    run: str | None = run_paths.RUN,
    folder: Path = run_paths.FOLDER,
    steps: int = typer.Option(10, "--steps", min=0, help="How many of the last steps to list."),
    voters: bool = typer.Option(
        False, "--voters", help="Instead, how much each voter's votes would weigh."
    ),
    every: bool = typer.Option(
        False, "--all", help="Instead, list the runs of the folder, newest first."
    ),
    as_json: bool = console.AS_JSON,
) -> None:
    """Show a run's totals and its last steps, or its voters' weights, or all runs of a folder."""
    if every:
        if run is not None:
            raise UsageError("--all lists every run; leave out RUN")
        return _list_runs(folder, as_json=as_json)
    if voters:
        _show_voters(run_paths.find(run, folder), as_json=as_json)
        return
    with run_paths.look(run_paths.find(run, folder)) as ledger:
        total = status.read_results(ledger)
        measured = guards.read_held_out(ledger)
        helped, lesson = improvement.read(ledger), taught_taste.read(ledger)
        found = taught_taste.last_findings(ledger)
        goes_on = setup_progress.describe_end(ledger.path)
        way_on = (
            taught_taste.more_votes(ledger, lesson) if found is not None and not goes_on else ""
        )
        noted, mix = findings_of(ledger, found, lesson), taught_taste.describe_mix(ledger, found)
        ruler = teachable.describe_ruler(ledger.spec.get("space", {}).get("report", {}))
    if as_json:
        rows = [{**asdict(f), "win_rate": f.win_rate} for f in total.table]
        tested: dict[str, Any] = {}
        if measured is not None and measured.guards:
            tested["guards"] = [asdict(guard) for guard in measured.guards]
        more = {"improvement": helped.as_dict(), "heldout": helped.short, **noted}
        console.emit({**total.as_dict(), **more, **tested, "step_rows": rows})
        return
    console.pairs(
        {
            "run": f"{total.name}  ({total.path})",
            "state": f"{total.state}; {goes_on}" if goes_on else total.state,
            "result": helped.sentence,
            **({"last": helped.last.line} if helped.last else {}),
            "model": total.model,
            "panel": f"{total.panel}, {console.count(total.panelists, 'panelist')}{total.fit}",
            "rule": f"{total.rule}, seed {total.seed}",
            "steps": total.steps,
            "votes": f"{total.votes}{total.of_budget}, {console.count(total.skips, 'skip')}, "
            f"{console.count(total.automatic_ties, 'automatic tie')}, {total.late} late",
            "read": budget.describe_read(total.answers_read, total.person_minutes),
            **({"mix": mix} if mix else {}),
            "weights": f"{total.theta_sha256} (theta_sha256)",
            "head": f"{total.head} (note it on another machine, for szpo verify --head)",
        }
    )
    if measured is not None and measured.guards:
        console.say()
        for line in measured.lines:
            console.say(line)
    if lesson is not None:
        console.say()
        console.say(str(lesson))
    if way_on:
        console.say(f"  {way_on}  # the same run goes on")
    for line in ("", *ruler) if ruler else ():
        console.say(line)
    if total.table and steps:
        console.say()
        console.table(
            ("step", "state", "votes", "plus", "minus", "ties", "Δ̂", "± s.e."),
            [
                (f.step, f.state, f.votes, f.plus, f.minus, f.ties, *f.estimate)
                for f in total.table[-steps:]
            ],
        )  # fmt: skip
        own = not total.table[-1].perturbed
        sides = "the first and the second answer of a pair" if own else "θ + μv and θ − μv"
        over = "pairs" if own else "directions"
        console.say(
            f"plus, minus: votes for {sides}; Δ̂: how far the step's fit prefers plus, "
            f"logits, mean over its {over}"
        )


def _show_voters(path: Path, *, as_json: bool) -> None:
    from szpo.ledger import run_spec

    with run_paths.look(path) as ledger, ledger.snapshot():
        found = agreement.voters(ledger)
        used = run_spec.recorded_settings(ledger).section.weighting
    if as_json:
        console.emit([asdict(row) for row in found])
        return
    if not found:
        console.say("no finished step has votes yet")
        return
    console.table(*agreement.voter_table(found))
    console.say(agreement.WEIGHTS_LEGEND)
    for line in agreement.voters_against(found, used):
        console.say(line)


def findings_of(
    ledger: Ledger, found: Findings | None, lesson: taught_taste.Lesson | None
) -> dict[str, Any]:
    """What the votes taught and the last step found, for ``--json``; empty if there is neither."""
    more = {} if lesson is None else {"taught": lesson.as_dict()}
    if found is None:
        return more
    plain = found.to_json()
    words = {"odds": math.exp(plain.pop("factor")), "taste_shown": found.shown}
    return {"findings": {**plain, **words}, **more}


def sample(
    run: str | None = run_paths.RUN,
    prompt: list[str] = typer.Option([], "--prompt", "-p", help="Ask this; may be repeated."),
    prompts: int = typer.Option(
        3, "--prompts", min=1, help="How many held-out prompts, without --prompt."
    ),
    samples: int = typer.Option(1, "--samples", "-n", min=1, max=64, help="Answers a prompt."),
    completions: int | None = typer.Option(
        None,
        "--completions",
        min=2,
        max=64,
        help="Instead, write so many answers of the tuned policy to each prompt for szpo rank.",
    ),
    out: Path | None = typer.Option(None, "--out", help="With --completions: the .jsonl file."),
    best_of: int = BEST_OF,
    liked: str | None = LIKED,
    feature: list[str] = FEATURE,
    seed: int = typer.Option(0, "--seed", min=0, help="Seed of the answers."),
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Let the base and the tuned policy answer the same prompts with the same random numbers."""
    if (completions is None) != (out is None) or (out is not None and out.suffix != ".jsonl"):
        raise UsageError("--completions N goes with --out FILE.jsonl; give both or neither")
    if liked is not None and best_of < 2:
        raise UsageError("--taste goes with --best-of N; give both")
    if best_of > 1 and (samples > 1 or completions is not None):
        raise UsageError("--best-of shows one answer a prompt; leave out --samples, --completions")
    from szpo.runs import assemble

    if any(not text.strip() for text in prompt):
        raise UsageError("--prompt is empty; give a question")
    path = run_paths.find(run, folder)
    judge = tastes.load(liked or str(path), folder, feature) if best_of > 1 else None
    with run_paths.look(path) as ledger:
        own = assemble.own_prompts(ledger, prompt)  # refused before the model is loaded
        console.doing("loading the run's model")
        parts = assemble.reopen(ledger, panel=False, say=console.complain)
        policy = parts.language
        asked = list(own or parts.prompts.heldout[:prompts])
        if not asked:
            raise UsageError("this run has no held-out prompts here; ask your own with --prompt")
        drawn = max(completions or samples, best_of)
        console.doing(f"writing answers to {console.count(len(asked), 'prompt')}")
        still = theta.is_still(ledger)  # then one column says it all
        tuned = policy.sample(asked, drawn, seed=seed, base=still)
        if out is not None:
            _write_completions(out, asked, tuned, as_json)
            return
        count = max(samples, best_of)
        base = tuned if still else policy.sample(asked, count, seed=seed, base=True)
        if still:
            console.complain(improvement.why_at_start(ledger) or "")
    document: list[dict[str, Any]] = []
    for question, before, after in zip(asked, base, tuned, strict=True):
        shown = {"base": before} if still else {"base": before, "tuned": after}
        if judge is not None:
            best = {
                side: [tastes.best(judge, policy, question, answers, before, feature)]
                for side, answers in shown.items()
            }
            shown = {"base": before[:1]} | {
                f"{side}, best of {best_of}": best[side] for side in best
            }
        texts = {side: [answer.text for answer in answers] for side, answers in shown.items()}
        document.append({"prompt": question.text, **texts})
    _show_answers(document, as_json)


def best_of_base(
    liked: str, sets: list[str], prompt: list[str], prompts: int, *, best_of: int,
    feature: list[str], seed: int, folder: Path, as_json: bool,
) -> None:  # fmt: skip
    """Show the best of a model's answers by a taste on file, without a run."""
    from szpo.config import settings_file
    from szpo.runs import assemble

    judge = tastes.load(liked, folder, feature)
    checked = assemble.check(settings_file.load(preset_name="people", sets=sets))
    system = checked.config.prompts.system
    own = PromptSet(tuple(Prompt.user(text, system) for text in prompt), ())
    asked = assemble.fit_prompts(checked.config, own).train if prompt else ()
    asked = asked or checked.prompts.heldout[:prompts]
    console.doing(f"writing answers to {console.count(len(asked), 'prompt')}")
    built = assemble.build(checked.config, say=lambda line: None, checked=checked)
    with closing(built) as parts:
        policy = parts.language
        drawn = policy.sample(asked, best_of, seed=seed, base=True)
        document = [
            {
                "prompt": each.text,
                "base": [answers[0].text],
                f"base, best of {best_of}": [
                    tastes.best(judge, policy, each, answers, answers, feature).text
                ],
            }
            for each, answers in zip(asked, drawn, strict=True)
        ]
    _show_answers(document, as_json)


def _show_answers(document: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print answers by prompt and side."""
    if as_json:
        console.emit(document)
        return
    for entry in document:
        console.say(str(entry["prompt"]))
        sides = [*entry][1:]
        width = max(map(len, sides))
        for side in sides:
            for text in entry[side]:
                console.say(f"  {side:>{width}}  {' '.join(text.split())}")
        console.say()


def _write_completions(
    out: Path, asked: Sequence[Prompt], answers: Sequence[Sequence[Answer]], as_json: bool
) -> None:
    """Write answers in the format of `szpo rank`: a line per prompt, with unrated answers."""
    with files.write_whole(out) as draft, draft.open("x", encoding="utf-8") as file:
        for prompt, each in zip(asked, answers, strict=True):
            turns = [{"role": role, "content": text} for role, text in prompt.turns]
            record = {"prompt": turns, "completions": [{"text": one.text} for one in each]}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    text = f"wrote {out}; szpo rank {quoted(out)} --out FOLDER makes tasks for people of it"
    console.answer(as_json, {"prompts": len(asked), "file": str(out)}, text)


def report(
    run: str | None = run_paths.RUN,
    out: Path | None = typer.Option(None, "--out", help="File to write; default: beside the run."),
    verify: bool = typer.Option(True, "--verify/--no-verify", help="Check the ledger as well."),
    svg: Path | None = typer.Option(None, "--svg", help="Write the main chart here instead."),
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Write one self-contained HTML page: settings, curves, samples, votes, verification."""
    from szpo.analysis import html_report as page
    from szpo.analysis import run_taste
    from szpo.replay import verification
    from szpo.voting import panel_evaluator

    path = run_paths.find(run, folder)
    target = out or path.with_suffix(".html")
    console.doing("reading the record, and computing its updates again")
    with run_paths.look(path) as ledger, ledger.snapshot():
        panel = ledger.spec.get("config", {}).get("panel", {})
        score, name = panel_evaluator.find_reward(ledger), str(panel.get("reward", "reward"))
        if svg is not None:
            target, text = svg, page.picture(ledger, score=score, score_name=name)
        else:
            also = [run_taste.check_recorded]
            found = verification.verify(ledger, also=also) if verify else None
            text = page.render(ledger, score=score, score_name=name, verification=found)
    try:
        with files.replace_whole(target) as draft:
            draft.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{target} cannot be written ({error.strerror or error})") from None
    console.answer(as_json, {"report": str(target)}, f"wrote {target}; open it in a browser")
