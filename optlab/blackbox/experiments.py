"""The runs that a black box is put through, and what is wrong with one that can't be told anything of."""

import dataclasses

import numpy as np

from optlab.blackbox.adapters import Box, Gradient, Leaves
from optlab.blackbox.fitting import DOUBLE, SINGLE, Precision, Trajectory, rms
from optlab.blackbox.probes import Probe, closed_loop, ladder

STEPS, SHORT = 40, 12
WATCHED = 240  # a model of single weights predicts each of them alone
AGAIN = 8.0  # in roundings: how far two runs of the same may be off each other
VISIBLE = 1e4  # in roundings: what a decay has to move twins by, to be told from other decays
LOUDER = 1e8  # how many times as large a decay is tried, or one that outweighs the rate, to be seen at all


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
    precision: Precision = DOUBLE

    @property
    def probe(self) -> Probe:
        return ladder(STEPS, self.seed)

    def run(self, rate: float, decay: float, probe: Probe) -> Trajectory:
        return Trajectory(self.box.run(rate, decay, probe.start, probe.grads), probe.grads, self.precision)

    def leaves(
        self, rate: float, decay: float, starts: Leaves, gradient: Gradient, steps: int
    ) -> dict[str, Trajectory]:
        """Arrays of several shapes in one optimizer; of a large one, `WATCHED` of its weights."""
        weights, grads = self.box.run_leaves(rate, decay, starts, gradient, steps)
        flat = {name: each.reshape(steps, -1) for name, each in grads.items()}
        together = np.concatenate(list(flat.values()), axis=1) if self.box.joins else None
        runs = {}
        for name, w in weights.items():
            some = np.linspace(0, starts[name].size - 1, min(starts[name].size, WATCHED)).astype(int)
            everyone = flat[name] if together is None else together
            runs[name] = Trajectory(w.reshape(steps + 1, -1)[:, some], flat[name][:, some], self.precision, everyone)
        return runs

    def at_rest(self) -> tuple["Experiments", Trajectory]:
        """The run without decay, if the box can do without, and these experiments at the box's precision."""
        run = self.run(self.rate, 0.0, self.probe)
        self._require_finite(run)
        with np.errstate(over="ignore"):
            single = np.array_equal(run.w, run.w.astype(np.float32), equal_nan=True)
        precision = SINGLE if single else DOUBLE
        run = Trajectory(run.w, run.g, precision)
        again = self.run(self.rate, 0.0, self.probe.first(SHORT))
        off = _apart(run, again)
        if off.max() > AGAIN:
            t = int(np.argwhere(off > AGAIN)[0, 0])
            raise ValueError(
                f"identify: the box is stochastic: two runs on the same gradients part at step {t + 1}; make must give"
                " a fresh optimizer at every call, with what is random in it seeded"
            )
        return dataclasses.replace(self, precision=precision), run

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

    @property
    def loudest(self) -> float:
        return max(LOUDER * self.decay, 100.0, 100 / self.rate)

    def decaying(self, rest: Trajectory) -> str:
        """Whether a step of any weight differs from that without decay, at a decay too large to be lost beside it.

        Returns:
          `vectors` where those of the ladder do, `arrays` where only those of arrays of several axes do, or nothing.
        """
        probe = self.probe.first(SHORT)
        if any(_differ(rest, self.run(self.rate, decay, probe)) for decay in (self.decay, self.loudest)):
            return "vectors"
        starts, gradient = closed_loop(self.rate, self.seed, tangent=False, single=True)
        try:
            still, loud = (self.leaves(self.rate, decay, starts, gradient, SHORT) for decay in (0.0, self.loudest))
        except (TypeError, ValueError):
            return ""  # a box of vectors alone
        return "arrays" if any(_differ(still[name], loud[name]) for name in starts) else ""

    def at_visible_decay(self) -> tuple[float, Trajectory]:
        """The decay, raised where the box's precision would hide it, and the run at it."""
        decay, given = self.decay, self.run(self.rate, self.decay, self.probe)
        run = given
        while not (rms(twin_moves(run)[1]) > VISIBLE):
            decay *= 10
            if decay > self.loudest:
                return self.decay, given
            run = self.run(self.rate, decay, self.probe)
        return decay, run


def _differ(run: Trajectory, short: Trajectory) -> bool:
    """Whether a weight of the first steps is another, one that is lost included."""
    lost = ~np.isfinite(short.w) & np.isfinite(run.w[: SHORT + 1])
    return bool(lost.any() or _apart(run, short).max() > AGAIN)


def _apart(run: Trajectory, short: Trajectory) -> np.ndarray:
    """How far the first steps of a run are off those of another, in units of noise."""
    with np.errstate(all="ignore"):
        off = np.abs(short.w[1:] - run.w[1 : SHORT + 1]) / short.noise
    return np.where(short.seen & run.seen[:SHORT], off, 0)
