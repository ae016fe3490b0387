"""What `--every` leaves of the tests: of each its first case, and every so many after it."""

import types

import pytest
from conftest import every


@pytest.mark.parametrize(
    ("step", "left"), [(1, "a[1] a[2] a[3] a[4] b c[x]"), (3, "a[1] a[4] b c[x]"), (9, "a[1] b c[x]")]
)
def test_every_test_is_left(step: int, left: str) -> None:
    items = [types.SimpleNamespace(nodeid=f"tests/{name}") for name in ("a[1]", "a[2]", "b", "a[3]", "c[x]", "a[4]")]
    kept = [item.nodeid.removeprefix("tests/") for item in every(step, items)]
    assert sorted(kept) == left.split()
    assert kept == [name for name in ("a[1]", "a[2]", "b", "a[3]", "c[x]", "a[4]") if name in kept]
