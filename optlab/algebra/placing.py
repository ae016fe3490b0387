"""How arrays lie on a mesh, where JAX's types say it: with `Explicit` axes."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, NamedSharding


def placed_like(x: jax.Array, like: Any) -> jax.Array:
    """`x`, lying as an array of its shape does; the compiler decides where axes are not explicit."""
    here, wanted = jax.typeof(x).sharding, jax.typeof(like).sharding
    return jax.sharding.reshard(x, wanted) if _explicit(here.mesh) and here != wanted else x


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
