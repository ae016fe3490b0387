"""What bias correction does to an exponential moving average that starts at zero."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from matplotlib.figure import Figure

from optlab.algebra.combinators import chain
from optlab.atoms.averages import bias_correct, scale_by_ema
from optlab.lab.figures.style import COLOURS, labelled, legend, sheet

NOISE = 0.3
FIRST = 30


def averages_data(decays: Sequence[float] = (0.9, 0.98), steps: int = 200, seed: int = 0) -> xr.Dataset:
    """A noisy `signal` around a slow `mean` over `step`, and its averages `raw` and `corrected` over (decay, step).

    Args:
      decays: of the averages, each in [0, 1).
      steps: how many values the signal has.
      seed: of the noise, which is normal with a standard deviation of 0.3.
    """
    number = np.arange(1, steps + 1)
    mean = (1 + 0.4 * np.sin(2 * np.pi * number / 200)).astype(np.float32)
    signal = mean + NOISE * np.random.default_rng(seed).standard_normal(steps, np.float32)
    raw = np.stack([_through(scale_by_ema(decay), signal) for decay in decays])
    corrected = np.stack([_through(chain(scale_by_ema(decay), bias_correct(decay)), signal) for decay in decays])
    variables = {"signal": ("step", signal), "mean": ("step", mean)}
    variables |= {"raw": (("decay", "step"), raw), "corrected": (("decay", "step"), corrected)}
    return xr.Dataset(variables, {"decay": list(decays), "step": number})


def _through(tx: optax.GradientTransformation, signal: np.ndarray) -> np.ndarray:
    def step(state: optax.OptState, value: jax.Array) -> tuple[optax.OptState, optax.Updates]:
        average, state = tx.update(value, state)
        return state, average

    return np.asarray(jax.lax.scan(step, tx.init(jnp.float32(0)), jnp.asarray(signal))[1])


def averages(data: xr.Dataset, *, width: float = 11.0) -> Figure:
    """An exponential moving average of a noisy signal, raw and corrected, and the mean that it is after.

    Per decay, all steps and the first thirty: an average that began at zero is too small until the weights that it has
    given out sum to one, after about `1 / (1 - decay)` steps; the correction divides by that sum.

    Args:
      data: what `averages_data` gives.
      width: in inches.
    """
    figure, panels = sheet(2 * data.sizes["decay"], width, 5.0, 2.4)
    lines = {
        "mean": ("true mean", {"color": "black", "linewidth": 1.2, "linestyle": "--"}),
        "raw": ("average, raw", {"color": COLOURS[1], "linewidth": 2}),
        "corrected": ("average, corrected", {"color": COLOURS[0], "linewidth": 2}),
    }
    for number, panel in enumerate(panels):
        whole = number % 2 == 0
        row = data.isel(decay=number // 2)
        row = row if whole else row.isel(step=slice(FIRST))
        panel.plot(row.step, row.signal, ".", color="#999999", markersize=4 if whole else 6, label="signal")
        for name, (label, look) in lines.items():
            panel.plot(row.step, row[name], label=label, **look)
        panel.set_ylim(-0.1, float(data.signal.max()) + 0.1)
        panel.set_title(f"decay {float(row.decay):g}" + ("" if whole else ", the first steps"), fontsize=10)
        panel.set_xlabel("step")
    legend(figure, labelled(panels[0]))
    return figure
