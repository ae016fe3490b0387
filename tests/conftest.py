"""The settings that our own code is tested under; `peer` lifts them around a call of somebody else's."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a hundred times as long where workers share a core

import contextlib
import warnings
from collections.abc import Iterator

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@contextlib.contextmanager
def lenient() -> Iterator[None]:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(name="peer")
def _peer():
    """A context manager for calls of peers, which do not hold themselves to our settings."""
    return lenient


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield
