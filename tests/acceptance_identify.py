"""How often `identify` is right, over random draws of known optimizers and over boxes of no known family.

`python acceptance_identify.py --draws 300`, in this folder, prints the tables; `--help` lists the rest.
"""

import argparse
import functools
import time
from typing import NamedTuple

from black_boxes import KINDS, OUTSIDERS, TORCH_OUTSIDERS, Draw, draw, in_single, of_torch, torch_kinds

from optlab.blackbox import Card, identify

TOLERANCE = {"float64": 1e-4, "float32": 1e-2}
EPS_TOLERANCE = 1e-2


class Verdict(NamedTuple):
    """What was wrong about a card, and the largest relative error of its values."""

    wrong: tuple[str, ...]
    error: float
    eps_error: float
    eps_identified: bool


def judge(drawn: Draw, card: Card, tolerance: float) -> Verdict:
    wrong = []
    if card.family != drawn.family:
        wrong.append(f"family {card.family}")
    if card.site not in drawn.sites:
        wrong.append(f"site {card.site}")
    if (card.coupling, card.gate) != (drawn.coupling, drawn.gate):
        wrong.append(f"coupling {card.coupling}, gate {card.gate}")
    if wrong:
        return Verdict(tuple(wrong), 0.0, 0.0, "eps" in card.values)
    errors = {
        name: abs(card.values[name].value / true - 1) for name, true in drawn.values.items() if name in card.values
    }
    missing = [name for name in drawn.values if name not in errors and name != "eps"]
    eps_error = errors.pop("eps", 0.0)
    wrong += [f"{name} not identified" for name in missing]
    wrong += [f"{name} off by {error:.1e}" for name, error in errors.items() if error > tolerance]
    wrong += [f"eps off by {eps_error:.1e}"] if eps_error > EPS_TOLERANCE else []
    return Verdict(tuple(wrong), max(errors.values(), default=0.0), eps_error, "eps" in card.values)


def identified(drawn: Draw) -> Card:
    return identify(drawn.make, learning_rate=drawn.learning_rate, weight_decay=drawn.weight_decay)


@functools.cache
def outsider(name: str) -> Card:
    return identify(of_torch(TORCH_OUTSIDERS[name]) if name in TORCH_OUTSIDERS else OUTSIDERS[name])


def claimed(name: str) -> str | None:
    """What is said of an outsider: the family, or why it is none."""
    try:
        return outsider(name).family
    except ValueError as error:
        return f"refused: {error}"


def _structure(verdict: Verdict) -> bool:
    return not any(word.startswith(("family", "site", "coupling")) for word in verdict.wrong)


def _draws(seeds: range, single: bool) -> None:
    precision = "float32" if single else "float64"
    verdicts, times = [], []
    for seed in seeds:
        drawn = in_single(draw(seed)) if single else draw(seed)
        start = time.perf_counter()
        card = identified(drawn)
        times.append(time.perf_counter() - start)
        verdicts.append(judge(drawn, card, TOLERANCE[precision]))
        if verdicts[-1].wrong:
            print(f"  draw {seed}: {drawn.name}: {'; '.join(verdicts[-1].wrong)}", flush=True)
    right = sum(map(_structure, verdicts))
    exact = sum(not verdict.wrong for verdict in verdicts)
    with_eps = [verdict for verdict in verdicts if verdict.eps_identified]
    print(f"{precision}: {len(verdicts)} draws")
    print(f"  family, site and coupling right: {right} ({right / len(verdicts):.1%})")
    print(f"  and every value within {TOLERANCE[precision]:g}, eps within {EPS_TOLERANCE:g}: {exact}")
    print(f"  largest error of a value: {max(v.error for v in verdicts):.1e}")
    print(f"  eps identified in {len(with_eps)}; largest error: {max((v.eps_error for v in with_eps), default=0):.1e}")
    print(f"  seconds per draw: median {sorted(times)[len(times) // 2]:.1f}, largest {max(times):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=300, help="in float64 (default: 300)")
    parser.add_argument("--single", type=int, default=100, help="in float32 (default: 100)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    options = parser.parse_args()
    for count, single in ((options.draws, False), (options.single, True)):
        if count:
            _draws(range(options.first, options.first + count), single)
    kinds = {
        name: judge(drawn, identified(drawn), TOLERANCE["float64"]).wrong
        for name, drawn in (KINDS | torch_kinds()).items()
    }
    for name, wrong in kinds.items():
        print(f"  {name}: {'; '.join(wrong) or 'right'}", flush=True)
    print(f"known optimizers written in other ways: {len(kinds)}, wrong: {sum(map(bool, kinds.values()))}")
    answers = {name: claimed(name) for name in (*OUTSIDERS, *TORCH_OUTSIDERS)}
    for name, answer in answers.items():
        print(f"  {name}: {answer}")
    wrongly = [name for name, answer in answers.items() if answer is not None and not answer.startswith("refused")]
    print(f"outsiders: {len(answers)}, claimed: {', '.join(wrongly) or 'none'}")


if __name__ == "__main__":
    main()
