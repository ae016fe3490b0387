"""`check`: whether an optimizer is what its name says, and if not, what differs, in words."""

import dataclasses
from typing import Any

from optlab.algebra.spellings import spelled
from optlab.blackbox.card import BOTH, EPS_PLACES, INAPPLICABLE, NEITHER, Card, eps_place
from optlab.blackbox.families import MOMENTUM_FIRST, QUOTIENT_FIRST
from optlab.blackbox.identification import identify

ASKED = 1e-3  # how far an effective rate or decay may be from what was asked for, relative to it

FIRST, SECOND = "the first moment", "the second moment"


@dataclasses.dataclass(frozen=True)
class Standard:
    """What a name promises.

    Attributes:
      title: as the field writes it.
      family, site, coupling, correction, order: as on a `Card`; a decay that follows no name is `none`.
      eps: where it may stand, keys of `EPS_PLACES`; empty where there is none.
    """

    title: str
    family: str
    site: str = "none"
    coupling: str = "lr"
    correction: str = INAPPLICABLE
    eps: tuple[str, ...] = ()
    order: str = MOMENTUM_FIRST


_OUTSIDE, _EITHER = ("outside",), ("outside", "inside")

STANDARDS = {
    "sgd": Standard("SGD", "sgd"),
    "sgdw": Standard("SGDW", "heavy_ball", "update"),
    "momentum": Standard("momentum", "momentum", correction=NEITHER),
    "heavy_ball": Standard("the heavy ball", "heavy_ball"),
    "nesterov": Standard("Nesterov's momentum", "nesterov"),
    "sign_sgd": Standard("sign SGD", "sign_sgd"),
    "signum": Standard("Signum", "signum"),
    "lion": Standard("Lion", "lion", "update"),
    "adagrad": Standard("AdaGrad", "adagrad", eps=_EITHER),
    "adadelta": Standard("AdaDelta", "adadelta", eps=("inside",)),
    "rmsprop": Standard("RMSProp", "rmsprop", correction=NEITHER, eps=_EITHER),
    "adam": Standard("Adam", "adam", correction=BOTH, eps=_OUTSIDE),
    "adam_l2": Standard("Adam with L2", "adam", "gradient", correction=BOTH, eps=_OUTSIDE),
    "adamw": Standard("AdamW", "adam", "update", correction=BOTH, eps=_OUTSIDE),
    "adamw_independent": Standard(
        "AdamW with independent decay", "adam", "step", "constant", correction=BOTH, eps=_OUTSIDE
    ),
    "amsgrad": Standard("AMSGrad", "amsgrad", correction=BOTH, eps=_OUTSIDE),
    "adamax": Standard("AdaMax", "adamax", correction=FIRST, eps=_EITHER),
    "nadam": Standard("NAdam", "nadam", correction=BOTH, eps=_OUTSIDE),
    "nadamw": Standard("NAdamW", "nadam", "update", correction=BOTH, eps=_OUTSIDE),
    "radam": Standard("RAdam", "radam", correction=BOTH, eps=("outside", "outside_uncorrected")),
    "adabelief": Standard("AdaBelief", "adabelief", correction=BOTH, eps=_OUTSIDE),
    "laprop": Standard("LaProp", "laprop", correction=BOTH, eps=_OUTSIDE, order=QUOTIENT_FIRST),
}


@dataclasses.dataclass(frozen=True)
class Conformance:
    """The answer of `check`: true where the box is what it says; `print` shows what differs, and the card.

    Attributes:
      says: the name that was checked.
      differences: in words, empty where the box passes.
      card: what `identify` found.
    """

    says: str
    differences: tuple[str, ...]
    card: Card

    @property
    def passes(self) -> bool:
        return not self.differences

    def __bool__(self) -> bool:
        return self.passes

    def __str__(self) -> str:
        if self.passes:
            return f"{self.says}: passes"
        return "\n".join([f"{self.says}: differs", *(f"- {difference}" for difference in self.differences)])


@spelled()
def check(
    make: Any, says: str, *, learning_rate: float = 0.01, weight_decay: float = 0.1, seed: int = 0
) -> Conformance:
    """`make`, a name -> whether the box computes what the name means, and what differs.

    Hyperparameters other than the effective rate and decay are the box's own affair.

    Args:
      make, learning_rate, weight_decay, seed: see `identify`.
      says: a key of `STANDARDS`.

    Raises:
      TypeError, ValueError: see `identify`; or no such name.
    """
    if not isinstance(says, str) or says not in STANDARDS:
        raise ValueError(f"check: unknown name {says!r}; the names are {', '.join(STANDARDS)}")
    card = identify(make, learning_rate=learning_rate, weight_decay=weight_decay, seed=seed)
    return Conformance(says, tuple(_differences(card, STANDARDS[says])), card)


def _differences(card: Card, standard: Standard) -> list[str]:
    if card.family is None and card.known:
        return [f"it is none of the known families: {'; '.join(card.known)}"]
    if card.family is None:
        why = "; it mixes the weights of an array" if card.mixes else ""
        return [
            f"it is none of the known families; the nearest is {card.nearest}, {card.residual:.0e} of a move off{why}"
        ]
    found = []
    if card.family != standard.family:
        found.append(f"it computes {_title(card)}, not {standard.title}")
    else:
        found += _of_the_core(card, standard)
    return [*found, *_of_the_decay(card, standard), *_of_the_values(card)]


def _of_the_core(card: Card, standard: Standard) -> list[str]:
    found = []
    if card.correction != standard.correction:
        found.append(f"it corrects the bias of {_moments(card)}; {standard.title} of {_moments(standard)}")
    if card.core and card.core.eps != "none" and card.core.eps not in standard.eps:
        wanted = " or ".join(EPS_PLACES[each] for each in standard.eps) or EPS_PLACES["none"]
        found.append(f"eps stands {eps_place(card.core)}; {standard.title} has it {wanted}")
    if card.core and card.core.order != standard.order:
        found.append(f"the order is {card.core.order}; {standard.title} has {standard.order}")
    return found


def _title(card: Card) -> str:
    titles = {standard.family: standard.title for standard in reversed(STANDARDS.values()) if standard.site == "none"}
    return titles.get(card.family or "", STANDARDS["lion"].title)


def _moments(of: Card | Standard) -> str:
    return {NEITHER: "neither moment", INAPPLICABLE: "no moment"}.get(of.correction, of.correction)


_WHERE: dict[str, str] = {
    "gradient": "decay goes into the gradient, g + λw, and through the moments (L2)",
    "first_moment": "decay goes into the first moment alone",
    "second_moment": "decay goes into the second moment alone",
    "direction": "decay is divided by the second moment, η(m + λw)/P",
    "update": "decay acts beside the update, w − η(u + λw)",
    "step": "decay is not multiplied by the learning rate, w − ηu − λw",
    "after": "decay acts after the step, (w − ηu)(1 − ηλ)",
    "proximal": "decay is the proximal step after the update, (w − ηu)/(1 + ηλ)",
}
_DOES = {
    "none": "has none",
    "gradient": "adds it to the gradient",
    "update": "decays before, w − η(u + λw)",
    "step": "subtracts λw itself",
}


def _of_the_decay(card: Card, standard: Standard) -> list[str]:
    found = []
    sites = {card.site, *card.same_as}
    if card.site != "none" and card.values["weight_decay"].value < 0:
        grows = "w − ηu + λw" if card.coupling == "constant" else "w − ηu + ηλw"
        return [f"sign trap: weights grow by the decay, {grows}; {standard.title} shrinks them"]
    if card.site == "none" and standard.site != "none":
        return [f"no decay acts; {standard.title} {_DOES[standard.site]}"]
    if standard.site not in sites:
        does = "multiplies it by the learning rate" if card.site == "step" and standard.site == "update" else ""
        found.append(f"{_WHERE[card.site]}; {standard.title} {does or _DOES[standard.site]}")
    elif card.site != "none" and card.coupling != standard.coupling:
        found.append(f"decay is multiplied by {card.coupling}; {standard.title} multiplies it by {standard.coupling}")
    if card.gate == "cautious":
        found.append(f"decay is cautious, acting only where u·w ≥ 0; {standard.title} decays every weight")
    if card.gate == "stable":
        found.append(f"decay is divided by the root of the mean of v; {standard.title} decays by the rate alone")
    if standard.site in sites and card.law not in ("-", "1 - decay"):
        found.append(f"decay shrinks weights by {card.law}; {standard.title} by 1 - decay")
    return found


def _of_the_values(card: Card) -> list[str]:
    """Effective values that are not those asked for."""
    found = []
    words = {"learning_rate": "the effective learning rate", "weight_decay": "the effective decay"}
    for name, word in words.items():
        value = card.values.get(name)
        if value is None or not value.given or value.value < 0:
            continue
        factor = value.value / value.given
        if abs(factor - 1) > max(ASKED, 3 * value.uncertainty / value.given):
            found.append(f"{word} is {factor:.4g} times what is asked for")
    return found
