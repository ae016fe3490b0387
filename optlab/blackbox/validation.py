"""What an identified model has to predict before anything is claimed: runs that it was not fitted to.

| run | arrays | gradients | rate | decay |
|---|---|---|---|---|
| open | a vector, a kernel, a matrix whose axes exceed 128 | given, of scales 1e-16 to 1e6 | as asked | on |
| closed | a vector, a kernel, a matrix | of a quadratic, at weights of 1e-3 to 1e3 | as asked | on |
| fast | the same | of a quadratic; of matrices and kernels, orthogonal to them | 1, or ten times as asked | off |

Each takes three times as many steps as the fit saw. The last wakes what adapts to the distance travelled, at a rate
that travels, and what looks at the angle between weights and gradients. Every weight is predicted from the box's own
weights before it, and has to be right down to the box's rounding, with that of what its averages remember; see
`Fit.allowed`. Where a box keeps scalars in float32, they alone may be what its steps are off by; see
`explained_by_scalars`. A value of which a longer run shows more than the fit did may move within its uncertainty: half
of the weights say where to, the others have to agree.

What a failure is taken to mean:

| what is not predicted | what is said |
|---|---|
| the vector, gradients given | nothing, or what it is without decay |
| matrices or kernels | the family on the other arrays; these go another way |
| the vector in a closed loop | the family while the weights stay; its steps grow with the distance, if they do |
| the rate at the fast run alone | the family, and the rate that it has there |
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from optlab.blackbox import placing
from optlab.blackbox.card import family
from optlab.blackbox.experiments import STEPS, Experiments
from optlab.blackbox.fitting import (
    MIXED,
    SINGLE,
    Fit,
    Trajectory,
    explained_by_rates,
    explained_by_scalars,
    fit,
    off_from,
)
from optlab.blackbox.probes import closed_loop, open_loop

HORIZON = 3 * STEPS
FAST = 1.0
SIGMAS = 10.0
GROWN = 1.1  # a rate that ends as so many times what it began as has grown
EXPLAINED = 0.5  # of the squares of a run, by a core whose rate may change
PLURAL = {"vector": "vectors", "matrix": "matrices", "kernel": "kernels of four axes"}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What of a model is confirmed.

    Attributes:
      holds: whether it predicts every run.
      full: the model, with the values that the runs confirm.
      run: the open run of the vector.
      known: what is known of a box that the model predicts in part.
      notes: what else was seen, or could not be driven.
      shapes, rates: what was driven, and at which learning rates.
    """

    holds: bool
    full: Fit
    run: Trajectory
    known: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    rates: tuple[float, ...] = ()

    def with_note(self, note: str) -> "Verdict":
        return dataclasses.replace(self, notes=(*self.notes, note))

    def with_known(self, known: str) -> "Verdict":
        return dataclasses.replace(self, known=(*self.known, known))


def validate(experiments: Experiments, decay: float, fits: Sequence[Fit], always_decays: bool) -> Verdict:
    """Whether a model predicts runs that it was not fitted to.

    Args:
      experiments: the box, and the rate that it was asked to run at.
      decay: at which the model was fitted.
      fits: the model at that rate and decay, at half the rate, and where the box takes a decay at half of that.
      always_decays: also where it is told not to.
    """
    full = fits[0]
    starts, grads = open_loop(HORIZON, experiments.seed + 1)
    opened, refused = _driven(
        experiments, decay, starts, lambda t, w: {name: grads[name][t] for name in w}, full.holds()
    )
    if full.holds() and not _predicts(full, opened["vector"]):
        full = _within_its_errors(full, opened["vector"])
    verdict = Verdict(False, full, opened["vector"], shapes=_shapes(starts, opened), rates=(experiments.rate,))
    missed = [name for name, run in opened.items() if not (full.holds() and _predicts(full, run))]
    if "vector" in missed or (experiments.precision == MIXED and not explained_by_scalars(full, opened["vector"])):
        return verdict
    name = family(full.model.core)
    if "matrix" not in opened:
        return verdict.with_known(f"{name} on vectors; beside a matrix, {refused}")
    if missed:
        return verdict.with_known(_on_some(name, opened, missed))
    if refused:
        verdict = verdict.with_note(f"{PLURAL['kernel']} can't be driven: {refused}")
    return _answering(experiments, decay, [full, *fits[1:]], always_decays, list(opened), verdict)


def _answering(
    experiments: Experiments,
    decay: float,
    fits: Sequence[Fit],
    always_decays: bool,
    names: Sequence[str],
    verdict: Verdict,
) -> Verdict:
    """The verdict of the runs whose gradients answer to the weights."""
    full, rate, single = fits[0], experiments.rate, experiments.precision == SINGLE
    starts, gradient = closed_loop(full.rate, experiments.seed, tangent=False, single=single)
    try:
        closed = experiments.leaves(rate, decay, {each: starts[each] for each in names}, gradient, HORIZON)
    except (TypeError, ValueError) as error:
        return verdict.with_known(f"{family(full.model.core)} where gradients are given; else {_plain(error)}")
    verdict = dataclasses.replace(verdict, shapes=(*verdict.shapes, *_shapes(starts, closed)))
    if known := _astray(full, closed, "where gradients answer to the weights"):
        return verdict.with_known(known)

    fast = max(FAST, 10 * rate)
    at_fast, as_expected = placing.at_rate(fits, fast / rate)
    if not always_decays:
        decay, at_fast = 0.0, placing.without_decay(at_fast)
    starts, gradient = closed_loop(at_fast.rate, experiments.seed, tangent=True, single=single)
    try:
        closed = experiments.leaves(fast, decay, {each: starts[each] for each in names}, gradient, HORIZON)
    except (TypeError, ValueError) as error:
        return dataclasses.replace(
            verdict.with_note(f"learning_rate={fast:g} can't be driven: {_plain(error)}"), holds=True
        )
    verdict = dataclasses.replace(verdict, rates=(rate, fast))
    if not _predicts(at_fast, closed["vector"]):
        free = ["rate", *(["decay"] if "decay" in at_fast.values else [])]
        other = fit(at_fast, closed["vector"], free)
        if other.holds():
            if as_expected:
                verdict = verdict.with_note(f"at learning_rate={fast:g} the effective rate is {other.rate:.6g}")
            at_fast = other
    known = _astray(at_fast, closed, "where gradients are orthogonal to the weights")
    return verdict.with_known(known) if known else dataclasses.replace(verdict, holds=True)


def _driven(
    experiments: Experiments, decay: float, starts: Mapping[str, np.ndarray], gradient: Callable, claimed: bool
) -> tuple[dict[str, Trajectory], str]:
    """Runs of all the arrays, or of as many as the box takes and what it said of the others."""
    names, refused = (["vector", "matrix", "kernel"] if claimed else ["vector"]), ""
    while True:
        try:
            some = {each: starts[each] for each in names}
            return experiments.leaves(experiments.rate, decay, some, gradient, HORIZON), refused
        except (TypeError, ValueError) as error:
            if len(names) == 1:
                raise
            names, refused = names[:-1], _plain(error)


def _plain(error: Exception) -> str:
    return str(error).removeprefix("identify: ")


def _shapes(starts: Mapping[str, np.ndarray], runs: Mapping[str, Trajectory]) -> tuple[tuple[int, ...], ...]:
    return tuple(starts[name].shape for name in runs)


def _predicts(full: Fit, run: Trajectory) -> bool:
    return off_from(full, run) <= full.allowed()


def _within_its_errors(full: Fit, run: Trajectory) -> Fit:
    """The fit, with values that half of the weights show better, if the others agree and the values were uncertain."""
    weights = np.arange(run.w.shape[1])
    free = [name for name in ("rate", *full.model.names()) if full.uncertainties.get(name)]
    half = fit(full, run.only(weights[weights % 8 < 4]), free)
    values, before = {"rate": half.rate, **half.values}, {"rate": full.rate, **full.values}
    near = all(abs(values[name] - before[name]) <= SIGMAS * full.uncertainties[name] for name in free)
    return half if near and half.holds() and _predicts(half, run.only(weights[weights % 8 >= 4])) else full


def _on_some(name: str, runs: Mapping[str, Trajectory], missed: Sequence[str]) -> str:
    """A name for what some arrays do, and that others do not."""
    like, unlike = (" and ".join(PLURAL[each] for each in runs if (each in missed) is out) for out in (False, True))
    return f"{name} on {like}; {unlike} go another way"


def _astray(full: Fit, runs: Mapping[str, Trajectory], where: str) -> str:
    """What the arrays do that a model does not predict; empty where it predicts all of them."""
    name = family(full.model.core)
    missed = [each for each in runs if not _predicts(full, runs[each])]
    if not missed:
        return ""
    if "vector" not in missed:
        return f"{_on_some(name, runs, missed)} {where}"
    rates, explained = explained_by_rates(full, runs["vector"])
    early, late = (float(np.median(part)) for part in (rates[:4], rates[-4:]))
    if explained > EXPLAINED and late > GROWN * early > 0:
        grown = f"from a rate of {early:.2g} to {late:.2g} in {len(rates)} steps"
        return f"{name} while the weights stay where they are; its steps grow with the distance travelled, {grown}"
    return f"{name} where gradients are given; another where they answer to the weights"
