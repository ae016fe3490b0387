"""`Rule`, the recurrence of one weight, and `Transform`, which lifts it to trees of parameters."""

import functools
import inspect
import itertools
import types
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optlab.algebra import hyperparameters, lifting, noise, rules
from optlab.algebra.spellings import spelled
from optlab.outside import optax_internals

P = ParamSpec("P")


class Transform(optax.GradientTransformationExtraArgs):
    """A gradient transformation that knows what it is made of; it goes wherever optax's go.

    Two transforms are equal, and hash alike, when name, hyperparameters and parts are. A traced hyperparameter
    equals itself only. `repr` is the expression that builds the transform.

    Attributes:
      init: `init(params) -> state`.
      update: `update(updates, state, params=None, **extra_args) -> (updates, state)`. NaN and infinity pass through
        into the state, as in optax; `optax.apply_if_finite` around the transform holds them off.
      name: the name of the function that made it.
      hyperparams: that function's arguments by name, parts left out.
      parts: the transforms that it combines, in order; optax's stand as they are.
      rule: the `Rule` that it lifts, or None where it works on whole trees.
      reads_as: the transform whose equations are its own, but for rounding; None where that is itself.
    """

    hyperparams: Mapping[str, Any]
    parts: tuple[optax.GradientTransformation, ...]
    rule: rules.Rule | None
    reads_as: optax.GradientTransformation | None
    maker: Callable[..., "Transform"]

    def __new__(
        cls,
        init: optax.TransformInitFn,
        update: optax.TransformUpdateExtraArgsFn,
        *,
        maker: Callable[..., "Transform"] | None = None,
        hyperparams: Mapping[str, Any] | None = None,
        parts: Sequence[optax.GradientTransformation] = (),
        rule: rules.Rule | None = None,
        reads_as: optax.GradientTransformation | None = None,
    ) -> "Transform":
        if maker is None:  # two functions alone, as when JAX maps over the leaves of a tree that holds a transform
            return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportReturnType]
        self = super().__new__(cls, init, update)
        fixed = types.MappingProxyType(dict(hyperparams or {}))
        self.__dict__.update(maker=maker, hyperparams=fixed, parts=tuple(parts), rule=rule, reads_as=reads_as)
        return self

    @property
    def name(self) -> str:
        return self.maker.__name__

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{self.name} is immutable: build another transform instead of setting {name!r}")

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Transform) and self._hash == other._hash and self._identity == other._identity

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _identity(self) -> Hashable:
        """What decides whether two transforms are equal; a part that is one itself compares by identity first."""
        return (self.maker, tuple((name, frozen(value)) for name, value in self.hyperparams.items()), self.parts)

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self._identity)

    @functools.cached_property
    def _program(self) -> lifting.Program:
        return _split(self)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(_arguments(self))})"

    def _replace(self, **functions: Any) -> optax.GradientTransformationExtraArgs:
        """A plain transformation with another `init` or `update`, which this description no longer fits."""
        return optax.GradientTransformationExtraArgs(*self)._replace(**functions)

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (self.maker, self.parts, dict(self.hyperparams))


def rebuild(
    maker: Callable[..., Transform], parts: Sequence[optax.GradientTransformation], hyperparams: Mapping[str, Any]
) -> Transform:
    return maker(*parts, **hyperparams)


def as_read(tx: Any) -> Any:
    """`tx` with each part that reads as another replaced by that one; what is no `Transform` stays as it is."""
    if not isinstance(tx, Transform):
        return tx
    if tx.reads_as is not None:
        return as_read(tx.reads_as)
    parts = [as_read(part) for part in tx.parts]
    kept = all(new is old for new, old in zip(parts, tx.parts, strict=True))
    return tx if kept else rebuild(tx.maker, parts, tx.hyperparams)


def describe(part: optax.GradientTransformation) -> str:
    """How a part reads inside an expression; one of optax's by its name."""
    return repr(part) if isinstance(part, Transform) else f"<optax {name_of(part)}>"


def name_of(part: optax.GradientTransformation) -> str:
    """The name of a transform; for one of optax's, that of the function whose closure its update is."""
    if isinstance(part, Transform):
        return part.name
    return optax_internals.title(part)


def _arguments(tx: Transform) -> list[str]:
    return [*map(describe, tx.parts), *written(inspect.signature(tx.maker), tx.hyperparams)]


def written(signature: inspect.Signature, arguments: Mapping[str, Any]) -> list[str]:
    """The arguments of a call as they are typed, those left out that stand at their defaults."""
    kinds = inspect.Parameter
    more = any(kind.kind is kinds.VAR_POSITIONAL and arguments.get(name) for name, kind in signature.parameters.items())
    shown: list[str] = []
    for name, parameter in signature.parameters.items():
        if name not in arguments:
            continue
        value, by_place = arguments[name], parameter.kind is kinds.POSITIONAL_ONLY
        if parameter.kind is kinds.POSITIONAL_OR_KEYWORD:
            by_place = more or parameter.default is kinds.empty
        if parameter.kind is kinds.VAR_POSITIONAL:
            shown += map(literal, value)
        elif parameter.kind is kinds.VAR_KEYWORD:
            shown += [f"{key}={literal(item)}" for key, item in value.items()]
        elif by_place:
            shown.append(literal(value))
        elif frozen(value) != frozen(parameter.default):
            shown.append(f"{name}={literal(value)}")
    return shown


def literal(value: Any) -> str:
    """How a hyperparameter reads inside an expression."""
    if hyperparameters.is_traced(value):
        return f"<traced {value.dtype}>"
    if isinstance(value, jax.Array) and value.shape == ():
        return f"jnp.{value.dtype}({value.item()!r})"
    if type(value) is tuple:
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    if type(value) is dict:
        return f"{{{', '.join(f'{key!r}: {literal(item)}' for key, item in value.items())}}}"
    return (optax_internals.path_of(value) if callable(value) else None) or repr(value)


def frozen(value: Any) -> Hashable:
    """`value` as something that hashes and compares by value; a traced value goes by its identity."""
    if hyperparameters.is_traced(value):
        return ("traced", id(value))
    if isinstance(value, jax.Array | np.ndarray):
        host = np.asarray(value)
        return (host.dtype.name, host.shape, host.tobytes())
    leaves, treedef = jax.tree.flatten(value)
    if treedef != _LEAF:
        return (treedef, *map(frozen, leaves))
    return (type(value), value if _is_hashable(value) else id(value))


_LEAF = jax.tree.structure(0)


# Making a transform of a rule ---------------------------------------------------------------------------------------


def lifted(
    maker: Callable[..., Transform],
    rule: rules.Rule,
    *,
    hyperparams: Mapping[str, Any] | None = None,
    parts: Sequence[optax.GradientTransformation] = (),
    reads_as: optax.GradientTransformation | None = None,
) -> Transform:
    """The transform that applies `rule` to every leaf; `maker(*parts, **hyperparams)` makes the same again."""

    def init(params: Any) -> lifting.State:
        return lifting.init(tx._program, params)

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, lifting.State]:
        del extra_args
        require_params(tx, params)
        return lifting.update(tx._program, updates, state, params)

    tx = Transform(init, update, maker=maker, hyperparams=hyperparams, parts=parts, rule=rule, reads_as=reads_as)
    return tx


@spelled()
def atom(make: Callable[P, rules.Rule]) -> Callable[P, Transform]:
    """Makes a transform of a function from hyperparameters to a `Rule`: a decorator.

    The function's name is the transform's, its arguments are the hyperparameters; those of standard names (`decay`,
    `eps`, `learning_rate`, ...) are checked. An argument called `mask` is taken care of: a tree of booleans shaped
    like the parameters or a prefix of it, such as a module of booleans, or a function of the parameters that gives one,
    such as those of `optlab.masks`. Where it is False, the atom passes updates through and keeps no slots; a tree is
    copied, so that what is changed in it afterwards changes nothing here. So is an integer called `seed`, from 0 to
    2**32 - 1: for every leaf, and every link that has one, it arrives as another uint32, from which and from `t` the
    rule may draw random numbers; links that optax combines, each a transform to itself, need seeds of their own for
    that.

    A new atom, whole:

        @optlab.atom
        def sign_of_average(decay):
            def update(u, slots, w, t):
                m = decay * slots["average"] + (1 - decay) * u
                return jnp.sign(m), {"average": m}

            return optlab.Rule(update, init=lambda w: {"average": jnp.zeros_like(w)})
    """

    if not callable(make):
        raise TypeError(f"atom: make must be a function that returns a Rule, got {make!r} ({type(make).__name__})")
    signature = inspect.signature(make)
    for name, parameter in signature.parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{make.__name__}: the hyperparameter {name} must be an argument that a keyword can name")

    @functools.wraps(make)
    def maker(*args: P.args, **kwargs: P.kwargs) -> Transform:
        bound = hyperparameters.bind(make, *args, **kwargs)
        for name, value in bound.arguments.items():
            if name != "mask" and not isinstance(value, jax.Array) and not _is_hashable(value):
                raise TypeError(
                    f"{make.__name__}: {name} must be hashable or a jax array, so that equal transforms can share "
                    f"programs, got {type(value).__name__}; a tuple will do"
                )
        if "mask" in bound.arguments:
            bound.arguments["mask"] = _own_copy(make.__name__, bound.arguments["mask"])
        rule = make(*bound.args, **bound.kwargs)
        if not isinstance(rule, rules.Rule):
            raise TypeError(f"{make.__name__}: an atom must return an optlab.Rule, got {type(rule).__name__}")
        return lifted(maker, rules.named(make.__name__, rule), hyperparams=bound.arguments)

    return maker


def _own_copy(owner: str, mask: Any) -> Any:
    if names := [bit for bit in jax.tree.leaves(mask) if isinstance(bit, str)]:
        raise TypeError(
            f"{owner}: mask must be a tree of booleans, or a function of the parameters that gives one, got "
            f"{mask!r}; leaves are named by optlab.masks.path({', '.join(map(repr, names[:3]))})"
        )
    return jax.tree.map(lambda bit: bit, mask)


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


class _Slot(NamedTuple):
    """Stands in a skeleton where a Python float, an operand or a mask was taken out."""

    kind: str


_NUMBER, _OPERAND, _MASK = _Slot("number"), _Slot("operand"), _Slot("mask")


class _Places(NamedTuple):
    """What is left to fill in while a skeleton becomes a transform again."""

    numbers: Iterator[Any]
    operands: Iterator[Any]
    bits: Iterator[bool]
    seeded_links: Iterator[int]
    leaf: Any


class Skeleton(NamedTuple):
    """See `lifting.Skeleton`; hyperparameters stand in it with their types, since 1 == 1.0 == True."""

    maker: Callable[..., Transform]
    parts: tuple["Skeleton", ...]
    static: tuple[tuple[str, type, Any], ...]

    @property
    def seeded(self) -> bool:
        return any(name == "seed" for name, *_ in self.static) or any(part.seeded for part in self.parts)

    def rule(self, numbers: Sequence[Any], operands: Sequence[Any], bits: Sequence[bool], leaf: Any = 0) -> rules.Rule:
        places = _Places(iter(numbers), iter(operands), iter(bits), itertools.count(), leaf)
        return _rule_of(self._transform(places))

    def _transform(self, places: _Places) -> Transform:
        parts = [part._transform(places) for part in self.parts]
        taken_out = {_NUMBER: places.numbers, _OPERAND: places.operands}
        values = {
            name: next(taken_out[value]) if value is _NUMBER or value is _OPERAND else value
            for name, _, value in self.static
        }
        if "seed" in values:
            values["seed"] = noise.mixed(values["seed"], next(places.seeded_links), places.leaf)
        masked = values.get("mask") is _MASK
        tx = rebuild(self.maker, parts, values | {"mask": None} if masked else values)
        return passing(tx) if masked and not next(places.bits) else tx


def _split(tx: Transform) -> lifting.Program:
    numbers: list[float] = []
    operands: list[Any] = []
    masks: list[Any] = []

    def skeleton(tx: Any) -> Skeleton:
        parts = tuple(map(skeleton, tx.parts))
        static = []
        for name, value in tx.hyperparams.items():
            if name == "mask" and value is not None:
                masks.append(value)
                value = _MASK
            elif type(value) is float:
                numbers.append(value)
                value = _NUMBER
            elif isinstance(value, jax.Array):
                operands.append(_in_single(value))
                value = _OPERAND
            elif value is not None and hyperparameters.is_schedule(name, value):
                operands.append(hyperparameters.Schedule(tx.name, value))
                value = _OPERAND
            static.append((name, type(value), value))
        return Skeleton(tx.maker, parts, tuple(static))

    whole = skeleton(tx)
    return lifting.Program(tx.name, whole, tuple(numbers), tuple(operands), tuple(masks), whole.seeded)


def _in_single(value: jax.Array) -> jax.Array:
    """A number in half precision in float32, which holds it too."""
    half = jnp.issubdtype(value.dtype, jnp.floating) and value.dtype.itemsize < 4
    return value.astype(jnp.float32) if half else value


def _rule_of(tx: Transform) -> rules.Rule:
    assert tx.rule is not None
    return tx.rule


def passing(tx: Transform) -> Transform:
    """`tx` where its mask is False: the identity, with nothing in its slots."""
    rule = _rule_of(tx)

    def init(w: jax.Array) -> rules.Slots:
        return jax.tree.map(lambda _: optax.MaskedNode(), jax.eval_shape(rule.init, w))

    return lifted(passing, rules.Rule(lambda u, slots, w, t: (u, slots), init), parts=(tx,))


def require_params(tx: Transform, params: Any) -> None:
    """Refuses an update without params, in the name of the link that reads them."""
    if params is None and (link := _reader(tx)) is not None:
        raise ValueError(f"{link} needs params: call update(updates, state, params)")


def _reader(tx: Any) -> str | None:
    """The first link inside `tx` that reads the weights, with its place."""
    if not isinstance(tx, Transform):
        return None
    for number, part in enumerate(tx.parts, start=1):
        if (name := _reader(part)) is not None:
            place = f"link {number} of {len(tx.parts)} in {tx.name}" if len(tx.parts) > 1 else f"in {tx.name}"
            return name if "(" in name else f"{name} ({place})"
    return tx.name if not tx.parts and tx.rule is not None and tx.rule.needs_params else None
