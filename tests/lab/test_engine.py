"""The engine: what a study trains is what the formulas say, however it is cut up, shared out, stopped and resumed."""

import dataclasses
import errno
import functools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import xarray as xr

from optlab.bench import grid as bench
from optlab.lab import engine, kept, one_run, plan, programs, provenance, results
from optlab.lab.engine import run
from optlab.lab.errors import StudyError
from optlab.lab.folder import Store
from optlab.lab.one_run import NEVER
from optlab.lab.plan import Shape
from optlab.lab.programs import Programs
from optlab.lab.progress import Progress
from optlab.lab.study import Structure, Study, read
from optlab.lab.tasks import TASKS, Task

pytestmark = pytest.mark.xdist_group("engine")

SMALL = dataclasses.replace(tiny.STUDY, sites=("update",), learning_rates=(0.3, 30.0), seeds=2)


_START = one_run.start


@functools.cache
def _compiled_once(study: Study, task: Task, devices: tuple[Any, ...], real: Any = Programs) -> Programs:
    del devices
    return real(study, task)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """`use(devices, runs)` as in `tiny`; programs that another test has compiled are used again."""

    def use(devices: int, runs: int = 64) -> None:
        tiny.use(devices, runs, monkeypatch.setattr)
        monkeypatch.setattr(
            engine, "Programs", lambda study, task: _compiled_once(study, task, tuple(jax.local_devices()))
        )

    return use


@pytest.fixture(scope="module")
def whole() -> xr.Dataset:
    """The study on all eight devices at once."""
    return run(tiny.STUDY)


def numbers(data: xr.Dataset) -> xr.Dataset:
    return data.drop_attrs()


# One run --------------------------------------------------------------------------------------------------------------


def by_hand(learning_rate: float, weight_decay: float, seed: int) -> tuple[dict[str, list[float]], int]:
    """AdamW in float64 on the line of `seed`: the metrics after 4, 8 and 12 updates, and when it diverged."""
    task = tiny.tiny()
    data, params, key = _START(task, jnp.int32(seed))
    parts = {name: tuple(np.float64(values) for values in part) for name, part in data.items()}
    w = np.append(np.float64(params["slope"]), 0.0)
    m, v, diverged_at = np.zeros(3), np.zeros(3), NEVER
    curves: dict[str, list[float]] = {f"{name}_loss": [] for name in parts} | {"weight_norm": []}

    def residuals(features: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return features @ w[:2] + w[2] - targets

    for step in range(12):
        features, targets = (np.float64(values) for values in task.batch(data, key, jnp.int32(step)))
        error = residuals(features, targets)
        if diverged_at == NEVER and not np.mean(error**2) <= 100:
            diverged_at = step
        g = 2 * np.append(error @ features, error.sum()) / len(error)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        direction = m / (1 - 0.9 ** (step + 1)) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-3)
        if diverged_at == NEVER:
            w = w - learning_rate * (direction + weight_decay * w)
        if step % 4 == 3:
            for name, part in parts.items():
                curves[f"{name}_loss"].append(np.mean(residuals(*part) ** 2))
            curves["weight_norm"].append(np.sqrt(w @ w))
    return curves, diverged_at


def differences(data: xr.Dataset, study: Study) -> list[str]:
    """Where the runs of the site `update` are not those by hand."""
    found = []
    for rate in study.learning_rates:
        for decay in study.weight_decays:
            for seed in range(study.seeds):
                cell = data.sel(site="update", learning_rate=rate, weight_decay=decay, seed=seed).squeeze(drop=True)
                curves, diverged_at = by_hand(rate, decay, seed)
                curves["diverged_at"] = [diverged_at]
                for name, expected in curves.items():
                    got = np.atleast_1d(cell["diverged_at" if name == "diverged_at" else f"curve_{name}"])
                    if got.shape != np.shape(expected) or not np.allclose(got, expected, rtol=2e-4, atol=1e-5):
                        found.append(f"{name} at {rate}, {decay}, {seed}: {got}, not {expected}")
    return found


def test_every_run_is_the_one_by_hand(whole: xr.Dataset) -> None:
    assert differences(whole, tiny.STUDY) == []
    assert (whole.diverged_at.sel(learning_rate=30.0) > 0).all()
    assert not whole.diverged.sel(learning_rate=[0.01, 0.3]).any()


def _blind(task: Any, *more: Any, real: Any = one_run.advance) -> Any:
    return real(dataclasses.replace(task, divergence=np.inf), *more)


def _late(*arguments: Any, real: Any = one_run._checked) -> Any:
    *first, updates = arguments
    return real(*first, updates + 1)


def _from_zero(*arguments: Any, real: Any = one_run.advance) -> Any:
    return real(*arguments[:-1], jnp.int32(0))


def _forgetful(task: Any, treated: Any, begin: Any, carry: Any, first: Any, real: Any = one_run.advance) -> Any:
    return real(task, treated, begin, carry._replace(state=treated.tx.init(carry.params)), first)


def _swapped(study: Any, task: Any, at: Any, rate: Any, decay: Any, begin: Any, real: Any = one_run.treatment) -> Any:
    return real(study, task, at, decay, rate, begin)


def _other_site(study: Any, task: Any, _: Any, *more: Any, real: Any = one_run.treatment) -> Any:
    return real(study, task, Structure("gradient"), *more)


def _decay_first(study: Study, _: Structure) -> list[tuple[float, float]]:
    return [(rate, decay) for decay in study.weight_decays for rate in study.learning_rates]


def _one_seed(task: Any, seed: Any, real: Any = one_run.start) -> Any:
    return real(task, 0 * seed)


def _padded_before(values: np.ndarray, size: int) -> np.ndarray:
    return np.pad(values, (size - len(values), 0), mode="edge")


WRONG = {
    "divergence seen at measurements alone": (one_run, "advance", _blind),
    "divergence recorded a step late": (one_run, "_checked", _late),
    "batches from the first in every segment": (one_run, "advance", _from_zero),
    "state forgotten between segments": (one_run, "advance", _forgetful),
    "rate and decay exchanged": (one_run, "treatment", _swapped),
    "another site": (one_run, "treatment", _other_site),
    "cells in another order": (Study, "cells", _decay_first),
    "one seed for all": (one_run, "start", _one_seed),
    "padding in the place of runs": (programs, "_padded_to", _padded_before),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_engine_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.use(1 if name != "padding in the place of runs" else 3, 64, monkeypatch.setattr)
    owner, attribute, wrong = WRONG[name]
    monkeypatch.setattr(owner, attribute, wrong)
    assert differences(run(SMALL), SMALL)


def test_nothing_is_computed_once_all_runs_have_diverged(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.use(1, 64, monkeypatch.setattr)
    calls = []

    class Counted:
        def __init__(self, compiled: Any) -> None:
            self.memory_analysis, self._call = compiled.memory_analysis, compiled

        def result(self) -> Any:
            return self

        def __call__(self, *arguments: Any) -> Any:
            calls.append(1)
            return self._call(*arguments)

    def counted(self: Any, *key: Any, real: Any = Programs._make_training) -> Any:
        launch, train = real(self, *key)
        return launch, Counted(train.result())

    monkeypatch.setattr(Programs, "_make_training", counted)
    hopeless = dataclasses.replace(SMALL, learning_rates=(30.0,))
    assert differences(run(hopeless), hopeless) == []
    assert len(calls) == 1


def test_the_site_none_has_one_run_for_all_decays_and_summaries_come_from_the_curves(whole: xr.Dataset) -> None:
    none = whole.sel(site="none").squeeze(drop=True)
    xr.testing.assert_equal(none.isel(weight_decay=0, drop=True), none.isel(weight_decay=1, drop=True))
    assert whole.attrs["runs"] == 3 * (3 + 6)
    lowest = whole.step.values[whole.curve_test_loss.values.argmin(-1)]
    np.testing.assert_array_equal(whole.test_lowest_at, lowest)
    assert whole.trained.all()


def test_a_combination_without_meaning_is_left_out(use: Callable[..., None]) -> None:
    use(1)
    study = dataclasses.replace(SMALL, sites=("none", "gradient", "update"), gates=("cautious", "none"))
    ((structure, reason),) = study.refused().items()
    assert structure == ("gradient", "natural", "cautious")
    assert reason.startswith("Decay: no gate 'cautious' at the site 'gradient'")
    data = run(study).squeeze("coupling")
    assert data.trained.all(["learning_rate", "weight_decay", "seed"]).values.tolist() == [[1, 1], [0, 1], [1, 1]]
    assert np.isnan(data.test_loss.sel(site="gradient", gate="cautious")).all()
    assert not data.diverged.sel(site="gradient", gate="cautious").any()
    none = data.sel(site="none")
    xr.testing.assert_equal(none.sel(gate="none", drop=True), none.sel(gate="cautious", drop=True))
    names = results.by_structure(data.expand_dims("coupling")).structure.values.tolist()
    assert names == ["none", "gradient", "update cautious", "update"]
    update = data.sel(site="update", learning_rate=0.3).test_loss
    assert (update.sel(gate="none") != update.sel(gate="cautious")).any()


def test_decay_in_the_loss_is_decay_in_the_gradient_and_no_divergence(use: Callable[..., None]) -> None:
    use(1)
    study = dataclasses.replace(
        SMALL, sites=("loss", "gradient"), target="init", learning_rates=(0.3,), weight_decays=(0.5, 1e4)
    )
    data = run(study)
    loss, gradient = (data.sel(site=site, drop=True) for site in study.sites)
    xr.testing.assert_allclose(loss, gradient, rtol=1e-4)
    assert not data.diverged.any()  # though the penalty itself is far above the bound
    assert (data.curve_weight_norm.std("step") > 0).any()


def test_sites_coincide_without_decay(use: Callable[..., None]) -> None:
    use(1)
    plain = dataclasses.replace(
        SMALL, sites=("none", "first_moment", "step"), learning_rates=(0.3,), weight_decays=(0.0,), seeds=1
    )
    losses = run(plain).train_loss.values.ravel()
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


def at_the_end(task: Task, params: Any) -> int:
    begin = one_run.start(task, jnp.int32(0))
    return int(one_run.measured_at(task, begin, params, jnp.int32(NEVER), 12)["diverged_at"])


def test_weights_whose_norm_is_infinite_have_diverged_whatever_the_loss() -> None:
    task = dataclasses.replace(tiny.tiny(), metrics=lambda params, data: {"train_loss": jnp.float32(1)})
    for size, diverged_at in ((1e18, NEVER), (1e30, 12), (np.nan, 12)):
        assert at_the_end(task, {"slope": jnp.full(2, size, jnp.float32), "offset": jnp.zeros(())}) == diverged_at


def test_a_loss_at_the_bound_has_not_diverged() -> None:
    params = {"slope": jnp.zeros(2), "offset": jnp.zeros(())}
    for loss, diverged_at in ((100, NEVER), (np.nextafter(np.float32(100), np.float32(101)), 12), (np.nan, 12)):
        metrics = {"train_loss": jnp.float32(loss)}
        task = dataclasses.replace(tiny.tiny(), metrics=lambda params, data, metrics=metrics: metrics)
        assert at_the_end(task, params) == diverged_at


def test_a_schedule_multiplies_the_rate_and_couplings_read_it(use: Callable[..., None]) -> None:
    use(1)
    task = dataclasses.replace(tiny.tiny(), schedule=lambda step: jnp.where(step < 4, 1.0, 0.0))
    data = run(
        dataclasses.replace(
            SMALL, task=task, learning_rates=(0.3,), couplings=("lr", "schedule", "constant", "corrected")
        )
    )
    curve = data.curve_weight_norm.squeeze(["site", "gate", "learning_rate"])
    held = (curve.isel(step=0) == curve.isel(step=-1)).all(["weight_decay", "seed"])
    assert dict(zip(data.coupling.values.tolist(), held.values.tolist(), strict=True)) == {
        "lr": True,
        "schedule": True,
        "constant": False,
        "corrected": True,
    }
    first = curve.isel(step=0)
    np.testing.assert_allclose(first.sel(coupling="corrected"), first.sel(coupling="lr"), rtol=1e-6)
    assert (first.sel(coupling="schedule") != first.sel(coupling="lr")).all()


# Chunks and devices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 4, 6, 7, 12, 13, 17, 18, 1000])
def test_chunks_hold_every_run_once_and_no_more_than_the_limit(limit: int) -> None:
    seen: dict[Structure, np.ndarray] = {}
    for chunk in plan.chunks(tiny.STUDY, limit):
        assert chunk.shape.seeds * chunk.shape.cells <= limit, chunk
        assert chunk.runs() <= chunk.shape.seeds * chunk.shape.cells
        cells = len(tiny.STUDY.cells(chunk.structure))
        counts = seen.setdefault(chunk.structure, np.zeros((tiny.STUDY.seeds, cells), int))
        counts[slice(*chunk.seeds), slice(*chunk.cells)] += 1
    assert list(seen) == [Structure("none"), Structure("update")]
    assert all((counts == 1).all() for counts in seen.values())


@pytest.mark.parametrize(
    ("shape", "devices", "grid"),
    [((1, 6), 1, (1, 1)), ((1, 6), 8, (1, 8)), ((8, 6), 8, (8, 1)), ((3, 4), 12, (3, 4)), ((2, 56), 2, (2, 1))],
)
def test_devices_stand_where_they_are_busy(shape: Any, devices: int, grid: Any) -> None:
    assert programs.layout(Shape(*shape), devices) == grid


def test_eight_devices_agree_with_one(whole: xr.Dataset, use: Callable[..., None]) -> None:
    assert jax.local_device_count() == 8
    use(1)
    alone = run(tiny.STUDY)
    xr.testing.assert_allclose(numbers(alone), numbers(whole), rtol=1e-5)


def test_chunks_don_t_change_the_runs(whole: xr.Dataset, use: Callable[..., None]) -> None:
    use(2, runs=2)
    xr.testing.assert_allclose(numbers(run(tiny.STUDY)), numbers(whole), rtol=1e-5)


def test_a_chunk_fits_the_memory(use: Callable[..., None]) -> None:
    use(1)
    task = tiny.tiny()
    bytes_of = Programs(tiny.STUDY, task).bytes
    needed = bytes_of(Structure("update"), Shape(3, 6))
    assert plan.runs_at_once(dataclasses.replace(tiny.STUDY, memory=needed), task, bytes_of) >= 18
    limit = plan.runs_at_once(dataclasses.replace(tiny.STUDY, memory=needed - 1), task, bytes_of)
    shape = plan.shape_of(tiny.STUDY, Structure("update"), limit)
    assert 1 <= shape.seeds * shape.cells < 18
    assert bytes_of(Structure("update"), shape) < needed


def test_memory_is_of_all_devices_together(use: Callable[..., None]) -> None:
    use(1)
    alone = Programs(tiny.STUDY, tiny.tiny()).bytes(Structure("update"), Shape(1, 6))
    use(4)
    together = Programs(tiny.STUDY, tiny.tiny()).bytes(Structure("update"), Shape(4, 6))
    assert together == pytest.approx(4 * alone, rel=0.1)


def test_processes_share_the_runs_evenly(monkeypatch: pytest.MonkeyPatch, use: Callable[..., None]) -> None:
    use(1)
    limits = []
    for count in (1, 2, 4):
        monkeypatch.setattr(jax, "process_count", lambda count=count: count)
        limits.append(plan.runs_at_once(tiny.STUDY, tiny.tiny(), lambda structure, shape: 0))
    assert limits == [27, 14, 7]


# The folder -----------------------------------------------------------------------------------------------------------


def trained(study: Study, folder: Path, progress: Any = lambda _: None, say: Any = lambda _: None) -> Any:
    """The study in its folder, whose chunks stay."""
    with kept.opened(folder, say) as chunks:
        return engine.train(study, chunks, progress)


def killed(folder: Path, moment: str) -> None:
    command = [sys.executable, tiny.__file__, str(folder), moment]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "killed\n"), ended.stderr


def chunk_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "unfinished").glob("*.npz"))}


def test_a_study_that_is_killed_goes_on_to_the_same_bits(tmp_path: Path, use: Callable[..., None]) -> None:
    use(2, runs=2)
    killed(tmp_path, "progress:6")
    before = chunk_files(tmp_path)
    assert len(before) == 1
    killed(tmp_path, "save:2")
    assert len(chunk_files(tmp_path)) == 2
    assert list((tmp_path / "unfinished").glob("*.part"))
    killed(tmp_path, "saved:3")
    after = chunk_files(tmp_path)
    assert len(after) == 5
    assert before.items() <= after.items()
    seen = []
    resumed = trained(tiny.STUDY, tmp_path, seen.append)
    assert after.items() <= chunk_files(tmp_path).items()
    assert seen[0].resumed == seen[0].done == 5 * 3
    assert (seen[-1].resumed, seen[-1].done + seen[-1].underway, seen[-1].total) == (15, 27, 27)
    xr.testing.assert_identical(numbers(resumed), numbers(run(tiny.STUDY)))
    Store(tmp_path).remove()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all chunks of `SMALL`."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        tiny.use(1, 2, patch.setattr)
        trained(SMALL, folder)
    return folder


CHANGED = {
    "seeds": ({"seeds": 3}, "seeds: 2 -> 3"),
    "an axis": ({"learning_rates": (0.3, 0.5)}, "learning_rates: [0.3, 30.0] -> [0.3, 0.5]"),
    "the core": ({"b2": 0.5}, "core: adam(b1=0.9, b2=0.999, eps=0.001) -> adam(b1=0.9, b2=0.5, eps=0.001)"),
    "the task": ({"task": tiny.tiny(steps=6)}, "steps: 12 -> 6; every: 4 -> 2"),
    "the schedule": (
        {"schedule": "cosine"},
        "description: a noisy line -> a noisy line; learning rate by the schedule cosine; schedule: None -> cosine",
    ),
    "what is measured": ({"measure_decay": True}, "measure_decay: False -> True"),
    "memory": ({"memory": "1GiB"}, "memory: 2147483648 -> 1073741824"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_another_study_in_the_folder_is_refused_with_the_difference(finished: Path, case: str) -> None:
    changes, difference = CHANGED[case]
    with pytest.raises(StudyError) as error:
        trained(dataclasses.replace(SMALL, **changes), finished)
    assert str(error.value) == (
        f"{finished} holds an unfinished study of another definition ({difference}); "
        "give --overwrite, or another --output"
    )


def test_other_versions_are_refused_too(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_versions", lambda: "jax 99")
    with pytest.raises(StudyError, match=r"versions: optlab .* -> jax 99"):
        trained(SMALL, finished)


def test_a_damaged_chunk_is_named(finished: Path, tmp_path: Path, use: Callable[..., None]) -> None:
    use(1, 2)
    damaged = tmp_path / "unfinished"
    damaged.mkdir()
    for path in (finished / "unfinished").iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    first, second = sorted(damaged.glob("*.npz"))[:2]
    second.write_bytes(second.read_bytes()[:-50])
    with pytest.raises(StudyError, match=r"00001\.npz is damaged \(.*\); delete it to have its runs trained again$"):
        trained(SMALL, tmp_path)
    second.write_bytes(first.read_bytes())
    with pytest.raises(
        StudyError, match=r"00001\.npz holds update seeds 0:1 cells 0:2, not update seeds 0:1 cells 2:4"
    ):
        trained(SMALL, tmp_path)
    second.unlink()
    xr.testing.assert_identical(numbers(trained(SMALL, tmp_path)), numbers(trained(SMALL, finished)))
    (damaged / "study.json").write_text("{")
    with pytest.raises(StudyError, match=r"study\.json can't be read \(Expecting .*\); give --overwrite"):
        trained(SMALL, tmp_path)


FULL = r"{folder}/unfinished/0000\d\.npz can't be written: {reason}; what is finished is kept, run the same again"


def test_a_full_disk_is_one_line_and_keeps_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[..., None]
) -> None:
    use(1, 2)
    left = iter([0, 0, 0, 0, 0, 0])

    def sync(descriptor: int, real: Any = os.fsync) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", sync)
        with pytest.raises(StudyError, match=FULL.format(folder=tmp_path, reason="No space left on device")):
            trained(SMALL, tmp_path)
    assert list(chunk_files(tmp_path)) == ["00000.npz"]
    assert not list((tmp_path / "unfinished").glob("*.part"))
    seen = []
    trained(SMALL, tmp_path, seen.append)
    assert seen[0].resumed == 2


def test_a_limit_of_the_system_is_one_line_too(tmp_path: Path, use: Callable[..., None]) -> None:
    use(1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    try:
        with pytest.raises(StudyError, match=FULL.format(folder=tmp_path, reason="File too large")):
            trained(SMALL, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "unfinished").iterdir()] == ["study.json"]


# Several processes ----------------------------------------------------------------------------------------------------


def test_two_processes_share_a_study(tmp_path: Path) -> None:
    text = (
        'task = "quadratic"\nsites = ["none", "update"]\nlearning_rates = [1e-3]\nweight_decays = [0.1, 1.0]\nseeds = 2'
    )
    (tmp_path / "shared.toml").write_text(f"{text}\nsteps = 4\nevery = 4\nmeasure_decay = true\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "optlab",
        "study",
        str(tmp_path / "shared.toml"),
        "--output",
        str(tmp_path / "out"),
    ]
    command += ["--json", "--coordinator", place, "--processes", "2", "--process"]
    processes = [
        subprocess.Popen(
            [*command, str(number)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        for number in range(2)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[1][0] == ""
    events = [json.loads(line) for line in outputs[0][0].splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["start", "done"]
    assert not (out / "unfinished").exists()
    together = results.load(out / "results.nc")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        alone = run(read(tmp_path / "shared.toml"))
    xr.testing.assert_allclose(numbers(together), numbers(alone), rtol=1e-4)


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What process 0 of two has told, which is what the other hears."""
    told: list[str] = []

    def hear(subject: str, seconds: float) -> str:
        if not told:
            raise TimeoutError
        return told[-1]

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(kept, "tell", lambda subject, text: told.append(text))
    monkeypatch.setattr(kept, "hear", hear)
    return told


@pytest.mark.usefixtures("words")
def test_chunks_of_processes_are_disjoint_and_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, use: Any) -> None:
    def waiting(seconds: float) -> None:
        raise TimeoutError

    def saved() -> list[int]:
        return sorted(set(map(int, (name[:5] for name in chunk_files(tmp_path)))))

    use(1, 2)
    monkeypatch.setattr(kept.time, "sleep", waiting)
    with pytest.raises(TimeoutError):
        trained(SMALL, tmp_path)
    assert saved() == [0, 1]
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert trained(SMALL, tmp_path) is None
    assert saved() == [0, 1, 2, 3]
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    data = trained(SMALL, tmp_path)
    assert data is not None
    assert differences(data, SMALL) == []


def test_a_process_follows_the_first_or_says_why_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str], use: Any
) -> None:
    use(1, 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(kept.time, "sleep", lambda seconds: None)

    def refused(study: Study) -> str:
        with pytest.raises(StudyError) as error:
            trained(study, tmp_path)
        return str(error.value)

    assert refused(SMALL) == "process 0 has begun no study in 600 s"
    words.append(json.dumps({"header": "of another folder"}))
    assert refused(SMALL) == f"process 0 writes to another folder than {tmp_path}, or has finished already"

    monkeypatch.setattr(jax, "process_index", lambda: 0)
    with pytest.raises(StudyError, match="memory is 100 bytes"):
        trained(dataclasses.replace(SMALL, memory=100), tmp_path)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert refused(SMALL).startswith("process 0 can't begin: memory is 100 bytes")

    monkeypatch.setattr(jax, "process_index", lambda: 0)
    monkeypatch.setattr(kept.InFolder, "wait", lambda *_: None)
    with pytest.raises(StudyError, match="damaged"):  # the chunks of the other process are not there
        trained(SMALL, tmp_path)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert refused(dataclasses.replace(SMALL, b2=0.5)).startswith("process 1 would train another study: core: adam(")
    with pytest.raises(StudyError, match="damaged"):
        kept.Store(tmp_path).load(3, "", "")
    trained(SMALL, tmp_path)
    assert len(chunk_files(tmp_path)) == 4


def test_progress_adds_up(use: Callable[..., None]) -> None:
    use(1, 2)
    seen: list[Progress] = []
    run(SMALL, None, seen.append)
    assert [progress.done + progress.underway for progress in seen] == sorted(
        progress.done + progress.underway for progress in seen
    )
    assert (seen[0].done, seen[0].underway, seen[0].doing) == (0, 0.0, "")
    assert (seen[-1].done + seen[-1].underway, seen[-1].diverged, seen[-1].total) == (8, 4, 8)
    assert {progress.doing for progress in seen[1:]} == {"update"}
    assert len(seen) == 1 + 4 * 3


def test_processes_without_a_folder_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(StudyError, match="several processes need a folder that all of them see"):
        run(SMALL)


def test_one_run_larger_than_the_memory_is_refused(use: Callable[..., None]) -> None:
    use(2)
    with pytest.raises(
        StudyError, match=r"memory is 100 bytes, but one run on each of 2 devices takes [\d,]+; give more"
    ):
        run(dataclasses.replace(SMALL, memory=100))


def test_the_task_s_own_check_is_heard() -> None:
    task = dataclasses.replace(tiny.tiny(), objective="beauty")
    with pytest.raises(StudyError, match="task tiny: objective must be a metric or a summary, got 'beauty'; there are"):
        dataclasses.replace(SMALL, task=task)


def test_a_name_in_the_table_of_tasks_is_run(monkeypatch: pytest.MonkeyPatch, use: Callable[..., None]) -> None:
    use(1)
    monkeypatch.setitem(TASKS, "tiny", tiny.tiny)
    named = run(dataclasses.replace(SMALL, task="tiny", steps=6, every=6))
    given = run(dataclasses.replace(SMALL, task=tiny.tiny(steps=6), every=6))
    xr.testing.assert_identical(numbers(named), numbers(given))


def test_the_loops_of_the_benchmark_train_what_the_engine_trains(use: Callable[..., None]) -> None:
    use(1)
    grid = dataclasses.replace(SMALL, learning_rates=(0.1, 0.3), seeds=1, eps=bench.EPS)
    task, cells = tiny.tiny(), grid.cells(Structure("update"))
    losses = run(grid).train_loss.values.ravel()
    begin = one_run.start(task, jnp.int32(0))
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        np.testing.assert_allclose(bench.one_scan_for_all(task)(begin, cells), losses, rtol=1e-4)
        np.testing.assert_allclose(bench.one_step_each(task)(begin, cells), losses, rtol=1e-4)
    assert len(set(losses.tolist())) == 4


def test_the_benchmark_prints_ratios_to_the_engine() -> None:
    seconds = {"engine": 2.0, "engine, few": 1.0, "one scan for all": 3.0, "one step each": 100.0}
    said = bench.table({"configurations": 100, "steps": 5, "setting": {"devices": 2}, "seconds": seconds})
    assert said.splitlines()[2:6] == [
        f"{'the engine':66}{2:10.2f}{1:8.1f}",
        f"{'the engine, 10 steps: what it spends before training':66}{1:10.2f}{0.5:8.1f}",
        f"{'one jitted scan, reused for all':66}{3:10.2f}{1.5:8.1f}",
        f"{'one optax.adamw and jitted step each (5 run, times 20)':66}{100:10.2f}{50:8.1f}",
    ]
