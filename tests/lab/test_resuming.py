"""A study goes on with chunks of its own alone: all that decides numbers is compared, to the bit."""

import contextlib
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import xarray as xr

from optlab.lab import display, engine, folder, kept, provenance, report, results
from optlab.lab.errors import StudyError
from optlab.lab.folder import Decided, Store
from optlab.lab.study import Study

pytestmark = pytest.mark.xdist_group("resuming")

TASK = tiny.tiny()
SMALL = dataclasses.replace(tiny.STUDY, task=TASK, sites=("update",), learning_rates=(0.1, 0.3), seeds=2)


@pytest.fixture
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.use(1, 2, monkeypatch.setattr)


def trained(study: Study, place: Path, progress: Any = lambda _: None, say: Any = lambda _: None) -> Any:
    with kept.opened(place, say) as chunks:
        return engine.train(study, chunks, progress)


def changed(study: Study, before: Study = SMALL) -> list[str]:
    """What differs from `SMALL`, or from what was before, by name."""
    then, now = (provenance.decided(each, each.make_task()) for each in (before, study))
    assert not then.opaque
    assert not now.opaque
    return [difference.partition(":")[0] for difference in folder.differences(then.values, now.values)]


def with_task(**parts: Any) -> Study:
    return dataclasses.replace(SMALL, task=dataclasses.replace(TASK, **parts))


def shifted(by: np.ndarray) -> Callable[[jax.Array], Any]:
    shift = jnp.asarray(by, jnp.float32)
    return lambda key: {name: (part[0], part[1] + shift) for name, part in TASK.data(key).items()}


def backwards(sign: float) -> Callable[[Any, Any], jax.Array]:
    """The loss, with this sign before its gradient."""
    loss = jax.custom_vjp(lambda params, batch: tiny.loss(params, batch))

    def gradient(left: Any, g: jax.Array) -> Any:
        return jax.tree.map(lambda leaf: sign * g * leaf, jax.grad(tiny.loss)(*left)), None

    loss.defvjp(lambda params, batch: (tiny.loss(params, batch), (params, batch)), gradient)
    return loss


RUNS = "runs of update"
CHANGES: dict[str, tuple[Callable[[], Study], list[str]]] = {
    "nothing": (lambda: SMALL, []),
    "the seventh digit of b2": (lambda: dataclasses.replace(SMALL, b2=0.9990001), ["core"]),
    "the last bit of a rate": (
        lambda: dataclasses.replace(SMALL, learning_rates=(0.1, np.nextafter(0.3, 1))),
        ["learning_rates"],
    ),
    "a number in the loss": (
        lambda: with_task(loss=lambda params, batch: 1.0000001 * tiny.loss(params, batch)),
        ["loss", RUNS],
    ),
    "one of the data": (lambda: with_task(data=shifted(np.eye(16)[3])), ["data"]),
    "the weights that it begins with": (
        lambda: with_task(init=lambda key: jax.tree.map(lambda leaf: leaf + 1, TASK.init(key))),
        ["init"],
    ),
    "the batches": (lambda: with_task(batch=lambda data, key, step: TASK.batch(data, key, step + 1)), ["batch", RUNS]),
    "what is measured": (
        lambda: with_task(metrics=lambda params, data: {**TASK.metrics(params, data), "one": jnp.float32(1)}),
        ["metrics", "summary", RUNS],
    ),
    "the summary": (
        lambda: with_task(summary=lambda steps, curves: {**TASK.summary(steps, curves), "one": steps[0]}),
        ["summary"],
    ),
    "the schedule": (lambda: with_task(schedule=lambda step: jnp.float32(0.5)), [RUNS, "the schedule's factor"]),
    "the bound": (lambda: with_task(divergence=101.0), ["divergence"]),
    "memory": (lambda: dataclasses.replace(SMALL, memory="1GiB"), ["memory"]),
}


@pytest.mark.parametrize("case", CHANGES)
def test_all_that_decides_numbers_counts_and_is_named(case: str) -> None:
    make, names = CHANGES[case]
    assert changed(make()) == names


def test_a_gradient_of_one_s_own_counts() -> None:
    assert changed(with_task(loss=backwards(1)), with_task(loss=backwards(-1))) == [RUNS]


def test_one_number_of_the_data_counts() -> None:
    one, other = np.arange(16), np.arange(16)
    other[7] = 8
    assert changed(with_task(data=shifted(one)), with_task(data=shifted(other))) == ["data"]


def test_a_core_that_is_a_transform_counts_to_the_bit() -> None:
    def core(b2: float) -> optax.GradientTransformation:
        return optax.scale_by_rms(b2)

    assert changed(dataclasses.replace(SMALL, core=core(0.999), eps=None)) == ["core"]
    one, same, other = (
        provenance.decided(dataclasses.replace(SMALL, core=core(b2), eps=None), TASK).values
        for b2 in (0.999, 0.999, 0.9990001)
    )
    assert folder.differences(one, same) == []
    assert one[RUNS] != other[RUNS]


def test_every_structure_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    both = dataclasses.replace(SMALL, sites=("update", "gradient"))
    before = provenance.decided(both, TASK).values

    def other(study: Any, task: Any, structure: Any, *more: Any, real: Any = provenance.treatment) -> Any:
        treated = real(study, task, structure, *more)
        return treated if structure.site == "update" else treated._replace(penalty=lambda params: params["offset"])

    monkeypatch.setattr(provenance, "treatment", other)
    found = folder.differences(before, provenance.decided(both, TASK).values)
    assert [each.partition(":")[0] for each in found] == ["updates of gradient"]


SETTINGS = {
    "jax_default_matmul_precision": "highest",
    "jax_threefry_partitionable": False,
    "jax_enable_x64": True,
    "jax_default_prng_impl": "rbg",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_jax_count(name: str) -> None:
    whole, before, was = provenance.decided(SMALL, TASK).values, provenance.settings(), jax.config.values[name]
    assert before.items() <= whole.items()
    jax.config.update(name, SETTINGS[name])
    try:
        assert folder.differences(before, provenance.settings()) == [f"{name}: {was} -> {SETTINGS[name]}"]
    finally:
        jax.config.update(name, was)


def test_machine_and_flags_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = provenance.decided(SMALL, TASK).values
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    monkeypatch.setattr(provenance.system, "processor", lambda: "another")
    monkeypatch.setattr(provenance, "_versions", lambda: "jax 99")
    found = folder.differences(before, provenance.decided(SMALL, TASK).values)
    assert [each.partition(":")[0] for each in found] == ["compiled for", "versions", "XLA_FLAGS"]


def test_differences_are_seen_from_both_sides_and_to_the_bit() -> None:
    assert folder.differences({"a": 1, "b": [0.1]}, {"a": 1, "b": [0.1]}) == []
    assert folder.differences({"a": 1}, {}) == ["a: 1 -> nothing"]
    assert folder.differences({}, {"a": None}) == ["a: nothing -> None"]
    assert folder.differences({"a": [0.1]}, {"a": [float(np.nextafter(0.1, 1))]}) == [
        "a: [0.1] -> [0.10000000000000002]"
    ]
    assert folder.differences({"a": 0.0}, {"a": -0.0}) == ["a: 0.0 -> -0.0"]


def test_a_header_that_says_more_is_another_study_s(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.begin(folder.header_of(Decided({"a": 1, "b": 2}, {}), 4))
    store.require_same(Decided({"a": 1, "b": 2}, {}))
    with pytest.raises(StudyError, match=r"of another definition \(b: 2 -> nothing\); give --overwrite, or another"):
        store.require_same(Decided({"a": 1}, {}))


def test_a_header_of_a_later_version_is_left_to_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.begin(folder.header_of(Decided({}, {}), 4))
    path = tmp_path / "unfinished" / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layout": 3, "optlab": "optlab 7.0"}))
    with pytest.raises(StudyError, match=r"an unfinished study of optlab 7\.0, whose chunks this version can't go on"):
        store.header()


@pytest.mark.usefixtures("one_device")
def test_a_chunk_of_another_study_is_not_taken(tmp_path: Path) -> None:
    for number, study in enumerate((SMALL, dataclasses.replace(SMALL, b2=0.9990001))):
        trained(study, tmp_path / str(number))
    ours, theirs = (tmp_path / str(number) / "unfinished" / "00001.npz" for number in range(2))
    kept_before = ours.read_bytes()
    ours.write_bytes(theirs.read_bytes())
    with pytest.raises(StudyError) as error:
        trained(SMALL, tmp_path / "0")
    assert str(error.value) == (
        f"{ours} holds update seeds 0:1 cells 2:4 of another study; delete it to have its runs trained again"
    )
    ours.unlink()
    trained(SMALL, tmp_path / "0")
    assert_same_chunk(ours.read_bytes(), kept_before, tmp_path)


def assert_same_chunk(one: bytes, other: bytes, place: Path) -> None:
    (place / "one.npz").write_bytes(one)
    (place / "other.npz").write_bytes(other)
    with np.load(place / "one.npz") as first, np.load(place / "other.npz") as second:
        assert sorted(first) == sorted(second)
        assert all((first[name] == second[name]).all() for name in first)


@pytest.mark.usefixtures("one_device")
def test_what_nobody_can_tell_runs_but_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def batch(data: Any, key: Any, step: Any) -> Any:
        def read(step: Any) -> Any:
            return step

        return TASK.batch(data, key, jax.pure_callback(read, step, step, vmap_method="sequential"))

    study, said = with_task(batch=batch), []

    def stop(progress: Any) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(study, tmp_path, stop, said.append)
    why = "batch runs Python code while it runs (jax.pure_callback)"
    assert said == [f"can't go on from here if it is stopped: {why}"]
    before = {path: path.read_bytes() for path in (tmp_path / "unfinished").iterdir()}
    with pytest.raises(StudyError) as error:
        trained(study, tmp_path)
    assert str(error.value).startswith(
        f"{tmp_path} holds an unfinished study that may be this one or another, nobody can tell: {why}; "
    )
    assert {path: path.read_bytes() for path in (tmp_path / "unfinished").iterdir()} == before
    Store(tmp_path).remove()
    xr.testing.assert_equal(trained(study, tmp_path), trained(SMALL, tmp_path / "plain"))


# A whole run, and what goes wrong with it ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole() -> xr.Dataset:
    with pytest.MonkeyPatch.context() as patch:
        tiny.use(1, 2, patch.setattr)
        data = engine.run(SMALL)
    assert data is not None
    return data


def names(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.glob("**/*") if path.is_file())


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "FIGURES", {})
    monkeypatch.setattr(report, "page", lambda data, drawn: "a page")


@pytest.mark.usefixtures("one_device")
def test_python_s_run_ends_like_the_command(
    tmp_path: Path, whole: xr.Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "FIGURES", {"maps": report.FIGURES["maps"]})
    shown = []
    monkeypatch.setattr(display, "bar", lambda: contextlib.nullcontext(shown.append))
    out = str(tmp_path / "a" / "b")
    data = engine.run(SMALL, out)
    assert data is not None
    xr.testing.assert_equal(data, whole)
    assert names(Path(out)) == ["maps.png", "maps.svg", "report.html", "results.nc"]
    xr.testing.assert_identical(results.load(Path(out) / "results.nc"), data)
    assert data.attrs["command"].startswith("optlab.lab.run(Study(task='tiny', sites=('update',)")
    assert (shown[0].done, shown[-1].total) == (0, 8)
    assert capsys.readouterr().err == ""

    before = (Path(out) / "results.nc").read_bytes()
    with pytest.raises(StudyError) as error:
        engine.run(SMALL, out)
    assert str(error.value) == f"{out} already holds results.nc; give overwrite=True, or another folder"
    with pytest.raises(StudyError) as error:
        engine.run(dataclasses.replace(SMALL, seeds=3), out)
    assert str(error.value) == (
        f"{out} already holds results.nc of another study (seeds: 2 -> 3); give overwrite=True, or another folder"
    )
    assert (Path(out) / "results.nc").read_bytes() == before
    other = engine.run(dataclasses.replace(SMALL, seeds=1), out, [].append, overwrite=True)
    assert other is not None
    assert results.load(Path(out) / "results.nc").sizes["seed"] == 1
    with pytest.raises(StudyError, match="the name of a folder is empty"):
        engine.run(SMALL, "")


@pytest.mark.usefixtures("one_device", "no_figures")
@pytest.mark.parametrize("file", ["study.json", "results.nc", "report.html"])
def test_a_full_disk_loses_nothing(
    file: str, tmp_path: Path, whole: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(source: Path, target: Path, real: Any = os.replace) -> None:
        if target.name == file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    with monkeypatch.context() as full:
        full.setattr(os, "replace", replace)
        with pytest.raises(StudyError, match=rf"{file} can't be written: No space left on device"):
            engine.run(SMALL, tmp_path)
    assert not [name for name in names(tmp_path) if name.endswith(".part") or "lock" in name]
    seen = []
    data = engine.run(SMALL, tmp_path, seen.append)
    assert seen[0].resumed == (0 if file == "study.json" else 8)
    xr.testing.assert_equal(data, whole)
    assert names(tmp_path) == ["report.html", "results.nc"]


@pytest.mark.usefixtures("one_device", "no_figures")
@pytest.mark.parametrize("moment", ["write:results.nc", "wrote:results.nc", "write:report.html", "wrote:report.html"])
def test_a_kill_at_the_end_loses_nothing(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, tiny.__file__, str(tmp_path), moment]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "killed\n"), ended.stderr
    assert len([name for name in names(tmp_path) if name.endswith(".npz")]) > 1
    tiny.use(2, 2, monkeypatch.setattr)
    seen = []
    data = engine.run(tiny.STUDY, tmp_path, seen.append)
    assert seen[0].resumed == seen[0].total
    assert names(tmp_path) == ["report.html", "results.nc"]
    xr.testing.assert_identical(results.load(tmp_path / "results.nc"), data)


@pytest.mark.usefixtures("one_device", "no_figures")
def test_results_stay_until_others_take_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.run(SMALL, tmp_path)
    before = (tmp_path / "results.nc").read_bytes()

    def stop(progress: Any) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    other = dataclasses.replace(SMALL, b2=0.5)
    with pytest.raises(KeyboardInterrupt):
        engine.run(other, tmp_path, stop, overwrite=True)
    assert (tmp_path / "results.nc").read_bytes() == before
    with pytest.raises(StudyError, match="another definition"):
        engine.run(SMALL, tmp_path)
    assert (tmp_path / "results.nc").read_bytes() == before
    seen = []
    engine.run(other, tmp_path, seen.append)
    assert seen[0].resumed == 2
    assert (tmp_path / "results.nc").read_bytes() != before


@pytest.mark.usefixtures("one_device", "no_figures")
def test_a_folder_that_can_t_be_written_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.run(SMALL, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}

    def read_only(path: Any, flags: int, *mode: int, real: Any = os.open) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *mode)

    def mkdir(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    for overwrite in (False, True):
        with pytest.raises(StudyError, match="can't be written: Read-only file system"):
            engine.run(SMALL, tmp_path, pytest.fail, overwrite=overwrite)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    assert results.load(tmp_path / "results.nc").sizes["seed"] == 2


def test_a_netcdf_cut_short_is_refused_wherever_it_is_cut(tmp_path: Path, whole: xr.Dataset) -> None:
    results.save(whole, tmp_path / "whole.nc")
    content = (tmp_path / "whole.nc").read_bytes()
    for length in (0, 1, 7, 8, 100, *np.linspace(200, len(content) - 1, 7, dtype=int)):
        (tmp_path / "results.nc").write_bytes(content[:length])
        with pytest.raises(StudyError, match=r"results\.nc is not a netCDF file"):
            results.load(tmp_path / "results.nc")
        with pytest.raises(StudyError, match=r"already holds results\.nc"):
            report.begin(tmp_path, False, dict)
        assert (tmp_path / "results.nc").read_bytes() == content[:length]
