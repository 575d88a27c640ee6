"""Progress of a run: on a terminal one bar with the time left and live metrics, elsewhere one line per epoch."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from layerwise.text_display import escape_control

BAR_WIDTH, OTHER_WIDTH = 16, 17  # cells of the bar; of percentage, time left and the spaces between


class Display:
    """Shows progress on standard error; silent if ``quiet``."""

    def __init__(self, *, quiet: bool, stream: TextIO | None = None) -> None:
        self.console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self.quiet = quiet
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        if self.console.is_terminal and not quiet:
            self.bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=BAR_WIDTH),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[live]}", markup=False),
                console=self.console,
                transient=True,
            )

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def start_stage(self, name: str, steps: int) -> None:
        """Start the progress bar of a stage with ``steps`` steps."""
        if self.bar:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.task = self.bar.add_task(escape_control(name, single_line=True), total=steps, live="")

    def advance(self, done: int) -> None:
        """Set the bar to ``done`` finished steps."""
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=done)

    def show(self, live: str) -> None:
        """Show live metrics beside the bar, as far as they fit."""
        if self.bar and self.task is not None:
            name = self.bar.tasks[-1].description
            text = Text(escape_control(live, single_line=True))
            text.truncate(max(0, self.console.width - cell_len(name) - BAR_WIDTH - OTHER_WIDTH), overflow="ellipsis")
            self.bar.update(self.task, live=text.plain)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if not self.quiet:
            self.console.print(escape_control(text), markup=False, emoji=False)


def format_metrics(metrics: dict[str, float]) -> str:
    """Return metrics as short text: ``train/loss 0.312  val/accuracy 0.941``."""
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
