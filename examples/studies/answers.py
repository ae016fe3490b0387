"""Seven questions about weight decay, answered from the studies in this folder.

    python examples/studies/answers.py [RESULTS]

writes README.md and the figures anew, and before that takes the data of every study that lies in the folder RESULTS,
where `optlab study` writes it, without its curves. Every number, and every word that depends on one, is taken from the
data while the page is written, so that it can't say what the data does not.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optlab.lab import TASKS, analysis, figures, results
from optlab.lab.figures.style import labelled, legend, looks, sheet
from optlab.lab.results import Interval

FOLDER = Path(__file__).parent
DPI = 80


class Answer(NamedTuple):
    """A question, what the data says, and where to look.

    Attributes:
      verdict: one sentence with its number, which the project's README repeats.
      rests_on: which comparison the verdict rests on.
      evidence: Markdown.
      name, shows, figure: of the picture: its file, what it shows, and how it is drawn.
      studies: whose data it is.
    """

    question: str
    verdict: str
    rests_on: str
    evidence: str
    name: str
    shows: str
    figure: Callable[[], Figure | None]
    studies: tuple[str, ...]


@functools.cache
def study(name: str) -> xr.Dataset:
    """The data of a study in this folder."""
    return results.load(FOLDER / name / results.FILE)


# Numbers and words ----------------------------------------------------------------------------------------------------


def points(interval: Interval) -> str:
    """A difference of accuracies, in percentage points."""
    mean = f"{100 * interval.mean:+.1f}"
    return f"{'0.0' if float(mean) == 0 else mean} ± {100 * interval.half_width:.1f}"


def differs(interval: Interval) -> bool:
    """Whether the interval leaves out zero."""
    return abs(interval.mean) > interval.half_width


def runs_at(data: xr.Dataset, structure: str, rate: float | None = None) -> xr.Dataset:
    """The runs of the best cell of a structure, of all rates or of one."""
    by_rate = results.best_decays(results.by_structure(data).sel(structure=[structure])).isel(structure=0)
    return (
        by_rate.isel(learning_rate=by_rate.score.argmax("learning_rate"))
        if rate is None
        else by_rate.sel(learning_rate=rate)
    )


def difference(data: xr.Dataset, structure: str, other: str, rate: float | None = None) -> Interval:
    """What is reported in the best cell of one structure minus that of the other, seed by seed."""
    name, rows = data.attrs["reported"], results.by_structure(data)
    return results.interval(runs_at(rows, structure, rate)[name].values - runs_at(rows, other, rate)[name].values)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def claim(supported: bool, sentence: str) -> str:
    """The sentence, which can't be written where the data does not say so."""
    if not supported:
        raise ValueError(f"the data does not say: {sentence}")
    return sentence


def cell(data: xr.Dataset, structure: str, rate: float, decay: float) -> np.ndarray:
    """What is reported in one cell, over seeds."""
    rows = results.by_structure(data)[data.attrs["reported"]]
    return rows.sel(structure=structure, learning_rate=rate, weight_decay=decay).values


# What several questions ask -------------------------------------------------------------------------------------------

STRENGTHS = {"weight_norm": "final weight norm", "decay_share": "share of the steps"}
STEEPEST = 0.05


def equal_strength(
    data: xr.Dataset, reference: str, others: Sequence[str], strengths: Sequence[str] = tuple(STRENGTHS)
) -> str:
    """What each of `others` has over `reference` with as much decay in both, a column per learning rate, and a reading.

    As much as the best decay of `reference` gives, and as much as the best of the other: what is ahead at both is ahead
    at equal strength, and what is ahead only at its own is tuned, not better.
    """
    rates, data = data.learning_rate.values.tolist(), results.by_structure(data)

    def over(other: str, strong_as: str, rate: float, strength: str) -> Interval | None:
        first, second = (reference, other) if strong_as == reference else (other, reference)
        found = analysis.at_equal_strength(data, first, second, rate, strength, STEEPEST)
        return found if found is None or strong_as == reference else Interval(-found.mean, found.half_width)

    found = {
        (other, strength, strong_as): [over(other, strong_as, rate, strength) for rate in rates]
        for other in others
        for strength in strengths
        for strong_as in (reference, other)
    }
    rows = [
        [f"`{other}`", STRENGTHS[strength], f"`{strong_as}`", *("–" if each is None else points(each) for each in row)]
        for (other, strength, strong_as), row in found.items()
    ]
    first = strengths[0]
    readings = [
        reading(reference, other, [*zip(found[other, first, reference], found[other, first, other], strict=True)])
        for other in others
    ]
    head = [f"over `{reference}`", "equal", "as the best", *(f"rate {rate:g}" for rate in rates)]
    return f"{table(head, rows)}\n\nWith equal {STRENGTHS[first]}, as strong as either best: {' '.join(readings)}"


def reading(reference: str, other: str, pairs: Sequence[tuple[Interval | None, Interval | None]]) -> str:
    """What a table of equal strength says: ahead is what is ahead both as strong as one best and as the other."""
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    signs = [{np.sign(each.mean) if differs(each) else 0.0 for each in pair} for pair in both]
    ahead, behind = signs.count({1.0}), signs.count({-1.0})
    if not both:
        return f"`{other}` can be compared with `{reference}` at no rate."
    return (
        f"`{other}` is ahead of `{reference}` beyond the noise at {ahead} and behind it at {behind} of the {len(both)} "
        "rates where both can be compared."
    )


def by_decay(panels: Sequence[tuple[str, xr.Dataset]], rate: float) -> Figure:
    """What is reported over the decay at one learning rate, with 95% intervals.

    A line goes through cells without a diverged run; hollow is the mean of the runs that did not diverge in others, and
    a cross on the axis a cell in which all did.
    """
    figure, axes = sheet(len(panels), 13, 3, 3.6, sharey=True)
    reported = panels[0][1].attrs["reported"]
    floor = 100 * min(float(results.by_structure(data)[reported].sel(structure="none").min()) for _, data in panels) - 3
    look_of = looks(panels[0][1])
    for axis, (title, data) in zip(axes, panels, strict=True):
        rows = results.by_structure(data)[[reported, "diverged"]].sel(learning_rate=rate)
        for number, (structure, look) in enumerate(look_of.items()):
            if structure not in rows.structure:
                continue
            row = rows.sel(structure=structure).transpose("weight_decay", "seed")
            decays = data.weight_decay.values * 1.12**number
            values, sound = 100 * row[reported].values, ~row.diverged.values
            whole, some = sound.all(1), sound.any(1) & ~sound.all(1)
            if whole.any():
                mean, width = results.mean_and_width(values[whole])
                axis.plot(decays[whole], mean, label=structure, markersize=4, **look)
                axis.fill_between(
                    decays[whole], mean - width, mean + width, color=look["color"], alpha=0.15, linewidth=0
                )
            left = np.array([values[cell][sound[cell]].mean() for cell in np.flatnonzero(some)])
            hollow = {
                "marker": look.get("marker", "o"),
                "markerfacecolor": "none",
                "linestyle": "",
                "color": look["color"],
            }
            axis.plot(decays[some], left, markersize=5, **hollow)
            gone = decays[~sound.any(1)]
            axis.plot(gone, np.full(len(gone), floor + 0.6 + 0.8 * number), "x", color=look["color"], markersize=4)
        axis.set(xscale="log", xlabel="weight decay λ", title=title, ylim=(floor, None))
    axes[0].set_ylabel(results.title(reported))
    legend(figure, labelled(axes[0]))
    return figure


# The questions --------------------------------------------------------------------------------------------------------


def chosen_anew(data: xr.Dataset, structure: str, other: str) -> analysis.Estimate:
    """The difference of the best cells, where each resample of the seeds chooses its own."""
    rows, seeds = results.by_structure(data)[data.attrs["reported"]], data.sizes["seed"]

    def cells(name: str) -> tuple[np.ndarray, np.ndarray]:
        reported = rows.sel(structure=name).transpose("learning_rate", "weight_decay", "seed").values
        return analysis.scores(data, name).reshape(-1, seeds), reported.reshape(-1, seeds)

    both = [cells(structure), cells(other)]

    def over(numbers: np.ndarray) -> float:
        first, second = (said[score[:, numbers].mean(1).argmax(), numbers].mean() for score, said in both)
        return float(first - second)

    return analysis.bootstrap(over, seeds)


def always_better() -> Answer:
    digits, conv = study("sites"), study("sites_conv")
    rows = []
    for name, data in {"64-64-10 network": digits, "two convolutions": conv}.items():
        for each in results.best_cells(data):
            if each.structure == "second_moment":
                continue
            basin, decays = analysis.basin(data, each.structure), each.against_none is not None
            rows.append(
                [name, f"`{each.structure}`", f"{each.learning_rate:g}", f"{each.weight_decay:g}" if decays else ""]
            )
            rows[-1] += [each.reported.percent(), points(each.against_none) if each.against_none else ""]
            rows[-1] += [basin.share.text(), basin.correlation.text() if decays else ""]
    best, best_conv = (difference(data, "update", "gradient") for data in (digits, conv))
    per_rate = [difference(digits, "update", "gradient", rate) for rate in digits.learning_rate.values]
    per_rate_conv = [difference(conv, "update", "gradient", rate) for rate in conv.learning_rate.values]
    behind = sum(differs(each) and each.mean < 0 for each in per_rate)
    basins = {site: analysis.basin(digits, site) for site in ("gradient", "update")}
    wider, anew = analysis.basin_difference(digits, "update", "gradient"), chosen_anew(digits, "update", "gradient")
    verdict = claim(
        not differs(best)
        and not differs(best_conv)
        and anew.holds(0)
        and not any(differs(each) and each.mean > 0 for each in per_rate + per_rate_conv)
        and behind > 0
        and wider.holds(0),
        f"No: AdamW's best cell and L2's differ by {points(best)} points on digits and {points(best_conv)} with "
        f"convolutions, and with the best λ at each rate AdamW is ahead at none of {len(per_rate)} and behind beyond "
        f"the noise at {behind}; {100 * basins['update'].share.value:.0f}% of its grid and "
        f"{100 * basins['gradient'].share.value:.0f}% of L2's are within 1% of the best, no difference beyond the "
        "noise.",
    )
    evidence = [
        table(["network", "decay", "rate", "λ", "test accuracy", "over none", "basin", "correlation in it"], rows),
        "The basin is the share of the grid within 1% of the best cell; the correlation is that of log rate and log "
        "decay over its cells, 0 where each could be tuned alone: under both sites a larger rate goes with a larger λ. "
        f"AdamW's basin is wider by {wider.text()} of the grid. Much of it is the row of the rate 0.001, where small "
        "decays do nothing and nothing is needed. If every resample of the seeds chooses its own best cells, AdamW's "
        f"is {anew.text('.3f')} from L2's.",
        "With the best λ at every rate AdamW is "
        + ", ".join(points(each) for each in per_rate)
        + " points from L2 at the rates "
        + ", ".join(f"{rate:g}" for rate in digits.learning_rate.values)
        + ".",
        "At equal strength:",
        equal_strength(digits, "update", ["gradient"]),
        "The same without blank pixels, whose weights L2 shrinks with steps as large as any other, and AdamW hardly:",
        equal_strength(study("momentum_dense"), "update", ["gradient"]),
        "The AdamW paper trained large residual networks on CIFAR for hundreds of epochs, which these studies can't.",
    ]
    return Answer(
        "Is weight decay always better than L2 for Adam, as the AdamW paper has it?",
        verdict,
        "each site's own best cell, and its own best λ at every rate; the tables below it compare at equal strength",
        "\n\n".join(evidence),
        "sites",
        "Accuracy over rate and decay, a map per site, the best cell and what is within 1% of it outlined",
        lambda: figures.maps(digits),
        ("sites", "sites_conv", "momentum_dense"),
    )


SETTINGS = {
    "momentum": "blank pixels, ε = 1e-8",
    "momentum_dense": "dense gradients, ε = 1e-8",
    "momentum_warmup": "dense gradients, a warm-up",
    "momentum_eps": "blank pixels, ε = 1e-3",
}
RATE = 0.01
LARGEST = 3.0


def failed(data: xr.Dataset, structure: str) -> float:
    """The share of diverged runs, in percent, with decays that all of these studies have."""
    rows = results.by_structure(data).diverged.sel(structure=structure)
    return 100 * float(rows.where(rows.weight_decay <= LARGEST, drop=True).mean())


def beside_momentum() -> Answer:
    rows, gain = [], {}
    for name, setting in SETTINGS.items():
        data = study(name)
        for structure in ("direction", "first_moment", "gradient", "update"):
            if structure not in data.site:
                continue
            best = runs_at(data, structure)
            gain[name, structure] = [difference(data, structure, "none", rate) for rate in data.learning_rate.values]
            rows.append([setting, f"`{structure}`", f"{float(best.learning_rate):g}", f"{float(best.weight_decay):g}"])
            rows[-1] += [results.interval(best[data.attrs["reported"]].values).percent()]
            rows[-1] += [points(difference(data, structure, "none")), *map(points, gain[name, structure])]
            rows[-1] += [f"{failed(data, structure):.0f}%"]
    shares = {name: failed(study(name), "direction") for name in SETTINGS}
    without = [*gain["momentum", "direction"], *gain["momentum_dense", "direction"]]
    most, warm = max(without), gain["momentum_warmup", "direction"][-1]
    verdict = claim(
        most.mean < 0.015
        and shares["momentum"] > shares["momentum_dense"] > max(shares["momentum_warmup"], shares["momentum_eps"])
        and warm.mean > 0.05
        and gain["momentum_eps", "direction"][-1].mean > 0.05,
        f"It explodes where P is small: {shares['momentum']:.0f}% of its runs diverge with blank pixels and "
        f"{shares['momentum_dense']:.0f}% with dense gradients, and no λ that all seeds survive adds more than "
        f"{points(most)} points. A warm-up (dense gradients, {points(warm)} at rate {RATE:g}) or ε = 1e-3 "
        f"({points(gain['momentum_eps', 'direction'][-1])}) makes it one more L2.",
    )
    times = {name: diverged_at(study(name), "direction") for name in ("momentum_dense", "momentum_warmup")}
    dense, large = times["momentum_dense"], study("momentum_eps")
    rates = large.learning_rate.values.tolist()
    head = ["setting", "decay", "best rate", "best λ", "test accuracy", "over none in the best cell"]
    head += [*(f"over none at rate {rate:g}" for rate in rates), "diverged"]
    evidence = [
        table(head, rows),
        f"Diverged is a share of the runs with λ from 1e-7 to {LARGEST:g}. The columns "
        "over none take the best λ that all seeds survive.",
        claim(
            np.median(dense) < 30 and dense.max() < 100 and shares["momentum_warmup"] < shares["momentum_dense"] / 2,
            f"With dense gradients half of the divergences come within {np.median(dense):.0f} steps and all within "
            f"{dense.max():.0f} of {study('momentum_dense').attrs['steps']}, while the rate is highest and few "
            f"gradients stand in v̂. We expected that, and a warm-up over a tenth of the steps confirms it: "
            f"{shares['momentum_warmup']:.0f}% diverge instead of {shares['momentum_dense']:.0f}%.",
        ),
        f"With the larger ε `direction` is {points(difference(large, 'direction', 'gradient', RATE))} points from "
        f"`gradient` and {points(difference(large, 'direction', 'update', RATE))} from `update` at rate {RATE:g}. At "
        "equal strength:",
        equal_strength(large, "update", ["direction", "gradient"]),
    ]
    return Answer(
        "What happens if decay stands beside the momentum, (m̂ + λw)/√v̂?",
        verdict,
        "the best λ of each site at every rate, and its best cell; the last table compares at equal strength",
        "\n\n".join(evidence),
        "momentum",
        f"Accuracy over the decay at rate {RATE:g} in the four settings; hollow where runs of a cell diverged, a cross "
        "where all did",
        lambda: by_decay([(SETTINGS[name], study(name)) for name in SETTINGS], RATE),
        tuple(SETTINGS),
    )


def diverged_at(data: xr.Dataset, structure: str) -> np.ndarray:
    """The steps at which runs diverged."""
    rows = results.by_structure(data).sel(structure=structure)
    return rows.diverged_at.values[rows.diverged.values]


def which_half() -> Answer:
    data, first, large, grokking = (study(name) for name in ("sites", "momentum", "momentum_eps", "grok_halves"))
    rates = data.learning_rate.values.tolist()[1:]
    slopes = {site: analysis.ridge(data, site, rates[1:]).slope for site in ("gradient", "second_moment", "update")}
    rows = [
        [
            f"`{site}`",
            points(difference(data, site, "none")),
            *(points(difference(data, site, "none", at)) for at in rates),
            slope.text(),
            analysis.basin(data, site).correlation.text(),
        ]
        for site, slope in slopes.items()
    ]
    over_update = [difference(data, "second_moment", "update", rate) for rate in rates]
    together = [difference(data, "gradient", "update", rate) for rate in rates]
    alone, with_eps = (difference(each, "first_moment", "none", RATE) for each in (first, large))
    groks = results.by_structure(grokking)[STEPS].sel(learning_rate=FORGETTING_RATE)
    verdict = claim(
        not differs(alone)
        and with_eps.mean > 0.05
        and slopes["second_moment"].holds(1)
        and all(abs(each.mean) < 0.01 for each in over_update)
        and not any(differs(each) and each.mean < 0 for each in together),
        f"The first when it is alone and P is small: {failed(first, 'first_moment'):.0f}% of its runs diverge, with "
        f"ε = 1e-3 {failed(large, 'first_moment'):.0f}%. The second alone adds nearly what AdamW adds "
        f"({points(difference(data, 'second_moment', 'none', RATE))} points at rate {RATE:g}, "
        f"{points(difference(data, 'second_moment', 'update', RATE))} from it), at a best λ that grows with the rate. "
        "Together they do no harm.",
    )
    worst = min(over_update)
    evidence = [
        table(
            ["decay", "best cell over none", *(f"at rate {at:g}" for at in rates), "slope of best λ", "in the basin"],
            rows,
        ),
        f"The slope, of log best λ over log rate, is over the rates from {rates[1]:g}, where decay has something to "
        f"do. The second moment alone is at most {points(worst)} points from AdamW. `first_moment` stands in the table "
        f"of question 2, in four settings; with ε = 1e-3 it adds {points(with_eps)} points at rate {RATE:g}.",
        claim(
            bool(np.isinf(groks.sel(structure="second_moment")).all())
            and bool(np.isfinite(groks.sel(structure="first_moment", weight_decay=[1e-5, 1e-4, 1e-3])).all()),
            "In question 6 it is the other way round: `first_moment` groks nearly as soon as L2, and `second_moment` "
            "never.",
        ),
        "At equal strength, of which the share of the steps can't tell: through the second moment alone it ends near "
        "one half whatever λ is.",
        equal_strength(data, "update", ["second_moment"], ["weight_norm"]),
    ]
    return Answer(
        "First moment only, second moment only: which half of L2 does the harm?",
        verdict,
        "the best λ of each half at every rate; the last table compares at equal strength",
        "\n\n".join(evidence),
        "halves",
        "What the best decay adds at every learning rate, under the second moment alone, L2 and AdamW",
        lambda: figures.gain_curves(data),
        ("sites", *SETTINGS, "grok_halves"),
    )


def coupling() -> Answer:
    data = study("coupling")
    rates = data.learning_rate.values.tolist()
    meaning = {
        "update lr": "γηλ: multiplied by the rate, torch and optax",
        "update corrected": "γη²λ: AdamC",
        "update schedule": "ηλ: the shape of the schedule alone, as the AdamW paper has it",
        "update constant": "λ: nothing",
        "gradient lr": "L2: part of the gradient",
    }
    ridges = {structure: analysis.ridge(data, structure, rates) for structure in meaning}
    below = {structure: analysis.ridge(data, structure, rates[:-1]) for structure in meaning}
    best = {found.structure: found for found in results.best_cells(data)}
    rows = [
        [
            f"`{structure}`",
            meaning[structure],
            *(f"{each.value:.2g}" for each in found.decays),
            found.moved.text(".2g"),
            found.slope.text(),
            below[structure].slope.text(),
            best[structure].reported.percent(),
        ]
        for structure, found in ridges.items()
    ]
    head = [
        "decay",
        "what multiplies it",
        *(f"best λ at rate {rate:g}" for rate in rates),
        "moved",
        "slope",
        f"slope up to rate {rates[-2]:g}",
        "accuracy",
    ]
    coupled, independent, corrected = (ridges[f"update {name}"] for name in ("lr", "schedule", "corrected"))
    l2 = ridges["gradient lr"]
    rise = max(each.value for each in corrected.decays) / corrected.decays[0].value
    verdict = claim(
        below["update lr"].slope.holds(0)
        and coupled.moved.high < 1
        and below["update schedule"].slope.holds(1)
        and independent.moved.low > 1
        and rise > 2
        and max(each.value for each in l2.decays) < 2 * min(each.value for each in l2.decays),
        f"From rate {rates[0]:g} to {rates[-2]:g} the best λ stays where the rate multiplies it, and grows with the "
        f"rate where it doesn't, against what the AdamW paper expects; over {rates[-1] / rates[0]:.0f} times it falls "
        f"{1 / coupled.moved.value:.1f} times, or grows {independent.moved.value:.0f} times. AdamC's rises {rise:.1f} "
        f"times and falls again, L2's moves {l2.moved.value:.1f} times.",
    )
    lengths = {study(name).attrs["steps"]: study(name) for name in ("coupling_short", "coupling", "coupling_long")}
    by_length = {steps: analysis.ridge(each, "update lr", rates) for steps, each in lengths.items()}
    short, *longer = by_length.values()
    weights = TASKS[data.attrs["task"]]().init(jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(weights))
    at_best = results.best_decays(data).sel(structure="update lr")
    ceiling = (at_best.weight_norm.mean("seed") / np.sqrt(count) * at_best.weight_decay).values
    reason = claim(
        all(abs(each.slope.value) < 0.5 for each in longer) and short.slope.low > 0 and ceiling.max() < 0.5,
        "If AdamW's timescale 1/(γλ) set the best λ (Wang and Aitchison 2024), the slope would be -1 where the rate "
        "multiplies λ and 0 where it doesn't; up to a rate of "
        f"{rates[-2]:g} it is near 0 and 1, and with nothing multiplied at all in between. A ceiling of 1/λ for the "
        "weights, which AdamW has where it comes to rest (Xie and Li 2024), would give 0 and 1; but the weights (root "
        f"mean square) stay far below, at {', '.join(f'{each:.2f}' for each in ceiling)} of it at the four rates. "
        "Training five times as long does not change it; in a fifth of the time there is nothing yet to hold back at "
        "small rates. The same λ, coupled to the rate, by length of training:",
    )
    lengthwise = table(
        ["steps", *(f"best λ at rate {rate:g}" for rate in rates), "slope"],
        [
            [str(steps), *(f"{each.value:.2g}" for each in found.decays), found.slope.text()]
            for steps, found in by_length.items()
        ],
    )

    def figure() -> Figure:
        drawn, panel = plt.subplots(figsize=(7.5, 4.4), layout="constrained")
        look = looks(data)
        for structure, found in ridges.items():
            values, low, high = np.array(found.decays).T
            panel.errorbar(rates, values, [values - low, high - values], capsize=2, label=structure, **look[structure])
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel("learning rate")
        panel.set_ylabel("best weight decay, in each coupling's own units")
        drawn.legend(loc="outside right upper", frameon=False)
        return drawn

    return Answer(
        "Rate-coupled or independent: how far does the best λ move when the learning rate changes by 30 times?",
        verdict,
        "the best λ at each rate, so every coupling at its own best",
        "\n\n".join([table(head, rows), reason, lengthwise]),
        "coupling",
        "The best decay over the learning rate, one line per coupling",
        figure,
        ("coupling", "coupling_short", "coupling_long"),
    )


def variants() -> Answer:
    data = study("variants")
    plain = "update lr"
    others = [name for name in results.by_structure(data).structure.values.tolist() if name not in ("none", plain)]
    rates = data.learning_rate.values.tolist()
    over = {other: difference(data, other, plain) for other in others}
    at_rates = {other: [difference(data, other, plain, rate) for rate in rates] for other in others}
    rows = []
    for structure in (plain, *others):
        best = runs_at(data, structure)
        rows.append([f"`{structure}`", f"{float(best.learning_rate):g}", f"{float(best.weight_decay):g}"])
        rows[-1] += [results.interval(best[data.attrs["reported"]].values).percent()]
        rows[-1] += ["" if structure == plain else points(over[structure])]
        rows[-1] += [""] * len(rates) if structure == plain else list(map(points, at_rates[structure]))
    head = ["decay", "rate", "λ", "test accuracy", "over AdamW", *(f"at rate {rate:g}" for rate in rates)]
    last, cautious = rates[-1], "update lr cautious"
    verdict = claim(
        not any(differs(each) and each.mean > 0 for name in others for each in (over[name], *at_rates[name]))
        and not any(differs(each) for each in at_rates["update lr stable"])
        and all(differs(at_rates[name][-1]) for name in (cautious, "update corrected")),
        "No: with its own best λ none is ahead of AdamW beyond the noise at any rate. Stable decay is "
        f"{points(at_rates['update lr stable'][-1])} points from it at rate {last:g}, corrected decay "
        f"{points(at_rates['update corrected'][-1])}, cautious decay {points(at_rates[cautious][-1])}.",
    )
    ends = {name: runs_at(data, name, last) for name in (plain, cautious)}
    times, norms = (
        float((ends[cautious][name] / ends[plain][name]).mean()) for name in ("weight_decay", "weight_norm")
    )
    fitted = results.interval((ends[cautious].train_accuracy - ends[plain].train_accuracy).values)
    evidence = [
        table(head, rows),
        "The best cells all have the lowest rate, where no decay is nearly as good: the columns of larger rates say "
        "more. AdamC's factor is derived for layers that a normalization follows (Defazio 2025); these networks have "
        "none, and it acts on all weights. Cautious decay (Chen et al. 2025) and stable decay (Xie et al. 2023) were "
        "tried by their authors on large models and long runs.",
        claim(
            norms > 2 and times > 5,
            f"Cautious decay does hold the network back: with its best λ at rate {last:g}, {times:.0f} times AdamW's, "
            f"accuracy on the training set is {points(fitted)} points from AdamW's, but the weights are {norms:.1f} "
            "times as large.",
        ),
        "At equal strength:",
        equal_strength(data, plain, others),
    ]
    return Answer(
        "Do the stable, cautious and corrected variants beat plain AdamW here?",
        verdict,
        "each at its own best cell, and its own best λ at every rate; the last table compares at equal strength",
        "\n\n".join(evidence),
        "variants",
        "What the best decay adds at every learning rate, one line per variant",
        lambda: figures.gain_curves(data),
        ("variants",),
    )


STEPS = "test_steps_to_95"
FORGETTING = {"grok_l2_b2_95": 0.95, "grok_l2": 0.98, "grok_l2_b2_99": 0.99}
FORGETTING_RATE = 3e-3
FORMS = {"update": ("timescale", "timescales", "power"), "gradient": ("timescale", "logarithm", "power")}


def grokking() -> Answer:
    update, l2, halves = (study(name) for name in ("grok_update", "grok_l2", "grok_halves"))
    learnt = results.by_structure(update).train_accuracy.sel(structure="update").min(["seed", "learning_rate"]) > 0.95
    fitted = {"update": update.sel(weight_decay=learnt.values), "gradient": l2}
    laws = {(site, form): analysis.fit_law(fitted[site], site, STEPS, form) for site in FORMS for form in FORMS[site]}
    fits = [
        [
            f"`{site}`",
            f"`{analysis.FORMS[form].formula}`",
            ", ".join(f"{name} = {each.text('.3g')}" for name, each in law.numbers.items()),
            f"{100 * law.error:.0f}%",
            str(law.cells),
            str(law.censored),
        ]
        for (site, form), law in laws.items()
    ]
    delays = [
        [f"`{structure}`", f"{rate:g}", f"{decay:g}", _delay(cell)]
        for data in (update, l2, halves)
        for structure, rows in results.by_structure(data).groupby("structure", squeeze=False)
        if structure != "none"
        for rate in data.learning_rate.values
        for decay in data.weight_decay.values
        for cell in [rows.isel(structure=0).sel(learning_rate=rate, weight_decay=decay)]
    ]
    saved = {b2: _saved(study(name), FORGETTING_RATE) for name, b2 in FORGETTING.items()}
    by_rate = {rate: _saved(l2, rate) for rate in l2.learning_rate.values.tolist()}
    forgets = {b2: -2 * np.log(10) / np.log(b2) for b2 in saved}
    shares = {b2: each.mean / forgets[b2] for b2, each in saved.items()}
    decoupled, prototype, free = (laws["update", form] for form in ("timescales", "timescale", "power"))
    q, r = free.numbers["q"], free.numbers["r"]
    none = results.by_structure(update).sel(structure="none")
    wasted = [f"{decay:g}" for decay in update.weight_decay.values[~learnt.values]]
    fewest, most = (pick(each.mean for each in by_rate.values()) for pick in (min, max))
    verdict = claim(
        not np.isfinite(none[STEPS]).any()
        and not q.holds(1)
        and not r.holds(1)
        and wasted == ["10"]
        and laws["gradient", "logarithm"].error < 0.2 * laws["gradient", "timescale"].error
        and all(0.8 < each / forgets[0.98] < 1.2 for each in (fewest, most)),
        f"Only with decay, in {update.attrs['steps']} steps. Under `update` after a time that goes as "
        f"γ^-{q.value:.1f} λ^-{r.value:.1f} (beside one that only the rate sets), not as AdamW's timescale 1/(γλ), "
        f"below λ = {wasted[0]}, with which nothing is learnt. Under `gradient` ten times as much λ saves {fewest:.0f} "
        f"to {most:.0f} steps, about as many as Adam's √v takes to fall ten times, {forgets[0.98]:.0f}.",
    )

    def figure() -> Figure:
        drawn, panels = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
        for panel, (site, form) in zip(panels, (("update", "power"), ("gradient", "logarithm")), strict=True):
            _delays(panel, {"update": update, "gradient": l2}[site], fitted[site], site, laws[site, form], form)
        panels[0].set_ylabel("steps to 95% of the test pairs")
        return drawn

    soonest = {
        site: [_soonest(data, site, rate) for rate in by_rate] for site, data in (("update", update), ("gradient", l2))
    }
    evidence = [
        table(["decay", "law", "numbers", "error", "whole cells", "runs beyond the end"], fits),
        f"The prototype's law for `update`, a + b/(γλ), is wrong by {100 * prototype.error:.0f}%, with a/γ in the "
        f"place of a by {100 * decoupled.error:.0f}%; free exponents, γ^-{q.text()} and λ^-{r.text()}, leave "
        f"{100 * free.error:.0f}%. Runs that did not get there count as longer than the study. The intervals are those "
        "of the seeds, not of the form. The coupling needs no study of its own: under a constant rate the site "
        "`step`, which the rate does not multiply, is `update` with λ/γ for λ, and its law the same with λ for γλ.",
        claim(
            all(l2_first < first for l2_first, first in zip(soonest["gradient"], soonest["update"], strict=True)),
            "With the best λ for it L2 groks sooner: after "
            + ", ".join(f"{each:.0f}" for each in soonest["gradient"])
            + " steps at the rates "
            + ", ".join(f"{rate:g}" for rate in by_rate)
            + ", AdamW after "
            + ", ".join(f"{each:.0f}" for each in soonest["update"])
            + ".",
        ),
        "Under `gradient`, once the training pairs are learnt, what is left of Adam's gradient is λw, and it moves the "
        "weights when √v has forgotten the gradients before it: √v falls by the root of β₂ in a step, ten times in "
        "2 ln 10/ln(1/β₂). A power of λ fits the delays as well; what tells the two apart is another β₂. Steps that "
        f"ten times as much λ saves between 1e-5 and 1e-3, at rate {FORGETTING_RATE:g}:",
        table(
            ["β₂", "2 ln 10/ln(1/β₂)", "measured"],
            [
                [f"{b2:g}", f"{forgets[b2]:.0f}", f"{saved[b2].mean:.0f} ± {saved[b2].half_width:.0f}"]
                for b2 in sorted(saved)
            ],
        ),
        claim(
            min(shares.values()) > 0.8 and max(shares.values()) < 1.1 and shares[0.99] < 1,
            f"That is {min(shares.values()):.2f} to {max(shares.values()):.2f} of what forgetting alone would take, "
            "and beyond the noise less with the longest memory, where λ also shortens what follows. At β₂ = 0.98 it is "
            + ", ".join(f"{each.mean:.0f} ± {each.half_width:.0f}" for each in by_rate.values())
            + " steps at the rates "
            + ", ".join(f"{rate:g}" for rate in by_rate)
            + "; the fitted b is smaller, because the delays hardly fall any more at the largest λ.",
        ),
        table(["decay", "rate γ", "λ", "steps to 95% of the test pairs"], delays),
    ]
    return Answer(
        "When does grokking come, by site, λ and learning rate?",
        verdict,
        "every cell that learns the training pairs; the laws need no equal strength",
        "\n\n".join(evidence),
        "grokking",
        "Steps to 95% of the test pairs over λ, with the fitted laws, under update and under gradient; carets are runs "
        "that did not get there",
        figure,
        ("grok_update", *FORGETTING, "grok_halves"),
    )


def _saved(data: xr.Dataset, rate: float) -> Interval:
    """How many steps sooner ten times as much decay gets there, from 1e-5 to 1e-3, over seeds."""
    steps = results.by_structure(data)[STEPS].sel(structure="gradient", learning_rate=rate)
    return results.interval((steps.sel(weight_decay=1e-5) - steps.sel(weight_decay=1e-3)).values / 2)


def _soonest(data: xr.Dataset, site: str, rate: float) -> float:
    """The mean over seeds at the decay where it is lowest."""
    return float(results.by_structure(data)[STEPS].sel(structure=site, learning_rate=rate).mean("seed").min())


def _delays(panel: Axes, data: xr.Dataset, fitted: xr.Dataset, site: str, law: analysis.Law, form: str) -> None:
    """Every run, and the fitted law over the decays that it was fitted to; one colour per rate."""
    steps = results.by_structure(data)[STEPS].sel(structure=site).transpose("learning_rate", "weight_decay", "seed")
    fine = np.geomspace(fitted.weight_decay.values[0], fitted.weight_decay.values[-1], 100)
    numbers = np.array([each.value for each in law.numbers.values()])
    limit = data.attrs["steps"]
    for number, rate in enumerate(data.learning_rate.values):
        color, decays = f"C{number}", data.weight_decay.values * 1.05 ** (number - 1)
        for runs in steps.sel(learning_rate=rate).values.T:
            reached = np.isfinite(runs)
            panel.plot(decays[reached], runs[reached], "o", color=color, markersize=4, alpha=0.6)
            panel.plot(decays[~reached], np.full((~reached).sum(), limit), "^", color=color, markersize=5, alpha=0.4)
        panel.plot(fine, analysis.FORMS[form].steps(numbers, np.full_like(fine, rate), fine), color=color)
        panel.plot([], [], "o-", color=color, label=f"rate {rate:g}")
    panel.set(xscale="log", yscale="log", xlabel="weight decay λ", title=f"{site}: {analysis.FORMS[form].formula}")
    panel.set_ylim(100, 1.5 * limit)
    panel.legend(frameon=False, loc="lower left")


def _delay(cell: xr.Dataset) -> str:
    steps, diverged = cell[STEPS].values, int(cell.diverged.sum())
    reached = np.isfinite(steps)
    if reached.all():
        found = results.interval(steps)
        said = f"{found.mean:.0f} ± {found.half_width:.0f}"
    else:
        said = f"{reached.sum()} of {len(steps)} runs" if reached.any() else "never"
    return f"{said}; {diverged} of {len(steps)} runs diverge" if diverged else said


def order() -> Answer:
    data = study("order")
    cells = [
        (rate, decay) for rate in data.learning_rate.values.tolist() for decay in data.weight_decay.values.tolist()
    ]
    others = ("after", "proximal")
    apart = {
        (other, *at): results.interval(cell(data, other, *at) - cell(data, "update", *at))
        for at in cells
        for other in others
    }
    gentle = [each for (_, rate, decay), each in apart.items() if rate * decay < 0.2]
    most, widest = (max(gentle, key=key) for key in (lambda x: abs(x.mean), lambda x: abs(x.mean) + x.half_width))
    rough, roughest = (apart["after", 0.1, decay] for decay in (3.0, 10.0))
    verdict = claim(
        abs(most.mean) < 0.01
        and all(differs(each) and each.mean > 0 for each in (rough, roughest))
        and not any(differs(difference(data, other, "update")) for other in others),
        f"No: up to γλ = 0.1 neither of the others is more than {100 * abs(most.mean):.1f} points of accuracy from "
        f"`update`. At γλ = 0.3 and 1 `after` is {points(rough)} and {points(roughest)} points ahead, because it "
        "shrinks the step as well.",
    )
    rows = [
        [f"{rate:g}", f"{decay:g}", f"{rate * decay:g}", results.interval(cell(data, "update", rate, decay)).percent()]
        + [points(apart[other, rate, decay]) for other in others]
        for rate, decay in cells
    ]
    evidence = [
        f"The widest interval up to γλ = 0.1 is {points(widest)}. In the best cells `after` is "
        f"{points(difference(data, 'after', 'update'))} and `proximal` "
        f"{points(difference(data, 'proximal', 'update'))} points from `update`. `after` multiplies the step by 1 - γλ "
        "too and `proximal` by 1/(1 + γλ), which is what a rate of 0.1 needs; at γλ = 1 `update` leaves nothing but "
        "the step, and `after` nothing at all.",
        table(["rate γ", "decay λ", "γλ", "`update`", "`after` over it", "`proximal` over it"], rows),
    ]

    def figure() -> Figure:
        drawn, panel = plt.subplots(figsize=(7, 4), layout="constrained")
        for number, other in enumerate(others):
            products = np.array([rate * decay for rate, decay in cells]) * (1 + 0.1 * number)
            means, widths = 100 * np.array([apart[other, *at] for at in cells]).T
            panel.errorbar(products, means, widths, fmt="o", capsize=2, label=other)
        panel.axhline(0, color="#888888", linewidth=1)
        panel.set_xscale("log")
        panel.set_xlabel("γλ, the share of the weights that decay takes per step")
        panel.set_ylabel("test accuracy over update (points)")
        panel.legend(frameon=False)
        return drawn

    return Answer(
        "Does the order before / after / proximal matter at practical γλ?",
        verdict,
        "the same cell for all three, seed by seed, whose decays are equal up to (γλ)², and each one's own best cell",
        "\n\n".join(evidence),
        "order",
        "The difference of accuracy over γλ: none up to 0.1, tens of points at 1",
        figure,
        ("order",),
    )


def by_layer() -> str:
    """What no single number says: how much of the steps was decay, layer by layer, as Markdown."""
    data = study("layers")
    rows, taken = [], {}
    for best in results.best_rows(results.best_decays(data)):
        if best.structure == "none":
            continue
        taken[best.structure.item()] = best.curve_decay_rate.mean(("seed", "step"))
        shares = best.curve_decay_share.mean("step").transpose("layer", "seed").values
        rows.append([f"`{best.structure.item()}`", f"{float(best.weight_decay):g}"])
        rows[-1] += [results.interval(layer).percent() for layer in shares]
    head = ["decay", "λ", *(f"`{layer}`" for layer in data.layer.values)]
    decoupled, l2, halved = (taken[site] for site in ("update", "gradient", "second_moment"))
    supported = (
        float(decoupled.max() / decoupled.min()) < 1.1
        and l2.sel(layer="hidden.kernel") > 2 * l2.sel(layer="out.bias")
        and abs(halved.sel(layer="all")) < 0.2 * decoupled.sel(layer="all")
    )
    return "\n\n".join(
        [
            "## How much of a step is decay, by layer",
            "The share of the steps' length that is decay (percent, mean over the run), with the best of three λ at "
            f"rate {data.learning_rate.item():g}: a site is not one strength, it is another one in every layer.",
            table(head, rows),
            f"![The share of the steps that is decay and the share of the weights that it takes, by layer]({LAYERS})",
            claim(
                bool(supported),
                f"Under `update` decay takes the same share of the weights in every layer. Under `gradient` it takes "
                f"{float(l2.sel(layer='hidden.kernel') / l2.sel(layer='out.bias')):.0f} times as much of the hidden "
                "kernel, with its blank pixels, as of the output's bias; through the second moment alone it takes "
                "next to nothing: it makes steps shorter.",
            ),
            f"Study: [layers.toml](layers.toml) ([data](layers/{results.FILE})).",
        ]
    )


LAYERS = "layers.png"

# The page -------------------------------------------------------------------------------------------------------------

QUESTIONS = (always_better, beside_momentum, which_half, coupling, variants, grokking, order)

HEAD = """# Seven questions about weight decay

Studies on tasks that two cores train in minutes, and what they answer. A difference is taken seed by seed; what
stands behind ± is half of the 95% confidence interval over the seeds, and an interval in brackets is a 95% bootstrap
over them, of the numbers of a law a jackknife. The best cell of a grid is chosen on validation data and reported on
test data. Of the hundreds of intervals here one in twenty misses by chance: a single cell says little. A dash in a
table of equal strength stands where the other has no decay as strong, or loses more than 5 points between two
neighbours of the grid. These are findings about small networks and little data, not laws.

`optlab study examples/studies/NAME.toml` trains one of them, `python examples/studies/answers.py results` takes its
data and writes this page and its pictures, and a test compares every number.
"""


def section(number: int, answer: Answer) -> str:
    """An answer as Markdown."""
    data = [study(name) for name in answer.studies]
    sizes = sorted({each.sizes["seed"] for each in data})
    links = ", ".join(f"[{name}.toml]({name}.toml) ([data]({name}/{results.FILE}))" for name in answer.studies)
    return "\n\n".join(
        [
            f"## {number}. {answer.question}",
            f"**{answer.verdict}**",
            f"![{answer.shows}]({answer.name}.png)",
            answer.evidence,
            f"Rests on: {answer.rests_on}. Seeds: {' and '.join(map(str, sizes))}. Studies: {links}.",
        ]
    )


def page(answers: Sequence[Answer]) -> str:
    """README.md of this folder."""
    run = study(answers[0].studies[0]).attrs
    foot = f"Run on {run['device']}; {run['versions']}, Python {run['python']}."
    return "\n\n".join([HEAD.strip(), *(section(*each) for each in enumerate(answers, 1)), by_layer(), foot]) + "\n"


def findings(answers: Sequence[Answer]) -> str:
    """The list in the project's README."""
    where = "examples/studies"
    return "\n".join(
        f"{number}. {answer.question} **{answer.verdict}** ([figure]({where}/{answer.name}.png))"
        for number, answer in enumerate(answers, 1)
    )


def take(folder: Path) -> None:
    """Data of studies of this folder, from where they were trained; of the curves only those that the page draws."""
    for path in sorted(FOLDER.glob("*.toml")):
        found = folder / path.stem / results.FILE
        if found.is_file():
            data = results.load(found)
            (FOLDER / path.stem).mkdir(exist_ok=True)
            results.save(data if path.stem == "layers" else data.drop_dims("step"), FOLDER / path.stem / results.FILE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, help="a folder with new data")
    if (new := parser.parse_args().results) is not None:
        take(new)
    answers = [ask() for ask in QUESTIONS]
    drawn = {f"{answer.name}.png": answer.figure() for answer in answers}
    drawn[LAYERS] = figures.effective_decay(
        study("layers"), layers=["hidden.kernel", "out.kernel", "hidden.bias", "out.bias"]
    )
    for name, figure in drawn.items():
        if figure is None:
            raise ValueError(f"the data has nothing to draw in {name}")
        figure.savefig(FOLDER / name, dpi=DPI)
    (FOLDER / "README.md").write_text(page(answers), "utf-8")
    print(findings(answers))


if __name__ == "__main__":
    main()
