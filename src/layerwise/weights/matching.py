"""Matching of weights to a network by name and shape: what differs, and the one difference that is allowed, a head for
other classes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from layerwise.errors import UsageError
from layerwise.weights.weight_files import MAX_OTHERS, Weights

MAX_LISTED = 40  # keys that an error lists in full; of more, the first `LISTED_PER_KIND` of each kind
LISTED_PER_KIND = 10
MAX_WRAPPERS = 4  # classes around a network whose prefixes are stripped
COUNTER = "num_batches_tracked"  # of batch norm: files from before torch 0.4.1 lack it, and no output depends on it


class Mismatch(NamedTuple):
    """A key that differs: the kind of the difference, and a description."""

    kind: str
    text: str


class WeightMatch(NamedTuple):
    """Tensors that fit a network by name and shape; the names of the head that keep their fresh weights; and a note for
    the user."""

    tensors: dict[str, Tensor]
    fresh: tuple[str, ...]
    note: str
    origin: str
    assets: dict[str, Any]

    def report(self) -> dict[str, Any]:
        """Return the record for a run: the origin of the weights, how many were loaded, which stayed fresh."""
        details: dict[str, Any] = {
            key: self.assets[key] for key in ("sha256", "place", "prefix", "beside") if key in self.assets
        }
        return {"source": self.origin, "tensors": len(self.tensors), "fresh": list(self.fresh), **details}


def match_weights(
    model: nn.Module, weights: Weights, origin: str, *, head: Sequence[str] = (), new_head: bool = False
) -> WeightMatch:
    """Return which of a file's tensors go into a model (which may be on the meta device). Nothing is copied.

    Args:
        model: the network.
        weights: what was read from the file.
        origin: the file, for messages.
        head: the tensors that may differ in their number of rows, or be missing: then all of them keep their fresh
            weights.
        new_head: leave the head fresh although it fits, because its rows stand for other classes.

    Raises `UsageError` listing every other key that is missing, unexpected or of another shape.
    """
    expected = model.state_dict()
    available, prefix = _strip_prefixes(weights.tensors, expected)
    mismatches = find_mismatches(expected, available)
    others = {name for name in mismatches if name not in head or not _differs_in_rows(name, expected, available, head)}
    body = [name for name in expected if name in available and name not in head]
    fresh = tuple(head) if head and body and (new_head or mismatches) and not others else ()
    if mismatches and not fresh:
        raise make_mismatch_error(mismatches, origin, shared=len(available.keys() & expected.keys()))
    assets = {**weights.assets, **({"prefix": weights.assets.get("prefix", "") + prefix} if prefix else {})}
    loaded = {name: available[name] for name in expected if name in available and name not in fresh}
    return WeightMatch(
        loaded,
        fresh,
        _describe(origin, assets, loaded, fresh=fresh, expected=expected, available=available),
        origin,
        assets,
    )


def check_match(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Raise `UsageError` listing every key that is missing, unexpected or of another shape."""
    mismatches = find_mismatches(model.state_dict(), tensors)
    if mismatches:
        raise make_mismatch_error(mismatches, origin, shared=len(tensors.keys() & model.state_dict().keys()))


def find_mismatches(expected: Mapping[str, Tensor], available: Mapping[str, Tensor]) -> dict[str, Mismatch]:
    """Return the mismatches by name: missing keys, then unexpected ones, then those of another shape or kind of
    number."""
    missing = {
        name: Mismatch("missing", f"missing (expected {_get_shape(tensor)})")
        for name, tensor in expected.items()
        if name not in available and not name.endswith(COUNTER)
    }
    extra = {
        name: Mismatch("not in the model", f"not in the model (received {_get_shape(tensor)})")
        for name, tensor in available.items()
        if name not in expected
    }
    different = {}
    for name, tensor in expected.items():
        received = available.get(name, tensor)
        if received.shape != tensor.shape:
            different[name] = Mismatch(
                "of another shape", f"expected {_get_shape(tensor)}, received {_get_shape(received)}"
            )
        elif received.is_floating_point() != tensor.is_floating_point():
            different[name] = Mismatch(
                "of another kind of number", f"expected {_format_dtype(tensor)}, received {_format_dtype(received)}"
            )
    return {**missing, **extra, **different}


def make_mismatch_error(mismatches: Mapping[str, Mismatch], origin: str, *, shared: int) -> UsageError:
    """Return the error that lists every key that differs; of more than `MAX_LISTED`, the first of each kind and the
    number of the others.

    ``shared`` is the number of names that the file and the network share.
    """
    lines: dict[str, list[str]] = {}
    for name, mismatch in mismatches.items():
        lines.setdefault(mismatch.kind, []).append(f"{name}: {mismatch.text}")
    if len(mismatches) > MAX_LISTED:
        for kind, entries in lines.items():
            hidden = entries[LISTED_PER_KIND:]
            lines[kind] = entries[:LISTED_PER_KIND] + ([f"… and {len(hidden)} more that are {kind}"] if hidden else [])
    rebuild = "build the network with the arguments the weights were trained with"
    advice = rebuild if shared else "choose the network that the weights belong to"
    listing = "\n    ".join(itertools.chain(*lines.values()))
    return UsageError(f"{origin} does not fit this network: {len(mismatches)} key(s) differ\n    {listing}", do=advice)


def _get_shape(tensor: Tensor) -> tuple[int, ...]:
    """Return a shape as a tuple, for messages."""
    return tuple(tensor.shape)


def _format_dtype(tensor: Tensor) -> str:
    """Return a tensor's type without "torch."."""
    return str(tensor.dtype).removeprefix("torch.")


def _strip_prefixes(
    tensors_by_name: dict[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], str]:
    """Strip prefixes of classes around the network, such as ``model.`` or ``net.``; return the tensors and the prefix.

    A prefix is stripped if most names begin with it and more names then match the network; names without it stay.
    """
    best, best_prefix = tensors_by_name, ""
    renamed, prefix = tensors_by_name, ""
    for _ in range(MAX_WRAPPERS):
        firsts = Counter(name.partition(".")[0] for name in renamed if "." in name)
        first, count = firsts.most_common(1)[0] if firsts else ("", 0)
        if 2 * count <= len(renamed):
            break
        shorter = {name.removeprefix(f"{first}."): tensor for name, tensor in renamed.items()}
        if len(shorter) < len(renamed):  # two names would be one
            break
        renamed, prefix = shorter, f"{prefix}{first}."
        if len(renamed.keys() & expected.keys()) > len(best.keys() & expected.keys()):
            best, best_prefix = renamed, prefix
    return best, best_prefix


def _differs_in_rows(
    name: str, expected: Mapping[str, Tensor], available: Mapping[str, Tensor], head: Sequence[str]
) -> bool:
    """Whether a tensor of the head differs only in its number of rows, or the file has no head at all."""
    if name not in available:
        return not any(one in available for one in head)
    own, loaded = expected[name], available[name]
    return (
        own.shape[1:] == loaded.shape[1:]
        and own.ndim == loaded.ndim
        and own.is_floating_point() == loaded.is_floating_point()
    )


def _describe(
    origin: str,
    assets: Mapping[str, Any],
    loaded: Mapping[str, Tensor],
    *,
    fresh: Sequence[str],
    expected: Mapping[str, Tensor],
    available: Mapping[str, Tensor],
) -> str:
    """Return the note for the user on the weights that a network starts with."""
    details = [f"under '{assets['place']}'"] if assets.get("place") else []
    if beside := assets.get("beside", []):
        details.append(f"beside {', '.join(beside[:MAX_OTHERS])}{', …' if len(beside) > MAX_OTHERS else ''}")
    details += [f"names without '{assets['prefix']}'"] if assets.get("prefix") else []
    text = f"weights of {origin}: {len(loaded)} of {len(available)} tensors taken"
    text += f" ({', '.join(details)})" if details else ""
    if fresh:
        text += f"; the head ({', '.join(fresh)}) is new: " + _explain_fresh_head(fresh, expected, available)
    return text


def _explain_fresh_head(fresh: Sequence[str], expected: Mapping[str, Tensor], available: Mapping[str, Tensor]) -> str:
    """Return the reason for a fresh head, in words."""
    first = next((name for name in fresh if name in available), "")
    if not first:
        return "the file has none"
    rows_in_file, rows_in_model = available[first].shape[0], expected[first].shape[0]
    if rows_in_file == rows_in_model:
        return "its classes were others"
    return f"{rows_in_file} outputs there, {rows_in_model} here"
