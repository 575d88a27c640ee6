"""JSON as every program reads it (RFC 8259): no NaN, no Infinity, neither written nor read.

Python's own ``json`` writes both by default, and other readers stop there. A number that is not finite is written as
null; read, it is an error, and so is one too large for float64, which Python would read as infinity. Everything in
Layerwise that writes or reads JSON does it here, or by msgspec, which keeps to the same rules.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Literal


def dumps(
    content: Any,
    *,
    indent: int | None = None,
    sort_keys: bool = False,
    default: Callable[[Any], Any] | None = None,
    non_finite: Literal["null", "error"] = "null",
    ensure_ascii: bool = False,
) -> str:
    """Return JSON text, in Unicode or with everything beyond ASCII escaped (``ensure_ascii``).

    Numbers that are not finite become null, or raise `ValueError` where ``non_finite`` is ``error``.
    """
    options: dict[str, Any] = {
        "indent": indent,
        "sort_keys": sort_keys,
        "default": default,
        "ensure_ascii": ensure_ascii,
    }
    try:
        return json.dumps(content, allow_nan=False, **options)
    except ValueError:
        if non_finite == "error":
            raise
        return json.dumps(replace_nonfinite(content), allow_nan=False, **options)


def loads(data: str | bytes) -> Any:
    """Read JSON. Raises `ValueError` for what is none: NaN, Infinity and numbers beyond float64 too."""
    return json.loads(data, parse_constant=_refuse, parse_float=_parse_number)


def replace_nonfinite(content: Any) -> Any:
    """Return plain content with None for each number that is not finite."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {replace_nonfinite_key(key): replace_nonfinite(value) for key, value in content.items()}
    return [replace_nonfinite(value) for value in content] if isinstance(content, list | tuple) else content


def replace_nonfinite_key(key: Any) -> Any:
    """Return a key of an object: one that is a number and not finite as text."""
    return str(key) if isinstance(key, float) and not math.isfinite(key) else key


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _parse_number(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)
