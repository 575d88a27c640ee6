"""Trackers: the log's numbers for other programs. A tracker that fails is switched off with a warning; training goes
on."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, final

from layerwise.errors import LayerwiseError
from layerwise.runtime.atomic_io import make_folder
from layerwise.runtime.in_place_io import open_in_place
from layerwise.runtime.write_checks import is_plain_file

Row = Mapping[str, Any]
FOLDER = "tensorboard"  # of a run


class Tracker(Protocol):
    """Takes the rows of metrics.jsonl while training writes them."""

    def write(self, row: Row) -> None:
        """Write a row: ``step`` and its numbers by name."""
        ...


@final
class TensorBoard:
    """TensorBoard's event files: one scalar for each ``split/name`` of a row, on the disk row by row.

    Args:
        folder: where the files go; created if missing.
        step: the step from which training continues; the reader drops later events of an earlier process.

    Raises `ImportError` without the extra ``layerwise[tensorboard]`` and `OSError` for a folder that cannot be written.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # an extra, loaded only on request
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.event, self.writer = Event, RecordWriter
        make_folder(folder, root=folder.parent)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / name
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if step:
            start = SessionLog(status=SessionLog.START)
            self._append(Event(wall_time=time.time(), step=step + 1, session_log=start))

    def write(self, row: Row) -> None:
        """Write a row's scalars at its step."""
        event = self.event(wall_time=time.time(), step=int(row["step"]))
        for name, value in row.items():
            if "/" in name:
                event.summary.value.add(tag=name, simple_value=float(value))
        self._append(event)

    def _append(self, event: Any) -> None:
        """Append one record. The file is opened for each one, so that no end of a run leaves it open."""
        with open_in_place(self.path, root=self.path.parents[1], mode="ab") as file:
            self.writer(file).write(event.SerializeToString())


def find_event_problems(run: Path) -> dict[str, str]:
    """Return what is wrong with each event file of a run (its records carry checksums), or the empty text.

    Without the extra ``layerwise[tensorboard]`` no file is checked.
    """
    try:
        from tensorboard.compat.tensorflow_stub import errors
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New
    except ImportError:
        return {}
    problems = {}
    for path in sorted((run / FOLDER).glob("events.*")):
        name = f"{FOLDER}/{path.name}"
        problems[name] = "" if is_plain_file(path, root=run) else "it is not a regular file"
        if not problems[name]:
            reader = PyRecordReader_New(str(path), 0, "", None)
            try:
                while True:
                    reader.GetNext()
            except errors.OutOfRangeError:
                pass  # the end
            except Exception as error:  # of any kind: the reader does not check what foreign bytes lead it to
                problems[name] = f"a record of it is not as it was written ({type(error).__name__})"
    return problems


@final
class FailSafeTracker:
    """A tracker whose failures never stop training: the first one switches it off, with one warning."""

    def __init__(self, name: str, build: Callable[[], Tracker], *, say: Callable[[str], None]) -> None:
        self.name, self.say = name, say
        self.tracker: Tracker | None = None
        try:
            self.tracker = build()
        except Exception as error:
            self._disable(error)

    def write(self, row: Row) -> None:
        """Write a row, if the tracker still works."""
        if self.tracker is None:
            return
        try:
            self.tracker.write(row)
        except Exception as error:
            self._disable(error)

    def _disable(self, error: Exception) -> None:
        """Switch the tracker off and say why; metrics.jsonl keeps every number."""
        self.tracker = None
        why = error.what if isinstance(error, LayerwiseError) else f"{error}"
        if isinstance(error, ModuleNotFoundError):
            why = f"the package {error.name} is missing (pip install 'layerwise[{self.name}]')"
        self.say(
            f"warning: {self.name} is off for the rest of this run: {why}; training goes on, metrics.jsonl "
            "has every number"
        )
