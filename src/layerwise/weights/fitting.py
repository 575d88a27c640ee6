"""Weights and a network: which tensor goes where, what differs, and the one difference that is meant: a head for other
classes (F31)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from layerwise.errors import UsageError
from layerwise.weights.reading import BESIDE, Weights

LISTED = 40  # keys that an error lists in full; of more, the first of each kind
EACH = 10
WRAPPED = 4  # classes that may lie around a network
COUNTER = "num_batches_tracked"  # of batch norm: files from before torch 0.4.1 lack it, and no output depends on it


class Difference(NamedTuple):
    """What is wrong with a key: its kind, and in words."""

    kind: str
    text: str


class Fit(NamedTuple):
    """Tensors that fit a network by name and shape; the head's names that keep their fresh weights; what a user should
    know."""

    tensors: dict[str, Tensor]
    fresh: tuple[str, ...]
    note: str
    origin: str
    assets: dict[str, Any]

    def report(self) -> dict[str, Any]:
        """Return what a run keeps of it: where the weights came from, how many were taken, what stayed fresh."""
        told: dict[str, Any] = {
            key: self.assets[key] for key in ("sha256", "place", "prefix", "beside") if key in self.assets
        }
        return {"source": self.origin, "tensors": len(self.tensors), "fresh": list(self.fresh), **told}


def fit(model: nn.Module, weights: Weights, origin: str, *, head: Sequence[str] = (), new_head: bool = False) -> Fit:
    """Return which of a file's tensors go into a model (which may be on the meta device). Nothing is copied.

    Args:
        model: the network.
        weights, origin: what was read, and where from, for messages.
        head: the tensors that may be of other rows, or lack altogether: they then keep their fresh weights, all of
            them.
        new_head: leave the head fresh although it fits: its rows stand for other classes.

    Raises `UsageError` listing every other key that is missing, left over or of another shape (F31).
    """
    wanted = model.state_dict()
    given, prefix = _renamed(weights.tensors, wanted)
    wrong = differences(wanted, given)
    others = {name for name in wrong if name not in head or not _other_rows(name, wanted, given, head)}
    kept = [name for name in wanted if name in given and name not in head]
    fresh = tuple(head) if head and kept and (new_head or wrong) and not others else ()
    if wrong and not fresh:
        raise misfit(wrong, origin, same=len(given.keys() & wanted.keys()))
    assets = {**weights.assets, **({"prefix": weights.assets.get("prefix", "") + prefix} if prefix else {})}
    loaded = {name: given[name] for name in wanted if name in given and name not in fresh}
    return Fit(loaded, fresh, _told(origin, assets, loaded, fresh=fresh, wanted=wanted, given=given), origin, assets)


def check(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Raise `UsageError` listing every key that is missing, left over or of another shape."""
    wrong = differences(model.state_dict(), tensors)
    if wrong:
        raise misfit(wrong, origin, same=len(tensors.keys() & model.state_dict().keys()))


def differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Difference]:
    """Return what is wrong by name: missing keys, then those left over, then those of another shape or kind of
    number."""
    missing = {
        name: Difference("missing", f"missing (expected {_shape(tensor)})")
        for name, tensor in wanted.items()
        if name not in given and not name.endswith(COUNTER)
    }
    over = {
        name: Difference("not in the model", f"not in the model (received {_shape(tensor)})")
        for name, tensor in given.items()
        if name not in wanted
    }
    other = {}
    for name, tensor in wanted.items():
        found = given.get(name, tensor)
        if found.shape != tensor.shape:
            other[name] = Difference("of another shape", f"expected {_shape(tensor)}, received {_shape(found)}")
        elif found.is_floating_point() != tensor.is_floating_point():
            other[name] = Difference("of another kind of number", f"expected {_kind(tensor)}, received {_kind(found)}")
    return {**missing, **over, **other}


def misfit(wrong: Mapping[str, Difference], origin: str, *, same: int) -> UsageError:
    """Make the error that lists every key that differs; of more than `LISTED`, the first of each kind and how many more
    there are.

    ``same`` is the number of names that the file and the network share.
    """
    lines: dict[str, list[str]] = {}
    for name, one in wrong.items():
        lines.setdefault(one.kind, []).append(f"{name}: {one.text}")
    if len(wrong) > LISTED:
        lines = {
            kind: found[:EACH] + ([f"… and {len(found) - EACH} more that are {kind}"] if len(found) > EACH else [])
            for kind, found in lines.items()
        }
    ours = "build the network with the arguments the weights were trained with"
    advice = ours if same else "choose the network that the weights belong to"
    told = "\n    ".join(itertools.chain(*lines.values()))
    return UsageError(f"{origin} does not fit this network: {len(wrong)} key(s) differ\n    {told}", do=advice)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """Return a shape as messages show it."""
    return tuple(tensor.shape)


def _kind(tensor: Tensor) -> str:
    """Return a tensor's kind of numbers."""
    return str(tensor.dtype).removeprefix("torch.")


def _renamed(given: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Take off first words that hide the names: ``model.`` or ``net.``, of a class around the network.

    A first word comes off if most names begin with it and more of them then are names of the network; names without it
    stay.
    """
    best, taken = given, ""
    renamed, prefix = given, ""
    for _ in range(WRAPPED):
        firsts = Counter(name.partition(".")[0] for name in renamed if "." in name)
        first, count = firsts.most_common(1)[0] if firsts else ("", 0)
        if 2 * count <= len(renamed):
            break
        shorter = {name.removeprefix(f"{first}."): tensor for name, tensor in renamed.items()}
        if len(shorter) < len(renamed):  # two names would be one
            break
        renamed, prefix = shorter, f"{prefix}{first}."
        if len(renamed.keys() & wanted.keys()) > len(best.keys() & wanted.keys()):
            best, taken = renamed, prefix
    return best, taken


def _other_rows(name: str, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], head: Sequence[str]) -> bool:
    """Whether a tensor of the head differs in its rows alone, or the file has no head at all."""
    if name not in given:
        return not any(one in given for one in head)
    mine, found = wanted[name], given[name]
    return (
        mine.shape[1:] == found.shape[1:]
        and mine.ndim == found.ndim
        and mine.is_floating_point() == found.is_floating_point()
    )


def _told(
    origin: str,
    assets: Mapping[str, Any],
    loaded: Mapping[str, Tensor],
    *,
    fresh: Sequence[str],
    wanted: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
) -> str:
    """Return what a user should know of the weights a network begins with."""
    how = [f"under '{assets['place']}'"] if assets.get("place") else []
    if beside := assets.get("beside", []):
        how.append(f"beside {', '.join(beside[:BESIDE])}{', …' if len(beside) > BESIDE else ''}")
    how += [f"names without '{assets['prefix']}'"] if assets.get("prefix") else []
    text = f"weights of {origin}: {len(loaded)} of {len(given)} tensors taken" + (f" ({', '.join(how)})" if how else "")
    if fresh:
        text += f"; the head ({', '.join(fresh)}) is new: " + _why(fresh, wanted, given)
    return text


def _why(fresh: Sequence[str], wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return why a head is new."""
    first = next((name for name in fresh if name in given), "")
    if not first:
        return "the file has none"
    there, here = given[first].shape[0], wanted[first].shape[0]
    return f"{there} outputs there, {here} here" if there != here else "its classes were others"
