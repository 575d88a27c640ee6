"""The bar on a terminal: the time left is never cut, whatever the width and however long the live metrics are."""

from __future__ import annotations

import io
import re

import pytest

from layerwise.training.progress import Display


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_time_left_is_never_cut(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    with Display(quiet=False, stream=screen) as display:
        display.start_stage("fine-tune", 100)
        display.advance(30)
        display.show("train/loss 0.3123  val/accuracy 0.9412  val/loss 0.2931  val/balanced-accuracy 0.9321")
        assert display.bar is not None
        display.bar.refresh()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    last = [line for line in re.split(r"[\r\n]", plain) if "30%" in line][-1]
    assert re.search(r" 30% (\d+|-):(\d\d|--):(\d\d|--) train/l", last)
    assert len(last) <= width
