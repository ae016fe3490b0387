"""The settings under which code of others is run: what it relies on, and float64."""

import contextlib
import warnings
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def lenient_float64() -> Iterator[None]:
    """Float64, every promotion, and no warnings, whatever the caller has set for its own code."""
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
