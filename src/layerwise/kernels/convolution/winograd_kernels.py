"""Compiled loops of `winograd`: they process tiles block by block, on the threads of `parallel_for`.

Shapes and letters are those of `winograd`; maps are addresses, and strides are bytes.
"""

from __future__ import annotations

from layerwise.kernels.convolution.winograd_transforms import (
    ADD_COLUMNS,
    ADD_ROWS,
    IN,
    OUT,
    ROWS,
    TAPS,
    VECTOR_BYTES,
    WIDE,
    add_vector,
    copy_strided,
    copy_vector,
    filter_gradient_transform,
    filter_transform,
    input_transform,
    multiply,
    multiply_add,
    multiply_add_narrow,
    multiply_narrow,
    multiply_start,
    multiply_start_narrow,
    output_gradient_transform,
    output_transform,
)
from layerwise.kernels.jit import compile_entry, compile_kernel
from layerwise.kernels.parallel import (
    claim_panel,
    claim_part,
    get_thread_index,
    read_argument,
    signal_done,
    wait_for_done,
)

POINTS = IN * IN
PANEL = 16  # maps out whose weights are adjacent in the transformed filters
FLOAT_BYTES = 4
PLANE_PADDING = 64  # bytes between planes, which would otherwise start at the same cache set


@compile_kernel
def plane_bytes(block: int, maps: int) -> int:
    """Return the bytes of one of a block's 36 planes."""
    return FLOAT_BYTES * block * maps + PLANE_PADDING


@compile_kernel
def _locate_tile(tile: int, high: int, wide: int) -> tuple[int, int, int]:
    """Return the image of a tile, and the tile's first row and column in it."""
    rows, columns = (high + OUT - 1) // OUT, (wide + OUT - 1) // OUT
    return tile // (rows * columns), tile // columns % rows * OUT, tile % columns * OUT


@compile_kernel
def _load_tile(
    x: int, tile: int, high: int, wide: int, maps: int, size: int, margin: int, edge: int
) -> tuple[int, int]:
    """Return the address of a tile of side ``size``, ``margin`` pixels of which lie before the tile's own, and its row
    stride in bytes: in the maps at ``x`` if it lies inside them, else copied to ``edge`` with zero padding."""
    n, top, left = _locate_tile(tile, high, wide)
    top, left = top - margin, left - margin
    if top >= 0 and left >= 0 and top + size <= high and left + size <= wide:
        return x + FLOAT_BYTES * maps * ((n * high + top) * wide + left), FLOAT_BYTES * maps * wide
    for i in range(size):
        for j in range(size):
            inside = 0 <= top + i < high and 0 <= left + j < wide
            source = x + FLOAT_BYTES * maps * ((n * high + top + i) * wide + left + j)
            for g in range(0, FLOAT_BYTES * maps, VECTOR_BYTES):
                copy_vector(source + g if inside else 0, edge + FLOAT_BYTES * maps * (i * size + j) + g)
    return edge, FLOAT_BYTES * maps * size


@compile_kernel
def _store_tile(
    products: int, plane: int, tile: int, high: int, wide: int, outputs: int, bias: int, y: int, edge: int
) -> None:
    """Transform the products of a tile back and write the part that lies inside the maps at ``y``."""
    n, top, left = _locate_tile(tile, high, wide)
    target = y + FLOAT_BYTES * outputs * ((n * high + top) * wide + left)
    complete = top + OUT <= high and left + OUT <= wide
    destination, down = (target, FLOAT_BYTES * outputs * wide) if complete else (edge, FLOAT_BYTES * outputs * OUT)
    for g in range(0, FLOAT_BYTES * outputs, VECTOR_BYTES):
        output_transform(products + g, IN * plane, plane, destination + g, down, FLOAT_BYTES * outputs, bias + g)
    if not complete:
        for i in range(min(OUT, high - top)):
            for j in range(min(OUT, wide - left)):
                for g in range(0, FLOAT_BYTES * outputs, VECTOR_BYTES):
                    copy_vector(
                        edge + FLOAT_BYTES * outputs * (i * OUT + j) + g,
                        target + FLOAT_BYTES * outputs * (i * wide + j) + g,
                    )


@compile_kernel
def _multiply_block(left: int, right: int, product: int, size: int, maps: int, outputs: int) -> None:
    """Multiply the tiles of a block (size, maps) by the filters at one point, for two vectors of maps out at a time, or
    a single last one."""
    column_step = VECTOR_BYTES if WIDE < PANEL else FLOAT_BYTES * PANEL * maps
    for first in range(0, outputs, 2 * WIDE):
        b = right + FLOAT_BYTES * first * maps
        for t in range(0, size, ROWS):
            a, c = left + FLOAT_BYTES * t * maps, product + FLOAT_BYTES * (t * outputs + first)
            if first + WIDE < outputs:
                multiply(
                    a,
                    FLOAT_BYTES * maps,
                    FLOAT_BYTES,
                    b,
                    column_step,
                    FLOAT_BYTES * PANEL,
                    c,
                    FLOAT_BYTES * outputs,
                    maps,
                )
            else:
                multiply_narrow(
                    a,
                    FLOAT_BYTES * maps,
                    FLOAT_BYTES,
                    b,
                    column_step,
                    FLOAT_BYTES * PANEL,
                    c,
                    FLOAT_BYTES * outputs,
                    maps,
                )


@compile_kernel
def _accumulate_block(
    left: int, right: int, total: int, first: int, last: int, block: int, size: int, outputs: int, start: bool
) -> None:
    """Add the products of maps ``first`` to ``last`` (in vectors) and all maps out at one point, summed over a block's
    tiles; with ``start`` overwrite."""
    vectors, row = outputs // WIDE, FLOAT_BYTES * outputs
    for g in range(first, last):
        for half in range(0, WIDE, ADD_ROWS):
            a = left + VECTOR_BYTES * block * g + FLOAT_BYTES * half
            for p in range(0, vectors, ADD_COLUMNS):
                b, c = right + VECTOR_BYTES * block * p, total + row * (WIDE * g + half) + VECTOR_BYTES * p
                if p + ADD_COLUMNS <= vectors:
                    if start:
                        multiply_start(
                            a, FLOAT_BYTES, VECTOR_BYTES, b, VECTOR_BYTES * block, VECTOR_BYTES, c, row, size
                        )
                    else:
                        multiply_add(a, FLOAT_BYTES, VECTOR_BYTES, b, VECTOR_BYTES * block, VECTOR_BYTES, c, row, size)
                elif start:
                    multiply_start_narrow(
                        a, FLOAT_BYTES, VECTOR_BYTES, b, VECTOR_BYTES * block, VECTOR_BYTES, c, row, size
                    )
                else:
                    multiply_add_narrow(
                        a, FLOAT_BYTES, VECTOR_BYTES, b, VECTOR_BYTES * block, VECTOR_BYTES, c, row, size
                    )


@compile_kernel
def _transform_panel(
    weight: int,
    step_k: int,
    step_c: int,
    down: int,
    right: int,
    panel: int,
    points: int,
    maps: int,
    outputs: int,
    scratch: int,
) -> None:
    """Transform the filters of one panel of maps out."""
    plane = FLOAT_BYTES * maps * outputs
    for c in range(maps):
        for first in range(0, PANEL, WIDE):
            here = weight + step_c * c + step_k * (PANEL * panel + first)
            for i in range(TAPS):
                for j in range(TAPS):
                    copy_strided(
                        here + down * i + right * j, step_k, scratch + VECTOR_BYTES * (TAPS * i + j), FLOAT_BYTES
                    )
            target = points + FLOAT_BYTES * (PANEL * (maps * panel + c) + first)
            filter_transform(scratch, TAPS * VECTOR_BYTES, VECTOR_BYTES, target, IN * plane, plane)


@compile_kernel
def _reduce_gradient(
    sums: int,
    along: int,
    block: int,
    result: int,
    step_k: int,
    step_c: int,
    down: int,
    right: int,
    maps: int,
    outputs: int,
    scratch: int,
) -> None:
    """Add up the shares' sums for one block of `PANEL` maps in, and transform them into the filters' gradient, for one
    vector of maps out after another, so that the writes stay in few pages of memory."""
    plane, filter_sums = FLOAT_BYTES * maps * outputs, scratch + VECTOR_BYTES * POINTS
    for first in range(0, outputs, WIDE):
        for c in range(PANEL * block, PANEL * (block + 1)):
            for point in range(POINTS):
                source = sums + plane * point + FLOAT_BYTES * (outputs * c + first)
                copy_vector(source, scratch + VECTOR_BYTES * point)
                for share in range(1, along):
                    add_vector(source + POINTS * plane * share, scratch + VECTOR_BYTES * point)
            filter_gradient_transform(
                scratch, IN * VECTOR_BYTES, VECTOR_BYTES, filter_sums, TAPS * VECTOR_BYTES, VECTOR_BYTES
            )
            target = result + step_c * c + step_k * first
            for i in range(TAPS):
                for j in range(TAPS):
                    copy_strided(
                        filter_sums + VECTOR_BYTES * (TAPS * i + j), FLOAT_BYTES, target + down * i + right * j, step_k
                    )


@compile_entry
def run_convolution(arguments: int) -> None:
    """Transform the filters, then convolve one block of tiles after another."""
    x, points, bias, y = (
        read_argument(arguments, 0),
        read_argument(arguments, 1),
        read_argument(arguments, 2),
        read_argument(arguments, 3),
    )
    high, wide, maps, outputs = (
        read_argument(arguments, 6),
        read_argument(arguments, 7),
        read_argument(arguments, 8),
        read_argument(arguments, 9),
    )
    count, block, large, small = (
        read_argument(arguments, 10),
        read_argument(arguments, 11),
        read_argument(arguments, 12),
        read_argument(arguments, 13),
    )
    plane, out_plane = plane_bytes(block, maps), plane_bytes(block, outputs)
    at = read_argument(arguments, 4) + read_argument(arguments, 5) * get_thread_index(arguments)
    to = at + POINTS * plane
    edge = to + POINTS * out_plane
    out_edge = edge + FLOAT_BYTES * IN * IN * maps
    panels = read_argument(arguments, 19)
    panel = claim_panel(arguments)
    while panel < panels:
        _transform_panel(
            read_argument(arguments, 14),
            read_argument(arguments, 15),
            read_argument(arguments, 16),
            read_argument(arguments, 17),
            read_argument(arguments, 18),
            panel,
            points,
            maps,
            outputs,
            out_edge,
        )
        signal_done(arguments)
        panel = claim_panel(arguments)
    wait_for_done(arguments, panels)
    while True:
        signal_done(arguments)
        part = claim_part(arguments)
        start = block * min(part, large) + small * max(0, part - large)
        if start >= count:
            return
        size = min(block if part < large else small, count - start)
        for t in range(size):
            source, down = _load_tile(x, start + t, high, wide, maps, IN, 1, edge)
            for g in range(0, FLOAT_BYTES * maps, VECTOR_BYTES):
                input_transform(
                    source + g, down, FLOAT_BYTES * maps, at + FLOAT_BYTES * t * maps + g, IN * plane, plane
                )
        for k in range(POINTS):
            _multiply_block(
                at + k * plane, points + FLOAT_BYTES * maps * outputs * k, to + k * out_plane, size, maps, outputs
            )
        for t in range(size):
            _store_tile(to + FLOAT_BYTES * t * outputs, out_plane, start + t, high, wide, outputs, bias, y, out_edge)


@compile_entry
def gradient_kernel(arguments: int) -> None:
    """Accumulate the products of maps and gradients part by part (a share of the tiles and of the maps in), then reduce
    the sums."""
    x, gradient, sums = read_argument(arguments, 0), read_argument(arguments, 1), read_argument(arguments, 2)
    high, wide, maps, outputs = (
        read_argument(arguments, 5),
        read_argument(arguments, 6),
        read_argument(arguments, 7),
        read_argument(arguments, 8),
    )
    count, block, along, across = (
        read_argument(arguments, 9),
        read_argument(arguments, 10),
        read_argument(arguments, 11),
        read_argument(arguments, 12),
    )
    plane, out_plane = plane_bytes(block, maps), plane_bytes(block, outputs)
    at = read_argument(arguments, 3) + read_argument(arguments, 4) * get_thread_index(arguments)
    to = at + POINTS * plane
    edge = to + POINTS * out_plane
    out_edge = edge + FLOAT_BYTES * IN * IN * maps
    part = claim_part(arguments)
    while part < along * across:
        share, groups = part // across, maps // WIDE
        first, last = groups * (part % across) // across, groups * (part % across + 1) // across
        total = sums + FLOAT_BYTES * POINTS * maps * outputs * share
        end = count * (share + 1) // along
        own = count * share // along
        for start in range(own, end, block):
            size = min(block, end - start)
            for t in range(size):
                source, down = _load_tile(x, start + t, high, wide, maps, IN, 1, edge)
                for g in range(first, last):
                    input_transform(
                        source + VECTOR_BYTES * g,
                        down,
                        FLOAT_BYTES * maps,
                        at + VECTOR_BYTES * (g * block + t),
                        IN * plane,
                        plane,
                    )
                source, down = _load_tile(gradient, start + t, high, wide, outputs, OUT, 0, out_edge)
                for g in range(outputs // WIDE):
                    output_gradient_transform(
                        source + VECTOR_BYTES * g,
                        down,
                        FLOAT_BYTES * outputs,
                        to + VECTOR_BYTES * (g * block + t),
                        IN * out_plane,
                        out_plane,
                    )
            for k in range(POINTS):
                left, right, product = at + k * plane, to + k * out_plane, total + FLOAT_BYTES * k * maps * outputs
                _accumulate_block(left, right, product, first, last, block, size, outputs, start == own)
        signal_done(arguments)
        part = claim_part(arguments)
    wait_for_done(arguments, along * across)
    panel = claim_panel(arguments)
    while panel < maps // PANEL:
        _reduce_gradient(
            sums,
            along,
            panel,
            read_argument(arguments, 13),
            read_argument(arguments, 14),
            read_argument(arguments, 15),
            read_argument(arguments, 16),
            read_argument(arguments, 17),
            maps,
            outputs,
            edge,
        )
        panel = claim_panel(arguments)
