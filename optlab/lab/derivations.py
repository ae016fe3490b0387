"""The equations of every structure of a study, derived from the transforms that it trains with."""

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optlab.algebra.transform import Transform
from optlab.decay.sites import Decay
from optlab.equations.claims import Shape, kinds
from optlab.equations.explanation import Explanation, explain
from optlab.equations.interpret import Inexpressible
from optlab.equations.printing import text
from optlab.lab.study import Structure, Study
from optlab.optimizers.cores import CORES, hyperparameters


class Formulas(NamedTuple):
    """What a structure computes.

    Attributes:
      equations: one per line.
      site, coupling: where and how strongly it decays, in words.
      holds: which leaves the equations hold for, and what was run to check that; empty in results of 0.1.0, which were
        read off a vector and not checked.
      elsewhere: by the leaves in words, the equations that hold there, or why there are none.
    """

    equations: list[str]
    site: str
    coupling: str
    holds: str
    elsewhere: dict[str, list[str]]


def formulas(study: Study, *, scheduled: bool) -> dict[str, Formulas]:
    """The equations by structure.

    The hyperparameters of a core that has a name are symbols, those of a transform numbers. Where the rate is
    `scheduled`, the shape of its schedule reads `schedule`.
    """
    return {
        str(structure): _formulas(structure, structure.decay(study.target), study.core, scheduled)
        for structure in study.structures()
    }


def as_text(found: Mapping[str, Formulas]) -> str:
    """As an attribute of a dataset."""
    return json.dumps({structure: each._asdict() for structure, each in found.items()}, ensure_ascii=False)


def from_text(text: str) -> dict[str, Formulas]:
    """What `as_text` wrote, here or in another version.

    Raises:
      ValueError: it is something else.
    """
    empty = Formulas([], "", "", "", {})._asdict()
    try:
        return {
            structure: Formulas(**{name: type(value)(each.get(name, value)) for name, value in empty.items()})
            for structure, each in json.loads(text).items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"no equations as optlab writes them: {error}") from None


@functools.cache
def _formulas(structure: Structure, decay: Decay, core: str | Transform, scheduled: bool) -> Formulas:
    try:
        found = explain(_factory(decay, core, scheduled))
    except Inexpressible as error:
        return Formulas([str(error)], structure.site, "", "", {})
    elsewhere: dict[tuple[str, ...], list[Shape]] = {}
    for shape, known in found.elsewhere.items():
        elsewhere.setdefault((known,) if isinstance(known, str) else tuple(_lines(known)), []).append(shape)
    others = {kinds(shapes): list(known) for known, shapes in elsewhere.items()}
    return Formulas(_lines(found), found.regime.site, found.regime.coupling, str(found.claim), others)


def _lines(found: Explanation) -> list[str]:
    return [f"{text(equation.lhs)} = {text(equation.rhs)}" for equation in found.equations]


def _factory(decay: Decay, core: str | Transform, scheduled: bool) -> Callable[..., optax.GradientTransformation]:
    """The optimizer as a function of its hyperparameters, which `explain` makes symbols of."""
    own: dict[str, Any] = hyperparameters(core) if isinstance(core, str) else {}
    own = {name: inspect.Parameter.empty if default is None else default for name, default in own.items()}

    def make(**values: Any) -> optax.GradientTransformation:
        made = CORES[core](**{name: values[name] for name in own}) if isinstance(core, str) else core
        schedule = (lambda count: values["schedule"]) if scheduled else None
        tx = decay.apply_to(made, values["learning_rate"], values["weight_decay"], schedule=schedule)
        return tx if decay.site != "loss" else optax.chain(_gradient_of_loss(decay, values["weight_decay"]), tx)

    names: dict[str, Any] = {"learning_rate": inspect.Parameter.empty, "weight_decay": inspect.Parameter.empty}
    names |= {"schedule": inspect.Parameter.empty} if scheduled else {}
    named = functools.partial(inspect.Parameter, kind=inspect.Parameter.KEYWORD_ONLY)
    parameters = [named(name, default=default) for name, default in (names | own).items()]
    make.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    return make


def _gradient_of_loss(decay: Decay, weight_decay: Any) -> optax.GradientTransformation:
    """The gradient of a loss with the penalty, where the loss alone has the incoming gradient."""

    def init(params: Any) -> Any:
        return {"initial_weights": jax.tree.map(jnp.array, params)} if decay.target == "init" else {}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def loss(params: Any) -> jax.Array:
            return jnp.asarray(optax.tree.vdot(updates, params))

        penalized = decay.penalize(loss, weight_decay, init_params=state.get("initial_weights"))
        return jax.grad(penalized)(params), state

    return optax.GradientTransformation(init, update)
