"""Compiled code on the very threads on which torch's own kernels run.

Threads of OpenMP that wait for the next kernel go on looking for a while, and keep other threads from their cores: a
kernel on Python threads between two of torch's lost milliseconds each time. So the work is given to torch's OpenMP
(GNU's entry ``GOMP_parallel``, which LLVM's and Intel's have too), and only where there is none to Python threads.

Each such call ends when every thread of the team has been on a core, and beside a busy neighbor that takes up to a turn
of the scheduler's, 16 ms where this was measured, however little there is to do. So a kernel does all of its work in
one call: in two phases, if the second needs what the first makes (`next_early`, `early_done`, `wait_for_early`). A
thread that gets no core then takes no part, and the others need not wait for it between the phases.

A kernel is a function of one address: of int64 numbers, the first five of which are counters and the number of parts.
    The rest are its
own. Source of the interface: GCC's libgomp manual, "Implementing PARALLEL construct".
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils, types

from layerwise.kernels.convolution.simd import LONG, Value, intrinsic, pointer
from layerwise.kernels.threads import edges_of, over_parts
from layerwise.runtime.openmp import in_parallel, torchs_openmp

HEAD = 5  # numbers before the kernel's own
YIELDS = hasattr(os, "sched_yield")  # the C library has it


def _counted(place: int) -> Any:
    """Return the intrinsic that gives the number at this place and counts it up, each thread another."""

    @intrinsic
    def counted(context: Value, numbers: Value) -> Value:
        def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
            where = pointer(builder, builder.add(arguments[0], LONG(8 * place)), LONG)
            return builder.atomic_rmw("add", where, LONG(1), "acq_rel")

        return types.int64(types.int64), generate

    return counted


@intrinsic
def number(context: Value, numbers: Value, place: Value) -> Value:
    """Return the code that reads one of the kernel's own numbers, from 0."""

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        numbers, place = arguments
        return builder.load(
            pointer(builder, builder.add(numbers, builder.shl(builder.add(place, LONG(HEAD)), LONG(3))), LONG)
        )

    return types.int64(types.int64, types.int64), generate


next_part = _counted(0)
own_place = _counted(2)  # 0, 1, …: which thread of the team this is, for memory of its own
next_early = _counted(3)  # a part of the first phase
early_done = _counted(4)  # a part of the first phase has been computed


@intrinsic
def wait_for_early(context: Value, numbers: Value, count: Value) -> Value:
    """Return the code that waits until ``count`` parts of the first phase are done, and lets other threads have the
    core meanwhile."""

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        numbers, count = arguments
        where = pointer(builder, builder.add(numbers, LONG(8 * 4)), LONG)
        look, wait, go = (builder.append_basic_block(name) for name in ("look", "wait", "go"))
        builder.branch(look)
        builder.position_at_end(look)
        done = builder.load_atomic(where, "acquire", 8)
        builder.cbranch(builder.icmp_signed("<", done, count), wait, go)
        builder.position_at_end(wait)
        if YIELDS:
            builder.call(
                cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(32), []), "sched_yield"), []
            )
        builder.branch(look)
        builder.position_at_end(go)
        return target.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def together(kernel: int, parts: int, numbers: Sequence[int]) -> None:
    """Run a kernel (the address of a C function) on torch's threads. They take one of the ``parts`` after another, in
    any order.

    ``numbers``: the kernel's own. Returns when all parts are done.
    """
    given = np.array([0, parts, 0, 0, 0, *numbers], dtype=np.int64)
    threads = max(1, min(torch.get_num_threads(), parts))
    library = torchs_openmp()
    if threads > 1 and library is not None:
        in_parallel(library, kernel, given.ctypes.data, threads)
    else:
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel)
        over_parts(lambda _first, _last: call(given.ctypes.data), edges_of(threads, threads), None)
