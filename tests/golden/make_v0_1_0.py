"""Made `v0_1_0/`: what optlab 0.1.0 wrote, so that whatever comes after it reads that, or refuses it by name.

    cd tests && python -m golden.make_v0_1_0

Run once, at commit 540e7cc, the last one before the modules moved; kept as the record of how. Later versions write into
folders of their own. The folder holds

- `stream.npz`: the weights `start` and the gradients `grads 1` to `grads 5`.
- `states/NAME.npz`, for every transform of `TRANSFORMS`: `state` after three steps, the `params` there, and what the
  next two steps make of them, `updates 4` and `updates 5`.
- `pickles.npz`: the bytes of every object of `PICKLED`, as `pickle` writes them at protocol 4.
- `study.toml`, `results.nc`, which `optlab study study.toml` wrote, and `stopped/`, the folder of the same study when
  it was ended in its second chunk.
- `bench.json`, which `optlab bench --json bench.json --repeats 1` wrote.

In the npz files a tree is one array per leaf, named by `jax.tree_util.keystr`. An array whose dtype NumPy doesn't have
is kept as its bits; the entry `about`, a JSON text, has the dtypes of these, and the `repr` of what stands in the file.
"""

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optlab
from optlab import chain, codecs

FOLDER = Path(__file__).with_name("v0_1_0")
PROTOCOL = 4
KEPT, STEPS = 3, 5  # the state is that after three steps of five

# 299 numbers: two whole blocks of a codec, rows that are shorter than one, and leaves that `store` leaves as they are.
SHAPES = {"dense": {"bias": (7,), "kernel": (5, 7)}, "embedding": (2, 128), "scale": ()}
MATRICES = {"dense": {"bias": False, "kernel": True}, "embedding": True, "scale": False}


# What is kept -------------------------------------------------------------------------------------------------------

ADAM = {"b1": 0.8, "b2": 0.95, "eps": 1e-3}
RAMP = optlab.product(0.1, abs)  # a schedule that compares by value, and that pickles


def _adamw() -> optlab.Transform:
    return optlab.adamw(0.03, **ADAM, weight_decay=0.2)


def _core() -> optlab.Transform:
    return optlab.scale_by_rms(0.95, 1e-3, numerator=chain(optlab.scale_by_ema(0.8), optlab.bias_correct(0.8)))


OPTIMIZERS: dict[str, Callable[[], optlab.Transform]] = {
    "sgd": lambda: optlab.sgd(0.03),
    "momentum": lambda: optlab.momentum(0.03, 0.8),
    "heavy_ball": lambda: optlab.heavy_ball(0.03, 0.8),
    "nesterov": lambda: optlab.nesterov(0.03, 0.8),
    "sgdw": lambda: optlab.sgdw(0.03, 0.8, weight_decay=0.2),
    "sign_sgd": lambda: optlab.sign_sgd(0.03),
    "signum": lambda: optlab.signum(0.03, 0.8),
    "lion": lambda: optlab.lion(0.03, 0.8, 0.95, weight_decay=0.2),
    "adagrad": lambda: optlab.adagrad(0.03, 1e-3, initial=0.1),
    "rmsprop": lambda: optlab.rmsprop(0.03, 0.95, 1e-3),
    "adam": lambda: optlab.adam(0.03, **ADAM),
    "adam_l2": lambda: optlab.adam_l2(0.03, **ADAM, weight_decay=0.2),
    "adamw": _adamw,
    "adamw_independent": lambda: optlab.adamw_independent(
        0.03,
        **ADAM,
        weight_decay=optlab.product(0.2, 0.1),
    ),
    "adams": lambda: optlab.adams(0.03, **ADAM, weight_decay=0.2),
    "amsgrad": lambda: optlab.amsgrad(0.03, **ADAM),
    "adamax": lambda: optlab.adamax(0.03, **ADAM),
    "nadam": lambda: optlab.nadam(0.03, **ADAM),
    "laprop": lambda: optlab.laprop(0.03, **ADAM),
    "adabelief": lambda: optlab.adabelief(0.03, **ADAM, eps_root=1e-4),
}

STORED: dict[str, Callable[[], optlab.Transform]] = {
    "store_bfloat16": lambda: optlab.store(_adamw(), codecs.bfloat16, min_size=16),
    "store_int8": lambda: optlab.store(_adamw(), codecs.int8, min_size=16, seed=7),
    "store_float8": lambda: optlab.store(_adamw(), codecs.float8, min_size=16),
    "store_by_slot": lambda: optlab.store(
        _adamw(), {"numerator": codecs.bfloat16, "denominator.ema": codecs.Int8(64, "nearest")}, min_size=16
    ),
}

OF_OPTAX = "optax_in_a_chain"
TRANSFORMS: dict[str, Callable[[], optlab.Transform]] = {
    **OPTIMIZERS,
    **STORED,
    "adamw_kahan": lambda: chain(_adamw(), optlab.kahan()),
    "adamw_masked": lambda: optlab.adamw(0.03, **ADAM, weight_decay=0.2, mask=MATRICES),
    "adamw_scheduled": lambda: optlab.adamw(RAMP, **ADAM, weight_decay=RAMP),
    "decay_cautiously": lambda: chain(
        _core(),
        optlab.decay_cautiously(optlab.add_decayed_weights(0.2, MATRICES)),
        optlab.scale_by_learning_rate(0.03),
    ),
    "decay_toward_init": lambda: chain(
        _core(),
        optlab.decay_toward_init(optlab.add_decayed_weights(0.2, MATRICES)),
        optlab.scale_by_learning_rate(0.03),
    ),
    "decay_stable": lambda: optlab.Decay("after", "corrected", "stable", "init").apply_to(
        _core(), 0.3, 0.5, schedule=RAMP
    ),
    "decay_proximal": lambda: optlab.Decay("proximal", "constant").apply_to(_core(), 0.03, 0.2),
    OF_OPTAX: lambda: chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(**ADAM),
        optlab.add_decayed_weights(0.2),
        optlab.scale_by_learning_rate(0.03),
    ),
}
WEIGHTS = {"adamw_kahan": jnp.bfloat16}  # of other transforms float32

# Beside the transforms, what they are given, and states as users pickle them. A chain with a link of optax does not
# pickle: the functions of those are local ones.
STATES_PICKLED = ("adamw", "adams", "adamw_kahan")
PICKLED: dict[str, Callable[[], Any]] = {
    **{name: make for name, make in TRANSFORMS.items() if name != OF_OPTAX},
    "adam_l2_masked": lambda: optlab.adam_l2(0.03, **ADAM, weight_decay=0.2, mask=MATRICES),
    "store": lambda: optlab.store(optlab.adamw(1e-3, weight_decay=0.1), codecs.int8),
    "divide": lambda: optlab.divide(optlab.identity(), optlab.rms(0.95, 1e-3)),
    "Decay": lambda: optlab.Decay("step", "schedule", gate="cautious", target="init"),
    "product": lambda: optlab.product(0.2, RAMP),
}


# Trees in files -----------------------------------------------------------------------------------------------------


def named(prefix: str, tree: Any) -> dict[str, np.ndarray]:
    """The leaves of `tree` by `prefix` and path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {prefix + jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def write(path: Path, said: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Keeps `arrays` under their names."""
    foreign = {name: array.dtype.name for name, array in arrays.items() if array.dtype.isbuiltin != 1}
    bits = {name: arrays[name].view(f"u{arrays[name].dtype.itemsize}") for name in foreign}
    about = json.dumps({"repr": said, "dtypes": foreign}, indent=1)
    np.savez_compressed(path, **{"about": np.array(about), **arrays, **bits})


def read(path: Path) -> tuple[str, dict[str, np.ndarray]]:
    """What `write` was given."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    about = json.loads(arrays.pop("about").item())
    for name, dtype in about["dtypes"].items():
        arrays[name] = arrays[name].view(jnp.dtype(dtype))
    return about["repr"], arrays


def tree_like(like: Any, prefix: str, arrays: Mapping[str, np.ndarray]) -> Any:
    """The tree whose leaves `named` kept under `prefix`, in the structure of `like`.

    Raises:
      KeyError: `like` has other leaves than what was kept.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [prefix + jax.tree_util.keystr(path) for path, _ in paths]
    kept = {name for name in arrays if name.partition("[")[0].partition(".")[0] == prefix}
    if kept != set(names):
        raise KeyError(f"kept but not asked for or the other way round: {sorted(kept ^ set(names))}")
    return structure.unflatten([jnp.asarray(arrays[name]) for name in names])


# Making -------------------------------------------------------------------------------------------------------------


def stream() -> dict[str, Any]:
    """The weights at the start, and the gradients of every step."""
    rng = np.random.default_rng(20)

    def tree() -> Any:
        draw = lambda shape: np.asarray(rng.normal(size=shape), np.float32)  # noqa: E731
        return jax.tree.map(draw, SHAPES, is_leaf=lambda shape: isinstance(shape, tuple))

    return {"start": tree()} | {f"grads {step}": tree() for step in range(1, STEPS + 1)}


def follow(tx: optlab.Transform, params: Any, state: Any, steps: Sequence[Any]) -> tuple[Any, Any, list[Any]]:
    """Weights and state after `steps`, which are gradients, and the updates of each."""
    update, made = jax.jit(tx.update), []
    for grads in steps:
        updates, state = update(grads, state, params)
        params = optlab.apply_updates(params, updates)
        made.append(updates)
    return params, state, made


def _make_states(folder: Path) -> dict[str, Any]:
    """Writes the states, and gives those that are pickled too."""
    (folder / "states").mkdir()
    trees = stream()
    grads = [trees[f"grads {step}"] for step in range(1, STEPS + 1)]
    write(folder / "stream.npz", "", {key: leaf for name in trees for key, leaf in named(name, trees[name]).items()})
    pickled = {}
    for name, make in TRANSFORMS.items():
        tx = make()
        start = jax.tree.map(lambda w, name=name: jnp.asarray(w, WEIGHTS.get(name, jnp.float32)), trees["start"])
        params, state, _ = follow(tx, start, tx.init(start), grads[:KEPT])
        _, _, updates = follow(tx, params, state, grads[KEPT:])
        arrays = named("params", params) | named("state", state)
        for step, made in enumerate(updates, start=KEPT + 1):
            arrays |= named(f"updates {step}", made)
        write(folder / "states" / f"{name}.npz", repr(tx), arrays)
        if name in STATES_PICKLED:
            pickled[f"state of {name}"] = jax.device_get(state)
    return pickled


def _make_pickles(folder: Path, states: Mapping[str, Any]) -> None:
    objects = {name: make() for name, make in PICKLED.items()} | dict(states)
    said = {name: repr(kept) for name, kept in objects.items() if name in PICKLED}
    content = {name: np.frombuffer(pickle.dumps(kept, PROTOCOL), np.uint8) for name, kept in objects.items()}
    write(folder / "pickles.npz", json.dumps(said), content)


STUDY = """\
task = "quadratic"
sites = ["update", "gradient", "none"]
gates = ["none", "cautious"]
learning_rates = [0.1, 1000.0]
weight_decays = [0.1, 1.0]
seeds = 2
steps = 4
every = 2
measure_decay = true
memory = "64MiB"
"""


def _make_study(folder: Path) -> None:
    from optlab import lab

    (folder / "study.toml").write_text(STUDY)

    def stop(progress: Any) -> None:
        if progress.done:
            raise InterruptedError

    with contextlib.suppress(InterruptedError):
        lab.run(lab.read(folder / "study.toml"), folder / "stopped", stop)
    with tempfile.TemporaryDirectory() as place:
        shutil.copy(folder / "study.toml", place)
        _command(place, "study", "study.toml", "--output", "results")
        shutil.copy(Path(place) / "results" / "results.nc", folder)


def _command(place: str | Path, *arguments: str) -> None:
    """Runs `optlab` in a folder, by names that say nothing of the machine."""
    environment = os.environ | {"PYTHONPATH": str(Path(optlab.__file__).parents[1])}
    subprocess.run([sys.executable, "-m", "optlab", *arguments], cwd=place, env=environment, check=True)


def main() -> None:
    if FOLDER.exists():
        raise SystemExit(f"{FOLDER.name} is there: what stands in it is what 0.1.0 wrote, and is not made again")
    FOLDER.mkdir()
    _make_pickles(FOLDER, _make_states(FOLDER))
    _make_study(FOLDER)
    _command(FOLDER, "bench", "--repeats", "1", "--json", "bench.json")


if __name__ == "__main__":
    main()
