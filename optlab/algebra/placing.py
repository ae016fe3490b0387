"""How arrays lie on a mesh: where JAX's types say it, with `Explicit` axes, and what a weight begins with."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding

from optlab.outside.jax_internals import is_traced


def placed_like(x: jax.Array, like: Any) -> jax.Array:
    """`x`, lying as an array of its shape does; the compiler decides where axes are not explicit."""
    here, wanted = jax.typeof(x).sharding, jax.typeof(like).sharding
    return jax.sharding.reshard(x, wanted) if _explicit(here.mesh) and here != wanted else x


def where_it_lies(w: Any, slots: Any) -> Any:
    """What a weight begins with: the slots that are shaped like it on the devices where it lies, in a trace too.

    There a constant lies nowhere, and a compiler that is left alone puts it on one device. What is computed of the
    weight lies where that does, whatever the mesh and its axes: a zero made of it is subtracted, which no bit changes.
    """
    if not is_traced(w) or not _lies_on_a_mesh(w):
        return slots
    zero = (w == w) & (w != w)  # whatever the weight is, NaN too

    def placed(x: Any) -> Any:
        x = jnp.asarray(x)
        return x - zero.astype(x.dtype) if x.shape == w.shape and jnp.issubdtype(x.dtype, jnp.number) else x

    return jax.tree.map(placed, slots)


def _lies_on_a_mesh(w: Any) -> bool:
    """Whether there is a mesh, of axes that JAX looks after; inside `shard_map` a leaf is one shard already."""
    mesh = jax.typeof(w).sharding.mesh
    return not mesh.empty and AxisType.Manual not in mesh.axis_types


def wherever_they_lie(step: Callable[..., Any], like: Callable[..., Any]) -> Callable[..., Any]:
    """`step`, which may join arrays that lie otherwise, or reshape them; its results lie as those of `like`.

    With `Explicit` axes JAX refuses to add what is cut into rows to what is cut into columns, or to merge axes, unless
    it is told how the result lies. Inside `step` they are `Auto`, and the compiler finds it: so `step` must close over
    no traced array. `like` is given the same arguments.
    """

    def anywhere(*arguments: Any) -> Any:
        meshes = {jax.typeof(x).sharding.mesh for x in jax.tree.leaves(arguments)}
        mesh = next(filter(_explicit, meshes), None)
        if mesh is None:
            return step(*arguments)
        lie = jax.tree.map(lambda x: NamedSharding(mesh, jax.typeof(x).sharding.spec), like(*arguments))
        return jax.sharding.auto_axes(step, axes=_explicit(mesh), out_sharding=lie)(*arguments)

    return anywhere


def _explicit(mesh: AbstractMesh) -> tuple[str, ...]:
    return tuple(n for n, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind is AxisType.Explicit)
