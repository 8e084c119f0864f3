"""Links: from a difference to a vote, and back.

A link says how likely a vote for the better side is, given how much better it is. szpo assumes
the logistic link unless you set another. Near zero all links are nearly equal. The right side
inverts the link: what 20 votes say about the difference. Haldane's correction keeps the estimate
finite where all votes agree.
"""

import matplotlib.pyplot as plt
import numpy as np

from szpo.optim.links import haldane, link

x = np.linspace(-4, 4, 201)
figure, (forward, back) = plt.subplots(1, 2, figsize=(8, 3.2))
for name in ("logistic", "probit", "cauchit", "cloglog", "linear:4"):
    forward.plot(x, link(name).prob(x / (4 * link(name).slope0)), label=name)
forward.set(xlabel="difference, same slope at 0", ylabel="probability of a vote for plus")
forward.legend(fontsize=8)

votes = np.arange(21.0)
with np.errstate(divide="ignore"):
    back.plot(votes, link("logistic").inverse(votes / 20), "o", ms=3, label="log-odds")
back.plot(votes, haldane(votes, np.full(21, 20.0)), label="Haldane")
back.set(xlabel="votes for plus, of 20", ylabel="estimated difference", ylim=(-4.5, 4.5))
back.legend(fontsize=8)
figure.tight_layout()
figure.savefig("links.svg")

print("votes of 20   log-odds   Haldane")
for k in (10, 15, 19, 20):
    odds = np.log(k / (20 - k)) if k < 20 else np.inf
    print(f"{k:11}   {odds:8.2f}   {float(haldane(np.array(float(k)), np.array(20.0))):7.2f}")
