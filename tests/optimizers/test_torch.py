"""torch's optimizers at every step, from a golden file that is made anew where torch is installed."""

import json
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import pytest
from descent import along
from golden import make_torch
from torch_cases import RUNS, SETTINGS, torch_amsgrad

import optlab
from optlab import chain

GOLDEN = dict(np.load(make_torch.FILE))
ABOUT = json.loads(GOLDEN["about"].item())

# 30 steps round at 1e-16 each. Early on torch's plain `1 - b2**t` has lost three digits at 0.999, where ours has not,
# and L2 hands what a gradient of 1e-20 makes of it on to the next step.
TOLERANCE = 1e-12


def share_apart(got: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How far apart two trajectories are, as a share of the largest that each weight has been so far."""
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype == np.float64
    sizes = np.maximum.accumulate(np.abs(np.concatenate([GOLDEN["start"][None], wanted])))[1:]
    share = np.abs(got - wanted) / np.where(sizes > 0, sizes, 1)
    return np.where(np.isfinite(share), share, np.inf)


def of_ours(tx: optlab.Transform) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(along(tx, GOLDEN["start"], GOLDEN["grads"]))


@pytest.mark.parametrize("run", RUNS)
def test_it_agrees_with_torch_at_every_step(run):
    share = share_apart(of_ours(RUNS[run].ours), GOLDEN[run])
    steps, weights = np.nonzero(share > TOLERANCE)
    assert steps.size == 0, f"step {steps[0] + 1}, weight {weights[0]}: {share.max():.1e} apart"


def test_the_file_was_made_of_this_table():
    assert ABOUT["runs"] == make_torch.settings()
    assert GOLDEN.keys() == {"about", "start", "grads", *RUNS}
    np.testing.assert_array_equal(GOLDEN["start"], make_torch.START)
    np.testing.assert_array_equal(GOLDEN["grads"], make_torch.gradients())
    assert make_torch.FILE.stat().st_size < 200_000


def test_the_stream_has_what_tells_optimizers_apart():
    sizes = np.abs(GOLDEN["grads"])
    zero = sizes == 0
    assert zero[:, 0].all()
    assert 5 < zero[:, 2].sum() < 20
    assert zero[:10, 8].all()
    assert 0 < sizes[:, 5].max() < 1e-19
    assert sizes[:, 6].max() > 1e15
    large = SETTINGS["large"].hyperparams
    assert large["learning_rate"] * large["weight_decay"] == 0.1


@pytest.mark.torch
def test_the_file_is_what_torch_does_now():
    anew = make_torch.make()
    assert json.loads(anew["about"].item())["runs"] == ABOUT["runs"]
    assert anew.keys() == GOLDEN.keys()
    for name in RUNS:  # another processor may round another way
        assert share_apart(anew[name], GOLDEN[name]).max() <= TOLERANCE, name


# Where the conventions part -----------------------------------------------------------------------------------------


class Difference(NamedTuple):
    """An optimizer of ours, or of optax, that somebody might take for the run of torch's; how far it is from it.

    `share` is the largest at any step and weight, `step` the first step that shows it.
    """

    run: str
    other: Callable[[], optlab.Transform]
    share: float
    step: int


def _scaled_by(*size: optlab.Transform, learning_rate: float) -> optlab.Transform:
    quotient = optlab.divide(optlab.identity(), chain(optlab.square(), *size))
    return chain(quotient, optlab.scale_by_learning_rate(learning_rate))


DIFFERENCES = {
    # In the first step the maximum of the raw average, corrected, is the corrected average. From then on its
    # correction shrinks it, while the corrected average's maximum stays.
    "the maximum of the corrected average": Difference(
        "AMSGrad, small", lambda: optlab.amsgrad(1e-2, 0.9, 0.999, 1e-8), 0.096, 2
    ),
    "the same, with large steps": Difference("AMSGrad, large", lambda: optlab.amsgrad(0.1, 0.8, 0.95, 1e-2), 0.1, 2),
    # The first step is 1 + b1/(1 + b1) against torch's 1 + c(2)*(1 - b1)/(1 - c(1)*c(2)), see the test below.
    "a constant look-ahead": Difference("NAdam, small", lambda: optlab.nadam(1e-2, 0.9, 0.999, 1e-8), 0.92, 1),
    "the same at the defaults": Difference("NAdam at its defaults", lambda: optlab.nadam(2e-3), 0.92, 1),
    "a constant look-ahead by half of b1": Difference(
        "NAdam, small", lambda: optlab.nadam(1e-2, 0.45, 0.999, 1e-8), 0.43, 1
    ),
    "an eps a hundred times torch's": Difference("Adagrad at its defaults", lambda: optlab.adagrad(1e-2), 0.99, 1),
    "optax's start at 0.1": Difference(
        "Adagrad at its defaults", lambda: optlab.adagrad(1e-2, 1e-10, initial=0.1), 1.0, 1
    ),
    "Adagrad's eps inside the root": Difference(
        "Adagrad with a start, large",
        lambda: _scaled_by(optlab.running_sum(0.05), optlab.root(0.0, eps_root=1e-2), learning_rate=0.1),
        0.046,
        1,
    ),
    "RMSprop's eps inside the root": Difference(
        "RMSprop at its defaults",
        lambda: _scaled_by(optlab.scale_by_ema(0.99), optlab.root(0.0, eps_root=1e-8), learning_rate=1e-2),
        1.0,
        1,
    ),
    "Hinton's 0.9 for torch's 0.99": Difference("RMSprop at its defaults", lambda: optlab.rmsprop(1e-2, 0.9), 0.44, 1),
    "RMSprop with a corrected average": Difference(
        "RMSprop, large", lambda: chain(optlab.scale_by_rms(0.9, 1e-2), optlab.scale_by_learning_rate(0.1)), 0.71, 1
    ),
    "an average for torch's momentum": Difference(
        "SGD with momentum, large", lambda: optlab.momentum(0.1, 0.8), 1.6, 1
    ),
    "an average from zero for a dampened momentum": Difference(
        "SGD with momentum and dampening, large", lambda: optlab.momentum(0.1, 0.8), 1.5, 1
    ),
    "decay behind torch's momentum": Difference(
        "SGD with momentum and L2, large", lambda: optlab.sgdw(0.1, 0.8, weight_decay=1.0), 1.6, 2
    ),
    "AdamW for Adam with L2": Difference(
        "Adam with L2, small", lambda: optlab.adamw(1e-2, 0.9, 0.999, 1e-8, weight_decay=0.1), 3.6, 1
    ),
    "AdamW's decay without the rate": Difference(
        "AdamW, large", lambda: optlab.adamw_independent(0.1, 0.8, 0.95, 1e-2, weight_decay=1.0), 0.9, 1
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_what_is_not_torchs_form_differs_by_the_stated_amount(name):
    run, other, share, step = DIFFERENCES[name]
    got = share_apart(of_ours(other()), GOLDEN[run])
    assert got.max() == pytest.approx(share, rel=0.05)
    assert np.argmax((got > TOLERANCE).any(axis=1)) + 1 == step


@pytest.mark.parametrize("size", SETTINGS)
def test_torchs_momentum_is_the_average_at_a_larger_rate(size):
    learning_rate, b1 = (SETTINGS[size].hyperparams[name] for name in ("learning_rate", "b1"))
    ours = of_ours(optlab.momentum(learning_rate / (1 - b1), b1))
    assert share_apart(ours, GOLDEN[f"SGD with momentum, {size}"]).max() <= TOLERANCE


def test_nadams_first_step():
    """1.47 rates against torch's 1.06, at the defaults of either, wherever eps is small beside the gradient."""
    b1, learning_rate = 0.9, 2e-3
    first, second = (b1 * (1 - 0.96 ** (t * 4e-3) / 2) for t in (1, 2))
    ours, torchs = 1 + b1 / (1 + b1), 1 + second * (1 - b1) / (1 - first * second)
    assert (round(ours, 2), round(torchs, 2)) == (1.47, 1.06)
    seen = np.abs(GOLDEN["grads"][0]) > 1e-3
    for weights, length in ((of_ours(optlab.nadam(learning_rate)), ours), (GOLDEN["NAdam at its defaults"], torchs)):
        steps = weights[0] - GOLDEN["start"]
        wanted = -learning_rate * length * np.sign(GOLDEN["grads"][0])
        np.testing.assert_allclose(steps[seen], wanted[seen], rtol=1e-5)


def test_torch_amsgrad_may_divide_by_less_than_before():
    """Its correction comes behind the maximum and shrinks it again; ours stays, which is what the maximum is for."""
    grads = np.array([1.0, 0.0, 0.0, 0.0])

    def sizes(size):
        state, seen = size.init(np.zeros(1, np.float32)), []
        for g in grads:
            u, state = size.update(np.full(1, g, np.float32), state)
            seen.append(float(u[0]))
        return seen

    torchs, ours = torch_amsgrad(0.9, 0.999, 1e-8).parts[1], optlab.amsgrad(1e-2).parts[0].parts[1]
    np.testing.assert_allclose(sizes(torchs), np.sqrt([(1 - 0.999) / (1 - 0.999**t) for t in (1, 2, 3, 4)]), rtol=1e-4)
    np.testing.assert_allclose(sizes(ours), np.ones(4), rtol=1e-4)


@pytest.mark.torch
def test_nadam_in_torch_rounds_to_float32_for_float64_weights():
    """Why the golden file is made with float64 as the default dtype: the product of its coefficients is kept in it."""
    import torch

    assert torch.get_default_dtype() == torch.float32
    param = torch.ones(1, dtype=torch.float64, requires_grad=True)
    param.grad = torch.ones_like(param)
    optimizer = torch.optim.NAdam([param])
    optimizer.step()
    assert optimizer.state[param]["mu_product"].dtype == torch.float32


def test_every_class_is_run_with_its_weight_decay_and_at_its_defaults():
    classes = {"SGD", "RMSprop", "Adagrad", "Adam", "AdamW", "NAdam", "Adamax"}
    assert {run.torch for run in RUNS.values()} == classes
    assert {run.torch for run in RUNS.values() if run.kwargs.get("weight_decay")} == classes
    assert {run.torch for run in RUNS.values() if not run.kwargs} == classes
