"""Black boxes: what an unknown optimizer is, told from what goes in and what comes out."""

from optlab.blackbox.card import UNKNOWN, Card, Value
from optlab.blackbox.identification import identify

__all__ = ["UNKNOWN", "Card", "Value", "identify"]
