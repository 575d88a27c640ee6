"""The receptive field (E16): which pixels a unit can depend on, along one axis of the image.

A unit of a map sees an interval of pixels. Units side by side see intervals that lie ``jump`` pixels apart. Each layer
of kernel k, stride s, padding p and dilation d makes the interval longer and the jump larger. Sources: V. Dumoulin, F.
Visin, arXiv:1603.07285 (2016); A. Araujo, W. Norris, J. Sim, Computing receptive fields of convolutional neural
networks, Distill (2019).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Window(NamedTuple):
    """A layer along one axis: k, s, p (before the first pixel; the border behind the last changes no field), d."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1


class Field(NamedTuple):
    """What the units of a map see along one axis, in pixels of the image, the first of which is 0.

    The unit at 0 sees pixels ``first`` to ``last``, both included; the unit at i sees them moved by i·``jump``. Pixels
    below 0 or beyond the image are border.
    """

    first: int = 0
    last: int = 0
    jump: int = 1

    @property
    def size(self) -> int:
        """The receptive field r: how many pixels in a row a unit sees."""
        return self.last - self.first + 1

    @property
    def start(self) -> float:
        """The center of the first unit's field, in pixels."""
        return (self.first + self.last) / 2

    def at(self, unit: int, side: int | None = None) -> tuple[int, int]:
        """Return the first and last pixel that a unit sees; within an image of ``side`` pixels, if that is given."""
        first, last = self.first + unit * self.jump, self.last + unit * self.jump
        return (first, last) if side is None else (max(0, first), min(side - 1, last))


def add_layer(field: Field, window: Window) -> Field:
    """Return the field after one more layer (E16).

    rₗ = rₗ₋₁ + (kₗ−1)·dₗ·jₗ₋₁ and jₗ = jₗ₋₁·sₗ, so that jₗ₋₁ = Πᵢ<ₗ sᵢ; the first unit's field begins pₗ·jₗ₋₁ pixels
    earlier.
    """
    first = field.first - window.padding * field.jump
    size = field.size + (window.kernel - 1) * window.dilation * field.jump
    return Field(first, first + size - 1, field.jump * window.stride)


def stack_layers(windows: Iterable[Window]) -> list[Field]:
    """Return the field after each layer of a stack, from the image on (E16)."""
    fields = [Field()]
    for window in windows:
        fields.append(add_layer(fields[-1], window))
    return fields[1:]


def merge_fields(a: Field, b: Field) -> Field:
    """Return the field of a sum or concatenation of two maps: the shortest interval that holds both.

    Raises `ValueError` if their jumps differ: such maps cannot be added or concatenated.
    """
    if a.jump != b.jump:
        raise ValueError(f"maps whose units lie {a.jump} and {b.jump} pixels apart cannot be merged")
    return Field(min(a.first, b.first), max(a.last, b.last), a.jump)


def span_units(field: Field, units: int) -> Field:
    """Return the field of a unit that reads ``units`` neighbors of a map, all of them (a dense layer, a global mean):
    jump 0."""
    return Field(field.first, field.last + (units - 1) * field.jump, 0)
