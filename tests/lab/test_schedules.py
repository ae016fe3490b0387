"""The schedules that a study can give its task: their shapes, and where they are said and trained."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import xarray as xr

from optlab.lab.derivations import from_text
from optlab.lab.engine import run
from optlab.lab.schedules import SCHEDULES, schedule
from optlab.lab.study import Study
from optlab.lab.tasks import Task

pytestmark = pytest.mark.xdist_group("schedules")

BY_HAND = {
    "constant": lambda done, steps: 1.0,
    "linear": lambda done, steps: 1 - done / steps,
    "cosine": lambda done, steps: (1 + math.cos(math.pi * done / steps)) / 2,
    "warmup_cosine": lambda done, steps: (
        done / (steps / 10) if done < steps / 10 else (1 + math.cos(math.pi * (done - steps / 10) / (0.9 * steps))) / 2
    ),
}


def factors(name: str, steps: int) -> np.ndarray:
    shape = schedule(name, steps) or (lambda step: 1.0)
    return np.asarray(jax.vmap(lambda step: jnp.asarray(shape(step)))(jnp.arange(steps, dtype=jnp.int32)))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [20, 1000])
def test_a_schedule_is_the_shape_by_hand(name: str, steps: int) -> None:
    found = factors(name, steps)
    np.testing.assert_allclose(found, [BY_HAND[name](done, steps) for done in range(steps)], atol=1e-6)
    assert found.max() == 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_one_step_is_enough(name: str) -> None:
    np.testing.assert_array_equal(factors(name, 1), [1])


def described(task: Task, name: str | None) -> str:
    return Study(task=task, schedule=name).make_task().description


def test_a_study_replaces_the_schedule_of_its_task_and_says_so() -> None:
    own = dataclasses.replace(tiny.tiny(), schedule=lambda step: jnp.float32(0.5))
    assert Study(task=own).make_task() is own
    assert Study(task=own, schedule="constant").make_task().schedule is None
    assert described(tiny.tiny(), "linear") == "a noisy line; learning rate by the schedule linear"
    assert described(own, "cosine") == "a noisy line; learning rate by the schedule cosine in place of the task's own"
    named = Study(task="digits", steps=40, schedule="cosine").make_task()
    assert named.schedule is not None
    np.testing.assert_allclose(named.schedule(jnp.int32(20)), 0.5)


def test_the_schedule_of_a_study_is_trained_and_in_the_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.use(1, 64, monkeypatch.setattr)
    study = dataclasses.replace(tiny.STUDY, sites=("update",), learning_rates=(0.3,), seeds=1)
    own = dataclasses.replace(tiny.tiny(), schedule=lambda step: jnp.float32(1 - step.astype(jnp.float32) / 12))
    data = run(dataclasses.replace(study, schedule="linear"))
    xr.testing.assert_allclose(data.drop_attrs(), run(dataclasses.replace(study, task=own)).drop_attrs(), rtol=1e-5)
    assert (data.train_loss != run(study).train_loss).all()
    assert from_text(data.attrs["equations"])["update"].equations[-1].count("schedule") == 1
    assert data.attrs["description"] == "a noisy line; learning rate by the schedule linear"
