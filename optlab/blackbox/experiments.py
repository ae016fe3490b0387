"""The runs that a black box is put through, and what is wrong with one that can't be told anything of."""

import dataclasses

import numpy as np

from optlab.blackbox.adapters import Box
from optlab.blackbox.fitting import DOUBLE, SINGLE, Trajectory, rms
from optlab.blackbox.probes import Probe, fresh, ladder

STEPS, SHORT = 40, 12
FRESH_STEPS, FRESH_WEIGHTS = 120, 144
AGAIN = 8.0  # in roundings: how far two runs of the same may be off each other
VISIBLE = 1e4  # in roundings: what a decay has to move twins by, to be told from other decays
LOUDER = 8  # how many times a decay is raised tenfold to be seen


def twin_moves(run: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Distances of twins before a step and their changes in it, both in units of noise, flat.

    Twins see the same gradients from two starting points, so that their distance moves by decay alone.
    """
    noise = run.noise[:, 0::2] + run.noise[:, 1::2]
    seen = run.seen[:, 0::2] & run.seen[:, 1::2]
    with np.errstate(all="ignore"):
        distance = run.w[:, 1::2] - run.w[:, 0::2]
        return (distance[:-1] / noise)[seen], (np.diff(distance, axis=0) / noise)[seen]


@dataclasses.dataclass(frozen=True)
class Experiments:
    """A box, and the learning rate and the decay that it is driven at."""

    box: Box
    rate: float
    decay: float
    seed: int
    unit: float = DOUBLE

    @property
    def probe(self) -> Probe:
        return ladder(STEPS, self.seed)

    def run(self, rate: float, decay: float, probe: Probe) -> Trajectory:
        return Trajectory(self.box.run(rate, decay, probe.start, probe.grads), probe.grads, self.unit)

    def at_rest(self) -> tuple["Experiments", Trajectory]:
        """The run without decay, if the box can do without, and these experiments at the box's precision."""
        run = self.run(self.rate, 0.0, self.probe)
        self._require_finite(run)
        single = np.array_equal(run.w, run.w.astype(np.float32), equal_nan=True)
        unit = SINGLE if single else DOUBLE
        run = Trajectory(run.w, run.g, unit)
        again = self.run(self.rate, 0.0, self.probe.first(SHORT))
        off = _apart(run, again)
        if off.max() > AGAIN:
            t = int(np.argwhere(off > AGAIN)[0, 0])
            raise ValueError(
                f"identify: the box is stochastic: two runs on the same gradients part at step {t + 1}; make must give"
                " a fresh optimizer at every call, with what is random in it seeded"
            )
        return dataclasses.replace(self, unit=unit), run

    def _require_finite(self, run: Trajectory) -> None:
        ordinary = (self.probe.scale >= 1e-3) & (self.probe.scale <= 1e3)
        lost = ~np.isfinite(run.w[1:, ordinary])
        if lost.any():
            t, weight = np.argwhere(lost)[0]
            g = run.g[t, ordinary][weight]
            raise ValueError(
                f"identify: step {t + 1} of the box gave a weight that is not finite, at the gradient {g:.3g} and"
                f" learning_rate={self.rate:g}; try a smaller rate"
            )

    def at_half_rate(self, decay: float, full: Trajectory) -> Trajectory:
        """The run at half the rate, `full` being that at the rate."""
        half = self.run(self.rate / 2, decay, self.probe)
        if np.array_equal(half.w, full.w, equal_nan=True):
            raise ValueError(
                f"identify: the box ignores its learning rate: it does the same at {self.rate:g} and at"
                f" {self.rate / 2:g}; hand the rate on to the optimizer"
            )
        return half

    def mixes(self, decay: float, run: Trajectory) -> bool:
        """Whether weights notice that others see gradients a thousand times as large as in `run`."""
        others = np.arange(self.probe.start.size) // 2 % 2 == 0
        louder = self.probe.grads[:SHORT] * np.where(others, 1e3, 1.0)
        changed = self.run(self.rate, decay, dataclasses.replace(self.probe, grads=louder))
        return bool(_apart(run, changed)[:, ~others].max() > AGAIN)

    def at_visible_decay(self) -> tuple[float, Trajectory]:
        """The decay, raised where the box's precision would hide it, and the run at it."""
        decay, run = self.decay, self.run(self.rate, self.decay, self.probe)
        for _ in range(LOUDER):
            if rms(twin_moves(run)[1]) > VISIBLE:
                break
            louder = self.run(self.rate, 10 * decay, self.probe)
            if np.array_equal(louder.w, run.w, equal_nan=True):
                break
            decay, run = 10 * decay, louder
        return decay, run

    def afresh(self, decay: float) -> Trajectory:
        """A longer run on gradients and weights that no other run has seen."""
        return self.run(self.rate, decay, fresh(FRESH_STEPS, FRESH_WEIGHTS, self.seed + 1))


def _apart(run: Trajectory, short: Trajectory) -> np.ndarray:
    """How far the first steps of a run are off those of another, in units of noise."""
    with np.errstate(all="ignore"):
        off = np.abs(short.w[1:] - run.w[1 : SHORT + 1]) / short.noise
    return np.where(short.seen & run.seen[:SHORT], off, 0)
