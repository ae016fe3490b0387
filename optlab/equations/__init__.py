"""What a transform computes, as equations read off its traced computation, and whether two of them are the same.

Needs the extra `explain`.
"""

from optlab.outside import extras

extras.require("explain", __name__)
