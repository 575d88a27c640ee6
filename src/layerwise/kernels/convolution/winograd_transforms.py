"""The parts of a 3×3 Winograd convolution: transforms of 6×6 tiles, and products of small matrices, for as many maps at
a time as a vector of the processor holds.

F(4×4, 3×3) of A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks (2016), eq. 8: for an input tile
d of 6×6 pixels and a filter g, y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A is a 4×4 tile of their correlation, by 36 multiplications
instead of 144. The matrices are those of Toom and Cook for the points 0, ±1/√2, ±√2, ∞. With these the error is about
twice that of a plain sum in float32; with the paper's 0, ±1, ±2, ∞ it is about five times as large as that (B. Barabasz
et al., Error Analysis and Improving the Accuracy of Winograd Convolution, 2020, is about such points).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numba.core import cgutils, types
from numpy.typing import NDArray

from layerwise.kernels.simd import (
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
VECTOR_BYTES = 4 * WIDE  # bytes
OUT, TAPS = 4, 3  # sides of an output tile and of a filter
IN = OUT + TAPS - 1  # side of an input tile
Matrix = NDArray[np.float64]
ROOT = 2**0.5
POINTS = (0.0, 1 / ROOT, -1 / ROOT, ROOT, -ROOT)


def _vandermonde(points: Sequence[float], columns: int) -> Matrix:
    """Return the powers 0 … columns − 1 of the points and of ∞, (6, columns)."""
    finite = [[point**power for power in range(columns)] for point in points]
    return np.array([*finite, [0.0] * (columns - 1) + [1.0]])


def make_matrices(points: Sequence[float]) -> tuple[Matrix, Matrix, Matrix]:
    """Return A (6, 4), G (6, 3) and B (6, 6) for five points and ∞: the evaluation at the points, and its transposed
    inverse. Each row of Bᵀ is scaled to end in 1, and its row of G by the inverse factor."""
    inverse = np.linalg.inv(_vandermonde(points, IN)).T
    inverse[np.abs(inverse) < 1e-12] = 0.0
    last = np.array([row[np.flatnonzero(row)[-1]] for row in inverse])
    return _vandermonde(points, OUT), _vandermonde(points, TAPS) * last[:, None], (inverse / last[:, None]).T


A, G, B = make_matrices(POINTS)


def _multiply_matrix(builder: Value, matrix: Matrix, values: list[Value]) -> list[Value]:
    """Return the vectors matrix · values. The points are ± pairs, so rows or columns that are equal up to signs share
    partial sums."""
    matrix, values = _pair_columns(builder, matrix, values)
    products: list[Value] = []
    while len(products) < len(matrix):
        row = matrix[len(products)]
        next_row = matrix[len(products) + 1] if len(products) + 1 < len(matrix) else None
        if next_row is not None and np.count_nonzero(row) > 1 and np.allclose(np.abs(row), np.abs(next_row)):
            equal = np.isclose(row, next_row)
            same, other = (_weighted_sum(builder, np.where(part, row, 0.0), values) for part in (equal, ~equal))
            products += [builder.fadd(same, other), builder.fsub(same, other)]
        else:
            products.append(_weighted_sum(builder, row, values))
    return products


def _pair_columns(builder: Value, matrix: Matrix, values: list[Value]) -> tuple[Matrix, list[Value]]:
    """Replace two neighboring values whose columns are equal up to signs by their sum and difference, and adapt the
    columns."""
    matrix, values = matrix.copy(), list(values)
    for k in range(len(values) - 1):
        left, right = matrix[:, k].copy(), matrix[:, k + 1].copy()
        if np.count_nonzero(left) > 1 and np.allclose(np.abs(left), np.abs(right)) and not np.allclose(left, right):
            values[k : k + 2] = [builder.fadd(values[k], values[k + 1]), builder.fsub(values[k], values[k + 1])]
            equal = np.isclose(left, right)
            matrix[:, k], matrix[:, k + 1] = np.where(equal, left, 0.0), np.where(equal, 0.0, left)
    return matrix, values


def _weighted_sum(builder: Value, row: Matrix, values: list[Value]) -> Value:
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


def _transform_tile(builder: Value, matrix: Matrix, source: list[Value], target: list[Value], bias: Value) -> None:
    """Generate the code of L x Lᵀ + bias for a tile x of `WIDE` maps. ``source`` and ``target``: the address of a tile
    and its byte strides down and to the right; ``bias``: a vector with one number for each map, or None."""
    high, wide = matrix.shape

    def at(tile: list[Value], i: int, j: int) -> Value:
        base, down, right = tile
        return builder.add(base, builder.add(builder.mul(down, LONG(i)), builder.mul(right, LONG(j))))

    columns = []
    for j in range(wide):
        column = [load(builder, at(source, i, j), WIDE) for i in range(wide)]
        columns.append(_multiply_matrix(builder, matrix, column))
    for i in range(high):
        for j, value in enumerate(_multiply_matrix(builder, matrix, [columns[j][i] for j in range(wide)])):
            store(builder, value if bias is None else builder.fadd(value, bias), at(target, i, j))


def _make_transform(matrix: Matrix) -> Any:
    """Return transform(source, down, right, target, down, right), which computes L x Lᵀ of a tile."""

    @intrinsic
    def transform(
        context: Value, source: Value, down: Value, right: Value, target: Value, target_down: Value, target_right: Value
    ) -> Value:
        def generate(target_context: Value, builder: Value, signature: Value, arguments: Value) -> Value:
            _transform_tile(builder, matrix, arguments[:3], arguments[3:], None)
            return target_context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return transform


input_transform = _make_transform(B.T)  # an input tile, 6×6 → 6×6
output_gradient_transform = _make_transform(A)  # a tile of the output's gradient, 4×4 → 6×6: transpose of the output's
filter_transform = _make_transform(G)  # a filter, 3×3 → 6×6
filter_gradient_transform = _make_transform(G.T)  # sums at the points to the filter's gradient, 6×6 → 3×3


@intrinsic
def output_transform(
    context: Value,
    source: Value,
    down: Value,
    right: Value,
    target: Value,
    target_down: Value,
    target_right: Value,
    bias: Value,
) -> Value:
    """Compute Aᵀ m A + bias: a tile of products to an output tile, 6×6 → 4×4."""

    def generate(target_context: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        _transform_tile(builder, A.T, arguments[:3], arguments[3:6], load(builder, arguments[6], WIDE))
        return target_context.get_dummy_value()

    return types.void(*[types.int64] * 7), generate


def _make_multiply(rows: int, columns: int, *, adding: bool) -> Any:
    """Return multiply(a, row, step, b, next, step, c, row, depth), which computes c = a · b, or c += a · b if
    ``adding``, for ``rows`` rows and ``columns`` vectors of columns. ``row``, ``step`` and ``next`` are byte strides:
    between rows, between the ``depth`` terms of a sum, and between vectors of b. The vectors of c are adjacent."""

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
            positions = list(product(range(rows), range(columns)))

            def address(row: int, column: int) -> Value:
                return builder.add(builder.add(c, builder.mul(c_row, LONG(row))), LONG(VECTOR_BYTES * column))

            def start_value(row: int, column: int) -> Value:
                return load(builder, address(row, column), WIDE) if adding else constant(0.0, WIDE)

            sums = {position: cgutils.alloca_once_value(builder, start_value(*position)) for position in positions}
            starts = [builder.add(a, builder.mul(a_row, LONG(row))) for row in range(rows)]
            vectors = [builder.add(b, builder.mul(b_next, LONG(column))) for column in range(columns)]
            with cgutils.for_range(builder, depth, intp=LONG) as loop:
                along = builder.mul(loop.index, b_step)
                right = [load(builder, builder.add(vector, along), WIDE) for vector in vectors]
                offset = builder.mul(loop.index, a_step)
                for row, start in enumerate(starts):
                    left = splat(builder, builder.load(pointer(builder, builder.add(start, offset), FLOAT)), WIDE)
                    for column in range(columns):
                        total = sums[row, column]
                        builder.store(call(builder, "fmuladd", left, right[column], builder.load(total)), total)
            for position in positions:
                store(builder, builder.load(sums[position]), address(*position))
            return target.get_dummy_value()

        return types.void(*[types.int64] * 9), generate

    return multiply


# The block sizes fill the registers (32 with AVX-512, else 16); the narrow ones are for a single last vector
ROWS, ADD_ROWS, ADD_COLUMNS = (12, 8, 2) if WIDE == 16 else (6, 8, 1)
multiply, multiply_narrow = (_make_multiply(ROWS, columns, adding=False) for columns in (2, 1))
multiply_add, multiply_add_narrow = (_make_multiply(ADD_ROWS, columns, adding=True) for columns in (ADD_COLUMNS, 1))
multiply_start, multiply_start_narrow = (
    _make_multiply(ADD_ROWS, columns, adding=False) for columns in (ADD_COLUMNS, 1)
)


@intrinsic
def copy_vector(context: Value, source: Value, target: Value) -> Value:
    """Copy a vector, or zeros if the source address is 0."""

    def generate(target_context: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        source, target = arguments
        with builder.if_else(builder.icmp_signed("!=", source, LONG(0))) as (valid, null):
            with valid:
                store(builder, load(builder, source, WIDE), target)
            with null:
                store(builder, constant(0.0, WIDE), target)
        return target_context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def add_vector(context: Value, source: Value, target: Value) -> Value:
    """Add a vector to another one in memory."""

    def generate(target_context: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        source, target = arguments
        store(builder, builder.fadd(load(builder, target, WIDE), load(builder, source, WIDE)), target)
        return target_context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def copy_strided(context: Value, source: Value, source_step: Value, target: Value, target_step: Value) -> Value:
    """Copy one number for each lane of a vector, with byte strides for source and target."""

    def generate(target_context: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        source, source_step, target, target_step = arguments
        for lane in range(WIDE):
            from_address = builder.add(source, builder.mul(source_step, LONG(lane)))
            to_address = builder.add(target, builder.mul(target_step, LONG(lane)))
            builder.store(builder.load(pointer(builder, from_address, FLOAT)), pointer(builder, to_address, FLOAT))
        return target_context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate
