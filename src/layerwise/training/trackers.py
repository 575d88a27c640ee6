"""Trackers: the log's numbers for other programs. A tracker that fails is dropped with a warning; training goes on
(F28)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, final

from layerwise.errors import LayerwiseError
from layerwise.runtime.atomic_io import is_plain_file, make_folder, open_own

Row = Mapping[str, Any]
FOLDER = "tensorboard"  # of a run


class Tracker(Protocol):
    """Takes the rows of metrics.jsonl as they are written."""

    def write(self, row: Row) -> None:
        """Take a row: ``step`` and its numbers by name."""
        ...


@final
class TensorBoard:
    """TensorBoard's event files: one scalar for each ``split/name`` of a row, on the disk row by row.

    Args:
        folder: where the files go, made if need be.
        step: the step that training goes on from; events of an earlier sitting behind it are purged by the reader.

    Raises `ImportError` without the extra ``layerwise[tensorboard]`` and `OSError` for a folder that cannot be written.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # an extra, only loaded where it is asked for
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.event, self.writer = Event, RecordWriter
        make_folder(folder, root=folder.parent)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / name
        self._put(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if step:
            start = SessionLog(status=SessionLog.START)
            self._put(Event(wall_time=time.time(), step=step + 1, session_log=start))

    def write(self, row: Row) -> None:
        """Write a row's scalars at its step."""
        event = self.event(wall_time=time.time(), step=int(row["step"]))
        for name, value in row.items():
            if "/" in name:
                event.summary.value.add(tag=name, simple_value=float(value))
        self._put(event)

    def _put(self, event: Any) -> None:
        """Add one record. The file is opened for each, so that nothing is left open when a run ends in whatever way."""
        with open_own(self.path, root=self.path.parents[1], mode="ab") as file:
            self.writer(file).write(event.SerializeToString())


def event_problems(run: Path) -> dict[str, str]:
    """Return each event file of a run with what is wrong with it, or an empty text: each record carries two checksums.

    Without the extra ``layerwise[tensorboard]`` nothing is looked at.
    """
    try:
        from tensorboard.compat.tensorflow_stub import errors
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New
    except ImportError:
        return {}
    found = {}
    for path in sorted((run / FOLDER).glob("events.*")):
        name = f"{FOLDER}/{path.name}"
        found[name] = "" if is_plain_file(path, root=run) else "it is not a regular file"
        if not found[name]:
            reader = PyRecordReader_New(str(path), 0, "", None)
            try:
                while True:
                    reader.GetNext()
            except errors.OutOfRangeError:
                pass  # the end
            except Exception as error:  # of any kind: the reader stumbles over foreign bytes wherever they lead it
                found[name] = f"a record of it is not as it was written ({type(error).__name__})"
    return found


@final
class Guarded:
    """Any tracker, made and called so that nothing it does stops training: its first failure is told once and ends
    it."""

    def __init__(self, name: str, make: Callable[[], Tracker], *, say: Callable[[str], None]) -> None:
        self.name, self.say = name, say
        self.tracker: Tracker | None = None
        try:
            self.tracker = make()
        except Exception as error:
            self._drop(error)

    def write(self, row: Row) -> None:
        """Hand a row on, if the tracker still works."""
        if self.tracker is None:
            return
        try:
            self.tracker.write(row)
        except Exception as error:
            self._drop(error)

    def _drop(self, error: Exception) -> None:
        """Tell why, and what may help; metrics.jsonl keeps every number."""
        self.tracker = None
        missing = isinstance(error, ModuleNotFoundError)
        said = error.what if isinstance(error, LayerwiseError) else f"{error}"
        why = f"the package {error.name} is missing (pip install 'layerwise[{self.name}]')" if missing else said  # type: ignore[attr-defined]
        self.say(
            f"warning: {self.name} is off for the rest of this run: {why}; training goes on, metrics.jsonl "
            "has every number"
        )
