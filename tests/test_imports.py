"""The core is light, and its table of contents says what each transform computes."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import public
import pytest

import optlab

# What the lab and the explanations need, and what that brings along; jax and optax import none of it by themselves.
HEAVY = {"flax", "h5netcdf", "h5py", "jinja2", "matplotlib", "pandas", "rich", "scipy", "sklearn", "sympy", "xarray"}
ON_DEMAND = {"check", "compare", "explain", "identify"}
PACKAGE = Path(optlab.__file__).parent


def _printed_by(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout


def _imported_by(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter holds after `code`."""
    return set(json.loads(_printed_by(f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))")))


def _hiding(modules: set[str]) -> str:
    """Code after which the `modules` are as if they were not installed."""
    return f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""


def test_the_core_brings_in_jax_and_optax_and_nothing_of_the_lab():
    modules = _imported_by("import optlab")
    assert {"jax", "optax", "optlab.algebra", "optlab.optimizers"} <= modules
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
    assert public_names | ON_DEMAND == set(optlab.__all__)


def test_what_needs_an_extra_is_imported_when_asked_for_and_names_the_extra_when_missing():
    assert not {"optlab.blackbox", "optlab.equations"} & _imported_by("import optlab")
    assert "optlab.equations.explanation" in _imported_by("import optlab; optlab.explain")
    asked_for = """
for name in ("explain", "compare", "identify", "check"):
    try:
        getattr(optlab, name)
    except ImportError as error:
        print(error)
"""
    names = ("explain", "compare", "identify", "check")
    wanted = [f"optlab.{name} needs sympy: pip install 'optlab[explain]'" for name in names]
    for hiding in ('import sys; sys.modules["sympy"] = None', _hiding({"sympy"})):
        assert _printed_by(f"{hiding}\nimport optlab\n{asked_for}").splitlines() == wanted
    with pytest.raises(AttributeError, match=r"^module 'optlab' has no attribute 'explian'$"):
        optlab.explian  # noqa: B018  # pyright: ignore


def test_a_star_import_gives_what_is_there():
    star = "import json\nfrom optlab import *\nprint(json.dumps(sorted(globals())))"
    given = set(json.loads(_printed_by(star)))
    assert set(optlab.__all__) <= given
    assert given & ON_DEMAND == ON_DEMAND
    alone = set(json.loads(_printed_by(_hiding(HEAVY) + star)))
    assert set(optlab.__all__) - alone == ON_DEMAND


MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.name != "__main__.py"
)


def test_every_module_works_with_the_core_alone_or_names_the_extra():
    tried = """
import importlib, json
said = {}
for module in MODULES:
    try:
        importlib.import_module(module)
    except ImportError as error:
        said[module] = str(error)
print(json.dumps(said))
"""
    said = json.loads(_printed_by(f"{_hiding(HEAVY)}\nMODULES = {MODULES!r}\n{tried}"))
    extras = {"optlab.equations": "explain", "optlab.blackbox": "explain", "optlab.lab": "lab"}
    for room, extra in extras.items():
        inside = [module for module in MODULES if f"{module}.".startswith(f"{room}.")]
        assert len(inside) > 1
        assert {said.pop(module) for module in inside} == {f"{room} needs scipy: pip install 'optlab[{extra}]'"}
    assert said == {}


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").read_bytes() == b""


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
