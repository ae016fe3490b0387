"""The core is light, and its table of contents says what each transform computes."""

import ast
import importlib
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


def _printed_by(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout


ROOT = Path(__file__).parents[1]


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
    assert {"jax", "optax", "optlab.algebra.combinators", "optlab.optimizers"} <= modules
    assert modules & HEAVY == set()
    assert not {name for name in modules if re.match(r"optlab\.(lab|equations|blackbox|cli)\b", name)}
    peers = _imported_by("import jax, jax.extend.core, optax, chex")
    assert {name.partition(".")[0] for name in modules - peers} == {"optlab"}


def test_the_properties_are_imported_by_name_and_bring_in_nothing_either():
    assert "optlab.testing" not in _imported_by("import optlab")
    modules = _imported_by("from optlab import testing")
    assert modules & HEAVY == set()
    peers = _imported_by("import jax, jax.export, jax.extend.core, optax, chex")
    assert {name.partition(".")[0] for name in modules - peers} == {"optlab"}


# Which rooms stand on which: each may import from those on the floors below it, and from itself.
FLOORS = (
    ("outside",),
    ("algebra",),
    ("atoms",),
    ("decay", "memory"),
    ("optimizers", "training"),
    ("portable", "testing"),
    ("equations", "blackbox"),
    ("lab",),
    ("bench",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
PACKAGE = Path(optlab.__file__).parent
CONTENTS = {"optlab", "optlab.__main__", "optlab.aliases"}  # they stand above all rooms


def _sources(package: Path) -> dict[str, ast.Module]:
    files = [(path.relative_to(package).with_suffix("").parts, path) for path in package.rglob("*.py")]
    paths = {".".join(("optlab", *parts)): path for parts, path in files}
    return {name.removesuffix(".__init__"): ast.parse(path.read_text()) for name, path in paths.items()}


def _imports(sources: dict[str, ast.Module]) -> dict[str, set[str]]:
    """The modules of optlab that each imports, at its head or inside of its functions."""
    found: dict[str, set[str]] = {name: set() for name in sources}
    for name, tree in sources.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names if alias.name.partition(".")[0] == "optlab"}
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "optlab":
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= {module if module in sources else node.module for module in inner}
    return found


def _room(module: str) -> str:
    return module.split(".")[1]


def arrows_up(imports: dict[str, set[str]]) -> list[str]:
    """Imports that point up, or to another room of the same floor."""
    return [
        f"{name} imports {other}"
        for name, others in imports.items()
        for other in sorted(others)
        if name not in CONTENTS
        and (
            (other in CONTENTS and _room(name) != "cli")
            or (other not in CONTENTS and _room(name) != _room(other) and FLOOR[_room(other)] >= FLOOR[_room(name)])
        )
    ]


def circles(imports: dict[str, set[str]]) -> list[str]:
    """Modules that come back to themselves; a package's table of contents belongs to nobody's circle but its own."""
    within = {name: {other for other in others if other != _package(name)} for name, others in imports.items()}

    def reached(name: str) -> set[str]:
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            new = within.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    return [name for name in within if name in reached(name)]


def _package(name: str) -> str:
    return name.rpartition(".")[0]


def test_imports_point_down():
    assert arrows_up(_imports(_sources(PACKAGE))) == []


def test_imports_make_no_circle():
    assert circles(_imports(_sources(PACKAGE))) == []


def test_an_arrow_up_and_a_circle_would_be_seen(tmp_path):
    for path, source in {
        "__init__.py": "",
        "algebra/__init__.py": "",
        "algebra/one.py": "from optlab.algebra import other",
        "algebra/other.py": "def f():\n    from optlab.algebra.one import g",
        "decay/links.py": "import optlab.memory.storage",
        "memory/storage.py": "from optlab.algebra.one import g",
        "outside/names.py": "import optlab",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(source)
    imports = _imports(_sources(tmp_path))
    assert sorted(arrows_up(imports)) == [
        "optlab.decay.links imports optlab.memory.storage",
        "optlab.outside.names imports optlab",
    ]
    assert sorted(circles(imports)) == ["optlab.algebra.one", "optlab.algebra.other"]


def test_no_module_has_the_name_of_a_function_in_it_or_above_it():
    sources = _sources(PACKAGE)
    for module, tree in sources.items():
        *above, name = module.split(".")
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name not in names, f"{module} holds {name}"
        for depth in range(1, len(above) + 1):
            package = ".".join(above[:depth])
            value = getattr(importlib.import_module(package), name, None)
            assert value is None or inspect.ismodule(value), f"{module} is hidden by {name} of {package}"


def test_public_modules_stay_importable():
    for name in "codecs", "masks", "testing", "lab":
        assert inspect.ismodule(importlib.import_module(f"optlab.{name}"))
    assert importlib.import_module("optlab.codecs") is optlab.codecs


def test_pickles_name_the_modules_of_0_1_0_and_functions_stay_functions():
    for name in "ema", "rms", "store", "product", "transform":
        assert inspect.ismodule(importlib.import_module(f"optlab.{name}"))
    assert all(inspect.isfunction(getattr(optlab, name)) for name in ("rms", "store", "product", "draw"))


def test_a_heavy_import_would_be_seen():
    assert "rich" in _imported_by("import rich, optlab")


def test_the_table_of_contents_is_whole_and_in_order():
    assert sorted(optlab.__all__) == sorted(set(optlab.__all__))
    assert all(hasattr(optlab, name) for name in optlab.__all__)
    public_names = {
        name for name, value in vars(optlab).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public_names | ON_DEMAND == set(optlab.__all__)


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
    with pytest.raises(AttributeError, match=r"^module 'optlab' has no attribute 'explian'; did you mean explain"):
        optlab.explian  # noqa: B018  # pyright: ignore
    with pytest.raises(AttributeError, match=r"^module 'optlab' has no attribute '__wrapped__'$"):
        optlab.__wrapped__  # noqa: B018  # pyright: ignore


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
    assert said == {"optlab.bench.grid": "optlab.lab needs scipy: pip install 'optlab[lab]'"}


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
