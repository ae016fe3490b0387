"""Smaller forms of optimizer state: what `store` keeps in the place of float32 numbers."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from optlab.algebra import noise
from optlab.algebra.hyperparameters import check_choice, check_whole
from optlab.algebra.spellings import spelled
from optlab.memory.rounding import ROUNDINGS, float_steps, to_bfloat16

__all__ = ["BFloat16", "Codec", "Float8", "Int8", "bfloat16", "float8", "int8"]


@runtime_checkable
class Codec(Protocol):
    """What a codec has to have; compares and hashes by value, as a frozen dataclass does.

    Attributes:
      block: how many numbers share something, such as a scale; None if each stands alone. `encode` gets arrays whose
        last axis is a block: `block` numbers, all of a narrower row, or the end of a row filled up with zeros. With
        None it gets arrays of any shape.
    """

    @property
    def block(self) -> int | None: ...

    def encode(self, x: jax.Array, bits: jax.Array) -> Any:
        """Real numbers as an array, or a dict of arrays that differ from `x` in their last axis at most.

        `bits` are random, uint32, shaped like `x`. Zeros must encode to what decodes to zeros, and what was decoded to
        itself, as far as rounding to nearest goes.
        """
        ...

    def decode(self, stored: Any) -> jax.Array:
        """The numbers back, floating-point, shaped as they were."""
        ...

    def error_bound(self, x: jax.Array) -> jax.Array:
        """Shaped like `x`: no number of `decode(encode(x, bits)) - x` is larger, whatever the bits."""
        ...


class _Rounding:
    """The choice that the codecs share."""

    rounding: str

    def __post_init__(self) -> None:
        check_choice(f"codecs.{type(self).__name__}", "rounding", self.rounding, ROUNDINGS)

    def __repr__(self) -> str:
        fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        changed = [f"{f.name}={getattr(self, f.name)!r}" for f in fields if getattr(self, f.name) != f.default]
        return f"codecs.{type(self).__name__}({', '.join(changed)})"


class _Blocks(_Rounding):
    """Codes of one byte per number and a float scale per block."""

    block: int

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "block", check_whole(f"codecs.{type(self).__name__}", "block", self.block, 1))


@spelled("codecs.BFloat16")
@dataclasses.dataclass(frozen=True, repr=False)
class BFloat16(_Rounding):
    """`x -> bfloat16(x)`: 2 bytes per number, relative error up to 2**-7, by nearest rounding 2**-8.

    Args:
      rounding: "stochastic" gives one of the two neighbours, `x` on average; "nearest" the nearer one, at which an
        average stops that moves by less than half a step: a second moment with `b2=0.999`.
    """

    rounding: str = "stochastic"

    @property
    def block(self) -> None:
        return None

    def encode(self, x: jax.Array, bits: jax.Array) -> jax.Array:
        return x.astype(jnp.bfloat16) if self.rounding == "nearest" else to_bfloat16(x, bits)

    def decode(self, stored: jax.Array) -> jax.Array:
        return stored.astype(jnp.float32)

    def error_bound(self, x: jax.Array) -> jax.Array:
        return jnp.abs(x) * (2**-8 if self.rounding == "nearest" else 2**-7) + jnp.finfo(jnp.float32).tiny


@spelled("codecs.Int8")
@dataclasses.dataclass(frozen=True, repr=False)
class Int8(_Blocks):
    """`x -> s * (q/255)**4` in a block without negative numbers, `s * sign(q) * (q/127)**4` in any other.

    `s` is the largest size in the block, `q` a byte, dense near zero: 255 steps reach from `s` down to `2.4e-10 * s`,
    a quarter as far in the root of a second moment. Each block shows by the sign of its scale which code it has, so
    that first and second moments need not be told apart. In a block without negative numbers a number that is not zero
    never becomes zero, but the smallest step: a moment divides, and as zero it would explode the quotient, which is how
    linear codes diverge. A block that holds NaN or infinity decodes to NaN.

    Args:
      block: numbers per scale; the scale takes 4 bytes.
      rounding: "stochastic" gives one of the two neighbours, `x` on average; "nearest" the nearer one, at which slow
        averages stop (see `BFloat16`).

    Source: block-wise scales from Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization". Differs in:
    1. a power in the place of their dynamic tree code, because it is a few roots and products instead of a search in a
    table; 2. stochastic rounding. While a network learnt digits for 2000 steps, the error of `m / (sqrt(v) + eps)`
    (relative root mean square, median over steps) was, by nearest and by stochastic rounding:

        |                    | this power | tree code  | square | linear     |
        | first moment only  | 2.5%  3.6% | 3.3%  4.4% | 2%  3% | 3.4%  5.9% |
        | second moment only |  11%  5.9% |  14%  7.5% | 14% 9% | 47%   32%  |

    where linear and square second moments became infinite or NaN once they might round to zero.
    """

    block: int = 256
    rounding: str = "stochastic"

    def encode(self, x: jax.Array, bits: jax.Array) -> dict[str, jax.Array]:
        signed, scale, size = _scaled(x)
        levels = jnp.where(signed, 127, 255).astype(x.dtype)
        q = jnp.floor(levels * jnp.sqrt(jnp.sqrt(size)))
        low, high = (q * q) ** 2, ((q + 1) * (q + 1)) ** 2
        share = (size * (levels * levels) ** 2 - low) / (high - low)
        q = q + _rounds_up(share, bits, self.rounding).astype(x.dtype)
        q = jnp.minimum(q, levels)
        q = jnp.where(signed, 128 + jnp.sign(x) * q, jnp.where(x > 0, jnp.maximum(q, 1), 0))
        return {"code": q.astype(jnp.uint8), "scale": jnp.where(signed, -scale, scale)}

    def decode(self, stored: dict[str, jax.Array]) -> jax.Array:
        scale = stored["scale"]
        code, signed = stored["code"].astype(scale.dtype), scale < 0
        q = jnp.where(signed, (code - 128) / 127, code / 255)
        return jnp.sign(q) * (q * q) ** 2 * jnp.abs(scale)

    def error_bound(self, x: jax.Array) -> jax.Array:
        signed, scale, size = _scaled(x)
        levels = jnp.where(signed, 127, 255).astype(x.dtype)
        q = jnp.floor(levels * jnp.sqrt(jnp.sqrt(size)) * (1 + 1e-5))
        step = (((q + 1) / levels) ** 4 - (q / levels) ** 4) * scale
        smallest = jnp.where(signed, 0, scale / levels**4 * (1 + 1e-5))
        whole = jnp.maximum(step * (1 + 1e-4), smallest)
        return (whole if self.rounding == "stochastic" else jnp.maximum(whole / 2, smallest)) + _FLUSHED


@spelled("codecs.Float8")
@dataclasses.dataclass(frozen=True, repr=False)
class Float8(_Blocks):
    """`x -> s * float8_e5m2(x/s)`: 2 bits of mantissa, relative error up to 1/4, by nearest rounding 1/8.

    `s` is the largest size in the block over 2**15, the format's largest power of two; 2**-16 is its smallest number.
    Coarser than `Int8` at the same size, for hardware that reads the format. Zero, NaN and infinity, `block` and
    `rounding` are those of `Int8`.

    Source: the format of Micikevicius et al. 2022, "FP8 Formats for Deep Learning".
    """

    block: int = 256
    rounding: str = "stochastic"

    def encode(self, x: jax.Array, bits: jax.Array) -> dict[str, jax.Array]:
        signed, scale, size = _scaled(x)
        size = (size * _E5M2_TOP).astype(jnp.float32)
        step = float_steps(size, jnp.float8_e5m2)
        q = jnp.floor(size / step)
        q = q + _rounds_up(size / step - q, bits, self.rounding).astype(jnp.float32)
        q = jnp.where(signed | (x == 0), q, jnp.maximum(q, 1))
        return {"code": (jnp.sign(x).astype(jnp.float32) * q * step).astype(jnp.float8_e5m2), "scale": scale}

    def decode(self, stored: dict[str, jax.Array]) -> jax.Array:
        scale = stored["scale"]
        return stored["code"].astype(scale.dtype) / _E5M2_TOP * scale

    def error_bound(self, x: jax.Array) -> jax.Array:
        signed, scale, size = _scaled(x)
        step = float_steps((size * _E5M2_TOP).astype(jnp.float32), jnp.float8_e5m2).astype(x.dtype) / _E5M2_TOP * scale
        smallest = jnp.where(signed, 0, scale * 2.0**-16 / _E5M2_TOP)
        whole = step * (1 + 1e-4)
        return (whole if self.rounding == "stochastic" else jnp.maximum(whole / 2, smallest)) + _FLUSHED


bfloat16 = BFloat16()
int8 = Int8()
float8 = Float8()

BY_NAME: dict[str, Codec] = {"bfloat16": bfloat16, "float8": float8, "int8": int8}

_E5M2_TOP = 2.0**15
_FLUSHED = float(jnp.finfo(jnp.float32).tiny)  # processors may read smaller numbers as zero


def _scaled(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Whether the block has negative numbers, its largest size, and the sizes as shares of that."""
    size = jnp.abs(x)
    scale = jnp.max(size, axis=-1, keepdims=True)
    scale = jnp.where(
        jnp.isfinite(scale), jnp.where(scale >= _FLUSHED, scale, 0), scale - scale
    )  # no NaN as a constant
    signed = jnp.min(x, axis=-1, keepdims=True) < 0
    down = jnp.where(scale > 1, 2.0**-64, 1).astype(x.dtype)  # compilers take 1/scale, which flushes to 0
    return signed, scale, jnp.where(scale > 0, size * down / jnp.where(scale > 0, scale * down, 1), 0)


def _rounds_up(share: jax.Array, bits: jax.Array, rounding: str) -> jax.Array:
    """Whether to take the upper neighbour, from which `share` of a step parts the lower one."""
    return share > 0.5 if rounding == "nearest" else noise.unit(bits).astype(share.dtype) < share
