"""Operations on rows of a table and one vector, in SIMD registers of eight float32, for the kernels of word vectors.

Numba vectorizes a loop over one row. It cannot vectorize a loop over six rows that may overlap in memory, because the
order of stores could matter. These intrinsics use LLVM's vector types instead, so each vector is loaded once for all
rows, and LLVM compiles them for the processor (AVX2, NEON, …). A call takes addresses (int64) and checks nothing.

A tile is at most `TILE` rows; ``width`` is the length of a row in float32, any number: eight at a time, then four, then
singly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from layerwise.kernels.simd import (
    FLOAT,
    LANES,
    LONG,
    VECTOR,
    WORD,
    WORDS,
    Value,
    call,
    constant,
    int_constant,
    intrinsic,
    load,
    pointer,
    splat,
    store,
)

TILE = 8
# 2^f = Σ (f log 2)^k / k!, |f| ≤ ½: eight terms leave less than float32 can hold
EXP2_TERMS = [math.log(2.0) ** k / math.factorial(k) for k in range(8)]
APPROXIMATE = ("arcp", "afn", "reassoc", "contract")  # 1/√ may be estimated and corrected


def _for_each_chunk(builder: Value, width: Value, body: Callable[[Value, int], None]) -> None:
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


def _load_addresses(builder: Value, table: Value, stride: Value, rows: Value, tile: int) -> list[Value]:
    """Load the addresses of the rows whose int32 indices lie at ``rows``."""
    addresses = []
    for r in range(tile):
        row = builder.load(pointer(builder, builder.add(rows, LONG(4 * r)), WORD))
        addresses.append(builder.add(table, builder.mul(builder.sext(row, LONG), stride)))
    return addresses


def _add_pairs(builder: Value, first: Value, second: Value) -> Value:
    """Add neighbors: (first₀+first₁, first₂+first₃, second₀+second₁, …) in each half, as AVX's ``vhaddps``."""
    even = builder.shuffle_vector(first, second, ir.Constant(WORDS, [0, 2, 8, 10, 4, 6, 12, 14]))
    odd = builder.shuffle_vector(first, second, ir.Constant(WORDS, [1, 3, 9, 11, 5, 7, 13, 15]))
    return builder.fadd(even, odd)


def _sum_lanes(builder: Value, vectors: list[Value]) -> Value:
    """Return the sums over the lanes of at most eight vectors, as one vector."""
    full = vectors + [constant(0.0)] * (LANES - len(vectors))
    a, b, c, d = (_add_pairs(builder, full[k], full[k + 1]) for k in range(0, LANES, 2))
    low, high = _add_pairs(builder, a, b), _add_pairs(builder, c, d)
    left = builder.shuffle_vector(low, high, ir.Constant(WORDS, [0, 1, 2, 3, 8, 9, 10, 11]))
    right = builder.shuffle_vector(low, high, ir.Constant(WORDS, [4, 5, 6, 7, 12, 13, 14, 15]))
    return builder.fadd(left, right)


def _make_dot(tile: int) -> Any:
    """Return dot(table, stride, rows, x, width, out): out[r] = table[rows[r]] · x for r < tile, zeros up to
    eight."""

    @intrinsic
    def dot(context: Value, table: Value, stride: Value, rows: Value, x: Value, width: Value, out: Value) -> Value:
        def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
            table, stride, rows, x, width, out = arguments
            addresses = _load_addresses(builder, table, stride, rows, tile)
            sums = [cgutils.alloca_once_value(builder, constant(0.0)) for _ in addresses]

            def body(offset: Value, lanes: int) -> None:
                part = load(builder, builder.add(x, offset), lanes)
                for address, total in zip(addresses, sums, strict=True):
                    row = load(builder, builder.add(address, offset), lanes)
                    builder.store(call(builder, "fmuladd", row, part, builder.load(total)), total)

            _for_each_chunk(builder, width, body)
            store(builder, _sum_lanes(builder, [builder.load(total) for total in sums]), out)
            return target.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return dot


def _make_update(tile: int) -> Any:
    """Return update(table, stride, rows, x, steps, out, width), which goes through the tile row by row.

    out += steps[r] · table[rows[r]]; table[rows[r]] += steps[r] · x. ``out`` may be ``x`` itself: x is read first.
    """

    @intrinsic
    def update(
        context: Value, table: Value, stride: Value, rows: Value, x: Value, steps: Value, out: Value, width: Value
    ) -> Value:
        def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
            table, stride, rows, x, steps, out, width = arguments
            addresses = _load_addresses(builder, table, stride, rows, tile)
            given = [builder.load(pointer(builder, builder.add(steps, LONG(4 * r)), FLOAT)) for r in range(tile)]
            factors = [splat(builder, step) for step in given]

            def body(offset: Value, lanes: int) -> None:
                part = load(builder, builder.add(x, offset), lanes)
                total = load(builder, builder.add(out, offset), lanes)
                for address, factor in zip(addresses, factors, strict=True):
                    here = builder.add(address, offset)
                    row = load(builder, here, lanes)
                    total = call(builder, "fmuladd", factor, row, total)
                    store(builder, call(builder, "fmuladd", factor, part, row), here, lanes)
                store(builder, total, builder.add(out, offset), lanes)

            _for_each_chunk(builder, width, body)
            return target.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return update


dot1, dot2, dot3, dot4, dot5, dot6, dot7, dot8 = (_make_dot(r) for r in range(1, TILE + 1))
update1, update2, update3, update4, update5, update6, update7, update8 = (_make_update(r) for r in range(1, TILE + 1))


@intrinsic
def add_scaled(context: Value, out: Value, x: Value, factor: Value, width: Value) -> Value:
    """Add factor · x to the row out."""

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

        _for_each_chunk(builder, width, body)
        return target.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32, types.int64), generate


@intrinsic
def copy_scaled(context: Value, out: Value, x: Value, factor: Value, width: Value) -> Value:
    """Set the row out to factor · x."""

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        out, x, factor, width = arguments
        scale = splat(builder, factor)

        def body(offset: Value, lanes: int) -> None:
            part = load(builder, builder.add(x, offset), lanes)
            store(builder, builder.fmul(scale, part), builder.add(out, offset), lanes)

        _for_each_chunk(builder, width, body)
        return target.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32, types.int64), generate


@intrinsic
def sum_rows(
    context: Value, table: Value, stride: Value, rows: Value, count: Value, factor: Value, out: Value, width: Value
) -> Value:
    """Set out to factor · Σ table[rows[r]] over r < count."""

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        table, stride, rows, count, factor, out, width = arguments
        scale = splat(builder, factor)
        total = cgutils.alloca_once(builder, VECTOR)

        def body(offset: Value, lanes: int) -> None:
            builder.store(constant(0.0), total)
            with cgutils.for_range(builder, count, intp=LONG) as loop:
                row = builder.load(pointer(builder, builder.add(rows, builder.shl(loop.index, LONG(2))), WORD))
                address = builder.add(table, builder.mul(builder.sext(row, LONG), stride))
                part = load(builder, builder.add(address, offset), lanes)
                builder.store(builder.fadd(builder.load(total), part), total)
            store(builder, builder.fmul(scale, builder.load(total)), builder.add(out, offset), lanes)

        _for_each_chunk(builder, width, body)
        return target.get_dummy_value()

    return types.void(*[types.int64] * 4, types.float32, types.int64, types.int64), generate


@intrinsic
def dot_and_squares(context: Value, x: Value, y: Value, width: Value, out: Value) -> Value:
    """Set out to (x · y, x · x, y · y, 0, 0, 0, 0, 0)."""

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        x, y, width, out = arguments
        sums = [cgutils.alloca_once_value(builder, constant(0.0)) for _ in range(3)]

        def body(offset: Value, lanes: int) -> None:
            a, b = (load(builder, builder.add(row, offset), lanes) for row in (x, y))
            for total, (left, right) in zip(sums, ((a, b), (a, a), (b, b)), strict=True):
                builder.store(call(builder, "fmuladd", left, right, builder.load(total)), total)

        _for_each_chunk(builder, width, body)
        store(builder, _sum_lanes(builder, [builder.load(total) for total in sums]), out)
        return target.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@intrinsic
def adagrad(context: Value, x: Value, y: Value, squares_x: Value, squares_y: Value, step: Value, width: Value) -> Value:
    """Take AdaGrad's step for two rows, of which each is the other's gradient direction: g = step · y, h = step · x,
    x −= g/√squares_x, y −= h/√squares_y, squares_x += g², squares_y += h².

    1/√ is the processor's estimate with a Newton step where there is one: exact to float32 but for the last two bits.
    """

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        x, y, squares_x, squares_y, step, width = arguments
        factor = splat(builder, step)

        def body(offset: Value, lanes: int) -> None:
            addresses = [builder.add(row, offset) for row in (x, y, squares_x, squares_y)]
            rows = [load(builder, address, lanes) for address in addresses]
            for own, other in ((0, 1), (1, 0)):
                move = builder.fmul(factor, rows[other])
                root = call(builder, "sqrt", rows[2 + own], fastmath=APPROXIMATE)
                moved = builder.fsub(rows[own], builder.fdiv(move, root, flags=APPROXIMATE))
                store(builder, moved, addresses[own], lanes)
                store(builder, call(builder, "fmuladd", move, move, rows[2 + own]), addresses[2 + own], lanes)

        _for_each_chunk(builder, width, body)
        return target.get_dummy_value()

    return types.void(*[types.int64] * 4, types.float32, types.int64), generate


@intrinsic
def prefetch(context: Value, address: Value, width: Value) -> Value:
    """Prefetch a row's cache lines."""

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        address, width = arguments
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, WORD, WORD, WORD])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        lines = builder.lshr(builder.add(width, LONG(30)), LONG(4))  # of 16 float32; one more where a row straddles
        with cgutils.for_range(builder, lines, intp=LONG) as loop:
            line = builder.inttoptr(builder.add(address, builder.shl(loop.index, LONG(6))), byte)
            builder.call(function, [line, WORD(0), WORD(3), WORD(1)])
        return target.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def logistic_steps(context: Value, scores: Value, labels: Value, rate: Value, max_exp: Value, losses: Value) -> Value:
    """Replace scores[r] by rate · (label − σ(score)) for r < 8, and add the loss −log σ(±score) to ``losses``.

    A label is 1 or 0; below 0 the row does not count: its score becomes 0 and it has no loss. A row whose score is on
    its label's side by more than ``max_exp`` takes no step: its score becomes 0.

    With t = e^−|z|: σ(|z|) = 1/(1 + t), and −log σ(s) = max(−s, 0) + log(1 + t), so nothing overflows. Instead of the
    logarithms, the product of (1 + t) is accumulated exactly, its mantissa in eight floats and its exponent in eight
    int32; no log is taken here. ``losses``: 8 float32 of mantissas, 8 int32 of exponents, 8 float32 of max(−s, 0).
    """

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        scores, labels, rate, max_exp, losses = arguments
        z, label = load(builder, scores), load(builder, labels)
        zero, one = constant(0.0), constant(1.0)
        counted = builder.fcmp_ordered(">=", label, zero)
        power = builder.fmul(call(builder, "fabs", z), constant(-1.0 / math.log(2.0)))
        power = call(builder, "maxnum", power, constant(-126.0))
        nearest = call(builder, "rint", power)
        part = builder.fsub(power, nearest)
        t = constant(EXP2_TERMS[-1])
        for factor in reversed(EXP2_TERMS[:-1]):
            t = call(builder, "fmuladd", t, part, constant(factor))
        shift = builder.shl(builder.add(builder.fptosi(nearest, WORDS), int_constant(127)), int_constant(23))
        t = builder.fmul(t, builder.bitcast(shift, VECTOR))
        one_plus_t = builder.fadd(one, t)
        sigmoid_abs = builder.fdiv(one, one_plus_t)  # σ(|z|)
        sigma = builder.select(builder.fcmp_ordered(">=", z, zero), sigmoid_abs, builder.fmul(t, sigmoid_abs))
        step = builder.fmul(builder.fsub(label, sigma), splat(builder, rate))
        negated = builder.select(builder.fcmp_ordered(">", label, zero), builder.fneg(z), z)
        # unordered: true for NaN too, so that it spreads
        due = builder.fcmp_unordered(">=", builder.fadd(negated, splat(builder, max_exp)), zero)
        store(builder, builder.select(builder.and_(counted, due), step, zero), scores)
        linear = builder.add(losses, LONG(64))
        exponents = builder.add(losses, LONG(32))
        excess = builder.select(counted, call(builder, "maxnum", negated, zero), zero)
        store(builder, builder.fadd(load(builder, linear), excess), linear)
        product = builder.fmul(load(builder, losses), builder.select(counted, one_plus_t, one))
        bits = builder.bitcast(product, WORDS)
        exponent = builder.sub(builder.lshr(bits, int_constant(23)), int_constant(127))
        mantissa = builder.or_(builder.and_(bits, int_constant(0x7FFFFF)), int_constant(0x3F800000))
        previous = builder.load(pointer(builder, exponents, WORDS))
        previous.align = 4
        builder.store(builder.add(previous, exponent), pointer(builder, exponents, WORDS)).align = 4
        store(builder, builder.bitcast(mantissa, VECTOR), losses)
        return target.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32, types.float32, types.int64), generate
