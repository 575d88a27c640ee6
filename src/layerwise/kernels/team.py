"""Compiled code on the very threads on which torch's own kernels run.

Threads of OpenMP that wait for the next kernel go on looking for a while, and keep other threads from their cores: a kernel on Python
threads between two of torch's lost milliseconds each time. So the work is given to torch's OpenMP (GNU's entry ``GOMP_parallel``, which
LLVM's and Intel's have too), and only where there is none to Python threads.

A kernel is a function of one address: of int64 numbers, the first three of which are `next_part`'s, the number of parts, and
`own_place`'s. The rest are its own. Source of the interface: GCC's libgomp manual, "Implementing PARALLEL construct".
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba.core import types

from layerwise.kernels.registers import LONG, Value, intrinsic, pointer
from layerwise.kernels.threads import edges_of, over_parts
from layerwise.runtime.openmp import in_parallel, torchs_openmp

HEAD = 3  # numbers before the kernel's own


def _counted(place: int) -> Any:
    """Return the intrinsic that gives the number at this place and counts it up, each thread another."""

    @intrinsic
    def counted(context: Value, numbers: Value) -> Value:
        def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
            where = pointer(builder, builder.add(arguments[0], LONG(8 * place)), LONG)
            return builder.atomic_rmw("add", where, LONG(1), "monotonic")

        return types.int64(types.int64), generate

    return counted


@intrinsic
def number(context: Value, numbers: Value, place: Value) -> Value:
    """Return the code that reads one of the kernel's own numbers, from 0."""

    def generate(target: Value, builder: Value, signature: Value, arguments: Value) -> Value:
        numbers, place = arguments
        return builder.load(pointer(builder, builder.add(numbers, builder.shl(builder.add(place, LONG(HEAD)), LONG(3))), LONG))

    return types.int64(types.int64, types.int64), generate


next_part = _counted(0)
own_place = _counted(2)  # 0, 1, …: which thread of the team this is, for memory of its own


def together(kernel: int, parts: int, numbers: Sequence[int]) -> None:
    """Run a kernel (the address of a C function) on torch's threads. They take one of the ``parts`` after another, in any order.

    ``numbers``: the kernel's own. Returns when all parts are done.
    """
    given = np.array([0, parts, 0, *numbers], dtype=np.int64)
    threads = max(1, min(torch.get_num_threads(), parts))
    library = torchs_openmp()
    if threads > 1 and library is not None:
        in_parallel(library, kernel, given.ctypes.data, threads)
    else:
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel)
        over_parts(lambda _first, _last: call(given.ctypes.data), edges_of(threads, threads), None)
