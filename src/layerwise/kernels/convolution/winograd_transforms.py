"""What a 3×3 convolution by tiles is made of: Winograd's transforms of 6×6 numbers, and products of small matrices, as
many maps at a time as a vector of the processor holds.

F(4×4, 3×3) of A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks (2016), eq. 8: for a tile d of
6×6 places and a filter g, y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A are 4×4 places of their correlation, by 36 multiplications
instead of 144. The matrices are Toom and Cook's for the points 0, ±1/√2, ±√2, ∞. With these the error is about twice
that of a plain sum in float32; with the paper's 0, ±1, ±2, ∞ it is some five times as large as that (B. Barabasz et
al., Error Analysis and Improving the Accuracy of Winograd Convolution, 2020, is about such points).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numba.core import cgutils, types
from numpy.typing import NDArray

from layerwise.kernels.convolution.simd import (
    FLOAT,
    LONG,
    Value,
    call,
    constant,
    intrinsic,
    load,
    pointer,
    splat,
    store,
    widest_lanes,
)

WIDE = widest_lanes()  # maps in a vector
VECTOR = 4 * WIDE  # bytes
OUT, TAPS = 4, 3  # places of an output tile, and of a filter, to a side
IN = OUT + TAPS - 1
Matrix = NDArray[np.float64]
ROOT = 2**0.5
POINTS = (0.0, 1 / ROOT, -1 / ROOT, ROOT, -ROOT)


def _powers(points: Sequence[float], columns: int) -> Matrix:
    """Return the powers 0 … columns − 1 of the points and of ∞, (6, columns)."""
    finite = [[point**power for power in range(columns)] for point in points]
    return np.array([*finite, [0.0] * (columns - 1) + [1.0]])


def matrices(points: Sequence[float]) -> tuple[Matrix, Matrix, Matrix]:
    """Return A (6, 4), G (6, 3) and B (6, 6) for five points and ∞: evaluation at them, and the transposed inverse of
    it. Each row of Bᵀ ends in 1, and what it was divided by multiplies its row of G."""
    spread = np.linalg.inv(_powers(points, IN)).T
    spread[np.abs(spread) < 1e-12] = 0.0
    last = np.array([row[np.flatnonzero(row)[-1]] for row in spread])
    return _powers(points, OUT), _powers(points, TAPS) * last[:, None], (spread / last[:, None]).T


A, G, B = matrices(POINTS)


def _times(builder: Value, matrix: Matrix, values: list[Value]) -> list[Value]:
    """Return the vectors matrix · values. Points come as ± pairs, so rows, or columns, that are equal but for signs
    share their parts."""
    matrix, values = _paired_columns(builder, matrix, values)
    found: list[Value] = []
    while len(found) < len(matrix):
        row = matrix[len(found)]
        after = matrix[len(found) + 1] if len(found) + 1 < len(matrix) else None
        if after is not None and np.count_nonzero(row) > 1 and np.allclose(np.abs(row), np.abs(after)):
            equal = np.isclose(row, after)
            same, other = (_sum(builder, np.where(part, row, 0.0), values) for part in (equal, ~equal))
            found += [builder.fadd(same, other), builder.fsub(same, other)]
        else:
            found.append(_sum(builder, row, values))
    return found


def _paired_columns(builder: Value, matrix: Matrix, values: list[Value]) -> tuple[Matrix, list[Value]]:
    """Replace each two values whose columns are equal but for signs by their sum and difference, and the columns
    accordingly."""
    matrix, values = matrix.copy(), list(values)
    for k in range(len(values) - 1):
        left, right = matrix[:, k].copy(), matrix[:, k + 1].copy()
        if np.count_nonzero(left) > 1 and np.allclose(np.abs(left), np.abs(right)) and not np.allclose(left, right):
            values[k : k + 2] = [builder.fadd(values[k], values[k + 1]), builder.fsub(values[k], values[k + 1])]
            equal = np.isclose(left, right)
            matrix[:, k], matrix[:, k + 1] = np.where(equal, left, 0.0), np.where(equal, 0.0, left)
    return matrix, values


def _sum(builder: Value, row: Matrix, values: list[Value]) -> Value:
    """Return Σ row[k] · values[k], the terms with factor 1 first."""
    terms = sorted((k for k in range(len(row)) if row[k]), key=lambda k: row[k] != 1.0)
    total = None
    for k in terms:
        if total is None:
            total = values[k] if row[k] == 1.0 else builder.fmul(constant(row[k], WIDE), values[k])
        elif row[k] == 1.0:
            total = builder.fadd(total, values[k])
        else:
            total = call(builder, "fmuladd", constant(row[k], WIDE), values[k], total)
    assert total is not None
    return total


def _change(builder: Value, matrix: Matrix, source: list[Value], target: list[Value], plus: Value) -> None:
    """Write the code of L x Lᵀ + plus for a tile x of `WIDE` maps side by side. ``source`` and ``target``: the address
    of a tile, and the bytes from a place to the one below and to the one on its right; ``plus``: a number for each map,
    or None."""
    high, wide = matrix.shape

    def at(tile: list[Value], i: int, j: int) -> Value:
        base, down, right = tile
        return builder.add(base, builder.add(builder.mul(down, LONG(i)), builder.mul(right, LONG(j))))

    columns = [
        _times(builder, matrix, [load(builder, at(source, i, j), WIDE) for i in range(wide)]) for j in range(wide)
    ]
    for i in range(high):
        for j, value in enumerate(_times(builder, matrix, [columns[j][i] for j in range(wide)])):
            store(builder, value if plus is None else builder.fadd(value, plus), at(target, i, j))


def _transform(matrix: Matrix) -> Any:
    """Return transform(source, down, right, target, down, right): L x Lᵀ of a tile."""

    @intrinsic
    def transform(
        context: Value, source: Value, down: Value, right: Value, target: Value, target_down: Value, target_right: Value
    ) -> Value:
        def generate(target_context: Value, builder: Value, signature: Value, arguments: Value) -> Value:
            _change(builder, matrix, arguments[:3], arguments[3:], None)
            return target_context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return transform


spread = _transform(B.T)  # a tile of the input, 6×6 → 6×6
parted = _transform(A)  # a tile of the output's gradient, 4×4 → 6×6: the transposed of `joined`
pointed = _transform(G)  # a filter, 3×3 → 6×6
gathered = _transform(G.T)  # sums at the points to the gradient by a filter, 6×6 → 3×3: the transposed of `pointed`


@intrinsic
def joined(
    context: Value,
    source: Value,
    down: Value,
    right: Value,
    target: Value,
    target_down: Value,
    target_right: Value,
    bias: Value,
) -> Value:
    """Return the code of Aᵀ m A + bias: the tile of products to one of the output, 6×6 → 4×4."""

    def generate(target_context: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        _change(builder, A.T, arguments[:3], arguments[3:6], load(builder, arguments[6], WIDE))
        return target_context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


def _multiply(rows: int, columns: int, *, adding: bool) -> Any:
    """Return multiply(a, row, step, b, next, step, c, row, depth): c = a · b, or ``adding`` c += a · b, for ``rows``
    rows and ``columns`` vectors of columns. ``row``, ``step`` and ``next`` are bytes: from a row to the next, from one
    of the ``depth`` terms of a sum to the next, from a vector of b's to the next. In c vectors lie side by side."""

    @intrinsic
    def multiply(
        context: Value,
        a: Value,
        a_row: Value,
        a_step: Value,
        b: Value,
        b_next: Value,
        b_step: Value,
        c: Value,
        c_row: Value,
        depth: Value,
    ) -> Value:
        def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
            a, a_row, a_step, b, b_next, b_step, c, c_row, depth = arguments
            places = list(product(range(rows), range(columns)))

            def place(row: int, column: int) -> Value:
                return builder.add(builder.add(c, builder.mul(c_row, LONG(row))), LONG(VECTOR * column))

            def first(row: int, column: int) -> Value:
                return load(builder, place(row, column), WIDE) if adding else constant(0.0, WIDE)

            sums = {at: cgutils.alloca_once_value(builder, first(*at)) for at in places}
            starts = [builder.add(a, builder.mul(a_row, LONG(row))) for row in range(rows)]
            vectors = [builder.add(b, builder.mul(b_next, LONG(column))) for column in range(columns)]
            with cgutils.for_range(builder, depth, intp=LONG) as loop:
                along = builder.mul(loop.index, b_step)
                right = [load(builder, builder.add(vector, along), WIDE) for vector in vectors]
                here = builder.mul(loop.index, a_step)
                for row, start in enumerate(starts):
                    left = splat(builder, builder.load(pointer(builder, builder.add(start, here), FLOAT)), WIDE)
                    for column in range(columns):
                        total = sums[row, column]
                        builder.store(call(builder, "fmuladd", left, right[column], builder.load(total)), total)
            for at in places:
                store(builder, builder.load(sums[at]), place(*at))
            return target.get_dummy_value()

        return types.void(*[types.int64] * 9), generate

    return multiply


# Sums that fill the registers, of which AVX-512 has 32 and others 16; the narrow ones for a last vector by itself
ROWS, INTO_ROWS, INTO_COLUMNS = (12, 8, 2) if WIDE == 16 else (6, 8, 1)
multiply, multiply_narrow = (_multiply(ROWS, columns, adding=False) for columns in (2, 1))
multiply_into, multiply_into_narrow = (_multiply(INTO_ROWS, columns, adding=True) for columns in (INTO_COLUMNS, 1))
multiply_first, multiply_first_narrow = (_multiply(INTO_ROWS, columns, adding=False) for columns in (INTO_COLUMNS, 1))


@intrinsic
def copied(context: Value, source: Value, target: Value) -> Value:
    """Return the code that copies a vector; from the address 0, zeros."""

    def generate(target_context: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        source, target = arguments
        with builder.if_else(builder.icmp_signed("!=", source, LONG(0))) as (there, nowhere):
            with there:
                store(builder, load(builder, source, WIDE), target)
            with nowhere:
                store(builder, constant(0.0, WIDE), target)
        return target_context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def added(context: Value, source: Value, target: Value) -> Value:
    """Return the code that adds a vector to another in memory."""

    def generate(target_context: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        source, target = arguments
        store(builder, builder.fadd(load(builder, target, WIDE), load(builder, source, WIDE)), target)
        return target_context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def copied_apart(context: Value, source: Value, source_step: Value, target: Value, target_step: Value) -> Value:
    """Return the code that copies a number for each lane of a vector; steps are the bytes from one to the next."""

    def generate(target_context: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        source, source_step, target, target_step = arguments
        for lane in range(WIDE):
            place = builder.add(source, builder.mul(source_step, LONG(lane)))
            there = builder.add(target, builder.mul(target_step, LONG(lane)))
            builder.store(builder.load(pointer(builder, place, FLOAT)), pointer(builder, there, FLOAT))
        return target_context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate
