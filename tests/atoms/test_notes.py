"""The five notes that this library started from, made executable: their formulas and claims, note by note, in order.

NumPy writes down what a note says, optlab computes it. The notes, tutorials in Chinese, are numbered as in `NOTES`.
Their pictures did not come with them: where a formula stood in one, the algorithm that the text names is tested, and
the numbers of the income example are ours.

Tests whose names say `is_wrong` hold a sentence or formula of the note against what is right, and show that the first
fails; those that say `conventions_clash` show both sides. `pytest tests/test_notes.py -k is_wrong --collect-only` lists
them.

Asked of the lab, not tested here, because only trainings can tell:

| note | claim |
|---|---|
| 0, 3 | AdamW trains better than Adam with L2; weight decay is always the better of the two |
| 0 | nobody has tried the decay beside the momentum (what it computes is tested) |
| 0, 4 | the pitfalls of weight decay in the article that both link to (its remedy is `optlab.adams`) |
| 1 | Adam moves like a heavy ball with friction and prefers flat minima |
| 2 | AdamW generalizes better: ResNets, Transformers, lower test error |
| 2 | rate and decay are easier to tune in AdamW (what the one does to the other's effect is tested) |
| 2 | Adam converges faster, suits sparse gradients, finds the optimum or nearly |
| 4 | large weights go with overfitting, and decay prevents it (that it bounds the weights is tested) |

Nor is tested what they say of people: who took L2 for decay, and what most implementations do.
"""

import functools
import inspect
import itertools
import math
import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optlab

pytestmark = pytest.mark.usefixtures("x64")


class Note(NamedTuple):
    """A name that tells what the note is about, and its title; two have none and go by their first words."""

    name: str
    title: str


NOTES = (
    Note("pseudocode and bias correction", "伪代码如下"),
    Note("Adam with L2, and AdamW", "Adam (L2 regularization) 和 AdamW（weight decay）"),
    Note("from the income example to AdamW", "Adam 和 AdamW 原理详解"),
    Note("a course, from mini-batches to AdamW", "小批量梯度下降"),
    Note("downhill fast, from SGD to Adam", "梯度速降"),
)

# What the notes call eta; beta, beta_1 and gamma; beta_2; epsilon; lambda or wd. So large that every place shows: at a
# rate of 1e-3 and a decay of 1e-2 most of the wrong formulas below would pass.
RATE, B1, B2, EPS, WD = 0.1, 0.7, 0.9, 1e-2, 0.5
STEPS = 12

# A noisy quadratic in five weights, with gradients from 0.003 to 3 that depend on the weights.
SIZE = np.array([3.0, 1.0, 0.3, 0.03, 0.003])
START = np.array([1.5, -1.0, 0.5, 2.0, -0.8])
TARGET = np.array([-0.5, 0.7, 1.0, -1.0, 0.3])
NOISE = np.random.default_rng(0).normal(size=(STEPS, 5))
STREAM = SIZE * NOISE  # gradients that depend on nothing

MEAN = optlab.scale_by_ema(B1)
CORRECTED = optlab.chain(MEAN, optlab.bias_correct(B1))
CORE = optlab.scale_by_rms(B2, EPS, numerator=CORRECTED)
DESCENT = optlab.scale_by_learning_rate(RATE)
ADAM = {"learning_rate": RATE, "b1": B1, "b2": B2, "eps": EPS}
DECOUPLED = {"sgd": (optlab.identity(),), "momentum": (MEAN,), "adam": (CORE,)}


def loss(w, t):
    return jnp.sum(SIZE * ((w - TARGET) ** 2 / 2 + jnp.asarray(NOISE)[t - 1] * w))


def gradient(w, t):
    return SIZE * (w - TARGET + NOISE[t - 1])


@functools.cache
def penalized_gradient(factor):
    """The gradient of `loss + factor * |w|**2`, by differentiation."""
    return jax.jit(jax.grad(lambda w, t: loss(w, t) + factor * jnp.sum(w**2)))


def of_stream(stream):
    """The gradients of a stream, wherever the weights are."""
    return lambda w, t: np.broadcast_to(stream[t - 1], np.shape(w))


# optlab's side --------------------------------------------------------------------------------------------------------


def walk(tx, grad, w, start=None):
    """After each step: what left the transform, the slots of its state, and the weights."""
    state = tx.init(w) if start is None else tx.init(w)._replace(slots=start)
    for t in itertools.count(1):
        u, state = tx.update(grad(w, t), state, w)
        w = w + np.asarray(u)
        yield np.asarray(u), state.slots, w


def trajectory(tx, grad=gradient, w=START, steps=STEPS):
    """The weights before the first step and after each."""
    return np.stack([w, *(w for _, _, w in itertools.islice(walk(tx, grad, w), steps))])


def outputs(tx, stream, start=None):
    """What leaves the transform at each step; its slots begin at `start`, if that is given."""
    stream = np.asarray(stream, np.float64)
    w = np.zeros_like(stream[0])
    return np.stack([u for u, _, _ in itertools.islice(walk(tx, of_stream(stream), w, start), len(stream))])


def slots(tx, stream, w=START, start=None):
    """The slots after each step; they begin at `start`, if that is given."""
    return [slots for _, slots, _ in itertools.islice(walk(tx, of_stream(stream), w, start), len(stream))]


def weights_of_gradients(tx, steps=STEPS):
    """Row t, column s: the weight of the gradient of step s in what leaves the linear `tx` at step t."""
    return outputs(tx, np.eye(steps))


def what_decay_leaves(tx, stream, apart=1e-3):
    """The share of their distance that two trajectories of one stream of gradients keep: only decay changes it."""
    ends = trajectory(tx, of_stream(stream), np.stack([START + apart, START]), len(stream))[-1]
    return (ends[0] - ends[1]) / apart


# The notes' side ------------------------------------------------------------------------------------------------------


class Average:
    """The exponential average of what it is shown, from zero on."""

    def __init__(self, beta):
        self.beta, self.value = beta, 0.0

    def __call__(self, g):
        self.value = self.beta * self.value + (1 - self.beta) * g
        return self.value


class Moments:
    """Adam's two averages of the gradients that it is shown, corrected."""

    def __init__(self):
        self.m, self.v, self.t = Average(B1), Average(B2), 0

    def __call__(self, g):
        self.t += 1
        return self.m(g) / (1 - B1**self.t), self.v(g**2) / (1 - B2**self.t)


def averages(beta, stream):
    """The exponential average after each step."""
    average = Average(beta)
    return np.stack([average(g) for g in stream])


def loop(step, grad=gradient, w=START, steps=STEPS):
    """The weights before the first step and after each `step(w, g, t)`."""
    weights = [w]
    for t in range(1, steps + 1):
        weights.append(step(weights[-1], np.asarray(grad(weights[-1], t)), t))
    return np.stack(weights)


def assert_same(got, wanted, tolerance=1e-12):
    """Equal but for float64 roundings: the longest trajectory makes 1e3 of them, of 1e-16 each."""
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


def assert_apart(got, wanted, at_least=1e-3):
    """So far apart that no rounding explains it."""
    assert np.shape(got) == np.shape(wanted)
    assert np.abs(np.asarray(got) - wanted).max() > at_least


def test_every_note_has_its_section_in_order():
    numbers = [int(name.split("_")[2]) for name in globals() if name.startswith("test_note_")]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(len(NOTES)))
    headings = re.findall(r"^# Note (\d): (.*?) -+$", Path(__file__).read_text(), re.MULTILINE)
    assert headings == [(str(number), note.name) for number, note in enumerate(NOTES)]


# Note 0: pseudocode and bias correction -------------------------------------------------------------------------------


def test_note_0_average_direction_over_average_size():
    size = optlab.chain(optlab.square(), optlab.scale_by_ema(B2), optlab.root(0.0))
    wanted = averages(B1, STREAM) / np.sqrt(averages(B2, STREAM**2))
    assert_same(outputs(optlab.divide(MEAN, size), STREAM), wanted)


def test_note_0_the_average_direction_jitters_less_than_the_gradients():
    stream = 1 + 2 * (-1.0) ** np.arange(1, STEPS + 1)
    direction = outputs(CORRECTED, stream[:, None])[:, 0]
    assert (stream[::2] < 0).all()
    assert (direction[1:] > 0).all()
    assert (np.abs(np.diff(direction)) < np.abs(np.diff(stream))).all()


def test_note_0_the_quotient_lets_small_gradients_step_as_far_as_large_ones():
    """The note has the small step further and the large less far: than SGD's, that is, not than each other."""
    stream = np.tile([1e-3, 1.0, 1e3], (STEPS, 1))
    adam = -outputs(optlab.adam(RATE, B1, B2, eps=0.0), stream)
    sgd = -outputs(optlab.sgd(RATE), stream)
    assert_same(adam, np.full_like(adam, RATE))
    assert (adam[:, 0] > sgd[:, 0]).all()
    assert (adam[:, 2] < sgd[:, 2]).all()


def test_note_0_the_recurrence_of_the_average():
    assert_same(outputs(MEAN, STREAM), averages(B1, STREAM))


def test_note_0_the_expansion_of_the_average():
    t, s = np.ogrid[1 : STEPS + 1, 1 : STEPS + 1]
    wanted = np.where(s <= t, (1 - B1) * B1 ** np.maximum(t - s, 0.0), 0)
    assert_same(weights_of_gradients(MEAN), wanted)
    assert_same(outputs(MEAN, STREAM), wanted @ STREAM)


def test_note_0_the_weights_sum_to_less_than_one():
    sums = weights_of_gradients(MEAN).sum(axis=1)
    powers = [sum(B1**k for k in range(t)) for t in range(1, STEPS + 1)]
    assert_same(sums, (1 - B1) * np.array(powers))
    assert_same(sums, 1 - B1 ** np.arange(1, STEPS + 1))
    assert (sums < 1).all()


def test_note_0_the_correction_divides_by_the_sum_of_the_weights():
    got = outputs(CORRECTED, STREAM)
    for t in range(1, STEPS + 1):
        powers = B1 ** np.arange(t - 1, -1, -1.0)
        weights = (1 - B1) * powers
        assert_same(got[t - 1], weights @ STREAM[:t] / weights.sum())
        assert_same(got[t - 1], powers @ STREAM[:t] / powers.sum())
    assert_same(got, averages(B1, STREAM) / (1 - B1 ** np.arange(1, STEPS + 1)[:, None]))
    assert_same(weights_of_gradients(CORRECTED).sum(axis=1), np.ones(STEPS))


def test_note_0_one_gradient_moves_the_average_by_a_small_share():
    before, after = np.split(outputs(MEAN, STREAM)[np.r_[: STEPS - 1, 1:STEPS]], 2)
    assert_same(after - before, (1 - B1) * (STREAM[1:] - before))


def test_note_0_weights_that_move_rarely_have_the_larger_rate():
    stream = np.ones((STEPS, 2))
    stream[:, 1] = np.arange(STEPS) % 4 == 0
    often, rarely = (1 / outputs(optlab.rms(B2, EPS), stream)).T
    assert_same(often[0], rarely[0])
    assert (rarely[1:] > often[1:]).all()


def test_note_0_in_sgd_l2_in_the_loss_is_decay():
    """The penalty that adds `beta * w` to the gradient is `beta / 2 * |w|**2`."""
    in_the_loss = trajectory(optlab.sgd(RATE), penalized_gradient(WD / 2))
    in_the_gradient = trajectory(optlab.chain(optlab.add_l2_to_grad(WD), optlab.sgd(RATE)))
    decayed = trajectory(optlab.chain(optlab.add_decayed_weights(WD), optlab.sgd(RATE)))
    assert_same(in_the_gradient, in_the_loss)
    assert_same(decayed, in_the_loss)


def test_note_0_in_adam_l2_enters_both_averages_and_adamw_spares_them():
    l2, decay = optlab.adam_l2(**ADAM, weight_decay=WD), optlab.adamw(**ADAM, weight_decay=WD)
    seen = STREAM + WD * trajectory(l2, of_stream(STREAM))[:-1]
    for tx, grads in ((l2, seen), (decay, STREAM)):
        kept = slots(tx, STREAM)
        assert_same([slot["numerator"]["ema"] for slot in kept], averages(B1, grads))
        assert_same([slot["denominator"]["ema"] for slot in kept], averages(B2, grads**2))
    assert_apart(seen, STREAM)


ALPHA = RATE


def eta(t):
    """The schedule, which counts steps from 0."""
    return 1 / (1 + t / 4)


def scheduled(factor):
    return lambda t: factor * eta(t.astype(np.float64))


def test_note_0_the_nesting_of_schedule_alpha_and_decay():
    """The picture is Loshchilov & Hutter's: the schedule multiplies Adam and decay, alpha Adam alone."""
    moments = Moments()

    def step(x, g, t):
        m, v = moments(g)
        return x - eta(t - 1) * (ALPHA * m / (np.sqrt(v) + EPS) + WD * x)

    rate = {"learning_rate": scheduled(ALPHA), "b1": B1, "b2": B2, "eps": EPS}
    nested = loop(step)
    assert_same(trajectory(optlab.adamw_independent(**rate, weight_decay=scheduled(WD))), nested)
    assert_same(trajectory(optlab.adamw(**rate, weight_decay=WD / ALPHA)), nested)
    assert_apart(trajectory(optlab.adamw(**rate, weight_decay=WD)), nested)
    assert_apart(trajectory(optlab.adamw_independent(**rate, weight_decay=WD)), nested)


def test_note_0_conventions_clash_llm_c_has_no_alpha():
    """There, as in torch, one rate multiplies Adam and decay."""
    moments = Moments()

    def step(x, g, t):
        m, v = moments(g)
        return x - ALPHA * eta(t - 1) * (m / (np.sqrt(v) + EPS) + WD * x)

    rate = {"learning_rate": scheduled(ALPHA), "b1": B1, "b2": B2, "eps": EPS}
    assert_same(trajectory(optlab.adamw(**rate, weight_decay=WD)), loop(step))


@pytest.mark.parametrize("corrected", [False, True], ids=["as printed, m and v", "corrected"])
def test_note_0_the_decay_beside_the_momentum(corrected):
    m, v = Average(B1), Average(B2)

    def step(x, g, t):
        sum_m, sum_v = (1 - B1**t, 1 - B2**t) if corrected else (1, 1)
        return x - RATE * (m(g) / sum_m + WD * x) / (np.sqrt(v(g**2) / sum_v) + EPS)

    raw = optlab.divide(MEAN, optlab.chain(optlab.square(), optlab.scale_by_ema(B2), optlab.root(EPS)))
    tx = optlab.Decay("direction").apply_to(CORE if corrected else raw, RATE, WD)
    assert_same(trajectory(tx), loop(step))


def test_note_0_the_decay_beside_the_momentum_explodes_without_gradients():
    tx = optlab.Decay("direction").apply_to(CORE, RATE, WD)
    nothing = np.zeros((3, 5))
    assert_same(trajectory(tx, of_stream(nothing), steps=3), START * (1 - RATE * WD / EPS) ** np.arange(4)[:, None])
    assert abs(1 - RATE * WD / EPS) > 1


# Note 1: Adam with L2, and AdamW --------------------------------------------------------------------------------------

DATA = np.random.default_rng(1).normal(size=(6, 3))
ANSWERS = np.random.default_rng(2).normal(size=6)
THETA = np.array([0.5, -1.0, 2.0])


def mean_squared_error(theta, inputs, answers):
    return jnp.mean((inputs @ theta - answers) ** 2)


slope = jax.jit(jax.grad(mean_squared_error))


def test_note_1_sgd_on_the_objective_and_on_one_sample():
    everything = trajectory(optlab.sgd(RATE))
    assert_same(everything, loop(lambda w, g, t: w - RATE * g))

    def of_sample(theta, t):
        return slope(theta, DATA[t - 1 : t], ANSWERS[t - 1 : t])

    def by_hand(theta, t):
        return 2 * (DATA[t - 1] @ theta - ANSWERS[t - 1]) * DATA[t - 1]

    got = trajectory(optlab.sgd(RATE), of_sample, THETA, steps=6)
    assert_same(got, loop(lambda w, g, t: w - RATE * g, by_hand, THETA, steps=6))


def test_note_1_both_averages_begin_at_zero():
    adam = optlab.adam(**ADAM)
    assert_same(adam.init(START).slots["numerator"]["ema"], np.zeros(5))
    assert_same(adam.init(START).slots["denominator"]["ema"], np.zeros(5))
    kept = slots(adam, STREAM)
    assert_same([slot["numerator"]["ema"] for slot in kept], averages(B1, STREAM))
    assert_same([slot["denominator"]["ema"] for slot in kept], averages(B2, STREAM**2))


def test_note_1_the_second_moment_is_not_centred():
    second_moment = optlab.chain(optlab.square(), optlab.scale_by_ema(B2), optlab.bias_correct(B2))
    assert_same(outputs(second_moment, np.full((STEPS, 5), 3.0)), np.full((STEPS, 5), 9.0))  # of variance 0


def test_note_1_averages_are_biased_to_zero_early_and_for_betas_near_one():
    ones = np.ones((STEPS, 1))
    short, longer, longest = (outputs(optlab.scale_by_ema(beta), ones)[:, 0] for beta in (0.5, B1, 0.999))
    for beta, average in ((0.5, short), (B1, longer), (0.999, longest)):
        assert_same(1 - average, beta ** np.arange(1, STEPS + 1))
    assert (np.diff(longest) > 0).all()
    assert (longest < longer).all()
    assert (longer < short).all()


def test_note_1_the_whole_of_adam():
    m = v = 0

    def step(w, g, t):
        nonlocal m, v
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * g**2
        m_hat, v_hat = m / (1 - B1**t), v / (1 - B2**t)
        return w - RATE / (np.sqrt(v_hat) + EPS) * m_hat

    assert_same(trajectory(optlab.adam(**ADAM)), loop(step))
    assert inspect.signature(optlab.adam).parameters["eps"].default == 1e-8


@pytest.mark.parametrize(("factor", "decay"), [(WD, 2 * WD), (WD / 2, WD)], ids=["wd: note 1", "wd/2: notes 2 to 4"])
def test_note_1_conventions_clash_on_the_factor_of_the_penalty(factor, decay):
    derivative = jax.grad(lambda w: factor * jnp.sum(w**2))(START)
    added, _, _ = next(walk(optlab.add_l2_to_grad(decay), of_stream(np.zeros((1, 5))), START))
    assert_same(derivative, decay * START)
    assert_same(added, derivative)


def test_note_1_is_wrong_to_call_the_sum_of_squares_the_l2_norm():
    """It is the square of the norm; the norm itself pulls every weight by its share of the length."""
    of_norm = jax.grad(lambda w: WD * jnp.sqrt(jnp.sum(w**2)))(START)
    assert_same(of_norm, WD * START / np.linalg.norm(START))
    added, _, _ = next(walk(optlab.add_l2_to_grad(2 * WD), of_stream(np.zeros((1, 5))), START))
    assert_apart(of_norm, added)


@pytest.mark.parametrize("answers", [ANSWERS, ANSWERS > 0], ids=["continuous", "discrete"])
def test_note_1_the_derivative_of_the_penalized_error(answers):
    """Discrete answers need no differences: the derivative is by the weights."""
    answers = answers.astype(np.float64)

    def penalized(theta, t):
        return mean_squared_error(theta, DATA, answers) + WD * jnp.sum(theta**2)

    def by_hand(theta, t):
        return 2 * (DATA @ theta - answers) @ DATA / len(DATA)

    wanted = loop(lambda theta, g, t: theta - RATE * g - RATE * 2 * WD * theta, by_hand, THETA)
    assert_same(trajectory(optlab.sgd(RATE), jax.jit(jax.grad(penalized)), THETA), wanted)
    assert_same(trajectory(optlab.chain(optlab.add_l2_to_grad(2 * WD), optlab.sgd(RATE)), by_hand, THETA), wanted)


def test_note_1_in_sgd_l2_and_decay_are_one():
    wanted = loop(lambda w, g, t: (1 - 2 * RATE * WD) * w - RATE * g)
    assert_same(trajectory(optlab.sgd(RATE), penalized_gradient(WD)), wanted)
    assert_same(trajectory(optlab.chain(optlab.add_l2_to_grad(2 * WD), DESCENT)), wanted)
    assert_same(trajectory(optlab.chain(optlab.add_decayed_weights(2 * WD), DESCENT)), wanted)
    assert_same(trajectory(optlab.chain(DESCENT, optlab.shrink_weights(2 * RATE * WD))), wanted)


def test_note_1_is_wrong_that_decay_subtracts_a_constant():
    """It subtracts a constant share."""
    tx = optlab.chain(optlab.add_decayed_weights(2 * WD), DESCENT)
    weights = trajectory(tx, of_stream(np.zeros((STEPS, 5))))
    subtracted = weights[:-1] - weights[1:]
    assert_same(subtracted, 2 * RATE * WD * weights[:-1])
    assert_same(subtracted[1:] / subtracted[:-1], np.full((STEPS - 1, 5), 1 - 2 * RATE * WD))


def test_note_1_momentum():
    v = Average(B1)
    assert_same(trajectory(optlab.momentum(RATE, B1)), loop(lambda w, g, t: w - RATE * v(g)))


def test_note_1_is_wrong_that_the_momentum_is_the_last_gradient():
    """It is the average of all of them."""
    v = np.stack([slot["ema"] for slot in slots(optlab.momentum(RATE, B1), STREAM)])
    assert_apart(v, STREAM)
    assert_same(v, weights_of_gradients(MEAN) @ STREAM)


MOMENTUM_DECAY = optlab.chain(MEAN, optlab.add_decayed_weights(2 * WD), DESCENT)
MOMENTUM_L2 = optlab.chain(optlab.add_l2_to_grad(2 * WD), MEAN, DESCENT)


def printed_for_decay(w, v, g):
    return (1 - RATE * (1 - B1) * 2 * WD) * w - B1 * RATE * v - RATE * (1 - B1) * g


def printed_for_l2(w, v, g):
    return (1 - RATE * 2 * WD) * w - RATE * B1 * v - RATE * (1 - B1) * g


@pytest.mark.parametrize(
    ("tx", "right", "wrong"),
    [(MOMENTUM_DECAY, printed_for_l2, printed_for_decay), (MOMENTUM_L2, printed_for_decay, printed_for_l2)],
    ids=["decay", "L2"],
)
def test_note_1_is_wrong_the_expanded_momentum_formulas_are_swapped(tx, right, wrong):
    """L2 passes through the average, so the newest decay has the factor 1 - gamma; decay is added behind it, whole."""
    steps = list(itertools.islice(walk(tx, gradient, START), STEPS))
    v = np.stack([np.zeros(5), *(slot["ema"] for _, slot, _ in steps)])
    w = np.stack([START, *(w for _, _, w in steps)])
    g = np.stack([gradient(w[t - 1], t) for t in range(1, STEPS + 1)])
    assert_same(w[1:], right(w[:-1], v[:-1], g))
    assert_apart(w[1:], wrong(w[:-1], v[:-1], g))


def test_note_1_is_wrong_the_same_v_in_both_momentum_formulas():
    """In the one of L2 it holds all earlier decays; with an average of gradients alone even the right factors fail."""
    w = trajectory(MOMENTUM_L2)
    g = np.stack([gradient(w[t - 1], t) for t in range(1, STEPS + 1)])
    weights = np.tril(weights_of_gradients(MEAN))
    assert_same(w[1:], w[:-1] - RATE * weights @ (g + 2 * WD * w[:-1]))
    alone = np.vstack([np.zeros(5), averages(B1, g)[:-1]])
    assert_same(w[1], printed_for_decay(w[0], alone[0], g[0]))
    for t in range(2, STEPS + 1):
        assert_apart(w[t], printed_for_decay(w[t - 1], alone[t - 1], g[t - 1]))


def test_note_1_momentum_parts_l2_from_decay():
    l2, decay = trajectory(MOMENTUM_L2), trajectory(MOMENTUM_DECAY)
    assert_same(l2[1] - decay[1], RATE * B1 * 2 * WD * START)  # the share of the decay that the average keeps back
    assert_apart(l2, decay)


def test_note_1_is_wrong_in_a_double_negation_adam_too_parts_l2_from_decay():
    l2 = trajectory(optlab.adam_l2(**ADAM, weight_decay=WD))
    assert_same(l2, trajectory(optlab.adam(**ADAM), penalized_gradient(WD / 2)))
    assert_apart(l2, trajectory(optlab.adamw(**ADAM, weight_decay=WD)))


SPIKE = np.array([1.0, 1.0, 10.0, 0.1, 0.1, 0.1, 0.1, 0.1])[:, None]
FORGETFUL = 0.5


def rates(make):
    """The effective rate at each step: the update per unit of gradient, without momentum."""
    return -outputs(make(RATE, 0.0, FORGETFUL, EPS), SPIKE) / SPIKE


def corrected_second_moments():
    return averages(FORGETFUL, SPIKE**2) / (1 - FORGETFUL ** np.arange(1, len(SPIKE) + 1)[:, None])


def test_note_1_amsgrad_keeps_the_larger_second_moment():
    kept = np.maximum.accumulate(corrected_second_moments())
    assert_same(rates(optlab.amsgrad), RATE / (np.sqrt(kept) + EPS))


def test_note_1_is_wrong_that_amsgrad_compares_with_the_moment_before_only():
    """It compares with the largest so far: the one before forgets the spike two steps later."""
    v = corrected_second_moments()
    larger_of_two = np.maximum(v, np.vstack([v[:1], v[:-1]]))
    assert_apart(rates(optlab.amsgrad), RATE / (np.sqrt(larger_of_two) + EPS))


def test_note_1_is_wrong_that_amsgrad_prevents_small_rates():
    """It prevents growing ones: its rate is never above Adam's, never grows, and stays small after the spike."""
    ours, adams = rates(optlab.amsgrad), rates(optlab.adam)
    assert (np.diff(ours, axis=0) <= 1e-15).all()
    assert (ours <= adams + 1e-15).all()
    assert adams[-1] > 4 * ours[-1]
    assert (np.diff(adams[3:], axis=0) > 0).all()


# Note 2: from the income example to AdamW -----------------------------------------------------------------------------

BETA = 0.7
INCOME = np.array([100.0, 120.0, 110.0, 140.0, 150.0, 170.0])[:, None]
EMA = optlab.scale_by_ema(BETA)
REMA = optlab.chain(EMA, optlab.bias_correct(BETA))
NEARLY_MEAN = optlab.chain(optlab.scale_by_ema(1 - 1e-9), optlab.bias_correct(1 - 1e-9))


def test_note_2_the_mean_of_six_days_weighs_each_by_a_sixth():
    """The mean is the corrected average of a beta near one."""
    assert_same(weights_of_gradients(NEARLY_MEAN, 6)[-1], np.full(6, 1 / 6), tolerance=1e-8)
    assert_same(outputs(NEARLY_MEAN, INCOME)[-1], INCOME.mean(axis=0), tolerance=1e-6)


def test_note_2_the_average_weighs_more_the_nearer_the_day():
    weights = weights_of_gradients(REMA, 6)[-1]
    assert (np.diff(weights) > 0).all()
    assert_same(weights.sum(), 1)


def test_note_2_nearer_days_predict_better_only_where_there_is_a_trend():
    """Without one, the error is that of the noise, the sum of the squared weights, and the mean has the least."""
    trend = 100 + 10 * np.arange(1.0, 8)[:, None]
    mean, average = outputs(NEARLY_MEAN, trend[:6])[-1], outputs(REMA, trend[:6])[-1]
    assert abs(average - trend[6]) < abs(mean - trend[6])
    mean, average = (weights_of_gradients(tx, 6)[-1] for tx in (NEARLY_MEAN, REMA))
    assert (mean**2).sum() < (average**2).sum()


def test_note_2_the_income_example():
    """A value is 0.7 of the day before's and 0.3 of the day's; expanded, the days weigh 0.3, 0.21, 0.147 ..."""
    values = outputs(EMA, INCOME)
    assert_same(values[0], 0.3 * INCOME[0])
    assert_same(values[1:], 0.7 * values[:-1] + 0.3 * INCOME[1:])
    weights = [0.3 * 0.7**5, 0.3 * 0.7**4, 0.3 * 0.7**3, 0.147, 0.21, 0.3]
    assert_same(weights_of_gradients(EMA, 6)[-1], weights)
    assert_same(values[-1], weights @ INCOME)


def test_note_2_the_average_keeps_one_value():
    for kept in slots(EMA, INCOME, np.zeros(1)):
        assert [leaf.shape for leaf in jax.tree.leaves(kept)] == [(1,)]


def test_note_2_the_first_days_come_out_too_small_and_corrected_right():
    raw, corrected = outputs(EMA, INCOME), outputs(REMA, INCOME)
    assert (raw[:3] < INCOME.min()).all()
    for day in range(6):
        assert INCOME[: day + 1].min() - 1e-9 <= corrected[day] <= INCOME[: day + 1].max() + 1e-9
    assert_same(corrected, raw / (1 - 0.7 ** np.arange(1, 7)[:, None]))
    assert_same(outputs(REMA, np.full((6, 1), 100.0)), np.full((6, 1), 100.0))


def test_note_2_the_value_before_the_first_day_fades():
    wrong_start = outputs(EMA, INCOME, start={"ema": jnp.full(1, 1000.0)})
    assert_same(wrong_start - outputs(EMA, INCOME), 1000 * 0.7 ** np.arange(1, 7)[:, None])


def test_note_2_the_correction_fades():
    factors = outputs(optlab.bias_correct(BETA), np.ones((50, 1)))[:, 0]
    assert_same(factors, 1 / (1 - 0.7 ** np.arange(1, 51)))
    assert (np.diff(factors) < 0).all()
    assert factors[-1] - 1 < 1e-7


def test_note_2_is_wrong_that_the_correction_changes_the_initial_value():
    """That stays zero, and the average raw; only what is read of it is divided."""
    assert_same(REMA.init(np.zeros(1)).slots["ema"], np.zeros(1))
    raw, corrected = (slots(tx, INCOME, np.zeros(1)) for tx in (EMA, REMA))
    assert_same([slot["ema"] for slot in corrected], [slot["ema"] for slot in raw])


def test_note_2_sgd_steps_against_the_gradient_of_w_and_b():
    x, y = np.array([1.0, 2.0, 3.0]), np.array([3.0, 5.0, 8.0])

    def error(params):
        return jnp.mean((params["w"] * x + params["b"] - y) ** 2)

    params = {"w": jnp.zeros(()), "b": jnp.zeros(())}
    sgd = optlab.sgd(RATE)
    updates, _ = sgd.update(jax.grad(error)(params), sgd.init(params), params)
    assert_same(updates["w"], RATE * np.mean(2 * y * x))
    assert_same(updates["b"], RATE * np.mean(2 * y))
    assert error(optax.apply_updates(params, updates)) < error(params)


STEEP_AND_FLAT = np.array([18.0, 0.1])


def on_a_slope(w, t):
    return STEEP_AND_FLAT * w


def sign_changes(weights):
    return (np.diff(np.sign(weights), axis=0) != 0).sum(axis=0)


def test_note_2_sgd_swings_where_gradients_are_large():
    weights = trajectory(optlab.sgd(RATE), on_a_slope, np.ones(2), steps=30)
    assert sign_changes(weights).tolist() == [30, 0]
    unstable = trajectory(optlab.sgd(2 * RATE), on_a_slope, np.ones(2), steps=30)
    assert abs(unstable[-1, 0]) > 1e6
    assert unstable[-1, 1] < 1


def test_note_2_momentum_swings_less():
    """It also stands the rate at which SGD leaves for infinity."""
    assert sign_changes(trajectory(optlab.momentum(RATE, 0.9), on_a_slope, np.ones(2), steps=30))[0] < 10
    assert abs(trajectory(optlab.momentum(2 * RATE, 0.9), on_a_slope, np.ones(2), steps=60)[-1, 0]) < 0.1


def test_note_2_gradients_of_both_signs_cancel_in_the_average():
    alternating = np.resize([1.0, -1.0], 60)[:, None]
    got = outputs(MEAN, alternating)
    assert_same(np.abs(got[-1]), (1 - B1) / (1 + B1), tolerance=1e-8)
    assert (np.abs(got) < np.abs(alternating)).all()


def test_note_2_rmsprop():
    s = Average(B2)
    wanted = loop(lambda w, g, t: w - RATE * g / (np.sqrt(s(g**2)) + EPS))
    assert_same(trajectory(optlab.rmsprop(RATE, B2, EPS)), wanted)


def test_note_2_rmsprop_evens_out_the_sizes():
    stream = np.tile(NOISE[:, :1], (1, 5)) * [1e-3, 1e-2, 1, 1e2, 1e3]
    updates = outputs(optlab.rmsprop(RATE, B2, 0.0), stream)
    assert_same(updates, np.tile(updates[:, :1], (1, 5)))


@pytest.mark.parametrize("make", [optlab.rmsprop, optlab.adam])
def test_note_2_epsilon_keeps_zero_over_zero_away(make):
    decays = {"decay": B2} if make is optlab.rmsprop else {"b1": B1, "b2": B2}
    nothing = np.zeros((2, 1))
    assert np.isnan(outputs(make(RATE, **decays, eps=0.0), nothing)).all()
    assert_same(outputs(make(RATE, **decays, eps=1e-8), nothing), nothing)


def test_note_2_adam_is_momentum_over_rmsprop_with_both_corrected():
    """Put together from the slots that a momentum and an RMSProp keep over the same gradients."""
    m = np.stack([slot["ema"] for slot in slots(optlab.momentum(RATE, B1), STREAM)])
    v = np.stack([slot["denominator"]["ema"] for slot in slots(optlab.rmsprop(RATE, B2, EPS), STREAM)])
    t = np.arange(1, STEPS + 1)[:, None]
    wanted = -RATE * (m / (1 - B1**t)) / (np.sqrt(v / (1 - B2**t)) + EPS)
    assert_same(outputs(optlab.adam(**ADAM), STREAM), wanted)


def test_note_2_is_wrong_that_decay_follows_the_update():
    """AdamW takes its share of the weight before the step; taken of the weight after it, the step shrinks as well."""
    in_step, in_turn = Moments(), Moments()

    def adamw(w, g, t):
        m, v = in_step(g)
        return w - RATE * m / (np.sqrt(v) + EPS) - RATE * WD * w

    def one_after_the_other(w, g, t):
        m, v = in_turn(g)
        moved = w - RATE * m / (np.sqrt(v) + EPS)
        return moved - RATE * WD * moved

    got = trajectory(optlab.adamw(**ADAM, weight_decay=WD))
    assert_same(got, loop(adamw))
    in_turn_all_along = loop(one_after_the_other)
    assert_apart(got, in_turn_all_along)
    smaller_step = optlab.scale_by_learning_rate(RATE * (1 - RATE * WD))
    assert_same(trajectory(optlab.chain(CORE, smaller_step, optlab.shrink_weights(RATE * WD))), in_turn_all_along)


def test_note_2_decay_keeps_weights_from_growing():
    """Under a gradient that never ends Adam walks off; AdamW stays within 1 / weight_decay."""
    forever = np.full((150, 1), -0.3)
    adam = trajectory(optlab.adam(RATE, B1, B2, 0.0), of_stream(forever), np.zeros(1), steps=150)
    adamw = trajectory(optlab.adamw(RATE, B1, B2, 0.0, weight_decay=WD), of_stream(forever), np.zeros(1), steps=150)
    assert_same(adam[:, 0], RATE * np.arange(151))
    assert (adamw < 1 / WD).all()
    assert_same(adamw[-1], 1 / WD, tolerance=1e-3)


def test_note_2_l2_in_adam_is_no_decay():
    l2 = walk(optlab.adam_l2(**ADAM, weight_decay=WD), of_stream(STREAM), START)
    update, _, _ = next(l2)
    assert_apart(update, outputs(optlab.adam(**ADAM), STREAM)[0] - RATE * WD * START)
    seen = STREAM[0] + WD * START
    assert_same(update, -RATE * seen / (np.abs(seen) + EPS))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_note_2_the_state_of_adam_is_two_float32_for_each_weight(dtype):
    params = {"kernel": jnp.zeros((30, 20), dtype), "bias": jnp.zeros(20, dtype)}
    count = 620
    bytes_kept = {
        name: sum(leaf.nbytes for leaf in jax.tree.leaves(tx.init(params).slots))
        for name, tx in {
            "sgd": optlab.sgd(RATE),
            "momentum": optlab.momentum(RATE, B1),
            "adam": optlab.adam(**ADAM),
            "adamw": optlab.adamw(**ADAM, weight_decay=WD),
        }.items()
    }
    assert bytes_kept == {"sgd": 0, "momentum": 4 * count, "adam": 8 * count, "adamw": 8 * count}


@optlab.atom
def ema_kept_in(decay, dtype):
    """`scale_by_ema` in float64, but for its slot."""

    def update(u, slots, w, t):
        m = decay * slots["ema"].astype(u.dtype) + (1 - decay) * u
        return m, {"ema": m.astype(dtype)}

    return optlab.Rule(update, init=lambda w: {"ema": jnp.zeros_like(w, dtype)})


@pytest.mark.parametrize("size", [0.0, 1.4])
def test_note_2_in_bfloat16_the_second_moment_stops_moving(size):
    """There 0.999 rounds to 1, and a second moment of 1 stays, whatever comes. optlab keeps its own in float32."""
    assert jnp.bfloat16(0.999) == 1
    second_moment = optlab.chain(optlab.square(), ema_kept_in(0.999, "bfloat16"))
    kept = slots(second_moment, np.full((9, 1), size), np.zeros(1), {"ema": jnp.ones(1, "bfloat16")})
    assert [slot["ema"].item() for slot in kept] == [1.0] * 9
    ours = optlab.chain(optlab.square(), optlab.scale_by_ema(0.999))
    kept = slots(ours, np.full((9, 1), size), np.zeros(1, "bfloat16"), {"ema": jnp.ones(1, "float32")})
    assert_same([slot["ema"].item() for slot in kept], size**2 + (1 - size**2) * 0.999 ** np.arange(1, 10), 1e-6)


def test_note_2_is_wrong_that_small_gradients_are_why_moments_need_float32():
    """They underflow in float16, but bfloat16 holds them: what it lacks is digits, for gradients of any size."""
    small = np.full((40, 1), 1e-10)
    after = {
        dtype: float(slots(optlab.chain(optlab.square(), ema_kept_in(0.999, dtype)), small, np.zeros(1))[-1]["ema"][0])
        for dtype in ("float16", "bfloat16", "float32")
    }
    assert after["float16"] == 0
    for dtype in ("bfloat16", "float32"):
        assert after[dtype] == pytest.approx(1e-20 * (1 - 0.999**40), rel=0.05)


def test_note_2_is_wrong_that_adamw_is_l2_regularization_done_right():
    """It decays; the minimum of the penalized loss is where Adam with L2 ends up, and AdamW does not."""
    curvature, target, decay = 0.1, 2.0, 0.1
    ends = {
        make: trajectory(
            make(lambda t: 0.1 * 0.99 ** t.astype(np.float64), 0.0, 0.9, weight_decay=decay),
            lambda w, t: curvature * (w - target),
            np.zeros(1),
            steps=400,
        )[-1]
        for make in (optlab.adam_l2, optlab.adamw)
    }
    penalized_minimum = curvature * target / (curvature + decay)
    assert_same(ends[optlab.adam_l2], [penalized_minimum], tolerance=0.01)
    assert_same(ends[optlab.adamw], [target], tolerance=0.01)


def test_note_2_sgd_with_decay():
    wanted = loop(lambda w, g, t: w - RATE * g - RATE * WD * w)
    assert_same(trajectory(optlab.sgd(RATE), penalized_gradient(WD / 2)), wanted)
    assert_same(trajectory(optlab.chain(optlab.add_decayed_weights(WD), DESCENT)), wanted)


def test_note_2_is_wrong_that_each_step_multiplies_by_one_minus_lambda():
    """By 1 - eta * lambda, as its own formula has it; 1 - lambda is the decay that no rate multiplies."""
    equal_to_l2 = trajectory(optlab.chain(optlab.add_decayed_weights(WD), DESCENT))
    as_printed = loop(lambda w, g, t: (1 - WD) * w - RATE * g)
    assert_same(equal_to_l2, loop(lambda w, g, t: (1 - RATE * WD) * w - RATE * g))
    assert_apart(equal_to_l2, as_printed)
    assert_same(trajectory(optlab.chain(DESCENT, optlab.shrink_weights(WD))), as_printed)


def test_note_2_is_wrong_that_the_weight_shrinks_before_the_gradient_is_taken():
    """The gradient is that of the weight before both."""
    wanted = trajectory(optlab.chain(optlab.add_decayed_weights(WD), DESCENT))
    keep = 1 - RATE * WD
    assert_same(wanted, loop(lambda w, g, t: keep * w - RATE * gradient(w, t)))
    assert_apart(wanted, loop(lambda w, g, t: keep * w - RATE * gradient(keep * w, t)))


def test_note_2_adam_with_l2_treats_the_decay_as_gradient():
    moments = Moments()

    def step(w, g, t):
        m, v = moments(g + WD * w)
        return w - RATE * m / (np.sqrt(v) + EPS)

    assert_same(trajectory(optlab.adam_l2(**ADAM, weight_decay=WD)), loop(step))


def test_note_2_is_wrong_that_adam_divides_by_the_root_of_a_sum_of_squares():
    """AdaGrad does; Adam's is an average, which does not grow with time."""
    stream = np.full((STEPS, 1), 2.0)
    t = np.arange(1, STEPS + 1)[:, None]
    sum_of_squares = optlab.chain(optlab.square(), optlab.running_sum(), optlab.root(0.0))
    assert_same(outputs(sum_of_squares, stream), 2 * np.sqrt(t))
    assert_same(outputs(optlab.rms(B2, 0.0), stream), np.full((STEPS, 1), 2.0))


def of_sizes(sizes, steps=200):
    """Gradients of five sizes, with signs at random."""
    return np.random.default_rng(3).choice([-1.0, 1.0], size=(steps, 5)) * sizes


SIZES = np.array([0.1, 0.3, 1.0, 3.0, 10.0])
GENTLE = {"learning_rate": 0.01, "b1": B1, "b2": 0.99, "eps": 1e-8, "weight_decay": 0.01}


def test_note_2_the_effect_of_l2_in_adam_goes_against_the_size_of_the_gradients():
    l2 = 1 - what_decay_leaves(optlab.adam_l2(**GENTLE), of_sizes(SIZES))
    np.testing.assert_allclose(l2 * SIZES, 200 * 0.01 * 0.01, rtol=0.5)
    assert (np.diff(l2) < 0).all()


def test_note_2_the_effect_of_adamw_does_not_depend_on_the_gradients():
    left = what_decay_leaves(optlab.adamw(**GENTLE), of_sizes(SIZES))
    assert_same(left, np.full(5, (1 - 0.01 * 0.01) ** 200), tolerance=1e-9)


@pytest.mark.parametrize(("make", "moves"), [(optlab.adamw, False), (optlab.adam_l2, True)])
def test_note_2_gradients_a_thousand_times_larger(make, moves):
    tx = make(RATE, B1, B2, 0.0, weight_decay=WD)
    ends = [trajectory(tx, of_stream(factor * STREAM))[-1] for factor in (1, 1000)]
    (assert_apart if moves else assert_same)(*ends)


def adamw_by_hand(lag):
    """The printed algorithm, its second moment made from the one `lag` steps before."""
    m, v = [0.0], [0.0, 0.0]

    def step(w, g, t):
        m.append(B1 * m[-1] + (1 - B1) * g)
        v.append(B2 * v[-lag] + (1 - B2) * g**2)
        return w - RATE * (m[-1] / (1 - B1**t) / (np.sqrt(v[-1] / (1 - B2**t)) + EPS) + WD * w)

    return step


def test_note_2_is_wrong_the_second_moment_comes_from_the_step_before_not_from_two_before():
    got = trajectory(optlab.adamw(**ADAM, weight_decay=WD))
    assert_same(got, loop(adamw_by_hand(lag=1)))
    as_printed = loop(adamw_by_hand(lag=2))
    assert_same(got[1], as_printed[1])
    for t in range(2, STEPS + 1):
        assert_apart(got[t], as_printed[t])


def test_note_2_is_wrong_the_gradient_is_that_of_the_weights_before_the_step():
    """The printed g_t is that of w_t, which the same step has yet to compute."""
    w = trajectory(optlab.adamw(**ADAM, weight_decay=WD))

    def right_side(of):
        moments = Moments()
        for t in range(1, STEPS + 1):
            m, v = moments(gradient(w[of(t)], t))
            yield w[t - 1] - RATE * (m / (np.sqrt(v) + EPS) + WD * w[t - 1])

    assert_same(w[1:], np.stack(list(right_side(of=lambda t: t - 1))))
    assert_apart(w[1:], np.stack(list(right_side(of=lambda t: t))))


def test_note_2_conventions_clash_on_whether_rate_and_decay_are_independent():
    """In the note's AdamW the decay is their product; the paper's is the one that the rate does not touch."""
    for rate in (RATE, 2 * RATE):
        product = what_decay_leaves(optlab.adamw(rate, B1, B2, EPS, weight_decay=WD), STREAM)
        alone = what_decay_leaves(optlab.adamw_independent(rate, B1, B2, EPS, weight_decay=RATE * WD), STREAM)
        assert_same(product, np.full(5, (1 - rate * WD) ** STEPS), tolerance=1e-9)
        assert_same(alone, np.full(5, (1 - RATE * WD) ** STEPS), tolerance=1e-9)


def test_note_2_adamw_changes_the_decay_and_not_the_adaptive_rate():
    adam = outputs(optlab.adam(**ADAM), STREAM)
    adamw = list(itertools.islice(walk(optlab.adamw(**ADAM, weight_decay=WD), of_stream(STREAM), START), STEPS))
    before = [START, *(w for _, _, w in adamw[:-1])]
    assert_same([u for u, _, _ in adamw], adam - RATE * WD * np.stack(before))
    assert optlab.adam(**ADAM) == optlab.chain(CORE, DESCENT)
    assert optlab.adamw(**ADAM, weight_decay=WD) == optlab.chain(CORE, optlab.add_decayed_weights(WD), DESCENT)


def test_note_2_is_wrong_that_gradients_of_one_direction_speed_adam_up():
    """The raw average grows up to the gradient, a heavy ball beyond it; Adam's corrected one has nothing to grow to."""
    ones = np.ones((60, 1))
    raw, heavy, adam = (
        -outputs(tx, ones)[:, 0]
        for tx in (optlab.momentum(RATE, B1), optlab.heavy_ball(RATE, B1), optlab.adam(RATE, B1, B2, 0.0))
    )
    assert_same(raw, RATE * (1 - B1 ** np.arange(1, 61)))
    assert_same(heavy[-1], RATE / (1 - B1), tolerance=1e-8)
    assert_same(adam, np.full(60, RATE))


def test_note_2_large_gradients_lower_the_effective_rate():
    stream = of_sizes(SIZES, STEPS)
    rate = RATE / outputs(optlab.rms(B2, EPS), stream)
    assert_same(rate, np.tile(RATE / (SIZES + EPS), (STEPS, 1)))
    assert (np.diff(rate[-1]) < 0).all()


@pytest.mark.parametrize("make", [optlab.adam, optlab.adamw])
def test_note_2_the_usual_betas(make):
    betas = inspect.signature(make).parameters
    assert (betas["b1"].default, betas["b2"].default) == (0.9, 0.999)


def test_note_2_betas_nearer_one_look_further_back_and_smooth_more():
    steps = 40
    seen = {
        beta: weights_of_gradients(optlab.chain(optlab.scale_by_ema(beta), optlab.bias_correct(beta)), steps)[-1]
        for beta in (0.5, BETA, 0.9)
    }
    age = [weights @ np.arange(steps - 1, -1, -1) for weights in seen.values()]
    noise = [(weights**2).sum() for weights in seen.values()]
    assert (np.diff(age) > 0).all()
    assert (np.diff(noise) < 0).all()
    assert_same(age[1], BETA / (1 - BETA), tolerance=1e-3)


def test_note_2_corrected_moments_are_unbiased():
    """Over all 256 streams of eight gradients that are -1 or 3 with equal chances. Drift is another matter."""
    streams = np.array(list(itertools.product([-1.0, 3.0], repeat=8))).T
    second = optlab.chain(optlab.square(), REMA)
    raw, corrected, squares = (outputs(tx, streams).mean(axis=1) for tx in (EMA, REMA, second))
    assert_same(corrected, np.full(8, 1.0))
    assert_same(squares, np.full(8, 5.0))
    assert_same(raw, 1 - BETA ** np.arange(1, 9))


def test_note_2_is_wrong_that_large_gradients_shrink_the_quotient():
    """They lower the rate by as much as they raise what it multiplies: the quotient has no size."""
    size = 1 + NOISE[:, :1] ** 2
    quotients = outputs(optlab.scale_by_rms(B2, 0.0, numerator=CORRECTED), size * [0.01, 1, 100])
    assert_same(quotients, np.tile(quotients[:, :1], (1, 3)))


def test_note_2_every_weight_has_its_own_rate():
    together = trajectory(optlab.adam(**ADAM), of_stream(STREAM))
    for i in range(5):
        others = np.where(np.arange(5) == i, STREAM, 100 * STREAM[::-1])
        assert_same(trajectory(optlab.adam(**ADAM), of_stream(others))[:, i], together[:, i])


# Note 3: a course, from mini-batches to AdamW -------------------------------------------------------------------------


def test_note_3_mini_batch_descent():
    def of_batch(theta, t):
        rows = [2 * t - 2, 2 * t - 1]
        return slope(theta, DATA[rows], ANSWERS[rows])

    def by_hand(theta, t):
        rows = [2 * t - 2, 2 * t - 1]
        return 2 * (DATA[rows] @ theta - ANSWERS[rows]) @ DATA[rows] / 2

    wanted = loop(lambda w, g, t: w - RATE * g, by_hand, THETA, steps=3)
    assert_same(trajectory(optlab.sgd(RATE), of_batch, THETA, steps=3), wanted)


def distances_in_a_canyon(condition, steps=40):
    """What is left after the best SGD and the best heavy ball, on a quadratic without noise."""
    slope = np.array([1.0, condition])
    q = math.sqrt(condition)
    best = {
        "sgd": optlab.sgd(2 / (1 + condition)),
        "heavy ball": optlab.heavy_ball(4 / (1 + q) ** 2, ((q - 1) / (q + 1)) ** 2),
    }
    ends = {name: trajectory(tx, lambda w, t: slope * w, np.ones(2), steps)[-1] for name, tx in best.items()}
    return {name: np.linalg.norm(end) for name, end in ends.items()}


def test_note_3_momentum_pays_in_narrow_canyons_and_without_noise():
    gains = []
    for condition in (10.0, 100.0):
        left = distances_in_a_canyon(condition)
        assert left["heavy ball"] < left["sgd"]
        gains.append(math.log(left["heavy ball"]) / math.log(left["sgd"]))  # how many steps of SGD one is worth
    assert gains[1] > gains[0]


def test_note_3_adagrad_and_its_rate_that_only_falls():
    s = 0

    def step(w, g, t):
        nonlocal s
        s = s + g**2
        return w - RATE / np.sqrt(s + EPS) * g

    inside = optlab.chain(optlab.square(), optlab.running_sum(), optlab.root(0.0, eps_root=EPS))
    assert_same(trajectory(optlab.chain(optlab.divide(optlab.identity(), inside), DESCENT)), loop(step))
    ones = np.ones((STEPS, 1))
    assert_same(-outputs(optlab.adagrad(RATE, 0.0), ones)[:, 0], RATE / np.sqrt(np.arange(1, STEPS + 1)))


def test_note_3_rmsprop_forgets_and_its_rate_does_not_fall():
    ones = np.ones((100, 1))
    assert_same(-outputs(optlab.rmsprop(RATE, B2, 0.0), ones)[-1], RATE, tolerance=1e-4)


@pytest.mark.parametrize(("b1", "b2"), [(B1, B2), (0.0, 0.999), (0.9, 0.0)])
def test_note_3_the_first_step_of_adam_is_the_rate_along_the_sign(b1, b2):
    assert_same(outputs(optlab.adam(RATE, b1, b2, 0.0), STREAM[:1]), -RATE * np.sign(STREAM[:1]))


def test_note_3_schedules_multiply_the_step(peer):
    cosine = optax.cosine_decay_schedule(RATE, decay_steps=STEPS)

    def schedule(t):
        with peer():
            return cosine(t)

    wanted = loop(lambda w, g, t: w - RATE * (1 + np.cos(np.pi * (t - 1) / STEPS)) / 2 * g)
    assert_same(trajectory(optlab.sgd(schedule)), wanted, tolerance=1e-6)  # optax computes it in float32


def test_note_3_half_the_squares_in_the_loss():
    wanted = loop(lambda w, g, t: w - RATE * g - RATE * WD * w)
    assert_same(trajectory(optlab.sgd(RATE), penalized_gradient(WD / 2)), wanted)


def test_note_3_is_wrong_if_its_gradient_is_that_of_the_final_loss():
    """Then the printed update decays twice; `w.grad` has to be that of the loss before the penalty."""
    final = penalized_gradient(WD / 2)
    literal = loop(lambda w, g, t: w - RATE * g - RATE * WD * w, final)
    assert_apart(trajectory(optlab.sgd(RATE), final), literal)
    assert_same(trajectory(optlab.chain(optlab.add_l2_to_grad(2 * WD), DESCENT)), literal)


@pytest.mark.parametrize("name", DECOUPLED)
def test_note_3_adding_to_the_gradient_is_changing_the_loss(name):
    links = (*DECOUPLED[name], DESCENT)
    added = trajectory(optlab.chain(optlab.add_l2_to_grad(WD), *links))
    assert_same(added, trajectory(optlab.chain(*links), penalized_gradient(WD / 2)))


@pytest.mark.parametrize("name", DECOUPLED)
def test_note_3_is_wrong_that_l2_is_decay_but_for_plain_sgd(name):
    l2 = trajectory(optlab.chain(optlab.add_l2_to_grad(WD), *DECOUPLED[name], DESCENT))
    decay = trajectory(optlab.chain(*DECOUPLED[name], optlab.add_decayed_weights(WD), DESCENT))
    (assert_same if name == "sgd" else assert_apart)(l2, decay)


def test_note_3_the_code_of_momentum_with_l2_and_with_decay():
    average = Average(B1)
    with_l2 = loop(lambda w, g, t: w - RATE * average(g + WD * w))
    assert_same(trajectory(optlab.chain(optlab.add_l2_to_grad(WD), MEAN, DESCENT)), with_l2)
    average = Average(B1)
    with_decay = loop(lambda w, g, t: w - RATE * average(g) - RATE * WD * w)
    assert_same(trajectory(optlab.chain(MEAN, optlab.add_decayed_weights(WD), DESCENT)), with_decay)


def test_note_3_adam_parts_l2_and_decay_more_than_momentum_does():
    """In the long run a momentum passes on all of the decay, whatever the gradients; Adam divides it by their size."""
    stream, rate = of_sizes(SIZES), optlab.scale_by_learning_rate(0.01)
    l2, decay = optlab.add_l2_to_grad(0.01), optlab.add_decayed_weights(0.01)
    shares = [
        (1 - what_decay_leaves(optlab.chain(l2, *links, rate), stream))
        / (1 - what_decay_leaves(optlab.chain(*links, decay, rate), stream))
        for links in ((MEAN,), (optlab.scale_by_rms(0.99, 1e-8, numerator=CORRECTED),))
    ]
    np.testing.assert_allclose(shares[0], 1, atol=0.05)
    assert shares[1][0] > 5
    assert shares[1][-1] < 0.2


def test_note_3_adamw_decays_in_the_last_step_and_in_any_order_there():
    """torch shrinks the weights first and steps then: the same, as both take the weight before."""
    moments = Moments()

    def shrink_first(w, g, t):
        m, v = moments(g)
        shrunk = w * (1 - RATE * WD)
        return shrunk - RATE * m / (np.sqrt(v) + EPS)

    assert_same(trajectory(optlab.adamw(**ADAM, weight_decay=WD)), loop(shrink_first))


def test_note_3_the_two_places_of_the_decay():
    purple, green = (optlab.Decay(site).apply_to(CORE, RATE, WD) for site in ("gradient", "update"))
    penalty = trajectory(optlab.adam(**ADAM), penalized_gradient(WD / 2))
    assert_same(trajectory(purple), penalty)
    assert purple == optlab.adam_l2(**ADAM, weight_decay=WD)
    assert green == optlab.adamw(**ADAM, weight_decay=WD)
    assert_apart(trajectory(green), penalty)


# Note 4: downhill fast, from SGD to Adam ------------------------------------------------------------------------------


def test_note_4_gradient_descent_moves_the_parameters_not_the_input():
    by_theta, by_input = jax.grad(mean_squared_error, argnums=(0, 1))(THETA, DATA, ANSWERS)
    assert by_theta.shape == THETA.shape != by_input.shape

    def by_hand(theta, t):
        return 2 * (DATA @ theta - ANSWERS) @ DATA / len(DATA)

    got = trajectory(optlab.sgd(RATE), lambda theta, t: slope(theta, DATA, ANSWERS), THETA)
    assert_same(got, loop(lambda theta, g, t: theta - RATE * g, by_hand, THETA))


def batch_gradients(batches):
    return np.stack([slope(THETA, DATA[list(b)], ANSWERS[list(b)]) for b in batches])


@pytest.mark.parametrize(
    "batches",
    [[(0, 3), (1, 5), (2, 4)], list(itertools.combinations(range(6), 2))],
    ids=["a partition", "every batch of two"],
)
def test_note_4_the_gradient_of_a_mini_batch_is_unbiased(batches):
    full, of_batches = batch_gradients([range(6)]), batch_gradients(batches)
    steps = outputs(optlab.sgd(RATE), of_batches)
    assert_same(steps.mean(axis=0), outputs(optlab.sgd(RATE), full)[0])
    assert_apart(steps[0], steps.mean(axis=0))
    signs = outputs(
        optlab.sign_sgd(RATE), of_batches
    )  # a step that is not linear in the gradient keeps no such promise
    assert_apart(signs.mean(axis=0), outputs(optlab.sign_sgd(RATE), full)[0])


def test_note_4_more_samples_estimate_better():
    (full,) = outputs(optlab.sgd(RATE), batch_gradients([range(6)]))
    errors = []
    for size in (2, 4, 6):
        steps = outputs(optlab.sgd(RATE), batch_gradients(itertools.combinations(range(6), size)))
        errors.append(np.mean((steps - full) ** 2))
    assert errors[0] > errors[1] > errors[2]
    assert_same(errors[2], 0)


def test_note_4_the_average_finds_the_trend_in_the_noise():
    """Noise of variance one leaves the average with the sum of the squared weights, (1 - beta) / (1 + beta)."""
    weights = weights_of_gradients(MEAN, 40)[-1]
    assert_same((weights**2).sum(), (1 - B1) / (1 + B1), tolerance=1e-8)
    noise = np.random.default_rng(4).normal(size=(40, 2000))
    trend = outputs(MEAN, -0.5 + noise)[-1]
    assert trend.mean() == pytest.approx(-0.5, abs=0.03)
    assert trend.std() < noise.std() / 2


def test_note_4_is_wrong_in_the_index_of_the_expansion():
    """As printed the oldest gradient weighs most; the newest does, by beta**(t - i). The sum is the same.

    The note counts gradients from 1 in the sum, from 0 right after it, where v_1 comes from the gradient 0.
    """
    i = np.arange(1, STEPS + 1)
    weights = weights_of_gradients(MEAN)[-1]
    as_printed = (1 - B1) * B1 ** (i - 1.0)
    assert_same(weights, (1 - B1) * B1 ** (STEPS - i))
    assert weights.argmax() == STEPS - 1
    assert as_printed.argmax() == 0
    assert_apart(weights, as_printed)
    assert_same(weights, as_printed[::-1])


def test_note_4_the_first_average_is_a_share_of_the_gradient():
    assert_same(outputs(MEAN, STREAM)[0], (1 - B1) * STREAM[0])


def test_note_4_sgd_with_momentum():
    v = Average(B1)
    assert_same(trajectory(optlab.momentum(RATE, B1)), loop(lambda w, g, t: w - RATE * v(g)))


def test_note_4_is_wrong_that_its_momentum_differs_from_the_original_in_sign_only():
    """The original, and torch, have no 1 - beta: a heavy ball, at constant rates one larger by 1 / (1 - beta)."""
    velocity = 0

    def original(w, g, t):
        nonlocal velocity
        velocity = B1 * velocity - RATE * g
        return w + velocity

    wanted = loop(original)
    assert_same(trajectory(optlab.heavy_ball(RATE, B1)), wanted)
    assert_apart(trajectory(optlab.momentum(RATE, B1)), wanted)
    assert_same(trajectory(optlab.momentum(RATE / (1 - B1), B1)), wanted)


@pytest.mark.torch
def test_note_4_is_wrong_that_torch_averages():
    import torch

    w = torch.tensor(START, requires_grad=True)
    sgd = torch.optim.SGD([w], lr=RATE, momentum=B1)

    def step(_, g, t):
        w.grad = torch.tensor(g)
        sgd.step()
        return w.detach().numpy().copy()

    torchs = loop(step)
    assert_same(trajectory(optlab.heavy_ball(RATE, B1)), torchs)
    assert_apart(trajectory(optlab.momentum(RATE, B1)), torchs)


@pytest.mark.parametrize(("times", "ends"), [(1.9, 0), (2.0, 1), (2.1, np.inf)], ids=["below", "at", "above"])
def test_note_4_the_rate_is_bounded_by_2_over_l(times, ends):
    smooth = 4.0
    sizes = np.abs(trajectory(optlab.sgd(times / smooth), lambda w, t: smooth * w, np.ones(1), steps=200)[:, 0])
    assert_same(sizes, abs(1 - times) ** np.arange(201.0), tolerance=1e-10)
    assert sizes[-1] == pytest.approx(ends, abs=1e-8) if ends < np.inf else sizes[-1] > 1e6


def test_note_4_below_2_over_l_every_smooth_loss_falls():
    """log cosh, whose slope changes by at most 1; a step may lose `rate * (1 - rate / 2) * slope**2`."""
    weights = trajectory(optlab.sgd(1.9), lambda w, t: np.tanh(w), np.array([3.0, -0.5]), steps=30)
    heights, slopes = np.log(np.cosh(weights)), np.tanh(weights)
    assert (heights[1:] <= heights[:-1] - 1.9 * (1 - 1.9 / 2) * slopes[:-1] ** 2 + 1e-15).all()


def test_note_4_the_steepest_weight_holds_the_others_back():
    """SGD at the largest stable rate leaves the flat weight where it was; steps by the sign move both alike."""
    steep_and_flat = np.array([1000.0, 0.1])
    sgd = trajectory(optlab.sgd(1.9 / 1000), lambda w, t: steep_and_flat * w, np.ones(2), steps=50)
    assert sgd[-1, 1] > 0.98
    by_sign = trajectory(optlab.sign_sgd(0.02), lambda w, t: steep_and_flat * w, np.ones(2), steps=40)
    assert_same(by_sign[:, 0], by_sign[:, 1])
    assert by_sign[-1, 1] < 0.5


def test_note_4_sign_descent():
    assert_same(trajectory(optlab.sign_sgd(RATE)), loop(lambda w, g, t: w - RATE * np.sign(g)))
    louder = trajectory(optlab.sign_sgd(RATE), of_stream(1000 * STREAM))
    assert_same(louder, trajectory(optlab.sign_sgd(RATE), of_stream(STREAM)))


def test_note_4_the_sign_is_a_quotient():
    by_size = optlab.divide(optlab.identity(), optlab.absolute())
    by_root = optlab.divide(optlab.identity(), optlab.chain(optlab.square(), optlab.root(0.0)))
    for tx in (by_size, by_root):
        assert_same(outputs(tx, STREAM), outputs(optlab.sign(), STREAM))
        assert np.isnan(outputs(tx, [[0.0]])).all()  # where the sign is 0
    assert_same(outputs(optlab.sign(), [[0.0]]), [[0.0]])


def test_note_4_adam_without_memory_is_sign_descent():
    assert_same(trajectory(optlab.adam(RATE, 0.0, 0.0, 0.0)), trajectory(optlab.sign_sgd(RATE)))


def raw_adam(b1, b2):
    size = optlab.chain(optlab.square(), optlab.scale_by_ema(b2), optlab.root(0.0))
    return optlab.chain(optlab.divide(optlab.scale_by_ema(b1), size), DESCENT)


def test_note_4_averages_above_and_below_the_line():
    m, v = Average(B1), Average(B2)
    assert_same(trajectory(raw_adam(B1, B2)), loop(lambda w, g, t: w - RATE * m(g) / np.sqrt(v(g**2))))


def test_note_4_is_wrong_that_raw_averages_start_adam_slowly():
    """A momentum, yes. Of the quotient's two the lower is short by more, at the usual betas: it starts too fast."""
    slow = outputs(optlab.momentum(RATE, 0.9), STREAM[:1])
    fast = outputs(raw_adam(0.9, 0.999), STREAM[:1])
    assert_same(slow, -RATE * 0.1 * STREAM[:1])
    assert_same(fast, -RATE * np.sign(STREAM[:1]) * 0.1 / np.sqrt(0.001))
    assert 0.1 / np.sqrt(0.001) > 3
    assert_same(outputs(raw_adam(0.9, 0.9), STREAM[:1]), -RATE * np.sign(STREAM[:1]) * np.sqrt(0.1))


def test_note_4_the_rescaled_average():
    """Its first value is the gradient itself, its weights sum to one: the raw ones to 1 - beta**t."""
    t = np.arange(1, STEPS + 1)
    got = outputs(CORRECTED, STREAM)
    assert_same(got[0], STREAM[0])
    assert_same(got, outputs(MEAN, STREAM) / (1 - B1**t)[:, None])
    assert_same(weights_of_gradients(MEAN).sum(axis=1), (1 - B1) * (1 - B1**t) / (1 - B1))
    assert_same(weights_of_gradients(CORRECTED).sum(axis=1), np.ones(STEPS))


def test_note_4_epsilon_for_a_denominator_of_zero():
    nothing = np.zeros((1, 1))
    assert np.isnan(outputs(raw_adam(B1, B2), nothing)).all()
    assert_same(outputs(optlab.adam(**ADAM), nothing), nothing)


def test_note_4_the_final_formula():
    moments = Moments()

    def step(w, g, t):
        rema, rema_of_squares = moments(g)
        return w - RATE * rema / (np.sqrt(rema_of_squares) + EPS)

    assert_same(trajectory(optlab.adam(**ADAM)), loop(step))


def test_note_4_decay_and_the_l2_loss_in_sgd():
    """epsilon = eta * lambda, and the gradient of the half square."""
    epsilon = RATE * WD
    wanted = loop(lambda w, g, t: (1 - epsilon) * w - RATE * g)
    derivative = jax.grad(lambda w: WD / 2 * jnp.sum(w**2))(START)
    assert_same(-RATE * derivative, -RATE * WD * START)
    assert_same(trajectory(optlab.chain(DESCENT, optlab.shrink_weights(epsilon))), wanted)
    assert_same(trajectory(optlab.chain(optlab.add_l2_to_grad(WD), DESCENT)), wanted)


def test_note_4_with_momentum_l2_is_not_that_decay():
    l2 = trajectory(optlab.chain(optlab.add_l2_to_grad(WD), MEAN, DESCENT))
    assert_apart(l2, trajectory(optlab.chain(MEAN, DESCENT, optlab.shrink_weights(RATE * WD))))


def test_note_4_adamw_decays_without_the_l2_loss():
    moments = Moments()

    def step(w, g, t):
        m, v = moments(g)
        return w - RATE * WD * w - RATE * (m / (np.sqrt(v) + EPS))

    got = trajectory(optlab.adamw(**ADAM, weight_decay=WD))
    assert_same(got, loop(step))
    assert_apart(got, trajectory(optlab.adam(**ADAM), penalized_gradient(WD / 2)))
