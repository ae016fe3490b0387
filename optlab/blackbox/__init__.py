"""Black boxes: what an unknown optimizer is, told from what goes in and what comes out."""

from optlab.blackbox.card import Card, Value
from optlab.blackbox.conformance import STANDARDS, Conformance, check
from optlab.blackbox.identification import identify

__all__ = ["STANDARDS", "Card", "Conformance", "Value", "check", "identify"]
