"""Rows of a table against one vector, in registers of eight float32: what the kernels of word vectors are made of.

Numba vectorizes a loop over one row; a loop over six rows that may overlap in memory it does not, and cannot: the order
of stores could matter. These intrinsics are written for LLVM with its vector types instead, so each vector is loaded
once for all rows, and LLVM makes of them what the processor has (AVX2, NEON, …). A call takes addresses (int64) and
checks nothing.

A tile is at most `TILE` rows; ``width`` is the length of a row in float32, any number: eight at a time, then four, then
singly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from layerwise.kernels.convolution.simd import (
    FLOAT,
    LANES,
    LONG,
    VECTOR,
    WORD,
    WORDS,
    Value,
    call,
    constant,
    intrinsic,
    load,
    pointer,
    splat,
    store,
    whole,
)

TILE = 8
# 2^f = Σ (f log 2)^k / k!, |f| ≤ ½: eight terms leave less than float32 can hold
POWERS = [math.log(2.0) ** k / math.factorial(k) for k in range(8)]
ESTIMATED = ("arcp", "afn", "reassoc", "contract")  # let 1/√ be estimated and corrected


def _chunks(builder: Value, width: Value, body: Callable[[Value, int], None]) -> None:
    """Run ``body(byte offset, lanes)`` over a row: eights, at most one four, then ones."""
    eights = builder.lshr(width, LONG(3))
    with cgutils.for_range(builder, eights, intp=LONG) as loop:
        body(builder.shl(loop.index, LONG(5)), 8)
    done = builder.shl(eights, LONG(3))
    with builder.if_then(builder.icmp_signed("!=", builder.and_(width, LONG(4)), LONG(0)), likely=True):
        body(builder.shl(done, LONG(2)), 4)
    rest = builder.and_(width, LONG(3))
    with cgutils.for_range(builder, rest, intp=LONG) as loop:
        body(builder.shl(builder.add(builder.sub(width, rest), loop.index), LONG(2)), 1)


def _addresses(builder: Value, table: Value, stride: Value, rows: Value, tile: int) -> list[Value]:
    """Return the addresses of the rows whose int32 numbers lie at ``rows``."""
    found = []
    for r in range(tile):
        row = builder.load(pointer(builder, builder.add(rows, LONG(4 * r)), WORD))
        found.append(builder.add(table, builder.mul(builder.sext(row, LONG), stride)))
    return found


def _pairs(builder: Value, first: Value, second: Value) -> Value:
    """Add neighbors: (first₀+first₁, first₂+first₃, second₀+second₁, …) in each half, as AVX's ``vhaddps``."""
    even = builder.shuffle_vector(first, second, ir.Constant(WORDS, [0, 2, 8, 10, 4, 6, 12, 14]))
    odd = builder.shuffle_vector(first, second, ir.Constant(WORDS, [1, 3, 9, 11, 5, 7, 13, 15]))
    return builder.fadd(even, odd)


def _sums(builder: Value, vectors: list[Value]) -> Value:
    """Return the sums over the lanes of at most eight vectors, as one vector."""
    full = vectors + [constant(0.0)] * (LANES - len(vectors))
    a, b, c, d = (_pairs(builder, full[k], full[k + 1]) for k in range(0, LANES, 2))
    low, high = _pairs(builder, a, b), _pairs(builder, c, d)
    left = builder.shuffle_vector(low, high, ir.Constant(WORDS, [0, 1, 2, 3, 8, 9, 10, 11]))
    right = builder.shuffle_vector(low, high, ir.Constant(WORDS, [4, 5, 6, 7, 12, 13, 14, 15]))
    return builder.fadd(left, right)


def _products(tile: int) -> Any:
    """Return products(table, stride, rows, x, width, out): out[r] = table[rows[r]] · x for r < tile, zeros up to
    eight."""

    @intrinsic
    def products(context: Value, table: Value, stride: Value, rows: Value, x: Value, width: Value, out: Value) -> Value:
        def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
            table, stride, rows, x, width, out = arguments
            places = _addresses(builder, table, stride, rows, tile)
            sums = [cgutils.alloca_once_value(builder, constant(0.0)) for _ in places]

            def body(offset: Value, lanes: int) -> None:
                part = load(builder, builder.add(x, offset), lanes)
                for place, total in zip(places, sums, strict=True):
                    row = load(builder, builder.add(place, offset), lanes)
                    builder.store(call(builder, "fmuladd", row, part, builder.load(total)), total)

            _chunks(builder, width, body)
            store(builder, _sums(builder, [builder.load(total) for total in sums]), out)
            return target.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return products


def _updates(tile: int) -> Any:
    """Return updates(table, stride, rows, x, steps, out, width), row after row in the tile.

    out += steps[r] · table[rows[r]]; table[rows[r]] += steps[r] · x. ``out`` may be ``x`` itself: x is read before.
    """

    @intrinsic
    def updates(
        context: Value, table: Value, stride: Value, rows: Value, x: Value, steps: Value, out: Value, width: Value
    ) -> Value:
        def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
            table, stride, rows, x, steps, out, width = arguments
            places = _addresses(builder, table, stride, rows, tile)
            given = [builder.load(pointer(builder, builder.add(steps, LONG(4 * r)), FLOAT)) for r in range(tile)]
            factors = [splat(builder, step) for step in given]

            def body(offset: Value, lanes: int) -> None:
                part = load(builder, builder.add(x, offset), lanes)
                total = load(builder, builder.add(out, offset), lanes)
                for place, factor in zip(places, factors, strict=True):
                    here = builder.add(place, offset)
                    row = load(builder, here, lanes)
                    total = call(builder, "fmuladd", factor, row, total)
                    store(builder, call(builder, "fmuladd", factor, part, row), here, lanes)
                store(builder, total, builder.add(out, offset), lanes)

            _chunks(builder, width, body)
            return target.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return updates


products1, products2, products3, products4, products5, products6, products7, products8 = (
    _products(r) for r in range(1, TILE + 1)
)
updates1, updates2, updates3, updates4, updates5, updates6, updates7, updates8 = (
    _updates(r) for r in range(1, TILE + 1)
)


@intrinsic
def add(context: Value, out: Value, x: Value, factor: Value, width: Value) -> Value:
    """Return the code of out += factor · x over a row."""

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        out, x, factor, width = arguments
        scale = splat(builder, factor)

        def body(offset: Value, lanes: int) -> None:
            here = builder.add(out, offset)
            store(
                builder,
                call(
                    builder, "fmuladd", scale, load(builder, builder.add(x, offset), lanes), load(builder, here, lanes)
                ),
                here,
                lanes,
            )

        _chunks(builder, width, body)
        return target.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32, types.int64), generate


@intrinsic
def put(context: Value, out: Value, x: Value, factor: Value, width: Value) -> Value:
    """Return the code of out = factor · x over a row."""

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        out, x, factor, width = arguments
        scale = splat(builder, factor)

        def body(offset: Value, lanes: int) -> None:
            part = load(builder, builder.add(x, offset), lanes)
            store(builder, builder.fmul(scale, part), builder.add(out, offset), lanes)

        _chunks(builder, width, body)
        return target.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32, types.int64), generate


@intrinsic
def gather(
    context: Value, table: Value, stride: Value, rows: Value, count: Value, factor: Value, out: Value, width: Value
) -> Value:
    """Return the code of out = factor · Σ table[rows[r]] over r < count."""

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        table, stride, rows, count, factor, out, width = arguments
        scale = splat(builder, factor)
        total = cgutils.alloca_once(builder, VECTOR)

        def body(offset: Value, lanes: int) -> None:
            builder.store(constant(0.0), total)
            with cgutils.for_range(builder, count, intp=LONG) as loop:
                row = builder.load(pointer(builder, builder.add(rows, builder.shl(loop.index, LONG(2))), WORD))
                place = builder.add(table, builder.mul(builder.sext(row, LONG), stride))
                part = load(builder, builder.add(place, offset), lanes)
                builder.store(builder.fadd(builder.load(total), part), total)
            store(builder, builder.fmul(scale, builder.load(total)), builder.add(out, offset), lanes)

        _chunks(builder, width, body)
        return target.get_dummy_value()

    return types.void(*[types.int64] * 4, types.float32, types.int64, types.int64), generate


@intrinsic
def moments(context: Value, x: Value, y: Value, width: Value, out: Value) -> Value:
    """Return the code of out = (x · y, x · x, y · y, 0, 0, 0, 0, 0)."""

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        x, y, width, out = arguments
        sums = [cgutils.alloca_once_value(builder, constant(0.0)) for _ in range(3)]

        def body(offset: Value, lanes: int) -> None:
            a, b = (load(builder, builder.add(row, offset), lanes) for row in (x, y))
            for total, (left, right) in zip(sums, ((a, b), (a, a), (b, b)), strict=True):
                builder.store(call(builder, "fmuladd", left, right, builder.load(total)), total)

        _chunks(builder, width, body)
        store(builder, _sums(builder, [builder.load(total) for total in sums]), out)
        return target.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def adagrad(context: Value, x: Value, y: Value, squares_x: Value, squares_y: Value, step: Value, width: Value) -> Value:
    """Return the code of AdaGrad's step for two rows whose gradients are step · the other: g = step · y, h = step · x,
    x −= g/√squares_x, y −= h/√squares_y, squares_x += g², squares_y += h².

    1/√ is the processor's estimate and a Newton step where it has one: as exact as float32 but for the last bit or two.
    """

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        x, y, squares_x, squares_y, step, width = arguments
        factor = splat(builder, step)

        def body(offset: Value, lanes: int) -> None:
            places = [builder.add(row, offset) for row in (x, y, squares_x, squares_y)]
            rows = [load(builder, place, lanes) for place in places]
            for own, other in ((0, 1), (1, 0)):
                move = builder.fmul(factor, rows[other])
                root = call(builder, "sqrt", rows[2 + own], fastmath=ESTIMATED)
                moved = builder.fsub(rows[own], builder.fdiv(move, root, flags=ESTIMATED))
                store(builder, moved, places[own], lanes)
                store(builder, call(builder, "fmuladd", move, move, rows[2 + own]), places[2 + own], lanes)

        _chunks(builder, width, body)
        return target.get_dummy_value()

    return types.void(*[types.int64] * 4, types.float32, types.int64), generate


@intrinsic
def fetch(context: Value, address: Value, width: Value) -> Value:
    """Return the code that asks for a row's cache lines before it is used."""

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        address, width = arguments
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, WORD, WORD, WORD])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        lines = builder.lshr(builder.add(width, LONG(30)), LONG(4))  # of 16 float32; one more where a row straddles
        with cgutils.for_range(builder, lines, intp=LONG) as loop:
            place = builder.inttoptr(builder.add(address, builder.shl(loop.index, LONG(6))), byte)
            builder.call(function, [place, WORD(0), WORD(3), WORD(1)])
        return target.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def slopes(context: Value, scores: Value, labels: Value, rate: Value, settled: Value, losses: Value) -> Value:
    """Return the code of: scores[r] ← rate · (label − σ(score)) for r < 8, the loss −log σ(±score) added to ``losses``.

    A label is 1 or 0; below 0 the row does not count: its score becomes 0 and it has no loss. A row whose score is on
    its label's side
    by more than ``settled`` takes no step: its score becomes 0.

    With t = e^−|z|: σ(|z|) = 1/(1 + t), and −log σ(s) = max(−s, 0) + log(1 + t), so nothing overflows. Of the
    logarithms only the product of (1 + t) is kept, its mantissa in eight floats and its exponent in eight int32: exact,
    and no log is taken here.
    ``losses``: 8 float32 of mantissas, 8 int32 of exponents, 8 float32 of max(−s, 0).
    """

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        scores, labels, rate, settled, losses = arguments
        z, label = load(builder, scores), load(builder, labels)
        zero, one = constant(0.0), constant(1.0)
        wanted = builder.fcmp_ordered(">=", label, zero)
        power = builder.fmul(call(builder, "fabs", z), constant(-1.0 / math.log(2.0)))
        power = call(builder, "maxnum", power, constant(-126.0))
        nearest = call(builder, "rint", power)
        part = builder.fsub(power, nearest)
        t = constant(POWERS[-1])
        for factor in reversed(POWERS[:-1]):
            t = call(builder, "fmuladd", t, part, constant(factor))
        shift = builder.shl(builder.add(builder.fptosi(nearest, WORDS), whole(127)), whole(23))
        t = builder.fmul(t, builder.bitcast(shift, VECTOR))
        more = builder.fadd(one, t)
        large = builder.fdiv(one, more)  # σ(|z|)
        sigma = builder.select(builder.fcmp_ordered(">=", z, zero), large, builder.fmul(t, large))
        slope = builder.fmul(builder.fsub(label, sigma), splat(builder, rate))
        against = builder.select(builder.fcmp_ordered(">", label, zero), builder.fneg(z), z)
        due = builder.fcmp_unordered(
            ">=", builder.fadd(against, splat(builder, settled)), zero
        )  # NaN too, which is to be seen
        store(builder, builder.select(builder.and_(wanted, due), slope, zero), scores)
        linear = builder.add(losses, LONG(64))
        exponents = builder.add(losses, LONG(32))
        lost = builder.select(wanted, call(builder, "maxnum", against, zero), zero)
        store(builder, builder.fadd(load(builder, linear), lost), linear)
        grown = builder.fmul(load(builder, losses), builder.select(wanted, more, one))
        bits = builder.bitcast(grown, WORDS)
        exponent = builder.sub(builder.lshr(bits, whole(23)), whole(127))
        mantissa = builder.or_(builder.and_(bits, whole(0x7FFFFF)), whole(0x3F800000))
        kept = builder.load(pointer(builder, exponents, WORDS))
        kept.align = 4
        builder.store(builder.add(kept, exponent), pointer(builder, exponents, WORDS)).align = 4
        store(builder, builder.bitcast(mantissa, VECTOR), losses)
        return target.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32, types.float32, types.int64), generate
