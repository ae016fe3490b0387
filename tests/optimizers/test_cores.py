"""The cores that are known by name are what the optimizers of these names are made of."""

import inspect
from typing import Any

import public
import pytest

import optlab
from optlab.optimizers.cores import CORES, hyperparameters

CALLED = {"rmsprop": {"b2": "decay"}}
OTHERS = {"b1": 0.8, "b2": 0.7, "eps": 1e-3, "eps_root": 1e-4, "initial": 0.5}


@pytest.mark.parametrize("name", CORES)
def test_a_core_before_a_rate_is_the_optimizer_of_its_name(name: str) -> None:
    given = {key: OTHERS[key] for key in hyperparameters(name)}
    called = {CALLED.get(name, {}).get(key, key): value for key, value in given.items()}
    decay = () if name != "lion" else (optlab.add_decayed_weights(0.1),)
    more: dict[str, Any] = {} if name != "lion" else {"weight_decay": 0.1}
    core = () if name == "sgd" else (CORES[name](**given),)
    whole = optlab.chain(*core, *decay, optlab.scale_by_learning_rate(0.1))
    assert whole == getattr(optlab, name)(0.1, **called, **more)
    assert CORES["sgd"]() == optlab.identity()


@pytest.mark.parametrize("name", CORES)
def test_a_core_has_the_defaults_of_its_optimizer_and_no_others(name: str) -> None:
    known = inspect.signature(getattr(optlab, name)).parameters
    chosen = {"b2"} if name == "rmsprop" else set()
    for key, default in hyperparameters(name).items():
        assert (default is None) == (key in chosen)
        assert default is None or default == known[key].default


def test_every_optimizer_has_a_core_or_is_another_with_decay() -> None:
    decaying = {
        name for name in public.OPTIMIZERS if "weight_decay" in inspect.signature(public.MAKERS[name]).parameters
    }
    assert set(CORES) | decaying == set(public.OPTIMIZERS)
    assert set(CORES) & decaying == {"lion"}
