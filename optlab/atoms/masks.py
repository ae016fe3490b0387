"""Where a link acts, said by the path or the shape of a leaf: values that any `mask=` takes, optlab's and optax's.

    from optlab import adamw, masks

    adamw(1e-3, weight_decay=0.1, mask=masks.matrices(exclude="embedding"))
    adamw(1e-3, weight_decay=0.1, mask=~masks.path("bias", "scale"))
    adamw(1e-3, weight_decay=0.1, mask=masks.axes(at_least=2) & ~masks.matching(r"norm|^head/"))

A mask compares, hashes, prints and pickles by value, which no lambda does, so that optimizers with equal masks are
equal. The names of a path are keys of dicts, names of attributes, and numbers within a list.
"""

import abc
import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import GetAttrKey, keystr, tree_flatten_with_path

from optlab.algebra.spellings import spelled

__all__ = ["Mask", "axes", "matching", "matrices", "path"]


class Mask(abc.ABC):
    """A function from parameters to a tree of booleans; `~mask`, `one & other` and `one | other` are masks too."""

    @abc.abstractmethod
    def acts_on(self, names: Sequence[str], leaf: Any) -> bool:
        """Whether it is True for the leaf with these names on its path."""

    def __call__(self, params: Any) -> Any:
        leaves, treedef = jax.tree.flatten(params)
        return treedef.unflatten(map(self.acts_on, _names(treedef), leaves))

    def __invert__(self) -> "Mask":
        return _Not(self)

    def __and__(self, other: Any) -> "Mask":
        return _joined(_All, self, other)

    def __or__(self, other: Any) -> "Mask":
        return _joined(_Any, self, other)

    def __bool__(self) -> bool:
        raise TypeError(f"{self!r} is a mask, neither true nor false: combine masks with &, | and ~, not and, or, not")


@dataclasses.dataclass(frozen=True)
class _Path(Mask):
    names: tuple[str, ...]

    def acts_on(self, names: Sequence[str], leaf: Any) -> bool:
        return not set(names).isdisjoint(self.names)

    def __repr__(self) -> str:
        return f"masks.path({', '.join(map(repr, self.names))})"


@dataclasses.dataclass(frozen=True)
class _Matching(Mask):
    pattern: str

    def acts_on(self, names: Sequence[str], leaf: Any) -> bool:
        return re.search(self.pattern, "/".join(names)) is not None

    def __repr__(self) -> str:
        return f"masks.matching({self.pattern!r})"


@dataclasses.dataclass(frozen=True)
class _Axes(Mask):
    at_least: int
    at_most: int | None

    def acts_on(self, names: Sequence[str], leaf: Any) -> bool:
        return self.at_least <= jnp.ndim(leaf) and (self.at_most is None or jnp.ndim(leaf) <= self.at_most)

    def __repr__(self) -> str:
        given = {"at_least": self.at_least or None, "at_most": self.at_most}
        return f"masks.axes({', '.join(f'{name}={bound}' for name, bound in given.items() if bound is not None)})"


@dataclasses.dataclass(frozen=True)
class _Not(Mask):
    mask: Mask

    def acts_on(self, names: Sequence[str], leaf: Any) -> bool:
        return not self.mask.acts_on(names, leaf)

    def __invert__(self) -> Mask:
        return self.mask

    def __repr__(self) -> str:
        return f"~{_inside(self.mask)}"


@dataclasses.dataclass(frozen=True)
class _All(Mask):
    masks: tuple[Mask, ...]

    def acts_on(self, names: Sequence[str], leaf: Any) -> bool:
        return all(mask.acts_on(names, leaf) for mask in self.masks)

    def __repr__(self) -> str:
        return " & ".join(map(_inside, self.masks))


@dataclasses.dataclass(frozen=True)
class _Any(Mask):
    masks: tuple[Mask, ...]

    def acts_on(self, names: Sequence[str], leaf: Any) -> bool:
        return any(mask.acts_on(names, leaf) for mask in self.masks)

    def __repr__(self) -> str:
        return " | ".join(map(_inside, self.masks))


@spelled("masks.path")
def path(*names: str) -> Mask:
    """Leaves that have one of the `names` on their path, as a whole: `path("bias")`, `path("encoder")`.

    Raises:
      TypeError: no name, or one that is no string.
    """
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"masks.path: names must be strings, at least one, got {', '.join(map(repr, names)) or 'none'}")
    return _Path(names)


@spelled("masks.matching")
def matching(pattern: str) -> Mask:
    """Leaves whose path, its names joined by `/`, has a match of the regular expression: `matching(r"bias|scale$")`.

    Raises:
      TypeError: the pattern is no string.
      ValueError: it is no regular expression.
    """
    if not isinstance(pattern, str):
        raise TypeError(f"masks.matching: pattern must be a string, got {pattern!r} ({type(pattern).__name__})")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"masks.matching: {pattern!r} is no regular expression: {error}") from None
    return _Matching(pattern)


@spelled("masks.axes")
def axes(at_least: int = 0, at_most: int | None = None) -> Mask:
    """Leaves that have from `at_least` to `at_most` axes: `axes(at_least=2)` leaves out biases and scales.

    Raises:
      TypeError: a bound is no whole number.
      ValueError: no number of axes lies between them.
    """
    for name, bound in ("at_least", at_least), ("at_most", at_most):
        if (not isinstance(bound, int) or isinstance(bound, bool)) and not (name == "at_most" and bound is None):
            raise TypeError(f"masks.axes: {name} must be a whole number, got {bound!r} ({type(bound).__name__})")
    if at_least < 0 or (at_most is not None and at_most < at_least):
        raise ValueError(f"masks.axes: no leaf has from {at_least} to {at_most} axes")
    return _Axes(at_least, at_most)


@spelled("masks.matrices")
def matrices(exclude: str | Iterable[str] | Mask = ()) -> Mask:
    """Leaves of two axes or more, but for those that `exclude` names: `matrices(exclude=("embedding", "head"))`.

    Args:
      exclude: names as `path` takes them, or a mask.

    Raises:
      TypeError: it is neither.
    """
    if isinstance(exclude, Mask):
        return axes(at_least=2) & ~exclude
    if not isinstance(exclude, Iterable):
        raise TypeError(f"masks.matrices: exclude must be names or a mask, got {exclude!r}")
    names = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    return axes(at_least=2) & ~path(*names) if names else axes(at_least=2)


def _joined(kind: type[_All | _Any], one: Mask, other: Any) -> Any:
    if not isinstance(other, Mask):
        return NotImplemented
    return kind(tuple(part for mask in (one, other) for part in (mask.masks if isinstance(mask, kind) else (mask,))))


def _inside(mask: Mask) -> str:
    return f"({mask!r})" if isinstance(mask, _All | _Any) else repr(mask)


# Names --------------------------------------------------------------------------------------------------------------


def _names(treedef: Any) -> tuple[tuple[str, ...], ...]:
    """The names on the path of each leaf."""
    try:
        return _cached_names(treedef)
    except TypeError:  # something in it does not hash
        return _cached_names.__wrapped__(treedef)


@functools.lru_cache(maxsize=64)
def _cached_names(treedef: Any) -> tuple[tuple[str, ...], ...]:
    return tuple(_names_within(treedef.unflatten(range(treedef.num_leaves))))


def _names_within(tree: Any) -> Iterator[tuple[str, ...]]:
    for path, node in tree_flatten_with_path(tree, is_leaf=_is_box)[0]:
        above = tuple(keystr((entry,), simple=True) for entry in path)
        if _is_box(node):
            ((_, inside),) = _one_level(node)
            yield from (above + names for names in _names_within(inside))
        else:
            yield above


def _is_box(node: Any) -> bool:
    """Whether a node is what Flax puts around an array, with all that it holds under `.value`: no name of a path."""
    return [path for path, _ in _one_level(node)] == [(GetAttrKey("value"),)]


def _one_level(node: Any) -> list[tuple[Any, Any]]:
    return tree_flatten_with_path(node, is_leaf=lambda inner: inner is not node)[0]
