"""The settings that our own code is tested under; `peer` lifts them around a call of somebody else's."""

import devices  # before jax, which it sets up

# isort: split

import collections
import contextlib
import importlib.util
import pathlib
import warnings
from collections.abc import Iterator

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
if devices.ON_ANY_DEVICE:
    jax.config.update("jax_default_matmul_precision", "highest")  # a GPU rounds factors to 10 bits otherwise


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """One process alone takes an accelerator's memory."""
    if devices.ON_ANY_DEVICE and hasattr(config.option, "numprocesses"):
        config.option.numprocesses = 0


def pytest_ignore_collect(collection_path: pathlib.Path) -> bool | None:
    """With `-m device`, files without such tests are not imported: what they need may not be there."""
    if not devices.ON_ANY_DEVICE or collection_path.suffix != ".py":
        return None
    return "mark.device" not in collection_path.read_text() or None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-torch", action="store_true", help="run what is marked torch; without torch it fails")
    parser.addoption("--every", type=int, default=1, metavar="N", help="run every N-th case of each test")


def every(step: int, items: list[pytest.Item]) -> list[pytest.Item]:
    """The first case of each test, and every so many after it."""
    seen = collections.Counter[str]()
    kept = []
    for item in items:
        test = item.nodeid.partition("[")[0]
        if seen[test] % step == 0:
            kept.append(item)
        seen[test] += 1
    return kept


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (step := config.getoption("--every")) > 1:
        kept = every(step, items)
        config.hook.pytest_deselected(items=list(set(items) - set(kept)))
        items[:] = kept
    if config.getoption("--require-torch") or importlib.util.find_spec("torch") is not None:
        return
    for item in items:
        if item.get_closest_marker("torch"):
            item.add_marker(pytest.mark.skip(reason="needs torch: make test-torch, or pip install '.[torch]'"))


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
