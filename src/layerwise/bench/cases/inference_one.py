"""Images a second of trained networks, float32, one image at a time: our engines beside torchvision's eager
networks."""

from __future__ import annotations

from layerwise.bench.base import Case
from layerwise.bench.cases.inference import TARGETS, build_rows, build_sides

CASE = Case(
    name="inference-one",
    unit="images/s",
    spec={"batch": 1},
    sides=build_sides(),
    rows=build_rows(dict.fromkeys(TARGETS, 1.3)),
    note="224×224, the same weights and the same image on all sides, each with its own default threads; median "
    "of runs within 6 s",
    timeout=600,
)
