"""The cores that a study knows by name: what makes a direction of the gradient, before decay and learning rate."""

import inspect
from collections.abc import Callable, Mapping

from optlab.algebra.combinators import chain, divide, identity
from optlab.algebra.transform import Transform
from optlab.atoms.averages import bias_correct, interpolate_ema, scale_by_ema
from optlab.atoms.second_moments import root, running_max, scale_by_rms, sign, square


def _corrected_ema(b1: float) -> Transform:
    return chain(scale_by_ema(b1), bias_correct(b1))


def _adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Transform:
    return scale_by_rms(b2, eps, numerator=_corrected_ema(b1))


def _amsgrad(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Transform:
    size = chain(square(), scale_by_ema(b2), bias_correct(b2), running_max(), root(eps))
    return divide(_corrected_ema(b1), size)


def _laprop(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Transform:
    return chain(scale_by_rms(b2, eps), _corrected_ema(b1))


def _rmsprop(b2: float = 0.99, eps: float = 1e-8) -> Transform:
    return divide(identity(), chain(square(), scale_by_ema(b2), root(eps)))


def _lion(b1: float = 0.9, b2: float = 0.99) -> Transform:
    return chain(interpolate_ema(b1, b2), sign())


CORES: Mapping[str, Callable[..., Transform]] = {
    "adam": _adam,
    "amsgrad": _amsgrad,
    "laprop": _laprop,
    "lion": _lion,
    "momentum": lambda b1=0.9: scale_by_ema(b1),
    "rmsprop": _rmsprop,
    "sgd": identity,
}


def hyperparameters(name: str) -> dict[str, float]:
    """What the core of this name takes, with its defaults."""
    return {key: parameter.default for key, parameter in inspect.signature(CORES[name]).parameters.items()}
