"""Black boxes: what an unknown optimizer is, told from what goes in and what comes out. Needs the extra `explain`."""

from optlab.outside import extras

extras.require("explain", __name__)

from optlab.blackbox.card import Card, Value  # noqa: E402
from optlab.blackbox.conformance import STANDARDS, Conformance, check  # noqa: E402
from optlab.blackbox.identification import identify  # noqa: E402

__all__ = ["STANDARDS", "Card", "Conformance", "Value", "check", "identify"]
