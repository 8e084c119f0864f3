"""Weights are the same bits on any device: the fold, fused or not, and the adapters made of it."""

import numpy as np
import pytest
import torch

from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digest, theta_digests
from szpo.models.local_engines import GenerateEngine
from szpo.optim import parameters
from szpo.optim.parameters import Space, round13
from szpo.optim.sample_directions import Law
from szpo.replay import replay, verification
from szpo.types import Shift, Update
from tests.support import folder_run
from tests.support.policies import PROMPTS, full, policy_of, small
from tests.support.tiny_models import loaded

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SPACE = Space(17, (("a", (384, 96)), ("b", (96,))), Law())


def separate(theta: torch.Tensor, coef: float, v: torch.Tensor) -> torch.Tensor:
    """A product that is rounded, then a sum that is."""
    return theta + coef * v


def scaled(theta: torch.Tensor, coef: float, v: torch.Tensor) -> torch.Tensor:
    """One kernel, which may round once only."""
    return torch.add(theta, v, alpha=coef)


def fused(theta: torch.Tensor, coef: float, v: torch.Tensor) -> torch.Tensor:
    """One rounding for certain: product and sum in double precision, which holds both."""
    return (theta.double() + coef * v.double()).float()


WAYS = [separate, scaled, fused]


def folded(device: str, way, coefs) -> str:
    """The digest after one step for each coefficient, added on the device."""
    rng = np.random.default_rng(3)
    theta = {
        name: torch.from_numpy(rng.normal(size=shape).astype(np.float32)).to(device)
        for name, shape in SPACE.layout
    }
    for step, coef in enumerate(coefs):
        v = parameters.direction(SPACE, step, 0)
        theta = {
            name: way(value, float(coef), torch.from_numpy(v[name]).to(device))
            for name, value in theta.items()
        }
    found = {name: value.cpu().numpy() for name, value in theta.items()}
    return parameters.digest(found, SPACE.layout)


def coefficients() -> np.ndarray:
    rng = np.random.default_rng(4)
    return round13(rng.normal(size=20) * 10.0 ** rng.uniform(-6, 2, size=20))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_fold_is_the_same_bits_on_any_device_and_in_one_rounding_or_two(device, way):
    rng = np.random.default_rng(3)
    theta = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SPACE.layout}
    for step, coef in enumerate(coefficients()):
        theta = parameters.apply_update(SPACE, theta, Update(step, 0, coef=float(coef)))
    wanted = parameters.digest(theta, SPACE.layout)
    assert folded(device, way, coefficients()) == wanted


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["subspace", "full"])
def test_plus_and_minus_reach_the_device_bit_for_bit(device, kind):
    """What the model there is perturbed by is what numpy makes on any machine."""
    there = loaded("llama")
    there.model.to(device)
    space = small(there) if kind == "subspace" else full(there, rank=2, train="AB")
    policy, copy = policy_of(there, space), policy_of(loaded("llama"), space)
    for step in range(3):
        for each in (policy, copy):
            each.apply(Update(step, 0, coef=float(round13(0.01 * (step + 1)))))
    assert policy.digest() == copy.digest()
    adapters = [parameters.basis_sha256(each.factors()) for each in (policy, copy)]
    assert adapters[0] == adapters[1]
    way = [Shift(3, 0, sign, 0.125) for sign in (1, -1)]
    sides = [parameters.shift(policy.space, policy.theta(), each) for each in way]
    deltas = policy.deltas(sides)
    assert next(iter(deltas.B.values())).device.type == device
    for member, side in enumerate(sides):
        for site in space.sites:
            wanted = policy.factors(side)
            for name, found in ((site.a, deltas.A[site.name]), (site.b, deltas.B[site.name])):
                one = found[member] if found.dim() == 3 else found
                assert np.array_equal(one.cpu().numpy(), wanted[name])


@pytest.mark.gpu
def test_a_run_of_the_device_verifies_on_this_machine_without_it(tmp_path):
    """Its texts are the device's own; the weights follow from the votes on them anywhere."""
    path = folder_run.make(tmp_path, "model.device=cuda")
    with Ledger.open(path) as ledger:
        report = verification.verify(ledger)
        assert report.ok, str(report)
        digest = parameters.digest(replay.fold(ledger), ledger.layout, ledger.basis_sha256)
        assert digest == theta_digest(ledger) and len(theta_digests(ledger)) == 3


@pytest.mark.gpu
def test_the_same_seed_twice_on_a_gpu_is_the_same_run(tmp_path):
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with Ledger.open(folder_run.make(tmp_path / name, "model.device=cuda")) as ledger:
            texts = ledger.query("SELECT * FROM answers")
            contents.append((texts, theta_digests(ledger)))
    assert len(contents[0][0]) == 16 and contents[0] == contents[1]


@pytest.mark.gpu
def test_log_probabilities_are_the_same_bits_each_time_on_a_gpu():
    there = loaded("llama")
    there.model.to("cuda")
    engine, answers = GenerateEngine(there.adapt()), [range(3, 40 + i) for i in range(64)]
    first, *others = [
        np.concatenate(engine.logprobs([(5, 9, 11)] * 64, answers, [0] * 64, None))
        for _ in range(20)
    ]
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.gpu
def test_a_gpu_that_is_full_gets_smaller_batches(caplog):
    there = loaded("llama")
    there.model.to("cuda")
    policy = policy_of(there, small(there))
    policy.engine.max_rows = 4096
    policy.sample(PROMPTS, 1, seed=0)  # what the device's libraries take for themselves
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved() + 16 * 2**20
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.mem_get_info()[1])
    try:
        with caplog.at_level("WARNING", "szpo"):
            answers = policy.sample(PROMPTS, 1000, seed=1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [len(each) for each in answers] == [1000] * len(PROMPTS)
    assert policy.halved_rows == 3000 // 2 ** len(caplog.messages) < 3000
