"""What things cost, beside named peers: a step and its state in `steps`, a study in `grid`, which needs the lab."""

from optlab.bench.steps import PARTS, Row, measure, table

__all__ = ["PARTS", "Row", "measure", "table"]
