"""3×3 convolutions with stride 1 by Winograd's tiles (`kernels.tiles`): a quarter of the multiplications, twice the
error.

``N`` images, ``C`` maps in, ``K`` maps out, ``H × W`` places, padding 1. Everything is float32 with channels last in
memory. A block of tiles goes all the way (spread, multiplied, joined) before the next, so that what lies between stays
in the cache.
"""

from __future__ import annotations

import math
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from layerwise.kernels.compiling import compiled, entry
from layerwise.kernels.convolution.winograd_transforms import (
    IN,
    INTO_COLUMNS,
    INTO_ROWS,
    OUT,
    ROWS,
    TAPS,
    VECTOR,
    WIDE,
    G,
    added,
    copied,
    copied_apart,
    gathered,
    joined,
    multiply,
    multiply_first,
    multiply_first_narrow,
    multiply_into,
    multiply_into_narrow,
    multiply_narrow,
    parted,
    pointed,
    spread,
)
from layerwise.kernels.team import early_done, next_early, next_part, number, own_place, together, wait_for_early

POINTS = IN * IN
TWO_SIDED = torch.from_numpy(np.kron(G, G))  # (36, 9): maps the nine numbers of a filter to its points
PANEL = 16  # maps out whose numbers lie together in the filters
BLOCK = 48  # tiles at a time: few enough for the cache, enough to read the filters seldom
NUMBER = 4  # bytes
LARGE = 128 * 128  # maps in · maps out, from which a sum for each thread costs more than sharing the maps
HUGE = (
    512 * 512
)  # maps in · maps out, from which the filters or sums of a block come from memory and the blocks should be few
NARROW = 64  # maps in of a share of them at least, as each takes all gradients to their points for itself
SHARES = 4  # parts of the tiles for each thread at most, as each has a sum of its own
APART = 64  # bytes between planes, which would else begin at the same set of the cache


class Workspaces:
    """Memory for one call after another. The system maps pieces above the limit of `machine.keep_large_buffers` anew
    for each call, which
    can take longer than the work: so a few such pieces are kept. Any thread may take and return them."""

    ABOVE, UP_TO, COUNT = 32 << 20, 64 << 20, 2  # bytes of a piece that is kept, and how many

    def __init__(self) -> None:
        self.lock = Lock()
        self.kept: list[Tensor] = []

    def take(self, *shape: int) -> Tensor:
        """Return float32 memory of this shape, with anything in it."""
        with self.lock:
            for place, piece in enumerate(self.kept):
                if piece.numel() == math.prod(shape):
                    return self.kept.pop(place).view(shape)
        with torch.inference_mode(mode=False):
            return torch.empty(shape)

    def give(self, piece: Tensor) -> None:
        """Return memory that nobody uses any more."""
        if self.ABOVE < NUMBER * piece.numel() <= self.UP_TO:
            with self.lock:
                self.kept = [*self.kept[1 - self.COUNT :], piece.view(-1)]


WORKSPACES = Workspaces()


def tiles_of(x: Tensor) -> int:
    """Return how many tiles cover the maps (N, C, H, W)."""
    return x.shape[0] * -(-x.shape[2] // OUT) * -(-x.shape[3] // OUT)


def filters(weight: Tensor) -> Tensor:
    """Return filters (K, C, 3, 3) at the 36 points, G g Gᵀ, as (36, K/16, C, 16): in the order in which products read
    them.

    C and K are multiples of 16. Computed in the filters' own type and given in float32.
    """
    outputs, inputs = weight.shape[:2]
    panels = weight.detach().permute(2, 3, 0, 1).reshape(TAPS * TAPS, outputs // PANEL, PANEL, inputs).transpose(2, 3)
    points = TWO_SIDED.to(weight.dtype) @ panels.reshape(TAPS * TAPS, -1)
    return points.float().view(POINTS, outputs // PANEL, inputs, PANEL)


def convolve(x: Tensor, points: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution (N, K, H, W) of maps (N, C, H, W) with filters given by `filters` and a bias (K,)."""
    return _convolved(x, points, points.shape[1] * PANEL, bias, [0] * 6)


def convolve_by(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution (N, K, H, W) of maps (N, C, H, W) with float32 filters (K, C, 3, 3), in any layout, and a
    bias (K,)."""
    weight = weight.detach()
    strides = [NUMBER * step for step in weight.stride()]
    points = WORKSPACES.take(POINTS, weight.shape[0], weight.shape[1])
    found = _convolved(x, points, weight.shape[0], bias, [weight.data_ptr(), *strides, weight.shape[0] // PANEL])
    WORKSPACES.give(points)
    return found


def map_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient (N, C, H, W) by the maps of a convolution with filters (K, C, 3, 3), from that by its outputs
    (N, K, H, W): the convolution with the filters turned by half a turn, and maps in and out exchanged."""
    weight = weight.detach()
    step_k, step_c, down, right = (NUMBER * step for step in weight.stride())
    points = WORKSPACES.take(POINTS, weight.shape[0], weight.shape[1])
    last = weight.data_ptr() + 2 * (down + right)
    found = _convolved(
        gradient, points, weight.shape[1], None, [last, step_c, step_k, -down, -right, weight.shape[1] // PANEL]
    )
    WORKSPACES.give(points)
    return found


def _convolved(x: Tensor, points: Tensor, outputs: int, bias: Tensor | None, weight: list[int]) -> Tensor:
    """Run `_convolution`. ``weight``: the filters' address and steps in bytes, and how many panels of them are to be
    taken to ``points`` first; 0 where they are there."""
    maps, count = x.shape[1], tiles_of(x)
    x = _laid(x)
    y = torch.empty((x.shape[0], outputs, *x.shape[2:]), memory_format=torch.channels_last)
    plus = torch.zeros(outputs) if bias is None else bias.detach().contiguous()
    block = _block(count)
    halves = block == BLOCK and maps * outputs < HUGE
    small = block // 2 if halves else block  # the last blocks are half as large, so that all threads end at once
    large = max(0, count - max(1, torch.get_num_threads()) * block) // block
    room = _room(block, maps, outputs)
    tensors = (t.data_ptr() for t in (x, points, plus, y, room))
    shape = (*x.shape[2:], maps, outputs, count, block, large, small)
    together(_convolution(), large + -(-(count - large * block) // small), [*tensors, room.stride(0), *shape, *weight])
    return y


def weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient (K, C, 3, 3) by the filters, from the maps (N, C, H, W) and the gradient by the outputs (N,
    K, H, W).

    The transposed of `convolve` in its filters: Gᵀ [Σ (Bᵀ d B) (A y Aᵀ)ᵀ] G, the sum over tiles and at each point by
    itself. Threads share the tiles, each part with a sum of its own, or where sums are large the maps, so that the
    result is the same each time.
    """
    maps, outputs, count = x.shape[1], gradient.shape[1], tiles_of(x)
    x, gradient = _laid(x), _laid(gradient)
    along, across = _shares(maps, outputs, count)
    block = ROWS * -(-min(2 * BLOCK, count) // ROWS) if maps * outputs >= HUGE else _block(count)
    sums, room = WORKSPACES.take(along, POINTS, maps, outputs), _room(block, maps, outputs)
    found = torch.empty((outputs, maps, TAPS, TAPS), memory_format=torch.channels_last)
    tensors = (t.data_ptr() for t in (x, gradient, sums, room))
    shape = (*x.shape[2:], maps, outputs, count, block, along, across)
    together(
        _correlation(),
        along * across,
        [*tensors, room.stride(0), *shape, found.data_ptr(), *(NUMBER * s for s in found.stride())],
    )
    WORKSPACES.give(sums)
    return found


def _shares(maps: int, outputs: int, count: int) -> tuple[int, int]:
    """Return into how many parts the tiles, and the maps in, of a gradient by filters are shared: more parts than
    threads, so that one that is kept from its core keeps nobody waiting for long."""
    threads = max(1, torch.get_num_threads())
    if threads == 1:
        return 1, 1
    if maps * outputs >= LARGE:
        across = min(2 * threads, max(min(threads, maps // WIDE), maps // NARROW))
        return max(1, min(threads // across, count)), across
    return max(1, min(count, threads * max(1, min(SHARES, count // (2 * BLOCK * threads))))), 1


def _laid(x: Tensor) -> Tensor:
    """Return maps with their channels last in memory."""
    return x.detach().contiguous(memory_format=torch.channels_last)


def _block(count: int) -> int:
    """Return how many tiles go through at a time: at most `BLOCK`, no more than a thread has, whole rows of
    products."""
    share = -(-count // max(1, torch.get_num_threads()))
    return ROWS * -(-min(BLOCK, share) // ROWS)


def _room(block: int, maps: int, outputs: int) -> Tensor:
    """Return memory (threads, bytes) for what a block is between maps and outputs, and for a tile of each at the edge,
    or before and after for a filter's 36 and 9 vectors."""
    size = POINTS * (_plane(block, maps) + _plane(block, outputs)) + NUMBER * (IN * IN * maps + OUT * OUT * outputs)
    return torch.empty((max(1, torch.get_num_threads()), size), dtype=torch.uint8)


@compiled
def _plane(block: int, maps: int) -> int:
    """Return the bytes of one of the 36 planes of a block."""
    return NUMBER * block * maps + APART


@compiled
def _place(tile: int, high: int, wide: int) -> tuple[int, int, int]:
    """Return which image a tile is of, and its first row and column there."""
    rows, columns = (high + OUT - 1) // OUT, (wide + OUT - 1) // OUT
    return tile // (rows * columns), tile // columns % rows * OUT, tile % columns * OUT


@compiled
def _taken(x: int, tile: int, high: int, wide: int, maps: int, size: int, margin: int, edge: int) -> tuple[int, int]:
    """Return the address of a tile of ``size`` places to a side, ``margin`` of them before its own, and the bytes from
    one of its rows to
    the next: in the maps at ``x`` where it lies within them, else at ``edge``, with zeros around."""
    n, top, left = _place(tile, high, wide)
    top, left = top - margin, left - margin
    if top >= 0 and left >= 0 and top + size <= high and left + size <= wide:
        return x + NUMBER * maps * ((n * high + top) * wide + left), NUMBER * maps * wide
    for i in range(size):
        for j in range(size):
            inside = 0 <= top + i < high and 0 <= left + j < wide
            source = x + NUMBER * maps * ((n * high + top + i) * wide + left + j)
            for g in range(0, NUMBER * maps, VECTOR):
                copied(source + g if inside else 0, edge + NUMBER * maps * (i * size + j) + g)
    return edge, NUMBER * maps * size


@compiled
def _put(
    products: int, plane: int, tile: int, high: int, wide: int, outputs: int, bias: int, y: int, edge: int
) -> None:
    """Join the products of a tile and write what of it lies within the maps at ``y``."""
    n, top, left = _place(tile, high, wide)
    target = y + NUMBER * outputs * ((n * high + top) * wide + left)
    whole = top + OUT <= high and left + OUT <= wide
    to, down = (target, NUMBER * outputs * wide) if whole else (edge, NUMBER * outputs * OUT)
    for g in range(0, NUMBER * outputs, VECTOR):
        joined(products + g, IN * plane, plane, to + g, down, NUMBER * outputs, bias + g)
    if not whole:
        for i in range(min(OUT, high - top)):
            for j in range(min(OUT, wide - left)):
                for g in range(0, NUMBER * outputs, VECTOR):
                    copied(edge + NUMBER * outputs * (i * OUT + j) + g, target + NUMBER * outputs * (i * wide + j) + g)


@compiled
def _multiplied(left: int, right: int, product: int, size: int, maps: int, outputs: int) -> None:
    """Multiply the tiles of a block (size, maps) by the filters at one point: two vectors of maps out at a time, a last
    one alone."""
    next_ = VECTOR if WIDE < PANEL else NUMBER * PANEL * maps
    for first in range(0, outputs, 2 * WIDE):
        b = right + NUMBER * first * maps
        for t in range(0, size, ROWS):
            a, c = left + NUMBER * t * maps, product + NUMBER * (t * outputs + first)
            if first + WIDE < outputs:
                multiply(a, NUMBER * maps, NUMBER, b, next_, NUMBER * PANEL, c, NUMBER * outputs, maps)
            else:
                multiply_narrow(a, NUMBER * maps, NUMBER, b, next_, NUMBER * PANEL, c, NUMBER * outputs, maps)


@compiled
def _multiplied_into(
    left: int, right: int, total: int, first: int, last: int, block: int, size: int, outputs: int, start: bool
) -> None:
    """Add the products of maps ``first`` to ``last`` (in vectors) and all maps out at one point, summed over a block's
    tiles; to zeros with ``start``."""
    vectors, row = outputs // WIDE, NUMBER * outputs
    for g in range(first, last):
        for half in range(0, WIDE, INTO_ROWS):
            a = left + VECTOR * block * g + NUMBER * half
            for p in range(0, vectors, INTO_COLUMNS):
                b, c = right + VECTOR * block * p, total + row * (WIDE * g + half) + VECTOR * p
                if p + INTO_COLUMNS <= vectors:
                    if start:
                        multiply_first(a, NUMBER, VECTOR, b, VECTOR * block, VECTOR, c, row, size)
                    else:
                        multiply_into(a, NUMBER, VECTOR, b, VECTOR * block, VECTOR, c, row, size)
                elif start:
                    multiply_first_narrow(a, NUMBER, VECTOR, b, VECTOR * block, VECTOR, c, row, size)
                else:
                    multiply_into_narrow(a, NUMBER, VECTOR, b, VECTOR * block, VECTOR, c, row, size)


@compiled
def _to_points(
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
    """Take the filters of one panel of maps out to their points."""
    plane = NUMBER * maps * outputs
    for c in range(maps):
        for first in range(0, PANEL, WIDE):
            here = weight + step_c * c + step_k * (PANEL * panel + first)
            for i in range(TAPS):
                for j in range(TAPS):
                    copied_apart(here + down * i + right * j, step_k, scratch + VECTOR * (TAPS * i + j), NUMBER)
            target = points + NUMBER * (PANEL * (maps * panel + c) + first)
            pointed(scratch, TAPS * VECTOR, VECTOR, target, IN * plane, plane)


@compiled
def _to_filters(
    sums: int,
    along: int,
    block: int,
    found: int,
    step_k: int,
    step_c: int,
    down: int,
    right: int,
    maps: int,
    outputs: int,
    scratch: int,
) -> None:
    """Add up the shares' sums for one block of `PANEL` maps in, and take them from the points to the gradient by the
    filters: these maps for one vector of maps out after another, so that what is written lies in few pages of memory at
    a time."""
    plane, taps = NUMBER * maps * outputs, scratch + VECTOR * POINTS
    for first in range(0, outputs, WIDE):
        for c in range(PANEL * block, PANEL * (block + 1)):
            for point in range(POINTS):
                source = sums + plane * point + NUMBER * (outputs * c + first)
                copied(source, scratch + VECTOR * point)
                for share in range(1, along):
                    added(source + POINTS * plane * share, scratch + VECTOR * point)
            gathered(scratch, IN * VECTOR, VECTOR, taps, TAPS * VECTOR, VECTOR)
            there = found + step_c * c + step_k * first
            for i in range(TAPS):
                for j in range(TAPS):
                    copied_apart(taps + VECTOR * (TAPS * i + j), NUMBER, there + down * i + right * j, step_k)


@entry
def _convolution(numbers: int) -> None:
    """Take the filters to their points, then convolve one block of tiles after another."""
    x, points, bias, y = number(numbers, 0), number(numbers, 1), number(numbers, 2), number(numbers, 3)
    high, wide, maps, outputs = number(numbers, 6), number(numbers, 7), number(numbers, 8), number(numbers, 9)
    count, block, large, small = number(numbers, 10), number(numbers, 11), number(numbers, 12), number(numbers, 13)
    plane, out_plane = _plane(block, maps), _plane(block, outputs)
    at = number(numbers, 4) + number(numbers, 5) * own_place(numbers)
    to = at + POINTS * plane
    edge = to + POINTS * out_plane
    out_edge = edge + NUMBER * IN * IN * maps
    panels = number(numbers, 19)
    panel = next_early(numbers)
    while panel < panels:
        _to_points(
            number(numbers, 14),
            number(numbers, 15),
            number(numbers, 16),
            number(numbers, 17),
            number(numbers, 18),
            panel,
            points,
            maps,
            outputs,
            out_edge,
        )
        early_done(numbers)
        panel = next_early(numbers)
    wait_for_early(numbers, panels)
    while True:
        early_done(numbers)
        part = next_part(numbers)
        start = block * min(part, large) + small * max(0, part - large)
        if start >= count:
            return
        size = min(block if part < large else small, count - start)
        for t in range(size):
            source, down = _taken(x, start + t, high, wide, maps, IN, 1, edge)
            for g in range(0, NUMBER * maps, VECTOR):
                spread(source + g, down, NUMBER * maps, at + NUMBER * t * maps + g, IN * plane, plane)
        for k in range(POINTS):
            _multiplied(at + k * plane, points + NUMBER * maps * outputs * k, to + k * out_plane, size, maps, outputs)
        for t in range(size):
            _put(to + NUMBER * t * outputs, out_plane, start + t, high, wide, outputs, bias, y, out_edge)


@entry
def _correlation(numbers: int) -> None:
    """Add up the products of maps and gradients over one part after another: a share of the tiles, and of the maps
    in."""
    x, gradient, sums = number(numbers, 0), number(numbers, 1), number(numbers, 2)
    high, wide, maps, outputs = number(numbers, 5), number(numbers, 6), number(numbers, 7), number(numbers, 8)
    count, block, along, across = number(numbers, 9), number(numbers, 10), number(numbers, 11), number(numbers, 12)
    plane, out_plane = _plane(block, maps), _plane(block, outputs)
    at = number(numbers, 3) + number(numbers, 4) * own_place(numbers)
    to = at + POINTS * plane
    edge = to + POINTS * out_plane
    out_edge = edge + NUMBER * IN * IN * maps
    part = next_part(numbers)
    while part < along * across:
        share, groups = part // across, maps // WIDE
        first, last = groups * (part % across) // across, groups * (part % across + 1) // across
        total = sums + NUMBER * POINTS * maps * outputs * share
        end = count * (share + 1) // along
        own = count * share // along
        for start in range(own, end, block):
            size = min(block, end - start)
            for t in range(size):
                source, down = _taken(x, start + t, high, wide, maps, IN, 1, edge)
                for g in range(first, last):
                    spread(source + VECTOR * g, down, NUMBER * maps, at + VECTOR * (g * block + t), IN * plane, plane)
                source, down = _taken(gradient, start + t, high, wide, outputs, OUT, 0, out_edge)
                for g in range(outputs // WIDE):
                    parted(
                        source + VECTOR * g,
                        down,
                        NUMBER * outputs,
                        to + VECTOR * (g * block + t),
                        IN * out_plane,
                        out_plane,
                    )
            for k in range(POINTS):
                left, right, place = at + k * plane, to + k * out_plane, total + NUMBER * k * maps * outputs
                _multiplied_into(left, right, place, first, last, block, size, outputs, start == own)
        early_done(numbers)
        part = next_part(numbers)
    wait_for_early(numbers, along * across)
    panel = next_early(numbers)
    while panel < maps // PANEL:
        _to_filters(
            sums,
            along,
            panel,
            number(numbers, 13),
            number(numbers, 14),
            number(numbers, 15),
            number(numbers, 16),
            number(numbers, 17),
            maps,
            outputs,
            edge,
        )
        panel = next_early(numbers)
