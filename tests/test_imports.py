"""The core is light, and its table of contents says what each transform computes."""

import inspect
import json
import pathlib
import re
import subprocess
import sys

import public
import pytest

import optlab

# What the lab and the explanations need, and what that brings along; jax and optax import none of it by themselves.
HEAVY = {"flax", "h5netcdf", "h5py", "jinja2", "matplotlib", "pandas", "rich", "scipy", "sklearn", "sympy", "xarray"}


ROOT = pathlib.Path(__file__).parents[1]


def _imported_by(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter holds after `code`."""
    program = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(result.stdout))


def test_the_core_brings_in_jax_and_optax_and_nothing_of_the_lab():
    modules = _imported_by("import optlab")
    assert {"jax", "optax", "optlab.algebra.combinators", "optlab.optimizers"} <= modules
    assert modules & HEAVY == set()
    assert not {name for name in modules if re.match(r"optlab\.(lab|equations|blackbox|cli)\b", name)}
    peers = _imported_by("import jax, optax, chex")
    assert {name.partition(".")[0] for name in modules - peers} == {"optlab"}


def test_the_properties_are_imported_by_name_and_bring_in_nothing_either():
    assert "optlab.testing" not in _imported_by("import optlab")
    modules = _imported_by("from optlab import testing")
    assert modules & HEAVY == set()
    peers = _imported_by("import jax, jax.export, optax, chex")
    assert {name.partition(".")[0] for name in modules - peers} == {"optlab"}


def test_a_heavy_import_would_be_seen():
    assert "rich" in _imported_by("import rich, optlab")


def test_the_table_of_contents_is_whole_and_in_order():
    assert sorted(optlab.__all__) == sorted(set(optlab.__all__))
    assert all(hasattr(optlab, name) for name in optlab.__all__)
    public_names = {
        name for name, value in vars(optlab).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public_names | {"check", "compare", "draw", "explain", "identify"} == set(optlab.__all__)


_SEMI_PUBLIC = r"\bjax(\.|\s+import\s+(\w+\s*,\s*)*)(core|extend|interpreters|_src)\b"


def _reaches(folder):
    """Lines that name a part of JAX which may change any day, or read what function a function was defined in."""
    for file in sorted(folder.rglob("*.py")):
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            if re.search(rf"{_SEMI_PUBLIC}|__qualname__|^\s*(import|from)\s+optax\._src", line):
                yield file.relative_to(ROOT).as_posix(), number, line


def test_what_may_change_in_jax_and_optax_is_reached_for_in_one_module_each():
    allowed = {"optlab/outside/jax_internals.py", "optlab/outside/optax_internals.py", "tests/test_imports.py"}
    reaches = [reach for name in ("optlab", "tests", "examples") for reach in _reaches(ROOT / name)]
    assert {file for file, *_ in reaches} >= allowed - {"tests/test_imports.py"}
    assert [reach for reach in reaches if reach[0] not in allowed] == []


@pytest.mark.parametrize(
    "line", ["import jax.core", "from jax.extend.core import Var", "from jax import extend", "jax._src.core.Trace"]
)
def test_a_reach_would_be_seen(line):
    assert re.search(_SEMI_PUBLIC, line)


def test_what_needs_an_extra_is_imported_when_asked_for_and_names_the_extra_when_missing():
    assert not {"optlab.blackbox", "optlab.equations"} & _imported_by("import optlab")
    assert "optlab.equations.explanation" in _imported_by("import optlab; optlab.explain")
    without = """
import sys
sys.modules["sympy"] = None
import optlab
try:
    optlab.explain
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout == "optlab.explain needs sympy: pip install 'optlab[explain]'\n"
    with pytest.raises(AttributeError, match=r"^module 'optlab' has no attribute 'explian'$"):
        optlab.explian  # noqa: B018  # pyright: ignore


@pytest.mark.parametrize("name", [name for name in optlab.__all__ if callable(getattr(optlab, name))])
def test_every_public_name_is_documented(name):
    documentation = inspect.getdoc(getattr(optlab, name))
    assert documentation is not None
    assert len(documentation.split()) >= 2
    assert not re.match(rf"{name}\(.*\)$", documentation)  # what a dataclass without a docstring gets


@pytest.mark.parametrize("name", [*public.TRANSFORMS, "chain"])
def test_every_transform_begins_with_its_update_rule(name):
    documentation = getattr(optlab, name).__doc__
    assert re.match(r"`[^`]*(->|<-)[^`]*`", documentation), documentation.splitlines()[0]
