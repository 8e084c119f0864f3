"""A language model learns a taste from votes.

The model `tiny` writes diary entries; it ships with szpo. The voter is a function: it
gets two batches of answers to the same prompts, and prefers the batch with fewer words.

With `measure=True` the function also compares the tuned model with the base, on prompts that no
vote was about. Left: the share of such pairs of batches that the tuned model wins, with its 95 %
interval. Right: how far the model has moved from the base.
"""

import matplotlib.pyplot as plt

import szpo


def better(prompts, a, b):
    words_a, words_b = (sum(len(text.split()) for text in batch) for batch in (a, b))
    return "tie" if words_a == words_b else "a" if words_a < words_b else "b"


settings = {
    "optimizer.rule": "regression",
    "optimizer.D": 4,
    "generation.max_new_tokens": 24,
    "subspace.samples": 64,
    "evaluation.prompts": 64,
    "evaluation.samples": 1,
}
with szpo.Tuner("tiny", better=better, votes=80, ledger="short.db", settings=settings) as tuner:
    tuner.run(measure=True)
    print(tuner.sample("How was your day?"))

_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
szpo.plots.gain("short.db", ax=left)
szpo.plots.kl("short.db", ax=right)
plt.savefig("a_language_model.svg")
