"""Products of numbers and schedules, as hyperparameters."""

import functools
import itertools
import operator
from typing import Any

import jax.numpy as jnp

from optlab.algebra.hyperparameters import RATE, CheckedSchedule, ScalarOrSchedule, canonical, check, number_at
from optlab.algebra.spellings import spelled
from optlab.algebra.transform import frozen, literal


@spelled()
def product(*factors: ScalarOrSchedule) -> ScalarOrSchedule:
    """`factors[0] * factors[1] * ...`: a number if all of them are Python numbers, else a schedule.

    `product(0.1, schedule)` equals another `product(0.1, schedule)`, which no two lambdas do, so that transforms of
    equal products are equal; products of products are spliced.

    Args:
      *factors: each >= 0; numbers, which may be traced, and schedules, which count steps from 0.

    Raises:
      TypeError: a factor is neither a number nor a schedule.
      ValueError: one is out of range, or gives something else than one real number per step.
    """
    for factor in factors:
        check("product", "factor", factor, RATE)
    inner = [factor.factors if isinstance(factor, Product) else (canonical(factor),) for factor in factors]
    factors = tuple(itertools.chain.from_iterable(inner))
    if len(factors) == 1:
        return factors[0]
    numbers = [factor for factor in factors if isinstance(factor, float)]
    return functools.reduce(operator.mul, numbers, 1.0) if len(numbers) == len(factors) else Product(factors)


class Product(CheckedSchedule):
    """The schedule `count -> factors[0](count) * factors[1](count) * ...`; compares and hashes by value."""

    def __init__(self, factors: tuple[ScalarOrSchedule, ...]) -> None:
        self.factors = factors

    def __call__(self, count: Any) -> Any:
        numbers = [jnp.asarray(number_at("product", factor, count), float) for factor in self.factors]
        return functools.reduce(operator.mul, numbers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Product) and _key(self) == _key(other)

    def __hash__(self) -> int:
        return hash(_key(self))

    def __repr__(self) -> str:
        return f"product({', '.join(map(literal, self.factors))})"


def _key(product: Product) -> tuple[Any, ...]:
    return tuple(map(frozen, product.factors))
