"""The algorithm in one place: SZPO in the symbols of the paper.

SZPO is stochastic zeroth-order policy optimization. Nobody gives a gradient: evaluators only say
which of two batches of trajectories is better. Each step samples a direction v, asks which of two
policies is better, aggregates the votes, and updates θ. Under its rules known and sign, szpo does
the same in `runs/sample_batches.py`, `runs/controller.py`, `optim/links.py` or
`optim/known_and_sign.py`, and `runs/update_policy.py`. Its default, regression, fits all votes at
once instead.

Left: a policy that emits points, whose reward is their nearness to a goal in the plane. Right: the
rule sign on a language model that writes diary entries, in all weights of its LoRA adapter;
evaluators like short ones. With a model of your own: `szpo run --preset published`, or
`published-sign`.
"""

import matplotlib.pyplot as plt
import numpy as np

import szpo

rng = np.random.default_rng(0)
N, M, D, mu, beta = 8, 5, 4, 0.3, 5
goal = np.array([2.0, 1.0])


def sample_batch(theta):  # D trajectories of the policy N(θ, 0.3² I), and their mean reward
    points = theta + 0.3 * rng.standard_normal((D, 2))
    return -np.linalg.norm(points - goal, axis=1).mean()


def ask(theta, perturbed):  # N batches of both, each before M evaluators of Bradley and Terry
    gap = np.array([sample_batch(perturbed) - sample_batch(theta) for n in range(N)])
    return rng.binomial(M, 1 / (1 + np.exp(-beta * gap)))


def known(k):  # Δ̂/μ: Δ̂ = mean over n of σ⁻¹(p_n), p_n = k_n / M trimmed, in units of 1/β
    p = np.clip(k / M, 0.02, 0.98)
    return np.mean(np.log(p / (1 - p))) / mu


def sign(k):  # the majority's side, of constant length
    return np.sign(k.sum() - N * M / 2)


def szpo_steps(rule, alpha, steps=60):
    theta = np.zeros(2)
    for _ in range(steps):
        v = rng.standard_normal(2)  # 1. sample a direction: v ~ N(0, I), θ′ = θ + μv
        k = ask(theta, theta + mu * v)  # 2. ask M evaluators about N batches of both policies
        slope = rule(k)  # 3. aggregate: invert the link and average, or take the sign
        theta = theta + alpha * slope * v  # 4. update: θ ← θ + α ĝ, with ĝ = slope · v
        yield theta


_, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for rule, alpha in ((known, 0.02), (sign, 0.1)):
    path = np.array([np.zeros(2), *szpo_steps(rule, alpha)])
    distance = np.linalg.norm(path - goal, axis=1)
    left.plot(N * M * np.arange(len(path)), -distance, label=rule.__name__)
    print(f"{rule.__name__}: {distance[0]:.2f} from the goal before, {distance[-1]:.2f} after")
left.set(xlabel="votes", ylabel="reward of the mean, in the plane")
left.legend()

plain = {
    "subspace.kind": "full",
    "optimizer.pairing": "forward", "optimizer.rule": "sign", "optimizer.M": M,
    "optimizer.D": D, "optimizer.kl_step": 0.1, "panel.kind": "bt70", "panel.beta": 3.0,
    "panel.reward": "length:5", "evaluation.prompts": 64, "evaluation.samples": 1,
}  # fmt: skip
with szpo.Tuner("tiny", votes=1200, ledger="published.db", settings=plain) as tuner:
    tuner.run(measure=True)
szpo.plots.gain("published.db", ax=right)
plt.savefig("the_algorithm.svg")
