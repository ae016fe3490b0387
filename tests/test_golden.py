"""What optlab 0.1.0 wrote is read: states and studies go on, pickles are the transforms that they were.

A later layout reads these files too, or refuses them by one error that names it. They are not made again: see
`golden/make_v0_1_0.py`.
"""

import contextlib
import functools
import json
import pickle
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import public
import pytest
import xarray as xr
from golden import make_v0_1_0 as golden

import optlab
from optlab import cli, lab
from optlab.lab import analysis, figures, results

pytestmark = pytest.mark.xdist_group("golden")

FOLDER = golden.FOLDER

# Of the largest number of a leaf. The numbers are the same to the bit where XLA fuses the same loops; elsewhere a step
# of float32, 6e-8 for each rounding, is a few roundings apart.
TOLERANCE = 1e-6


def test_every_file_is_there_and_no_other():
    states = {f"states/{name}.npz" for name in golden.TRANSFORMS}
    study = {"study.toml", "results.nc", "stopped/unfinished/study.json", "stopped/unfinished/00000.npz"}
    there = {path.relative_to(FOLDER).as_posix(): path for path in FOLDER.rglob("*") if path.is_file()}
    assert there.keys() == states | study | {"stream.npz", "pickles.npz", "bench.json"}
    assert sum(path.stat().st_size for path in there.values()) < 600_000


# States -------------------------------------------------------------------------------------------------------------


@functools.cache
def built(name: str) -> optlab.Transform:
    return golden.TRANSFORMS[name]()


@functools.cache
def kept(path: str) -> dict[str, np.ndarray]:
    _, arrays = golden.read(FOLDER / path)
    return arrays


def grads() -> list[Any]:
    like, stream = golden.stream()["start"], kept("stream.npz")
    return [golden.tree_like(like, f"grads {step}", stream) for step in range(1, golden.STEPS + 1)]


def share_apart(name: str, state: Any, peer: Any) -> float:
    """How far the updates of the last two steps, made from `state`, are from those that were kept."""
    arrays = kept(f"states/{name}.npz")
    params = golden.tree_like(grads()[0], "params", arrays)
    with peer() if name == golden.OF_OPTAX else contextlib.nullcontext():
        _, _, made = golden.follow(built(name), params, state, grads()[golden.KEPT :])
    shares = [0.0]
    for step, updates in enumerate(made, start=golden.KEPT + 1):
        wanted = golden.tree_like(updates, f"updates {step}", arrays)
        for u, leaf in zip(jax.tree.leaves(updates), jax.tree.leaves(wanted), strict=True):
            assert (u.shape, u.dtype) == (leaf.shape, leaf.dtype)
            shares.append(float(jnp.abs(u - leaf).max() / jnp.abs(leaf).max()))
    return float(np.max(shares))  # NaN if one is


def begun(name: str) -> Any:
    """The state before the first step."""
    return built(name).init(golden.tree_like(grads()[0], "params", kept(f"states/{name}.npz")))


@pytest.mark.parametrize("name", golden.TRANSFORMS)
def test_a_run_goes_on_from_its_state(name, peer):
    like = begun(name)
    state = golden.tree_like(like, "state", kept(f"states/{name}.npz"))
    types = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (state, like)]
    assert types[0] == types[1]
    assert share_apart(name, state, peer) <= TOLERANCE


@pytest.mark.parametrize("name", golden.TRANSFORMS)
def test_a_run_begun_anew_is_not_taken_for_it(name, peer):
    if name in ("sgd", "sign_sgd"):
        assert list(jax.tree.leaves(begun(name))) == [0]  # the count, which nothing reads
    else:
        assert share_apart(name, begun(name), peer) > 1e3 * TOLERANCE


@pytest.mark.parametrize("name", golden.TRANSFORMS)
def test_it_prints_as_it_did(name):
    said, _ = golden.read(FOLDER / "states" / f"{name}.npz")
    assert repr(built(name)) == said


def test_every_optimizer_has_a_state():
    """A new one's goes into the folder of the version that brings it."""
    assert set(public.OPTIMIZERS) <= set(golden.TRANSFORMS)


def test_the_stream_was_made_of_this_script():
    anew = {key: leaf for name, tree in golden.stream().items() for key, leaf in golden.named(name, tree).items()}
    assert kept("stream.npz").keys() == anew.keys()
    assert all((kept("stream.npz")[key] == leaf).all() for key, leaf in anew.items())


def test_codecs_act():
    names = {name: {array.dtype.name for array in kept(f"states/{name}.npz").values()} for name in golden.STORED}
    codes = {"store_bfloat16": "bfloat16", "store_int8": "uint8", "store_float8": "float8_e5m2"}
    assert all(dtype in names[name] for name, dtype in codes.items())
    assert names["store_by_slot"] >= {"bfloat16", "uint8"}


# Pickles ------------------------------------------------------------------------------------------------------------


@functools.cache
def pickles() -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """What every object printed, and their bytes."""
    said, arrays = golden.read(FOLDER / "pickles.npz")
    return json.loads(said), arrays


def unpickled(name: str) -> Any:
    _, arrays = pickles()
    return pickle.loads(arrays[name].tobytes())


@pytest.mark.parametrize("name", golden.PICKLED)
def test_a_pickle_is_what_it_was(name):
    said, _ = pickles()
    old, anew = unpickled(name), golden.PICKLED[name]()
    assert type(old) is type(anew)
    assert old == anew
    assert hash(old) == hash(anew)
    assert repr(old) == repr(anew) == said[name]


def test_no_pickle_is_taken_for_another():
    said, arrays = pickles()
    assert said.keys() == golden.PICKLED.keys()
    assert arrays.keys() == {*said, *(f"state of {name}" for name in golden.STATES_PICKLED)}
    assert len({unpickled(name) for name in said}) == len(said)


@pytest.mark.parametrize("name", golden.STATES_PICKLED)
def test_a_pickled_state_is_that_of_the_file(name):
    state = unpickled(f"state of {name}")
    wanted = golden.tree_like(begun(name), "state", kept(f"states/{name}.npz"))
    assert jax.tree.structure(state) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, state, wanted)


# A study ------------------------------------------------------------------------------------------------------------

CHUNK = "stopped/unfinished/00000.npz"


@pytest.fixture(scope="module")
def whole() -> xr.Dataset:
    """The study, run here from its beginning to its end."""
    data = lab.run(lab.read(FOLDER / "study.toml"))
    assert data is not None
    return data


def first_chunk(data: xr.Dataset) -> dict[str, np.ndarray]:
    """Of a dataset, what the chunk that was finished should hold."""
    runs = data.sel(site="update", coupling="natural", gate="none").transpose(
        "seed", "learning_rate", "weight_decay", ...
    )
    names = {
        name: name if name == "diverged_at" else f"curve_{name}" for name in np.load(FOLDER / CHUNK) if name != "key"
    }
    return {name: runs[of].values.reshape(2, 4, *runs[of].shape[3:]) for name, of in names.items()}


def require_kept_chunk(data: xr.Dataset) -> None:
    with np.load(FOLDER / CHUNK, allow_pickle=False) as chunk:
        assert chunk["key"].item() == "update seeds 0:2 cells 0:4"
        for name, values in first_chunk(data).items():
            np.testing.assert_array_equal(values, chunk[name], err_msg=name)


def test_a_stopped_study_is_refused_with_what_to_do(tmp_path):
    """Its chunks don't say what decided their numbers: hyperparameters by six digits, functions and data not at all."""
    shutil.copytree(FOLDER / "stopped", tmp_path, dirs_exist_ok=True)
    with pytest.raises(lab.StudyError) as error:
        lab.run(lab.read(FOLDER / "study.toml"), tmp_path)
    assert str(error.value) == (
        f"{tmp_path} holds an unfinished study of optlab 0.1.0, whose chunks this version can't go on with; "
        "end it with that version, or give overwrite=True, or another folder"
    )
    assert {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.glob("*/*")} == {
        path.relative_to(FOLDER / "stopped"): path.read_bytes() for path in FOLDER.glob("stopped/*/*")
    }


def test_results_are_read(whole):
    data = results.load(FOLDER / "results.nc")
    require_kept_chunk(data)
    assert data.attrs.keys() == whole.attrs.keys()
    assert data.attrs["command"] == "optlab study study.toml --output results"
    told, tells = (json.loads(each.attrs["equations"]) for each in (data, whole))
    assert told == {name: {key: said[key] for key in told[name]} for name, said in tells.items()}
    assert {name: values.dims for name, values in data.variables.items()} == {
        name: values.dims for name, values in whole.transpose(*data.dims).variables.items()
    }
    assert {name: data[name].dtype for name in data.data_vars} == {name: whole[name].dtype for name in whole.data_vars}
    assert all((data[axis] == whole[axis]).all() for axis in whole.coords)
    best = {cell.structure: cell.learning_rate for cell in results.best_cells(data)}
    assert best == dict.fromkeys(("update cautious", "update", "gradient", "none"), 0.1)
    assert data.diverged.sel(learning_rate=1000.0).where(data.trained).mean() == 1
    assert analysis.basin(data, "update") is not None


@pytest.mark.parametrize("name", ["maps", "curves", "gain_curves", "effective_decay", "trajectories"])
def test_figures_are_drawn_of_the_results(name):
    assert getattr(figures, name)(results.load(FOLDER / "results.nc")) is not None


# The bench ----------------------------------------------------------------------------------------------------------


def layout(rows: list[dict[str, Any]]) -> list[tuple[str, str, list[str]]]:
    assert all(row.keys() == {"name", "unit", "figures"} for row in rows)
    return [(row["name"], row["unit"], list(row["figures"])) for row in rows]


def test_the_bench_says_what_it_said(tmp_path, peer):
    path = tmp_path / "bench.json"
    with peer():
        assert cli.main(["bench", "counts", "--repeats", "1", "--json", str(path)]) == 0
    before, now = (json.loads(file.read_text()) for file in (FOLDER / "bench.json", path))
    assert before.keys() == now.keys() == {"rows", "left out", "setting"}
    assert before["setting"].keys() == now["setting"].keys() == {"device", "versions", "commit", "repeats", "load"}
    assert before["setting"]["commit"] == "540e7cc"
    assert list(before["rows"]) == ["counts", "compile", "eager", "step", "state"]
    layouts = {part: layout(rows) for part, rows in before["rows"].items()}
    assert layouts["counts"] == layout(now["rows"]["counts"])
    assert layouts["eager"] == [("an update outside jit, 1000 leaves of 4 shapes", "ms", ["optlab", "optax"])]
    assert {name for *_, names in layouts["step"] for name in names} >= {"optlab", "optax", "handed through"}
    assert all(names[:3] == ["float32", "bfloat16", "int8"] for *_, names in layouts["state"])
    assert all(figure > 0 for rows in before["rows"].values() for row in rows for figure in row["figures"].values())
