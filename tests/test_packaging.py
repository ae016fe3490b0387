"""What is installed: the extras, and the versions that the tests run with."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
PINNED = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]


def _key(name: str) -> str:
    return name.lower().replace("_", "-")


def test_python_3_11_has_one_version_of_everything_and_a_newer_one_is_free():
    assert len({_key(pin.name) for pin in PINNED}) == len(PINNED)
    for pin in PINNED:
        assert [spec.operator for spec in pin.specifier] == ["=="], pin.name
        assert pin.marker is not None, pin.name
        assert pin.marker.evaluate({"python_version": "3.11"}), pin.name
        assert not pin.marker.evaluate({"python_version": "3.12"}), pin.name


def test_the_pinned_versions_are_among_those_that_are_asked_for():
    pins = {_key(pin.name): next(iter(pin.specifier)).version for pin in PINNED}
    asked = [Requirement(line) for line in PROJECT["dependencies"]]
    asked += [requirement for extra, lines in EXTRAS.items() if extra != "cuda" for requirement in lines]
    for requirement in asked:
        if requirement.name != "optlab":
            assert requirement.specifier.contains(pins[_key(requirement.name)]), str(requirement)


def test_torch_comes_with_its_own_extra_alone():
    assert [extra for extra, lines in EXTRAS.items() if "torch" in {line.name for line in lines}] == ["torch"]
    assert not any("torch" in line.extras for lines in EXTRAS.values() for line in lines)


def test_the_page_on_versions_says_what_is_pinned_and_what_is_lowest():
    page = " ".join((ROOT / "docs" / "versions.md").read_text().split())
    pins = {_key(pin.name): next(iter(pin.specifier)).version for pin in PINNED}
    bounds = [*map(Requirement, PROJECT["dependencies"]), *EXTRAS["lab"]]
    lowest = {line.name: next(iter(line.specifier)).version for line in bounds if line.specifier}
    assert f"JAX {pins['jax']}, optax {pins['optax']}, Flax {pins['flax']}" in page
    assert f"torch {pins['torch']}" in page
    assert f"JAX {lowest['jax']}, optax {lowest['optax']} and Flax {lowest['flax']}" in page
    assert lowest["jax"] == lowest["jaxlib"]
