"""The tasks of the lab: their batches, splits, numbers and summaries, and what they say to bad input."""

import dataclasses
import functools
import math
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optlab
from optlab.lab import TASKS, Split, Task, supervised
from optlab.lab.errors import StudyError
from optlab.lab.study import Study
from optlab.lab.tasks import addition as pairs
from optlab.lab.tasks import digits, landscapes, language, modular, python_lm_small
from optlab.lab.tasks import handwriting_conv as convolutional
from optlab.lab.tasks import handwriting_dense as dense
from optlab.lab.tasks import supervision as smooth
from optlab.lab.tasks.task import steps_between

pytestmark = pytest.mark.xdist_group("tasks")

WEIGHTS = {
    "digits": 4_810,
    "digits_conv": 6_090,
    "digits_dense": 3_530,
    "python_lm": 1_288_448,
    "python_lm_small": 137_216,
    "modular": 19_707,
    "rosenbrock": 2,
    "beale": 2,
    "quadratic": 2,
}
KEY, OTHER_KEY = jax.random.key(3), jax.random.key(4)
NAMES = list(TASKS)


@pytest.fixture(scope="module", autouse=True)
def _one_device():
    """Eight forced devices share this machine's cores; a task uses the first."""
    with jax.default_device(jax.devices()[0]):
        yield


# By task: steps, learning rate, metric, and from where to where AdamW takes it at least.
PROGRESS = {
    "digits": (100, 3e-3, "validation_loss", 2.2, 0.8),
    "digits_conv": (60, 3e-3, "validation_loss", 2.2, 0.9),
    "digits_dense": (100, 3e-3, "validation_loss", 2.2, 0.8),
    "python_lm_small": (60, 1e-2, "validation_bits_per_byte", 7.9, 4.8),
    "modular": (120, 3e-3, "train_loss", 4.0, 0.8),
    "rosenbrock": (500, 3e-2, "train_loss", 4.0, 1.0),
    "beale": (500, 3e-2, "distance", 1.8, 0.3),
    "quadratic": (500, 3e-2, "distance", 2.5, 1.3),
}


@functools.cache
def small(name: str) -> Task:
    return TASKS[name](steps=PROGRESS[name][0] if name in PROGRESS else 40)


@functools.cache
def compiled(name: str) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """`data`, `init` and `batch` of a task."""
    task = small(name)
    return jax.jit(task.data), jax.jit(task.init), jax.jit(task.batch)


def identical(a: Any, b: Any) -> bool:
    same = jax.tree.map(lambda x, y: x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes(), a, b)
    return all(jax.tree.leaves(same))


ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


# What every task gives ------------------------------------------------------------------------------------------------


def test_a_task_is_one_file_and_one_line() -> None:
    files = {path.stem for path in Path(language.__file__).parent.glob("*.py")} - {"__init__", "task", "supervision"}
    assert files == {task.__module__.rpartition(".")[2] for task in TASKS.values()}
    assert set(WEIGHTS) == set(TASKS)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_is_whole_and_says_its_size(name: str) -> None:
    task = TASKS[name]()
    task.check()
    assert task.name == name
    assert 10 <= task.steps // task.every <= 200
    params = jax.eval_shape(task.init, KEY)
    assert sum(weight.size for weight in jax.tree.leaves(params)) == WEIGHTS[name]
    assert {weight.dtype for weight in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    assert re.search(rf"^\| .*`{name}`.* \| {WEIGHTS[name]:,} \| ", README, flags=re.MULTILINE)
    documentation = TASKS[name].__doc__
    assert documentation is not None
    if name in ("digits_conv", "digits_dense", "python_lm", "python_lm_small"):
        assert f"{WEIGHTS[name]:,} weights" in documentation


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 40])
def test_the_number_of_steps_can_be_chosen(name: str, steps: int) -> None:
    task = TASKS[name](steps=steps)
    assert task.steps == steps
    assert f"{steps} steps" in task.description
    if task.schedule is not None:
        factors = jax.vmap(task.schedule)(jnp.arange(steps, dtype=jnp.int32))
        assert ((factors >= 0) & (factors <= 1)).all()


def require_pure_batches(batch: Callable[..., Any], data: Any) -> None:
    """A batch is the same bits whenever it is asked for, alone or among others, in any order, compiled or not."""
    compiled = jax.jit(batch)
    in_order = [batch(data, KEY, jnp.int32(step)) for step in range(4)]
    for step in (2, 0, 3, 2):
        assert identical(batch(data, KEY, jnp.int32(step)), in_order[step])
        assert identical(compiled(data, KEY, jnp.int32(step)), in_order[step])
    mapped = jax.device_get(jax.jit(jax.vmap(lambda step: batch(data, KEY, step)))(jnp.arange(4, dtype=jnp.int32)))
    assert all(identical(jax.tree.map(lambda leaf, n=n: leaf[n], mapped), in_order[n]) for n in range(4))


@pytest.mark.parametrize("name", NAMES)
def test_batches_are_functions_of_seed_and_step(name: str) -> None:
    data, _, _ = compiled(name)
    require_pure_batches(small(name).batch, data(KEY))


@pytest.mark.parametrize("name", ["digits", "digits_conv", "digits_dense", "python_lm", "python_lm_small"])
def test_batches_part_by_seed_and_by_step(name: str) -> None:
    draw, _, batch = compiled(name)
    data = draw(KEY)
    first, second = (batch(data, KEY, jnp.int32(step)) for step in (0, 1))
    assert not identical(first, second)
    assert not identical(first, batch(data, OTHER_KEY, jnp.int32(0)))


def test_a_batch_with_a_memory_is_rejected() -> None:
    rng = np.random.default_rng(0)

    def next_batch(data: Split, key: jax.Array, step: jax.Array) -> Any:
        del key, step
        chosen = rng.integers(0, 300, 50)
        return jax.tree.map(lambda values: values[chosen], data.train)

    draw, _, _ = compiled("digits")
    with pytest.raises(AssertionError):
        require_pure_batches(next_batch, draw(KEY))


@pytest.mark.parametrize("name", PROGRESS)
def test_data_and_initial_weights_are_functions_of_the_seed(name: str) -> None:
    data, init, _ = compiled(name)
    assert identical(data(KEY), data(KEY))
    assert identical(data(KEY), data(OTHER_KEY)) == (name not in ("digits", "digits_conv", "digits_dense", "modular"))
    assert identical(init(KEY), init(KEY))
    assert not identical(init(KEY), init(OTHER_KEY))


def adamw(task: Task, learning_rate: Any) -> optlab.Transform:
    schedule = task.schedule or (lambda step: jnp.float32(1))
    return optlab.adamw(lambda step: learning_rate * schedule(step), weight_decay=0.1, b2=0.99)


def trained(task: Task, data: Any, params: Any, learning_rate: Any) -> tuple[Any, Any]:
    """The weights after the task's steps under AdamW, and its metrics."""
    tx = adamw(task, learning_rate)

    def step(carry: Any, number: jax.Array) -> tuple[Any, None]:
        params, state = carry
        grads = jax.grad(task.loss)(params, task.batch(data, KEY, number))
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    steps = jnp.arange(task.steps, dtype=jnp.int32)
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), steps)
    return params, task.metrics(params, data)


@functools.cache
def untrained_and_trained(name: str) -> tuple[Any, Any]:
    """What `trained` gives at rate 0 and at the task's own, both in one program."""
    draw, init, _ = compiled(name)
    train = jax.jit(jax.vmap(functools.partial(trained, small(name)), in_axes=(None, None, 0)))
    return jax.device_get(train(draw(KEY), init(KEY), jnp.float32([0, PROGRESS[name][1]])))


@pytest.mark.parametrize("name", PROGRESS)
def test_adamw_trains_it_in_one_program_over_learning_rates(name: str) -> None:
    _, _, metric, before, after = PROGRESS[name]
    _, metrics = untrained_and_trained(name)
    assert metrics[metric][0] > before
    assert metrics[metric][1] < after
    assert (metrics["train_loss"] < small(name).divergence).all()


def test_a_mapped_run_is_the_run_alone() -> None:
    draw, init, _ = compiled("digits")
    train = jax.jit(functools.partial(trained, small("digits")))
    alone, _ = train(draw(KEY), init(KEY), jnp.float32(PROGRESS["digits"][1]))
    mapped, _ = untrained_and_trained("digits")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[1], atol=1e-4), alone, mapped)


def test_a_run_resumed_is_the_run_uninterrupted_bit_for_bit() -> None:
    task, (draw, init, _) = small("digits"), compiled("digits")
    tx, data = adamw(task, 1e-2), draw(KEY)

    @jax.jit
    def step(params: Any, state: Any, number: jax.Array) -> tuple[Any, Any]:
        grads = jax.grad(task.loss)(params, task.batch(data, KEY, number))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def run(params: Any, state: Any, first: int, last: int) -> tuple[Any, Any]:
        for number in range(first, last):
            params, state = step(params, state, jnp.int32(number))
        return params, state

    params = init(KEY)
    whole = run(params, tx.init(params), 0, 12)
    saved = jax.device_get(run(params, tx.init(params), 0, 5))
    assert identical(run(*saved, 5, 12), whole)
    assert not identical(run(*saved, 4, 12), whole)


# digits_conv ----------------------------------------------------------------------------------------------------------


def test_the_convolution_is_that_of_flax() -> None:
    @jax.jit
    def both() -> tuple[jax.Array, ...]:
        ours = convolutional.Convolution(3, 5, rngs=nnx.Rngs(0))
        flax = nnx.Conv(3, 5, (3, 3), rngs=nnx.Rngs(1))
        ours.linear.bias[...] = flax.bias[...] = jnp.arange(5.0)
        flax.kernel[...] = ours.linear.kernel[...].reshape(3, 3, 3, 5)
        images = jax.random.normal(KEY, (2, 4, 6, 3))
        return ours(images), flax(images), convolutional._halved(images), nnx.max_pool(images, (2, 2), (2, 2))

    convolved, expected, halved, pooled = both()
    np.testing.assert_allclose(convolved, expected, atol=1e-5)
    np.testing.assert_array_equal(halved, pooled)


# digits_dense ---------------------------------------------------------------------------------------------------------


def dead_weights(name: str) -> int:
    """How many weights have no gradient before or after the first step."""
    task, (draw, init, _) = small(name), compiled(name)

    @jax.jit
    def gradients(data: Any, params: Any) -> tuple[Any, Any]:
        first = jax.grad(task.loss)(params, task.batch(data, KEY, jnp.int32(0)))
        moved = jax.tree.map(lambda weight, slope: weight - 0.1 * slope, params, first)
        return first, jax.grad(task.loss)(moved, task.batch(data, KEY, jnp.int32(1)))

    dead = jax.tree.map(
        lambda first, second: int(((first == 0) | (second == 0)).sum()), *gradients(draw(KEY), init(KEY))
    )
    return sum(jax.tree.leaves(dead))


def test_no_weight_of_the_dense_digits_is_dead() -> None:
    assert dead_weights("digits_dense") == 0
    assert dead_weights("digits") >= 3 * 64


@pytest.mark.parametrize("change", ["all pixels", "relu"])
def test_the_dense_digits_need_both_of_their_changes(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, change, dense.digits_dense)
    if change == "relu":
        monkeypatch.setattr(nnx, "tanh", nnx.relu)
    else:
        monkeypatch.setattr(dense, "pixels", lambda: np.arange(64))
    assert dead_weights(change) > 0


def test_the_dense_digits_are_the_digits_without_the_pixels_that_seldom_vary() -> None:
    (draw, *_), (draw_dense, *_) = compiled("digits"), compiled("digits_dense")
    kept = dense.pixels()
    assert 0 < len(kept) < 64
    for (images, labels), (fewer, same) in zip(draw(KEY), draw_dense(KEY), strict=True):
        np.testing.assert_array_equal(np.asarray(images)[:, kept], fewer)
        np.testing.assert_array_equal(labels, same)
    data = draw_dense(KEY)
    varies = jax.jit(jax.vmap(lambda step: small("digits_dense").batch(data, KEY, step)[0].any(0)))
    assert varies(jnp.arange(1000, dtype=jnp.int32)).all()


# python_lm ------------------------------------------------------------------------------------------------------------


def library(folder: Path, names: list[str]) -> dict[str, bytes]:
    """A made-up standard library; the content of a file names it."""
    files = {name: f"# {name}\n".encode() * (20 + len(name)) for name in names}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return files


MODULES = [f"package{number % 7}/module{number}.py" for number in range(60)]
LEFT_OUT = ["test/test_a.py", "json/tests/b.py", "site-packages/numpy.py", "encodings/cp037.py", "lib/notes.txt"]


def require_split_by_file(parts: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Every file is in one part, whole and ended by a zero byte, and nothing else is in any."""
    used = [name for part in parts.values() for name in part.files]
    assert sorted(used) == sorted(files)
    for part in parts.values():
        assert part.text.dtype == np.uint8
        assert part.text.tobytes() == b"".join(files[name] + b"\0" for name in part.files)


def test_the_library_is_split_by_file_by_path_alone(tmp_path: Path) -> None:
    files = library(tmp_path / "a", MODULES)
    library(tmp_path / "a", LEFT_OUT)
    parts = language.read(tmp_path / "a", None)
    require_split_by_file(parts, files)
    assert all(len(part.files) >= 2 for part in parts.values())

    library(tmp_path / "b", MODULES[::-1])
    again = language.read(tmp_path / "b", None)
    assert {part: source.files for part, source in again.items()} == {part: s.files for part, s in parts.items()}

    library(tmp_path / "c", [*MODULES, "newcomer.py"])
    more = language.read(tmp_path / "c", None)
    for part, source in parts.items():
        assert [name for name in more[part].files if name != "newcomer.py"] == list(source.files)


def test_a_split_by_position_is_rejected(tmp_path: Path) -> None:
    files = library(tmp_path, MODULES)
    text = np.frombuffer(b"".join(content + b"\0" for content in files.values()), np.uint8)
    cuts = np.split(text, [len(text) * 8 // 10, len(text) * 9 // 10])
    wrong = {
        part: language.Source(tuple(name for name in files if name.encode() in cut.tobytes()), cut)
        for part, cut in zip(language.PARTS, cuts, strict=True)
    }
    with pytest.raises(AssertionError):
        require_split_by_file(wrong, files)


def test_the_cap_cuts_the_training_text_alone(tmp_path: Path) -> None:
    library(tmp_path, MODULES)
    whole, capped = language.read(tmp_path, None), language.read(tmp_path, 1000)
    assert capped["train"].text.tobytes() == whole["train"].text.tobytes()[:1000]
    assert capped["train"].files == whole["train"].files[: len(capped["train"].files)]
    assert len(capped["train"].files) < len(whole["train"].files)
    for part in ("validation", "test"):
        assert capped[part].files == whole[part].files


def test_this_library_is_read_whole_and_measured_in_its_own_parts() -> None:
    folder = Path(language.sysconfig.get_paths()["stdlib"])
    source = language.read(folder, None)
    files = [set(source[part].files) for part in language.PARTS]
    assert len(set.union(*files)) == sum(map(len, files))
    assert not any(language.SKIPPED & set(name.split("/")) for name in set.union(*files))
    for part in ("validation", "test"):
        assert 0.05 < len(source[part].files) / sum(map(len, files)) < 0.15
    data = compiled("python_lm_small")[0](KEY)
    assert data.text.tobytes() == source["train"].text.tobytes()[: len(data.text)]
    for part in language.PARTS:
        windows, text = getattr(data, part), source[part].text.tobytes()
        assert windows.shape == (128, 65)
        assert windows.dtype == jnp.uint8
        places = [text.index(np.asarray(window).tobytes()) for window in windows]
        assert places[0] == 0
        if part != "train":
            assert text.endswith(np.asarray(windows[-1]).tobytes())


def test_the_description_names_the_python_and_its_bytes() -> None:
    task, (draw, _, cut) = small("python_lm_small"), compiled("python_lm_small")
    assert f"Python {language.platform.python_version()} (sha256 " in task.description
    data = draw(KEY)
    shapes = {name: value.shape for name, value in data._asdict().items()}
    assert shapes == {"text": (2**20,), "train": (128, 65), "validation": (128, 65), "test": (128, 65)}
    batch = cut(data, KEY, jnp.int32(5))
    assert (batch.shape, batch.dtype) == ((16, 65), jnp.int32)
    assert data.text.tobytes().find(np.asarray(batch[0]).astype(np.uint8).tobytes()) >= 0


@functools.cache
def transformer() -> Callable[[Any, Any], jax.Array]:
    _, apply = smooth.functional(lambda rngs: language.Transformer(language.SMALL, rngs=rngs))
    return jax.jit(apply)


def bits_per_byte(params: Any, windows: jax.Array) -> float:
    windows = np.asarray(windows).astype(np.int32)
    logits = np.asarray(transformer()(params, windows[:, :-1]), np.float64)
    chosen = np.take_along_axis(logits, windows[:, 1:, None], -1)[..., 0]
    return float(np.mean(np.log(np.exp(logits).sum(-1)) - chosen) / np.log(2))


def test_it_starts_at_eight_bits_per_byte() -> None:
    _, metrics = untrained_and_trained("python_lm_small")
    for name in ("validation_bits_per_byte", "test_bits_per_byte"):
        np.testing.assert_allclose(metrics[name][0], 8, atol=0.25)
    noise = jax.random.randint(KEY, (128, 65), 0, 256)
    params = compiled("python_lm_small")[1](KEY)
    np.testing.assert_allclose(bits_per_byte(params, noise), 8, atol=0.05)
    params["out"]["kernel"][...] *= 0.125 / 0.02  # nnx.Linear's own scale
    assert bits_per_byte(params, noise) > 8.5


def test_bits_per_byte_are_the_mean_over_all_windows() -> None:
    params, metrics = untrained_and_trained("python_lm_small")
    data = compiled("python_lm_small")[0](KEY)
    for cell in (0, 1):
        weights = jax.tree.map(lambda weight, n=cell: weight[n], params)
        found = [metrics["train_loss"][cell] / math.log(2)]
        found += [metrics[f"{part}_bits_per_byte"][cell] for part in ("validation", "test")]
        expected = [bits_per_byte(weights, getattr(data, part)) for part in language.PARTS]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def sees_the_future(model: Callable[[jax.Array], jax.Array]) -> bool:
    text = np.random.default_rng(0).integers(0, 256, (128, 64), np.int32)
    changed = text.copy()
    changed[:, 20] = (text[:, 20] + 1) % 256
    before, after = model(text), model(changed)
    assert not np.allclose(before[:, 20], after[:, 20], atol=1e-4)
    return not np.allclose(before[:, :20], after[:, :20], atol=1e-4)


def test_the_transformer_is_causal(monkeypatch: pytest.MonkeyPatch) -> None:
    params, apply = compiled("python_lm_small")[1](KEY), transformer()
    assert not sees_the_future(lambda text: apply(params, text))
    attention = nnx.MultiHeadAttention.__call__
    monkeypatch.setattr(
        nnx.MultiHeadAttention, "__call__", lambda self, values, mask: attention(self, values, mask=jnp.ones_like(mask))
    )
    _, looking_ahead = smooth.functional(lambda rngs: language.Transformer(language.SMALL, rngs=rngs))
    assert sees_the_future(jax.jit(lambda text: looking_ahead(params, text)))


def test_the_schedule_is_that_of_optax() -> None:
    schedule = python_lm_small(steps=200).schedule
    assert schedule is not None
    theirs = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup_steps=10, decay_steps=200, end_value=0.0)
    ours = jax.vmap(schedule)(jnp.arange(200, dtype=jnp.int32))
    np.testing.assert_array_equal(ours, jax.vmap(theirs)(jnp.arange(200.0)))
    assert (ours[0], ours[10]) == (0, 1)
    assert ours.max() == 1
    assert ours[1:].min() > 0
    assert ours[-1] < 1e-3


def test_a_python_without_source_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(
        ValueError, match=r"^python_lm_small: too little Python source under .* \(0 bytes to train, 0 by.*"
    ):
        python_lm_small()
    with pytest.raises(ValueError, match=r"run it with a Python whose standard library is installed as \.py files$"):
        TASKS["python_lm"]()


# modular --------------------------------------------------------------------------------------------------------------


def require_no_mirrors(split: Split, prime: int) -> None:
    """Every sum stands in one part, no matter the order of its terms, and the targets are right."""
    parts = [{tuple(sorted(pair)) for pair in np.asarray(inputs).tolist()} for inputs, _ in split]
    assert len(set.union(*parts)) == sum(map(len, parts)) == sum(len(inputs) for inputs, _ in split)
    for inputs, targets in split:
        assert (inputs.dtype, targets.dtype) == (jnp.int32, jnp.int32)
        np.testing.assert_array_equal(targets, np.asarray(inputs).sum(1) % prime)


def test_every_sum_is_in_one_part() -> None:
    split = pairs.draw(KEY)
    assert [inputs.shape for inputs, _ in split] == [(1239, 2), (177, 2), (354, 2)]
    assert 59 * 60 // 2 == 1239 + 177 + 354
    require_no_mirrors(split, 59)


def test_the_split_of_ordered_pairs_is_rejected() -> None:
    everything = np.stack(np.divmod(np.random.default_rng(0).permutation(59 * 59), 59), -1).astype(np.int32)
    parts = np.split(jnp.asarray(everything), [2400, 2800])
    with pytest.raises(AssertionError):
        require_no_mirrors(Split(*((part, part.sum(1) % 59) for part in parts)), 59)


STEPS = np.array([50, 100, 150, 200], np.int32)
CURVES = {
    "rises": ([0.1, 0.5, 0.96, 1.0], 150),
    "at the bound": ([0.1, np.float32(0.95), 0.97, 1.0], 100),
    "at once": ([1.0, 1.0, 1.0, 1.0], 50),
    "in the end": ([0.0, 0.0, 0.9, 0.95], 200),
    "falls again": ([0.1, 0.96, 0.2, 0.3], 100),
    "never": ([0.1, 0.5, 0.9, 0.9499], math.inf),
    "diverges": ([0.1, math.nan, math.nan, math.nan], math.inf),
    "diverges later": ([0.1, 0.97, math.nan, math.nan], 100),
}


def failures(steps_to: Callable[[float, Any, Any], Any]) -> list[str]:
    answers = {name: float(steps_to(0.95, STEPS, np.float32(curve))) for name, (curve, _) in CURVES.items()}
    return [name for name, (_, expected) in CURVES.items() if answers[name] != expected]


def test_steps_to_an_accuracy_on_made_up_curves() -> None:
    assert failures(lambda *args: pairs.steps_to(args[0], *map(jnp.asarray, args[1:]))) == []
    curves = jnp.float32([curve for curve, _ in CURVES.values()])
    mapped = jax.jit(jax.vmap(lambda curve: pairs.steps_to(0.95, jnp.asarray(STEPS), curve)))(curves)
    np.testing.assert_array_equal(mapped, np.float32([expected for _, expected in CURVES.values()]))


WRONG_STEPS_TO = {
    "strictly above": lambda bound, steps, curve: min(steps[curve > bound], default=math.inf),
    "never is the first step": lambda bound, steps, curve: steps[(curve >= bound).argmax()],
    "never is the last step": lambda bound, steps, curve: min([*steps[curve >= bound], steps[-1]]),
    "never is NaN": lambda bound, steps, curve: min(steps[curve >= bound], default=math.nan),
    "the last crossing": lambda bound, steps, curve: max(steps[curve >= bound], default=math.inf),
    "the step before": lambda bound, steps, curve: min(steps[curve >= bound] - 50, default=math.inf),
    "the number of the measurement": lambda bound, steps, curve: min(np.flatnonzero(curve >= bound), default=math.inf),
    "kept to the end": lambda bound, steps, curve: min(
        steps[(curve >= bound) & (curve[-1] >= bound)], default=math.inf
    ),
}


@pytest.mark.parametrize("name", WRONG_STEPS_TO)
def test_wrong_summaries_are_rejected(name: str) -> None:
    assert failures(WRONG_STEPS_TO[name])


def test_the_summary_reads_each_part_from_its_own_curve() -> None:
    curves = {"train": [1.0, 1, 1, 1], "validation": [0, 1.0, 1, 1], "test": [0, 0, 1.0, 1]}
    found = modular().summary(jnp.asarray(STEPS), {f"{part}_accuracy": jnp.float32(c) for part, c in curves.items()})
    assert {name: float(value) for name, value in found.items()} == {
        "train_steps_to_95": 50,
        "validation_steps_to_95": 100,
        "test_steps_to_95": 150,
    }


# landscapes -----------------------------------------------------------------------------------------------------------


def beale_slope(x: float, y: float) -> tuple[float, float]:
    a, b, c = (1.5, 2.25, 2.625) + x * (y ** np.arange(1, 4) - 1)
    return (
        2 * (a * (y - 1) + b * (y**2 - 1) + c * (y**3 - 1)),
        2 * x * (a + 2 * b * y + 3 * c * y**2),
    )


# By landscape: its gradient by hand, the eigenvalues of the Hessian at the minimum, and its value at the start.
CLOSED_FORMS = {
    "rosenbrock": (
        lambda x, y: (-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)),
        np.linalg.eigvalsh([[802.0, -400.0], [-400.0, 200.0]]),
        24.2,
    ),
    "beale": (beale_slope, np.linalg.eigvalsh([[3.15625, -11.4375], [-11.4375, 46.125]]), 14.203125),
    "quadratic": (
        lambda x, y: ((x + y - 3) + 100 * (x - y - 1), (x + y - 3) - 100 * (x - y - 1)),
        np.array([2.0, 200.0]),
        (3.0**2 + 100 * 3.0**2) / 2,
    ),
}


def differences(landscape: landscapes.Landscape, name: str) -> list[str]:
    """In what a landscape differs from its closed form; in float64."""
    slope_by_hand, curvatures, at_start = CLOSED_FORMS[name]
    points = np.random.default_rng(0).normal(size=(200, 2)) * 2
    points[:2] = landscape.minimum, landscape.start

    def value(point: jax.Array) -> jax.Array:
        return landscape.value(point[0], point[1])

    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(value)))(points)
    hessian = jax.jit(jax.hessian(value))(points[0])
    expected = np.array([slope_by_hand(*point) for point in points])
    checks = {
        "minimum": values[0] == 0 and (np.abs(slopes[0]) < 1e-12).all(),
        "elsewhere": (values[1:] > 0).all(),
        "start": np.isclose(values[1], at_start, rtol=1e-12),
        "slope": np.allclose(slopes, expected, rtol=1e-9, atol=1e-9),
        "curvature": np.allclose(np.linalg.eigvalsh(hessian), curvatures),
    }
    return [check for check, holds in checks.items() if not holds]


LANDSCAPES = {
    "rosenbrock": landscapes.ROSENBROCK,
    "beale": landscapes.BEALE,
    "quadratic": landscapes.QUADRATIC,
}


@pytest.mark.parametrize("name", LANDSCAPES)
def test_landscapes_have_their_closed_forms(name: str, x64: None) -> None:
    assert differences(LANDSCAPES[name], name) == []


WRONG_LANDSCAPES = {
    "rosenbrock with 10": ("rosenbrock", lambda x, y: (1 - x) ** 2 + 10 * (y - x**2) ** 2),
    "rosenbrock mirrored": ("rosenbrock", lambda x, y: (1 + x) ** 2 + 100 * (y - x**2) ** 2),
    "rosenbrock with a root": ("rosenbrock", lambda x, y: ((1 - x) ** 2 + 100 * (y - x**2) ** 2) / 2),
    "beale without its last term": ("beale", lambda x, y: (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2),
    "beale with 2.5": (
        "beale",
        lambda x, y: (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.5 - x + x * y**3) ** 2,
    ),
    "quadratic along the axes": ("quadratic", lambda x, y: ((x - 2) ** 2 + 100 * (y - 1) ** 2) / 2),
    "quadratic of condition 10": ("quadratic", lambda x, y: ((x + y - 3) ** 2 + 10 * (x - y - 1) ** 2) / 2),
}


@pytest.mark.parametrize("wrong", WRONG_LANDSCAPES)
def test_wrong_landscapes_are_rejected(wrong: str, x64: None) -> None:
    name, value = WRONG_LANDSCAPES[wrong]
    assert differences(LANDSCAPES[name]._replace(value=value), name)


@pytest.mark.parametrize("name", LANDSCAPES)
def test_the_metrics_of_a_landscape_are_its_trajectory(name: str) -> None:
    task, (data, init, _) = small(name), compiled(name)
    starts = jax.vmap(init)(jax.random.split(KEY, 200))["position"][...]
    np.testing.assert_allclose(starts.mean(0), LANDSCAPES[name].start, atol=0.03)
    np.testing.assert_allclose(starts.std(0), 0.1, atol=0.02)
    params = init(KEY)
    metrics = task.metrics(params, data(KEY))
    np.testing.assert_array_equal([metrics["x"], metrics["y"]], params["position"][...])
    expected = math.dist(params["position"][...].tolist(), LANDSCAPES[name].minimum)
    np.testing.assert_allclose(metrics["distance"], expected, rtol=1e-6)
    assert metrics["train_loss"] == task.loss(params, ())


# A task of one's own, and bad input -----------------------------------------------------------------------------------


def ramp(length: int = 12) -> tuple[jax.Array, jax.Array]:
    return jnp.ones((length, 3)), jnp.arange(length, dtype=jnp.int32) % 2


SPLIT = Split(ramp(12), ramp(5), ramp(7))


class Linear(nnx.Module):
    """Three inputs, two classes."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.out = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return self.out(inputs)


class Normalized(Linear):
    """Holds batch statistics."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        super().__init__(rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)


class Dropped(Linear):
    """Holds the state of random numbers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        super().__init__(rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


def own(module: Any = Linear, data: Any = SPLIT, **changed: Any) -> Task:
    return supervised(module, data, **{"name": "own", "description": "", "steps": 20, "batch_size": 4} | changed)


def test_a_supervised_task_measures_every_part() -> None:
    task = own()
    task.check()
    params, data, measure = jax.jit(task.init)(KEY), task.data(KEY), jax.jit(task.metrics)
    metrics = measure(params, data)
    assert set(metrics) == {f"{part}_{what}" for part in Split._fields for what in ("loss", "accuracy")}
    assert task.batch(data, KEY, jnp.int32(0))[0].shape == (4, 3)
    assert identical(own(batch_size=None).batch(data, KEY, jnp.int32(0)), data.train)
    for part, (inputs, targets) in data._asdict().items():
        logits = np.asarray(inputs @ params["out"]["kernel"][...] + params["out"]["bias"][...][None], np.float64)
        expected = np.mean(np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(targets)), targets])
        np.testing.assert_allclose(metrics[f"{part}_loss"], expected, rtol=1e-5)
        share = np.mean(logits.argmax(-1) == np.asarray(targets))
        np.testing.assert_allclose(metrics[f"{part}_accuracy"], share, rtol=1e-6)
    broken = jax.tree.map(lambda weight: jnp.full_like(weight, jnp.nan), params)
    assert all(np.isnan(value) for value in measure(broken, data).values())


def test_every_example_is_drawn() -> None:
    data = Split((jnp.arange(12.0)[:, None], jnp.arange(12, dtype=jnp.int32)), ramp(5), ramp(7))
    task = own(lambda rngs: nnx.Linear(1, 12, rngs=rngs), data)
    draw = jax.jit(jax.vmap(lambda step: task.batch(data, KEY, step)))
    inputs, targets = draw(jnp.arange(100, dtype=jnp.int32))
    assert set(np.asarray(targets).ravel()) == set(range(12))
    np.testing.assert_array_equal(inputs[..., 0], np.asarray(targets, np.float32))


def test_numpy_arrays_and_functions_of_the_key_are_data_too() -> None:
    arrays = own(data=jax.tree.map(np.asarray, SPLIT))
    function = own(data=lambda key: SPLIT)
    assert identical(arrays.data(KEY), function.data(KEY))
    require_pure_batches(arrays.batch, arrays.data(KEY))


def bare(**changed: Any) -> Task:
    return dataclasses.replace(own(), **changed)


ROW = jnp.zeros(3)
BAD = {
    "batch of nothing": (lambda: own(batch_size=0), "own: batch_size must be a whole number from 1, got 0"),
    "half a batch": (lambda: own(batch_size=2.5), "own: batch_size must be a whole number from 1, got 2.5"),
    "digits, batch of nothing": (
        lambda: digits(batch_size=0),
        "digits: batch_size must be a whole number from 1, got 0",
    ),
    "text, batch of nothing": (
        lambda: python_lm_small(batch_size=0),
        "python_lm_small: batch_size must be a whole number from 1, got 0",
    ),
    "no steps": (lambda: own(steps=0), "own: steps must be a whole number from 1, got 0"),
    "no steps of text": (
        lambda: python_lm_small(steps=-1),
        "python_lm_small: steps must be a whole number from 1, got -1",
    ),
    "no steps on a landscape": (lambda: TASKS["beale"](steps=0), "beale: steps must be a whole number from 1, got 0"),
    "steps in words": (lambda: bare(steps="20"), "task own: steps must be a whole number from 1, got '20'"),
    "true steps": (lambda: bare(steps=True), "task own: steps must be a whole number from 1, got True"),
    "too many steps": (
        lambda: TASKS["quadratic"](steps=2**31),
        "quadratic: steps must be at most 2147483647, got 2147483648",
    ),
    "never measured": (lambda: own(every=0), "task own: every must be a whole number from 1, got 0"),
    "every third of twenty": (
        lambda: own(every=3),
        "task own: every must divide steps, so that the end is measured; got every=3, steps=20",
    ),
    "a target too few": (
        lambda: own(data=SPLIT._replace(test=(ramp(7)[0], ramp(6)[1]))),
        "own: test must have as many inputs as targets, from 1; got shapes (7, 3), (6,)",
    ),
    "nothing to validate": (
        lambda: own(data=SPLIT._replace(validation=ramp(0))),
        "own: validation must have as many inputs as targets, from 1; got shapes (0, 3), (0,)",
    ),
    "scalar targets": (
        lambda: own(data=SPLIT._replace(train=(ramp(7)[0], jnp.int32(1)))),
        "own: train must have as many inputs as targets, from 1; got shapes (7, 3), ()",
    ),
    "batch statistics": (
        lambda: own(Normalized),
        "Normalized holds BatchStat besides its Params; a study trains modules of Params alone: no batch statistics, "
        "no dropout",
    ),
    "dropout": (lambda: own(Dropped), "Dropped holds RngCount, RngKey besides its Params; a study trains modules of"),
    "unknown objective": (
        lambda: own(objective="accuracy").check(),
        "task own: objective must be a metric or a summary, got 'accuracy'; there are test_accuracy, test_loss, ",
    ),
    "unknown report": (
        lambda: own(reported="test_error").check(),
        "task own: reported must be a metric or a summary, got 'test_error'; there are test_accuracy, test_loss, ",
    ),
    "no training loss": (
        lambda: bare(metrics=lambda params, data: {"error": jnp.float32(0)}).check(),
        "task own: metrics must hold train_loss, got error",
    ),
    "a loss per example": (
        lambda: bare(loss=lambda params, batch: ROW).check(),
        "task own: loss must be a scalar, got shape (3,); take its mean",
    ),
    "a metric per example": (
        lambda: bare(metrics=lambda params, data: {"train_loss": ROW}).check(),
        "task own: train_loss must be a scalar, got shape (3,); take its mean",
    ),
    "a summary per measurement": (
        lambda: bare(summary=lambda steps, curves: {"curve": curves["train_loss"]}).check(),
        "task own: curve must be a scalar, got shape (10,); take its mean",
    ),
    "a schedule of rows": (
        lambda: bare(schedule=lambda step: ROW).check(),
        "task own: schedule must be a scalar, got shape (3,); take its mean",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_error(case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        make()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_data_are_three_pairs_and_may_be_tuples() -> None:
    assert own(data=tuple(SPLIT)).steps == 20
    for data in (SPLIT.train, {"train": SPLIT.train}, (SPLIT.train[0], SPLIT.train[1], SPLIT.test)):
        with pytest.raises(TypeError, match="own: data must be a Split of three pairs of inputs and targets"):
            own(data=data)


@pytest.mark.parametrize("steps", [1, 7, 12, 20, 30, 97, 1000, 999_999_937])
def test_measurements_are_as_many_as_fit(steps: int) -> None:
    """The last one is a prime, whose divisors are not looked for one by one."""
    every = steps_between(steps, 10)
    counts = [count for count in range(1, 11) if steps % count == 0]
    assert steps % every == 0
    assert steps // every == max(counts)


def test_the_example_of_ones_own_task_is_short() -> None:
    code = (ROOT / "examples" / "own_task.py").read_text().split('"""')[2]
    assert sum(bool(line.strip()) for line in code.splitlines()) < 40


def test_a_study_takes_a_task_and_checks_it() -> None:
    task = own()
    assert Study(task=task).make_task() is task
    with pytest.raises(ValueError, match="objective must be a metric or a summary"):
        Study(task=own(objective="accuracy"))
    with pytest.raises(StudyError, match="steps belong to the task own: leave them out, or change the task's"):
        Study(task=task, steps=10)


def test_without_flax_the_extra_is_named() -> None:
    program = "import sys; sys.modules['flax'] = None; import optlab.lab"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith("ModuleNotFoundError: optlab.lab needs flax: pip install 'optlab[lab]'")
