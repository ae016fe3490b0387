"""A rule as one GPU kernel: the function of a few blocks that XLA runs on whole leaves, run on blocks by Pallas.

XLA fuses an elementwise rule into one loop by itself. A codec's largest number of each block breaks that fusion in two,
and what is between is written out and read again; a kernel keeps a block in registers from decoding to encoding.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optlab.outside import jax_internals

_NUMBERS = 1024  # of a leaf that one program of the kernel works on


class NoKernel(Exception):
    """A function that can't be one kernel and is left to XLA; a class of its own, which hides nobody else's error."""


def over_blocks(step: Callable[..., Any], read: Any, updated: Any, *, interpret: bool = False) -> tuple[Any, Any]:
    """`step(number, read, updated) -> (out, updated)` on a few blocks at a time, as one Pallas kernel.

    Args:
      step: gets the number of the first block that it is given, and gives back `updated` in the same types. What it
        closes over may be traced, as long as it is scalars.
      read: tree of arrays, each with the blocks on its first axis and what a block has of it on the second.
      updated: another such tree, updated in place.
      interpret: on a CPU, with XLA in the place of Triton.

    Raises:
      NoKernel: `step` closes over an array that is no scalar, or has an operation that Triton has not.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    arrays, treedef = jax.tree.flatten((read, updated))
    blocks = arrays[0].shape[0]
    together = blocks_together(blocks, max(x.shape[1] for x in arrays))
    few = [jax.ShapeDtypeStruct((together, x.shape[1]), x.dtype) for x in arrays]

    def flat_step(number: Any, *pieces: Any) -> Any:
        return step(number, *treedef.unflatten(pieces))

    traced, shapes = jax.make_jaxpr(flat_step, return_shape=True)(jax.ShapeDtypeStruct((), jnp.int32), *few)
    _require_lowerable(traced.jaxpr)
    scalars = [jnp.reshape(value, (1,)) for value in map(_scalar, traced.consts)]
    outs, out_treedef = jax.tree.flatten(shapes)

    def kernel(*refs: Any) -> None:
        given = [ref[0] for ref in refs[: len(scalars)]]
        ins, outputs = refs[len(scalars) : -len(outs)], refs[-len(outs) :]
        number = pl.program_id(0) * together
        few_blocks = jax_internals.function_of(traced.jaxpr, given)
        results = few_blocks(number, *(ref[...] for ref in ins))
        for ref, result in zip(outputs, results, strict=True):
            ref[...] = result

    def spec(x: Any) -> Any:
        return pl.BlockSpec((together, x.shape[1]), lambda program: (program, 0))

    kept = len(jax.tree.leaves(updated))
    first_in, first_out = len(scalars) + len(arrays) - kept, len(outs) - kept
    results = pl.pallas_call(
        kernel,
        grid=(blocks // together,),
        in_specs=[pl.BlockSpec((1,), lambda program: (0,))] * len(scalars) + [spec(x) for x in arrays],
        out_specs=[spec(x) for x in outs],
        out_shape=[jax.ShapeDtypeStruct((blocks, x.shape[1]), x.dtype) for x in outs],
        input_output_aliases={first_in + i: first_out + i for i in range(kept)},
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
    )(*scalars, *arrays)
    return out_treedef.unflatten(results)


def blocks_together(blocks: int, width: int) -> int:
    """How many blocks a program takes: a power of two that divides all of them."""
    return math.gcd(blocks, max(1, _NUMBERS // width))


def fits(width: int) -> bool:
    """Whether blocks of `width` numbers can be worked on; Triton wants powers of two."""
    return width.bit_count() == 1


def can_be_made(over_blocks: Callable[..., Any], *leaves: Any) -> bool:
    """Whether a function that calls `over_blocks` does not refuse these leaves."""
    try:
        jax.eval_shape(over_blocks, *leaves)
    except NoKernel:
        return False
    return True


def _require_lowerable(jaxpr: Any) -> None:
    """Refuses operations that mix the numbers of a block in ways for which Pallas has no Triton code."""
    for name in jax_internals.primitives_within(jaxpr):
        if name.startswith(jax_internals.UNKNOWN_TO_TRITON):
            raise NoKernel(f"a kernel can't have the operation {name}")


def runs_here() -> bool:
    """Whether there is one GPU, which kernels run on; XLA can't share a kernel's leaf between several."""
    return jax.default_backend() == "gpu" and jax.device_count() == 1 and has_triton()


@functools.cache
def has_triton() -> bool:
    """Whether this JAX makes Triton code of kernels, and doesn't announce with a warning that it soon won't.

    A small kernel is made, because no name or version says so; that needs no GPU.
    """
    leaf = jax.ShapeDtypeStruct((1, 16), jnp.float32)
    copied = jax.jit(lambda x: over_blocks(lambda number, read, updated: (read, updated), x, []))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            copied.trace(leaf).lower(lowering_platforms=("cuda",))
    except Exception:  # whatever way of not having it a JAX finds
        return False
    return True


def _scalar(value: Any) -> jax.Array:
    value = jnp.asarray(value)
    if value.size != 1:
        raise NoKernel(f"a kernel can't close over an array {value.dtype}{list(value.shape)}")
    return value
