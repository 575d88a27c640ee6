"""What can go wrong, in words a user can act on.

Every error meant for a user is a ``LayerwiseError``. Its text answers four questions: what happened and where,
what was expected, what was received, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from layerwise.text_display import escape_control


class LayerwiseError(Exception):
    """Base of all errors meant for users: the message is complete, no traceback is needed.

    The message escapes control characters in names, so that a terminal can show it. The parts are kept as given.

    Args:
        what: what is wrong, and where (file, row, key).
        expected: what would have been right.
        received: what was found instead.
        do: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, expected: str = "", received: str = "", do: str = "") -> None:
        self.what, self.expected, self.received, self.do = what, expected, received, do
        lines = [what]
        if expected:
            lines.append(f"  expected: {expected}")
        if received:
            lines.append(f"  received: {received}")
        if do:
            lines.append(f"  do this:  {do}")
        super().__init__(escape_control("\n".join(lines)))


class UsageError(LayerwiseError):
    """The command or call was wrong: an unknown name, option or value."""

    exit_code = 2


class DataError(LayerwiseError):
    """The user's data are invalid or unreadable."""

    exit_code = 2


class DamagedError(LayerwiseError):
    """A saved file is not what was written: truncated, flipped, foreign or from a newer version."""

    exit_code = 2


class TrainingError(LayerwiseError):
    """Training cannot go on: a non-finite loss, a lost process, a full disk."""


class StorageError(LayerwiseError):
    """A file cannot be written: the disk is full or read-only, or the file may not grow. What was there before is
    intact."""


class Interrupted(LayerwiseError):
    """Training was stopped from outside; a checkpoint was saved."""

    exit_code = 130


def find_nearest(name: str, names: Iterable[str]) -> str:
    """Return the known name most like ``name``, or an empty string if none is near."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return matches[0] if matches else ""


def make_unknown_name_error(kind: str, name: str, names: Iterable[str], *, where: str = "", do: str = "") -> UsageError:
    """Return the error for an unknown name, with the nearest known one and what else may help."""
    known = sorted(names)
    near = find_nearest(name, known)
    location = f" in {where}" if where else ""
    return UsageError(
        f"there is no {kind} '{name}'{location}",
        expected=f"one of {', '.join(known) if known else '(nothing: this takes no options)'}",
        received=f"'{name}'",
        do="; ".join(filter(None, (f"did you mean '{near}'?" if near else "", do))),
    )
