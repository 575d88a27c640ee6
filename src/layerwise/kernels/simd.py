"""Vectors of float32 in LLVM's intermediate representation, for kernels whose loops numba does not vectorize.

LLVM compiles them for the processor (AVX2, AVX-512, NEON, …). Addresses are int64, and nothing is checked.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic as numba_intrinsic

LANES = 8  # of the vectors in `simd_rows`
FLOAT, WORD, LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR, WORDS, QUAD = ir.VectorType(FLOAT, LANES), ir.VectorType(WORD, LANES), ir.VectorType(FLOAT, 4)
Value = Any  # a value of llvmlite, which has no type annotations
intrinsic: Any = numba_intrinsic


def widest_lanes() -> int:
    """Return how many float32 the widest vector holds for which numba compiles here: 16 with AVX-512, else 8.

    The number comes from the features of numba's target, which the processor or ``NUMBA_CPU_FEATURES`` decides and
    which are part of numba's cache key. LLVM uses 512 bits for vectors of 16 lanes, also where it would not choose them
    itself (`prefer-256-bit`).
    """
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return 16 if "+avx512f" in features.split(",") else 8


def splat(builder: Value, value: Value, lanes: int = LANES) -> Value:
    """Return the vector with this float in every lane."""
    empty = ir.Constant(ir.VectorType(FLOAT, lanes), ir.Undefined)
    one = builder.insert_element(empty, value, WORD(0))
    return builder.shuffle_vector(one, empty, ir.Constant(ir.VectorType(WORD, lanes), [0] * lanes))


def constant(value: float, lanes: int = LANES) -> Value:
    """Return the constant vector with this float in every lane."""
    return ir.Constant(ir.VectorType(FLOAT, lanes), [value] * lanes)


def int_constant(value: int) -> Value:
    """Return the constant vector with this int32 in every lane."""
    return ir.Constant(WORDS, [value] * LANES)


def pointer(builder: Value, address: Value, llvm_type: Value) -> Value:
    """Return an address as a pointer to this LLVM type."""
    return builder.inttoptr(address, llvm_type.as_pointer())


def load(builder: Value, address: Value, lanes: int = LANES) -> Value:
    """Load a vector of 16 or 8 lanes; with 4 or 1, load a vector of 8 lanes whose other lanes are 0."""
    llvm_type = FLOAT if lanes == 1 else ir.VectorType(FLOAT, lanes)
    vector = builder.load(pointer(builder, address, llvm_type))
    vector.align = 4
    if lanes == 1:
        return builder.insert_element(constant(0.0), vector, WORD(0))
    if lanes == 4:
        return builder.shuffle_vector(vector, ir.Constant(QUAD, [0.0] * 4), ir.Constant(WORDS, list(range(LANES))))
    return vector


def store(builder: Value, value: Value, address: Value, lanes: int = LANES) -> None:
    """Store a vector, or only its first ``lanes`` where these are 4 or 1."""
    if lanes == 1:
        value = builder.extract_element(value, WORD(0))
    elif lanes == 4:
        value = builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(WORD, 4), [0, 1, 2, 3]))
    builder.store(value, pointer(builder, address, value.type)).align = 4


def call(builder: Value, name: str, *arguments: Value, fastmath: tuple[str, ...] = ()) -> Value:
    """Call the LLVM intrinsic of this name over vectors."""
    signature = ir.FunctionType(arguments[0].type, [a.type for a in arguments])
    full_name = f"llvm.{name}.v{arguments[0].type.count}f32"
    return builder.call(
        cgutils.get_or_insert_function(builder.module, signature, full_name), arguments, fastmath=fastmath
    )
