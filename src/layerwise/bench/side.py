"""``python -m layerwise.bench.side CASE SIDE``: a spec as JSON on standard input, a measurement as JSON on the last
line."""

from __future__ import annotations

import sys

import msgspec

from layerwise import bench
from layerwise.runtime import strict_json


def main(case: str, side: str) -> None:
    """Measure one side of a case once."""
    found = bench.find(case).sides[side](strict_json.loads(sys.stdin.read()))
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
