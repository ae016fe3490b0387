"""Trajectories over small problems, from optlab, from peers and from the reference loops; and what tells them apart.

The loss is a noisy quadratic in 30 weights, of a tree that mixes shapes: gradients depend on the weights, so that an
error feeds back. Gradients have sizes from 0.03 to 3, so that `eps` matters for some of them, and two weights never get
any, so that decay shows alone. A second problem has no curvature and gradients of extreme sizes. All constants are
float32 numbers: in either precision a problem is the same.
"""

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from devices import ON_CPU, QUICK_TO_COMPILE

SHAPES = {"conv": (2, 3, 2), "dense": {"bias": (5,), "kernel": (4, 3)}, "scale": ()}
WITHOUT_GRADIENT = ["['dense']['bias'][3]", "['dense']['bias'][4]"]
STEPS = 200
EXTREME_STEPS = 12


# The problems -------------------------------------------------------------------------------------------------------


class Problem(NamedTuple):
    """The constants of a noisy quadratic: one vector each, of all weights; `noise` has the step as its first axis."""

    start: Any
    target: Any
    curvature: Any
    noise: Any

    def gradient(self, w: Any, t: Any) -> Any:
        return self.curvature * (w - self.target) + self.noise[t - 1]

    def loss(self, w: Any, t: Any) -> Any:
        return (self.curvature / 2 * (w - self.target) ** 2 + self.noise[t - 1] * w).sum()


_LEAVES, _TREEDEF = jax.tree.flatten(SHAPES, is_leaf=lambda shape: isinstance(shape, tuple))
_SIZES = [int(np.prod(shape)) for shape in _LEAVES]
WEIGHTS = [
    f"{jax.tree_util.keystr(path)}{list(index)}"
    for path, shape in jax.tree_util.tree_flatten_with_path(SHAPES, is_leaf=lambda shape: isinstance(shape, tuple))[0]
    for index in np.ndindex(shape)
]


def flatten(tree: Any) -> jax.Array:
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def unflatten(vector: jax.Array) -> Any:
    pieces = jnp.split(vector, np.cumsum(_SIZES)[:-1])
    return _TREEDEF.unflatten([piece.reshape(shape) for piece, shape in zip(pieces, _LEAVES, strict=True)])


def _problem(seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    count = len(WEIGHTS)
    size = 10 ** rng.uniform(-1.5, 0.5, count) * [name not in WITHOUT_GRADIENT for name in WEIGHTS]
    start, target = rng.normal(size=(2, count))
    curvature, noise = size * rng.uniform(0.5, 2, count), size * rng.normal(size=(STEPS, count))
    return Problem(*(array.astype(np.float32).astype(np.float64) for array in (start, target, curvature, noise)))


PROBLEM = _problem(seed=0)

# What a gradient may be: nothing, too small for its square to be a float32 number, of the size of `eps`, ordinary, and
# so large that its square is 1e30.
EXTREMES = (0.0, 1e-20, 1e-8, 1.0, 1e15)


def _extreme_problem(seed: int) -> Problem:
    """Gradients that do not depend on the weights. A third of the weights get one size only, the others a mixture."""
    rng = np.random.default_rng(seed)
    count = len(WEIGHTS)
    sizes = rng.choice(EXTREMES, size=(EXTREME_STEPS, count))
    sizes[:, ::3] = np.resize(EXTREMES, sizes[0, ::3].shape)
    start, noise = rng.normal(size=count), sizes * rng.uniform(0.5, 2, sizes.shape) * rng.choice([-1, 1], sizes.shape)
    nothing = np.zeros(count)
    return Problem(*(array.astype(np.float32).astype(np.float64) for array in (start, nothing, nothing, noise)))


EXTREME_PROBLEM = _extreme_problem(seed=0)


# Settings and tolerances --------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """How many steps, every hyperparameter, and where the gradients come from."""

    steps: int
    hyperparams: dict[str, float]
    problem: Problem = PROBLEM


# A rate and a decay that people train with; such large ones that the place of the decay and of eps shows within a few
# steps; and extreme gradients from the first step on, under a small eps. The long b2 is a float32 number: optax rounds
# b2 before it takes 1 - b2**t, which at 0.999 moves weights by 8e-6 in 200 steps.
SETTINGS = {
    "long": Setting(
        STEPS,
        {
            "learning_rate": 1e-2,
            "b1": 0.9,
            "b2": 1 - 2**-8,
            "decay": 0.99,
            "eps": 1e-8,
            "eps_root": 1e-16,
            "initial": 0.1,
            "weight_decay": 0.1,
        },
    ),
    "large": Setting(
        20,
        {
            "learning_rate": 0.1,
            "b1": 0.8,
            "b2": 0.95,
            "decay": 0.9,
            "eps": 1e-2,
            "eps_root": 1e-3,
            "initial": 0.05,
            "weight_decay": 1.0,
        },
    ),
    "extreme": Setting(
        EXTREME_STEPS,
        {
            "learning_rate": 1e-2,
            "b1": 0.9,
            "b2": 1 - 2**-5,
            "decay": 0.9,
            "eps": 1e-8,
            "eps_root": 1e-16,
            "initial": 0.1,
            "weight_decay": 0.5,
        },
        EXTREME_PROBLEM,
    ),
}


class Tolerance(NamedTuple):
    """The largest difference at any step, as a share of the largest that the weight has been so far, or of 1."""

    from_peer: float
    from_loop: float


# By dtype, on a CPU and on an accelerator.
_TABLE = {
    "float32": (
        # Every step rounds the weights, by 6e-8 at most; 200 roundings are a random walk of up to 1e-6, longer where a
        # sign optimizer takes the same step again and again. A peer rounds nearly as we do.
        Tolerance(from_peer=1e-6, from_loop=2e-6),
        # Quotients and roots are approximated, to 2 units in the last place each, and powers of b1 and b2 to more; that
        # errs to one side, step after step: 200 steps of 1e-2, 1e-6 too long or short. Products are fused with sums,
        # elsewhere in each program, so that a peer does not round as we do.
        Tolerance(from_peer=1e-5, from_loop=1e-5),
    ),
    "float64": (
        # The same walk with steps of 1e-16; what is left is room for the momentum to repeat an error, 1 / (1 - b1)
        # times.
        Tolerance(from_peer=1e-12, from_loop=1e-12),
        # Quotients and roots are right in double precision, products fused all the same.
        Tolerance(from_peer=1e-12, from_loop=1e-12),
    ),
}
TOLERANCES = {dtype: columns[not ON_CPU] for dtype, columns in _TABLE.items()}


# Trajectories -------------------------------------------------------------------------------------------------------

Loop = Callable[..., Iterator[np.ndarray]]


def build(make: Callable[..., Any], setting: Setting) -> Any:
    """`make` called with the hyperparameters that it names; those it does not take are no concern of its."""
    names = inspect.signature(make).parameters
    return make(**{name: value for name, value in setting.hyperparams.items() if name in names})


def of_loop(loop: Loop, setting: Setting, problem: Problem | None = None) -> np.ndarray:
    """Weights after each step of a reference loop, on the setting's problem or another: steps by weights, float64."""
    problem = problem or setting.problem
    weights = build(functools.partial(loop, problem.start, problem.gradient), setting)
    return np.stack(list(itertools.islice(weights, setting.steps)))


def of_transform(
    tx: optax.GradientTransformation,
    steps: int,
    dtype: str,
    *,
    around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    gradient: Callable[[Problem, Any, Any], Any] = Problem.gradient,
    problem: Problem = PROBLEM,
    as_params: Callable[[Any], Any] = unflatten,
) -> np.ndarray:
    """Weights after each step of an optax-like transform: steps by weights, in `dtype`; its calls stand in `around`.

    `as_params` makes a tree of the vector of weights; fewer leaves compile in a fraction of the time.
    """

    @functools.partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
    def trajectory(problem: Problem) -> jax.Array:
        def step(carry: tuple[Any, Any], t: jax.Array) -> tuple[tuple[Any, Any], jax.Array]:
            params, state = carry
            grads = as_params(gradient(problem, flatten(params), t))
            with around():
                updates, state = tx.update(grads, state, params)
                params = optax.apply_updates(params, updates)
            return (params, state), flatten(params)

        params = as_params(problem.start)
        with around():
            state = tx.init(params)
        return jax.lax.scan(step, (params, state), jnp.arange(1, steps + 1, dtype=jnp.int32))[1]

    with jax.enable_x64(dtype == "float64"):
        weights = np.asarray(trajectory(Problem(*(jnp.asarray(array, dtype) for array in problem))))
    assert weights.dtype == dtype
    return weights


def assert_agree(got: np.ndarray, wanted: np.ndarray, tolerance: float, *, of: str = "trajectories") -> None:
    """Two trajectories are one, at every step and in every weight; the message names the first step that differs."""
    assert got.shape == wanted.shape, f"{of} differ in shape: {got.shape} against {wanted.shape}"
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    difference = np.abs(got - wanted) / np.maximum(1, np.maximum.accumulate(np.abs(wanted)))
    difference = np.where(np.isfinite(difference), difference, np.inf)
    if (difference <= tolerance).all():
        return
    step = int(np.argmax((difference > tolerance).any(axis=1)))
    weight = int(np.argmax(difference[step]))
    raise AssertionError(
        f"{of} differ first at step {step + 1}, most in {WEIGHTS[weight]}: {got[step, weight]!r} against "
        f"{wanted[step, weight]!r}, {difference[step, weight]:.1e} apart where {tolerance:.0e} is allowed"
    )
