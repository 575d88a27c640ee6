"""Parts of the page, each made by itself: one that fails becomes a note, and the page and the run go on without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from layerwise.errors import StorageError
from layerwise.report.texts import TEXTS

Made = TypeVar("Made")


@dataclass
class Attempts:
    """Makes parts, and keeps notes on those that failed, in English and Chinese."""

    failed: list[tuple[str, str]] = field(default_factory=list)

    def make(self, name: str, build: Callable[[], Made]) -> Made | None:
        """Return what ``build`` returns, or None and keep a note that the part ``name`` (of `TEXTS`) is missing.

        A full or read-only disk (`StorageError`) is no fault of the part: it is raised.
        """
        try:
            return build()
        except StorageError:
            raise
        except Exception as error:
            self.failed.append(missing(name, error))
            return None


def missing(name: str, error: Exception) -> tuple[str, str]:
    """Return the note on a part of the page that could not be made."""
    why = f"{type(error).__name__}: {error}".split("\n")[0][:200]
    english, chinese = TEXTS.get(name, (name, name))
    return f"the report lacks “{english}”, which could not be made ({why})", f"报告缺少“{chinese}”：生成失败（{why}）"
