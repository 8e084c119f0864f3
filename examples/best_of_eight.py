"""The best of eight of a model's answers, by a taste file in the folder at hand.

szpo taste NAME --out taste.json; python examples/best_of_eight.py "A question?"
"""

import json
import sys
from pathlib import Path

import torch

from szpo.models import loading, states
from szpo.taste import Taste
from szpo.types import Answer, Prompt

taste = Taste.from_json(json.loads(Path("taste.json").read_text()))
loaded = loading.load("smollm2")
taste.require_model(loaded.sha256, loaded.name)


def best_of(text: str, n: int = 8) -> str:
    prompt = Prompt.user(text)
    ids = torch.tensor([loading.encode(loaded.tokenizer, prompt)])
    how = {"temperature": 0.7, "max_new_tokens": 64, "num_return_sequences": n}
    drawn = loaded.model.generate(ids, do_sample=True, **how)[:, ids.shape[1] :]
    answers = loaded.tokenizer.batch_decode(drawn, skip_special_tokens=True)
    shown, read = [(prompt, Answer(each)) for each in answers], None
    if taste.direction is not None:
        read = states.of_texts(loaded, shown, taste.direction.layer)
    return str(answers[taste.score([text] * n, answers, states=read).argmax()])


if __name__ == "__main__":
    print(best_of(sys.argv[1]))
