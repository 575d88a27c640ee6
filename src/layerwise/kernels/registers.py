"""Vectors of eight float32 in registers, as words for LLVM: what kernels are written with where numba's own loops are not vectorised.

LLVM makes of them what the processor has (AVX2, NEON, …). Addresses are int64, and nothing is checked.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic

LANES = 8
FLOAT, WORD, LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR, WORDS, QUAD = ir.VectorType(FLOAT, LANES), ir.VectorType(WORD, LANES), ir.VectorType(FLOAT, 4)
Value = Any  # a value of llvmlite's, which has no types
intrinsic: Any = numba_intrinsic


def splat(builder: Value, value: Value) -> Value:
    """Return the vector with this float in every lane."""
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), value, WORD(0))
    return builder.shuffle_vector(one, ir.Constant(VECTOR, ir.Undefined), ir.Constant(WORDS, [0] * LANES))


def constant(value: float) -> Value:
    """Return the constant vector with this float in every lane."""
    return ir.Constant(VECTOR, [value] * LANES)


def whole(value: int) -> Value:
    """Return the constant vector with this int32 in every lane."""
    return ir.Constant(WORDS, [value] * LANES)


def pointer(builder: Value, address: Value, kind: Value) -> Value:
    """Return an address as a pointer to this kind of value."""
    return builder.inttoptr(address, kind.as_pointer())


def load(builder: Value, address: Value, lanes: int = LANES) -> Value:
    """Load the first ``lanes`` (8, 4 or 1) of a vector; zeros in the others."""
    kind = {8: VECTOR, 4: QUAD, 1: FLOAT}[lanes]
    found = builder.load(pointer(builder, address, kind))
    found.align = 4
    if lanes == 1:
        return builder.insert_element(constant(0.0), found, WORD(0))
    if lanes == 4:
        return builder.shuffle_vector(found, ir.Constant(QUAD, [0.0] * 4), ir.Constant(WORDS, list(range(LANES))))
    return found


def store(builder: Value, value: Value, address: Value, lanes: int = LANES) -> None:
    """Store the first ``lanes`` (8, 4 or 1) of a vector."""
    if lanes == 1:
        value = builder.extract_element(value, WORD(0))
    elif lanes == 4:
        value = builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(WORD, 4), [0, 1, 2, 3]))
    builder.store(value, pointer(builder, address, value.type)).align = 4


def call(builder: Value, name: str, *arguments: Value, fastmath: tuple[str, ...] = ()) -> Value:
    """Call LLVM's intrinsic of this name over vectors."""
    kind = ir.FunctionType(arguments[0].type, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v8f32"), arguments, fastmath=fastmath)
