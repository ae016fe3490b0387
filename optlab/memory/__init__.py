"""Optimizer state in fewer bytes, and weights in few bits."""

from optlab.memory import codecs as codecs
from optlab.memory.dtypes import keep_dtype
from optlab.memory.rounding import apply_updates, kahan
from optlab.memory.storage import store

__all__ = ["apply_updates", "codecs", "kahan", "keep_dtype", "store"]
