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

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optlab.lab import analysis, figures, results
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


def beyond_noise(interval: Interval, better: str, worse: str, same: str) -> str:
    """The word that the interval allows."""
    if not differs(interval):
        return same
    return better if interval.mean > 0 else worse


def runs_at(data: xr.Dataset, structure: str, rate: float | None = None) -> xr.Dataset:
    """The runs of the best cell of a structure, of all rates or of one."""
    by_rate = results.best_decays(data).sel(structure=structure)
    return (
        by_rate.isel(learning_rate=by_rate.score.argmax("learning_rate"))
        if rate is None
        else by_rate.sel(learning_rate=rate)
    )


def difference(data: xr.Dataset, structure: str, other: str, rate: float | None = None) -> Interval:
    """What is reported in the best cell of one structure minus that of the other, seed by seed."""
    name = data.attrs["reported"]
    return results.interval(runs_at(data, structure, rate)[name].values - runs_at(data, other, rate)[name].values)


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


def equal_strength(data: xr.Dataset, reference: str, others: Sequence[str]) -> str:
    """What each of `others` has over `reference` with as much decay in both, one column per learning rate.

    As much as the best decay of `reference` gives, and as much as the best of the other: what is ahead at both is ahead
    at equal strength, and what is ahead only at its own is tuned, not better.
    """

    def over(other: str, strong_as: str, rate: float, strength: str) -> str:
        first, second = (reference, other) if strong_as == reference else (other, reference)
        found = analysis.at_equal_strength(data, first, second, rate, strength)
        if found is None:
            return "out of reach"
        return points(found if strong_as == reference else Interval(-found.mean, found.half_width))

    rates = data.learning_rate.values.tolist()
    rows = [
        [f"`{other}`", words, f"`{strong_as}`", *(over(other, strong_as, rate, strength) for rate in rates)]
        for other in others
        for strength, words in STRENGTHS.items()
        for strong_as in (reference, other)
    ]
    return table([f"over `{reference}`", "equal", "as the best", *(f"rate {rate:g}" for rate in rates)], rows)


def by_decay(panels: Sequence[tuple[str, xr.Dataset]], rate: float) -> Figure:
    """What is reported over the decay at one learning rate, with 95% intervals; only cells without a diverged run."""
    figure, axes = sheet(len(panels), 11, 3, 3.6, sharey=True)
    for axis, (title, data) in zip(axes, panels, strict=True):
        rows = results.by_structure(data).sel(learning_rate=rate)
        for structure, look in looks(data).items():
            row = rows.sel(structure=structure)
            whole = ~row.diverged.any("seed").values
            values = 100 * row[data.attrs["reported"]].transpose("weight_decay", "seed").values[whole]
            if len(values) == 0:
                continue
            mean, width = results.mean_and_width(values)
            decays = data.weight_decay.values[whole]
            axis.plot(decays, mean, label=structure, markersize=4, **look)
            axis.fill_between(decays, mean - width, mean + width, color=look["color"], alpha=0.15, linewidth=0)
        axis.set(xscale="log", xlabel="weight decay λ", title=title)
    axes[0].set_ylabel(results.title(panels[0][1].attrs["reported"]))
    legend(figure, labelled(axes[0]))
    return figure


# The questions --------------------------------------------------------------------------------------------------------


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
    share = {site: analysis.basin(digits, site).share for site in ("gradient", "update")}
    verdict = claim(
        not differs(best)
        and not differs(best_conv)
        and not any(differs(each) and each.mean > 0 for each in per_rate)
        and share["gradient"].high > share["update"].low,
        f"No: in its best cell AdamW is {points(best)} points of accuracy from L2 on digits, {points(best_conv)} with "
        f"convolutions, and at no learning rate ahead of it; {100 * share['update'].value:.0f}% of its grid and "
        f"{100 * share['gradient'].value:.0f}% of L2's are within 1% of the best, no difference beyond the noise.",
    )
    evidence = [
        table(["network", "decay", "rate", "λ", "test accuracy", "over none", "basin", "correlation in it"], rows),
        "The basin is the share of the grid within 1% of the best cell; the correlation is that of log rate and log "
        "decay over its cells, 0 where each could be tuned alone. With the best λ at every rate AdamW is "
        + ", ".join(points(each) for each in per_rate)
        + " points from L2 at the rates "
        + ", ".join(f"{rate:g}" for rate in digits.learning_rate.values)
        + ".",
        "At equal strength:",
        equal_strength(digits, "update", ["gradient"]),
        "The same without blank pixels, whose weights L2 shrinks with steps as large as any other, and AdamW hardly:",
        equal_strength(study("momentum_dense"), "update", ["gradient"]),
        "Each is ahead at the strength that suits it, most of all with blank pixels: equal norms are not equal decay. "
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
    "momentum_eps": "blank pixels, ε = 1e-3",
}
RATE = 0.01


def beside_momentum() -> Answer:
    rows, gain, failed = [], {}, {}
    for name, setting in SETTINGS.items():
        data = study(name)
        for structure in ("direction", "first_moment", "gradient", "update"):
            best = runs_at(data, structure)
            gain[name, structure] = difference(data, structure, "none", RATE)
            failed[name, structure] = 100 * float(results.by_structure(data).diverged.sel(structure=structure).mean())
            rows.append([setting, f"`{structure}`", f"{float(best.learning_rate):g}", f"{float(best.weight_decay):g}"])
            rows[-1] += [results.interval(best[data.attrs["reported"]].values).percent()]
            rows[-1] += [points(difference(data, structure, "none")), points(gain[name, structure])]
            rows[-1] += [f"{failed[name, structure]:.0f}%"]
    large = study("momentum_eps")
    behind = difference(large, "direction", "update", RATE)
    verdict = claim(
        not differs(gain["momentum", "direction"])
        and not differs(gain["momentum_dense", "direction"])
        and gain["momentum_eps", "direction"].mean > 0.05
        and failed["momentum", "direction"]
        > failed["momentum_dense", "direction"]
        > failed["momentum_eps", "direction"],
        f"It explodes where P is small: {failed['momentum', 'direction']:.0f}% of its runs diverge with blank pixels, "
        f"{failed['momentum_dense', 'direction']:.0f}% with dense gradients, and no λ helps; with ε = 1e-3 it is one "
        f"more L2, {points(gain['momentum_eps', 'direction'])} points over no decay at rate {RATE:g}, where AdamW has "
        f"{points(gain['momentum_eps', 'update'])}.",
    )
    head = [
        "setting",
        "decay",
        "best rate",
        "best λ",
        "test accuracy",
        "over none",
        f"over none at rate {RATE:g}",
        "diverged",
    ]
    evidence = [
        table(head, rows),
        "Dead inputs are one cause, the end of training the other: once the training set is learnt by heart every "
        "gradient is small, P with it, and λw/P is not.",
        f"With the larger ε `direction` is {points(behind)} points from `update` at rate {RATE:g}. At equal strength:",
        equal_strength(large, "update", ["direction", "gradient"]),
    ]
    return Answer(
        "What happens if decay stands beside the momentum, (m̂ + λw)/√v̂?",
        verdict,
        f"the best λ of each site at the rate {RATE:g}, and its best cell; the last table compares at equal strength",
        "\n\n".join(evidence),
        "momentum",
        f"Accuracy over the decay at rate {RATE:g} in the three settings",
        lambda: by_decay([(SETTINGS[name], study(name)) for name in SETTINGS], RATE),
        tuple(SETTINGS),
    )


def which_half() -> Answer:
    data, first = study("sites"), study("momentum")
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
    halves = [difference(data, "second_moment", "update", rate) for rate in rates]
    failed = 100 * float(results.by_structure(first).diverged.sel(structure="first_moment").mean())
    alone = difference(first, "first_moment", "none", RATE)
    verdict = claim(
        not differs(alone) and slopes["second_moment"].holds(1) and all(each.mean > -0.015 for each in halves),
        f"The first, when it is alone: {failed:.0f}% of its runs diverge and it adds {points(alone)} points at rate "
        f"{RATE:g}. The second alone adds as much as AdamW, {points(difference(data, 'second_moment', 'none', RATE))} "
        f"points there, at a best λ that grows with the rate (slope {slopes['second_moment'].text()}). Together they "
        "do no harm.",
    )
    decoupled = equal_strength(data, "update", ["second_moment"])
    evidence = [
        table(
            ["decay", "best cell over none", *(f"at rate {at:g}" for at in rates), "slope of best λ", "in the basin"],
            rows,
        ),
        "`first_moment` stands in the table of question 2, in three settings. At equal strength:",
        decoupled,
    ]
    return Answer(
        "First moment only, second moment only: which half of L2 does the harm?",
        verdict,
        "the best λ of each half at every rate; the last table compares at equal strength",
        "\n\n".join(evidence),
        "halves",
        "What the best decay adds at every learning rate, under the second moment alone, L2 and AdamW",
        lambda: figures.gain_curves(data),
        ("sites", *SETTINGS),
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
    best = {found.structure: found for found in results.best_cells(data)}
    rows = [
        [
            f"`{structure}`",
            meaning[structure],
            *(f"{each.value:.2g}" for each in found.decays),
            moved(found.moved),
            found.slope.text(),
            best[structure].reported.percent(),
        ]
        for structure, found in ridges.items()
    ]
    times = rates[-1] / rates[0]
    coupled, independent = ridges["update lr"].moved, ridges["update schedule"].moved
    corrected, l2 = ridges["update corrected"].moved, ridges["gradient lr"].moved
    lengths = {study(name).attrs["steps"]: study(name) for name in ("coupling_short", "coupling", "coupling_long")}
    by_length = {steps: analysis.ridge(each, "update lr", rates) for steps, each in lengths.items()}
    short, *_ = by_length.values()
    verdict = claim(
        coupled.low > 1 > independent.high and corrected.holds(1) and l2.holds(1),
        f"When the rate grows {times:.0f} times, the best λ falls {coupled.value:.1f} times where the rate multiplies "
        f"it and grows {1 / independent.value:.0f} times where it doesn't, so that the independent λ is the one that "
        "has to follow the rate, against what the AdamW paper expects; AdamC's λ and L2's stay.",
    )

    def figure() -> Figure:
        drawn, panel = plt.subplots(figsize=(7.5, 4.4), layout="constrained")
        for structure, found in ridges.items():
            values, low, high = np.array(found.decays).T
            panel.errorbar(rates, values, [values - low, high - values], marker="o", capsize=2, label=structure)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel("learning rate")
        panel.set_ylabel("best weight decay")
        drawn.legend(loc="outside right upper", frameon=False)
        return drawn

    head = [
        "decay",
        "what multiplies it",
        *(f"best λ at rate {rate:g}" for rate in rates),
        "moved",
        "slope",
        "accuracy",
    ]
    reason = claim(
        all(each.slope.low > -0.5 and each.slope.high < 1 for each in by_length.values()) and short.slope.low > 0,
        "If AdamW's timescale 1/(γλ) set the best λ, its slope would be -1 where the rate multiplies it and 0 where it "
        "doesn't. It is nearer to 0 and 1, as if the bound of AdamW's steady state did, |w| ≤ 1/λ (Xie and Li 2024, "
        "ICML), in which the rate cancels. Training for longer does not change that; in short training at small rates "
        "there is nothing yet to hold back. The same λ, coupled to the rate, by length of training:",
    )
    lengthwise = table(
        ["steps", *(f"best λ at rate {rate:g}" for rate in rates), "slope"],
        [
            [str(steps), *(f"{each.value:.2g}" for each in found.decays), found.slope.text()]
            for steps, found in by_length.items()
        ],
    )
    evidence = [table(head, rows), reason, lengthwise]
    return Answer(
        "Rate-coupled or independent: how far does the best λ move when the learning rate changes by 30 times?",
        verdict,
        "the best λ at each rate, so every coupling at its own best",
        "\n\n".join(evidence),
        "coupling",
        "The best decay over the learning rate, one line per coupling",
        figure,
        ("coupling", "coupling_short", "coupling_long"),
    )


def moved(factor: analysis.Estimate) -> str:
    """How many times larger the best decay is at the highest rate than at the lowest."""
    return analysis.Estimate(1 / factor.value, 1 / factor.high, 1 / factor.low).text(".2g")


def variants() -> Answer:
    data = study("variants")
    plain = "update lr"
    others = [name for name in results.by_structure(data).structure.values.tolist() if name not in ("none", plain)]
    rates = data.learning_rate.values.tolist()
    over = {other: difference(data, other, plain) for other in others}
    rows = []
    for structure in (plain, *others):
        best = runs_at(data, structure)
        rows.append([f"`{structure}`", f"{float(best.learning_rate):g}", f"{float(best.weight_decay):g}"])
        rows[-1] += [results.interval(best[data.attrs["reported"]].values).percent()]
        rows[-1] += ["" if structure == plain else points(over[structure])]
        rows[-1] += ["" if structure == plain else points(difference(data, structure, plain, rate)) for rate in rates]
    head = ["decay", "rate", "λ", "test accuracy", "over AdamW", *(f"at rate {rate:g}" for rate in rates)]
    last = rates[-1]
    behind = {other: difference(data, other, plain, last) for other in others}
    steady = [difference(data, "update lr stable", plain, rate) for rate in rates]
    verdict = claim(
        not any(differs(each) for each in over.values())
        and not any(differs(each) and each.mean > 0 for each in behind.values())
        and not any(differs(each) for each in steady)
        and all(differs(behind[name]) for name in ("update lr cautious", "update corrected")),
        f"No: in its best cell none differs from AdamW beyond the noise (the most is {points(max(over.values()))}); at "
        f"rate {last:g} cautious decay is {points(behind['update lr cautious'])} points and corrected decay "
        f"{points(behind['update corrected'])} from it, stable decay {points(behind['update lr stable'])}.",
    )
    ends = {name: runs_at(data, name, last)[["train_accuracy", "weight_norm"]].mean() for name in (plain, others[0])}
    times = float(runs_at(data, others[0], last).weight_decay / runs_at(data, plain, last).weight_decay)
    norms = float(ends[others[0]].weight_norm / ends[plain].weight_norm)
    fitted = [100 * float(each.train_accuracy) for each in ends.values()]
    evidence = [
        table(head, rows),
        claim(
            others[0] == "update lr cautious" and norms > 2 and abs(fitted[0] - fitted[1]) < 3,
            f"Cautious decay is not weaker for being held back: with its best λ at rate {last:g}, "
            f"{times:.0f} times AdamW's, it fits as much of the training set ({fitted[1]:.0f}%, AdamW "
            f"{fitted[0]:.0f}%), with weights {norms:.1f} times as large.",
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
FORGETTING = {"grok_l2_b2_95": 0.95, "grok_l2_b2_99": 0.99}
FORGETTING_RATE = 3e-3


def grokking() -> Answer:
    update, l2, halves = (study(name) for name in ("grok_update", "grok_l2", "grok_halves"))
    laws = {
        (site, form): analysis.fit_law(data, site, STEPS, form)
        for site, data in {"update": update, "gradient": l2}.items()
        for form in analysis.FORMS
    }
    fits = [
        [
            f"`{site}`",
            f"`{analysis.FORMS[form].formula}`",
            ", ".join(f"{name} = {each.text('.3g')}" for name, each in law.numbers.items()),
            f"{100 * law.error:.0f}%",
            str(law.cells),
        ]
        for (site, form), law in laws.items()
    ]
    delays = [
        [f"`{structure}`", f"{rate:g}", f"{decay:g}", _delay(cells.values)]
        for data in (update, l2, halves)
        for structure, rows in results.by_structure(data)[STEPS].groupby("structure", squeeze=False)
        if structure != "none"
        for rate in data.learning_rate.values
        for decay in data.weight_decay.values
        for cells in [rows.isel(structure=0).sel(learning_rate=rate, weight_decay=decay)]
    ]
    saved = {b2: _saved(study(name)) for name, b2 in {**FORGETTING, "grok_l2": 0.98}.items()}
    forgets = {b2: -2 * np.log(10) / np.log(b2) for b2 in saved}
    decoupled, prototype, free = (laws["update", form] for form in ("timescales", "timescale", "power"))
    never = not np.isfinite(results.by_structure(update)[STEPS].sel(structure="none")).any()
    verdict = claim(
        never
        and decoupled.error < prototype.error
        and laws["gradient", "logarithm"].error < 0.2 * laws["gradient", "timescale"].error
        and all(abs(each.mean / forgets[b2] - 1) < 0.15 for b2, each in saved.items()),
        "Only with decay. Under `update` after "
        f"{decoupled.numbers['a'].value:.2g}/γ + {decoupled.numbers['b'].value:.2g}/(γλ) steps, good to "
        f"{100 * decoupled.error:.0f}%: AdamW's timescale and one of training. Under `gradient` sooner, by another "
        f"clock: ten times as much λ saves {saved[0.98].mean:.0f} ± {saved[0.98].half_width:.0f} steps, about as many "
        f"as Adam's √v takes to fall ten times, {forgets[0.98]:.0f}.",
    )

    def figure() -> Figure:
        drawn, panels = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
        for panel, (site, data, form) in zip(
            panels, (("update", update, "timescales"), ("gradient", l2, "logarithm")), strict=True
        ):
            _delays(panel, data, site, laws[site, form], form)
        panels[0].set_ylabel("steps to 95% of the test pairs")
        return drawn

    evidence = [
        table(["decay", "law", "numbers", "error", "cells"], fits),
        f"The prototype's law for `update`, a + b/(γλ), is wrong by {100 * prototype.error:.0f}%; with free exponents "
        f"the part that λ brings goes as γ to the −{free.numbers['q'].text()} and λ to the "
        f"−{free.numbers['r'].text()}. The coupling needs no study of its own: under a constant rate the site `step`, "
        "which the rate does not multiply, is `update` with λ/γ for λ, and its law the same with λ for γλ.",
        "Under `gradient`, once the training pairs are learnt, what is left of Adam's gradient is λw, and it moves the "
        "weights when √v has forgotten the gradients before it: √v falls by the root of β₂ in a step, ten times in "
        f"2 ln 10/ln(1/β₂). A power of λ fits the delays as well; what tells the two apart is another β₂. At rate "
        f"{FORGETTING_RATE:g}, steps that ten times as much λ saves:",
        table(
            ["β₂", "2 ln 10/ln(1/β₂)", "measured"],
            [
                [f"{b2:g}", f"{forgets[b2]:.0f}", f"{saved[b2].mean:.0f} ± {saved[b2].half_width:.0f}"]
                for b2 in sorted(saved)
            ],
        ),
        table(["decay", "rate γ", "λ", "steps to 95% of the test pairs"], delays),
    ]
    return Answer(
        "When does grokking come, by site, λ and learning rate?",
        verdict,
        "every cell in which all seeds got there; the laws need no equal strength",
        "\n\n".join(evidence),
        "grokking",
        "Steps to 95% of the test pairs over λ, with the fitted laws, under update and under gradient",
        figure,
        ("grok_update", "grok_l2", *FORGETTING, "grok_halves"),
    )


def _saved(data: xr.Dataset) -> Interval:
    """How many steps sooner ten times as much decay gets there, from 1e-5 to 1e-3, over seeds."""
    steps = results.by_structure(data)[STEPS].sel(structure="gradient", learning_rate=FORGETTING_RATE)
    return results.interval((steps.sel(weight_decay=1e-5) - steps.sel(weight_decay=1e-3)).values / 2)


def _delays(panel: Axes, data: xr.Dataset, site: str, law: analysis.Law, form: str) -> None:
    """Every run that got there, and the fitted law, over the decay; one colour per rate."""
    steps = results.by_structure(data)[STEPS].sel(structure=site)
    decays = data.weight_decay.values
    fine = np.geomspace(decays[0], decays[-1], 100)
    numbers = np.array([each.value for each in law.numbers.values()])
    for number, rate in enumerate(data.learning_rate.values):
        reached = steps.sel(learning_rate=rate)
        for seed in data.seed.values:
            panel.plot(
                decays, reached.sel(seed=seed).where(np.isfinite), "o", color=f"C{number}", markersize=4, alpha=0.6
            )
        fitted = analysis.FORMS[form].steps(numbers, np.full_like(fine, rate), fine)
        panel.plot(fine, fitted, color=f"C{number}", label=f"rate {rate:g}")
    panel.set(xscale="log", yscale="log", xlabel="weight decay λ", title=f"{site}: {analysis.FORMS[form].formula}")
    panel.legend(frameon=False)


def _delay(steps: np.ndarray) -> str:
    reached = np.isfinite(steps)
    if reached.all():
        found = results.interval(steps)
        return f"{found.mean:.0f} ± {found.half_width:.0f}"
    return f"{reached.sum()} of {len(steps)} runs" if reached.any() else "never"


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
    gentle = max(abs(each.mean) for (_, rate, decay), each in apart.items() if rate * decay < 0.2)
    parted = [(rate * decay, each.mean) for (_, rate, decay), each in apart.items() if rate * decay > 0.2]
    verdict = claim(
        gentle < 0.01 and all(differs(each) and each.mean > 0 for each in (apart[other, 0.1, 3.0] for other in others)),
        f"No: up to γλ = 0.1 the three orders differ by at most {100 * gentle:.1f} points of accuracy; at "
        f"γλ = {max(parted)[0]:g} `after` is {100 * max(parted)[1]:.0f} points above `update`, which wipes them out.",
    )
    rows = [
        [f"{rate:g}", f"{decay:g}", f"{rate * decay:g}", results.interval(cell(data, "update", rate, decay)).percent()]
        + [points(apart[other, rate, decay]) for other in others]
        for rate, decay in cells
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
        "the same cell for all three, seed by seed: their strength is equal by construction, up to (γλ)²",
        table(["rate γ", "decay λ", "γλ", "`update`", "`after` over it", "`proximal` over it"], rows),
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
            f"The share of the steps' length that is decay (percent, mean over the run), with the best λ at rate "
            f"{data.learning_rate.item():g}: a site is not one strength, it is another one in every layer.",
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
over them. The best cell of a grid is chosen on validation data and reported on test data. These are findings about
small networks and little data, not laws.

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
            curves = [name for name in data.data_vars if str(name).startswith("curve_")]
            (FOLDER / path.stem).mkdir(exist_ok=True)
            results.save(data if path.stem == "layers" else data.drop_vars(curves), FOLDER / path.stem / results.FILE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, help="a folder with new data")
    if (new := parser.parse_args().results) is not None:
        take(new)
    answers = [ask() for ask in QUESTIONS]
    drawn = {f"{answer.name}.png": answer.figure() for answer in answers}
    drawn[LAYERS] = figures.effective_decay(study("layers"))
    for name, figure in drawn.items():
        if figure is None:
            raise ValueError(f"the data has nothing to draw in {name}")
        figure.savefig(FOLDER / name, dpi=DPI)
    (FOLDER / "README.md").write_text(page(answers), "utf-8")
    print(findings(answers))


if __name__ == "__main__":
    main()
