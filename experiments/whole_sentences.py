"""How many answers of the preset people end in a full sentence, and what the rest looks like.

Run: python experiments/whole_sentences.py [COUNT] > answers.txt
"""

from __future__ import annotations

import sys
from dataclasses import replace

from szpo.baselines.actor import Actor
from szpo.config import settings_file
from szpo.data.prompts import load_shipped
from szpo.models.answer_shares import sentence_ends
from szpo.policies import language_model


def main(count: int) -> None:
    """Draw one answer to each of `count` training prompts, with and without the setting."""
    config = settings_file.load(preset_name="people", sets=["model.name=smollm2"])
    plain = language_model.load_plain(config, lambda line: None)
    asked = load_shipped().train
    asked = [asked[i % len(asked)] for i in range(count)]
    for whole in (True, False):
        sampling = replace(plain.sampling, whole_sentences=whole)
        actor = Actor(plain.loaded, plain.sites, plain.start, sampling=sampling)
        texts = [row[0] for row in actor.sample(asked, 1, seed=0)]
        if whole:
            for prompt, answer in zip(asked, texts, strict=True):
                print(f"# {prompt.text}\n{answer.text}\n")
        open_ends = [a for a in texts if sentence_ends(a.text)[-1:] != [len(a.text)]]
        own = sum(answer.end == "stop" for answer in texts)
        words = sum(len(answer.text.split()) for answer in texts) / count
        print(
            f"whole sentences {whole}: {len(open_ends)} of {count} without a closing mark, {own} "
            f"ended by themselves, {words:.0f} words",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
