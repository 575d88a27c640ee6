"""Compiled code on several threads: parts of a loop on Python threads, or a kernel on the threads of torch's OpenMP.

`run_parts` calls a compiled loop, which releases the GIL, once for each part on Python threads.

`parallel_for` runs a kernel on the threads on which torch's own kernels run. OpenMP threads that wait for the next
kernel spin for a while, and keep other threads from their cores: a kernel on Python threads between two of torch's lost
milliseconds each time. So the kernel is passed to torch's OpenMP (GNU's entry ``GOMP_parallel``, which LLVM's and
Intel's have too), and to Python threads only where there is none.

A call to OpenMP ends when every thread of the team has run. Beside a busy neighbor that takes up to a time slice of the
scheduler, 16 ms where it was measured, however little work there is. So a kernel does all of its work in one call, in
two phases if the second needs the results of the first (`claim_panel`, `signal_done`, `wait_for_done`). A thread that
gets no core then claims no part, and the others do not wait for it between the phases.

A kernel is a function of one address: that of an array of int64. Its first five numbers are counters and the number of
parts; the kernel's own arguments follow. Source of the interface: GCC's libgomp manual, "Implementing PARALLEL
construct".
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils, types

from layerwise.kernels.simd import LONG, Value, intrinsic, pointer
from layerwise.runtime.openmp import call_in_parallel, find_torch_openmp

ResultT = TypeVar("ResultT")
HEADER = 5  # numbers before the kernel's arguments
HAS_SCHED_YIELD = hasattr(os, "sched_yield")  # the C library has sched_yield


def split_range(count: int, parts: int) -> list[int]:
    """Return the edges of nearly equal consecutive parts of ``count`` items, from 0 to ``count``."""
    return [count * part // parts for part in range(parts + 1)]


def run_parts(run: Callable[[int, int], ResultT], edges: Sequence[int], pool: Executor | None) -> list[ResultT]:
    """Call ``run(first, last)`` for each two neighboring edges, the first part on the calling thread, and return the
    results in order.

    The other parts run in ``pool``, which is created for the call if None. All parts have ended when this returns or
    raises.
    """
    own, *rest = pairwise(edges)
    with ExitStack() as stack:
        futures = []
        if rest:
            executor = pool or stack.enter_context(ThreadPoolExecutor(len(rest)))
            for part in rest:
                futures.append(executor.submit(run, *part))
                stack.callback(futures[-1].exception)  # waits
        first = run(*own)
        return [first, *(future.result() for future in futures)]


def _count_up(index: int) -> Any:
    """Return an intrinsic that increments the counter at this index atomically and returns its previous value."""

    @intrinsic
    def count_up(context: Value, numbers: Value) -> Value:
        def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
            address = pointer(builder, builder.add(arguments[0], LONG(8 * index)), LONG)
            return builder.atomic_rmw("add", address, LONG(1), "acq_rel")

        return types.int64(types.int64), generate

    return count_up


@intrinsic
def read_argument(context: Value, numbers: Value, index: Value) -> Value:
    """Read an argument of the kernel by its index."""

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        numbers, index = arguments
        return builder.load(
            pointer(builder, builder.add(numbers, builder.shl(builder.add(index, LONG(HEADER)), LONG(3))), LONG)
        )

    return types.int64(types.int64, types.int64), generate


claim_part = _count_up(0)
get_thread_index = _count_up(2)  # 0, 1, …, in the order of the calls: for memory of a thread's own
claim_panel = _count_up(3)  # a part of the other phase
signal_done = _count_up(4)  # count a part of the first phase as computed


@intrinsic
def wait_for_done(context: Value, numbers: Value, count: Value) -> Value:
    """Wait until ``count`` parts of the first phase are done, and yield the core to other threads meanwhile."""

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        numbers, count = arguments
        address = pointer(builder, builder.add(numbers, LONG(8 * 4)), LONG)
        check, spin, finish = (builder.append_basic_block(name) for name in ("check", "spin", "finish"))
        builder.branch(check)
        builder.position_at_end(check)
        done = builder.load_atomic(address, "acquire", 8)
        builder.cbranch(builder.icmp_signed("<", done, count), spin, finish)
        builder.position_at_end(spin)
        if HAS_SCHED_YIELD:
            builder.call(
                cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(32), []), "sched_yield"), []
            )
        builder.branch(check)
        builder.position_at_end(finish)
        return target.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def parallel_for(kernel: int, parts: int, arguments: Sequence[int]) -> None:
    """Run a kernel (the address of a C function) on torch's threads, which claim the ``parts`` one after another.

    ``arguments``: those of the kernel. Returns when all parts are done.
    """
    header = np.array([0, parts, 0, 0, 0, *arguments], dtype=np.int64)
    threads = max(1, min(torch.get_num_threads(), parts))
    library = find_torch_openmp()
    if threads > 1 and library is not None:
        call_in_parallel(library, kernel, header.ctypes.data, threads)
    else:
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel)
        run_parts(lambda _first, _last: call(header.ctypes.data), split_range(threads, threads), None)
