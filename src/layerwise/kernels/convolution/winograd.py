"""3×3 convolutions with stride 1 by Winograd's algorithm (`winograd_transforms`): a quarter of the multiplications,
twice the rounding error.

``N`` images, ``C`` maps in, ``K`` maps out, ``H × W`` pixels, padding 1. Everything is float32 with channels last in
memory. A block of tiles is transformed, multiplied and transformed back before the next one, so that intermediate
results stay in the cache.
"""

from __future__ import annotations

import math
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from layerwise.kernels.convolution.winograd_kernels import (
    FLOAT_BYTES,
    PANEL,
    POINTS,
    gradient_kernel,
    plane_bytes,
    run_convolution,
)
from layerwise.kernels.convolution.winograd_transforms import IN, OUT, ROWS, TAPS, WIDE, G
from layerwise.kernels.parallel import parallel_for

FILTER_TRANSFORM = torch.from_numpy(np.kron(G, G))  # (36, 9): maps the nine weights of a filter to its points
BLOCK = 48  # tiles at a time: few enough for the cache, enough to read the filters seldom
LARGE = 128 * 128  # maps in · maps out, from which sharing the maps is cheaper than a sum for each thread
HUGE = 512 * 512  # maps in · maps out, from which filters or sums exceed the cache and blocks should be few
NARROW = 64  # least maps in of a share, because each share transforms all gradients itself
SHARES = 4  # most shares of the tiles for each thread, because each share has a sum of its own


class WorkspacePool:
    """Buffers that are reused between calls. The system maps buffers above the limit of `machine.keep_large_buffers`
    anew for each call, which can take longer than the work: so a few of them are kept. Thread-safe."""

    MIN_BYTES, MAX_BYTES, COUNT = 32 << 20, 64 << 20, 2  # sizes of the buffers that are kept, and their number

    def __init__(self) -> None:
        self.lock = Lock()
        self.free: list[Tensor] = []

    def acquire(self, *shape: int) -> Tensor:
        """Return an uninitialized float32 buffer of this shape."""
        with self.lock:
            for index, buffer in enumerate(self.free):
                if buffer.numel() == math.prod(shape):
                    return self.free.pop(index).view(shape)
        with torch.inference_mode(mode=False):
            return torch.empty(shape)

    def release(self, buffer: Tensor) -> None:
        """Take back a buffer that is no longer in use."""
        if self.MIN_BYTES < FLOAT_BYTES * buffer.numel() <= self.MAX_BYTES:
            with self.lock:
                self.free = [*self.free[1 - self.COUNT :], buffer.view(-1)]


WORKSPACES = WorkspacePool()


def count_tiles(x: Tensor) -> int:
    """Return the number of tiles that cover the maps (N, C, H, W)."""
    return x.shape[0] * -(-x.shape[2] // OUT) * -(-x.shape[3] // OUT)


def transform_filters(weight: Tensor) -> Tensor:
    """Return the transformed filters G g Gᵀ of filters (K, C, 3, 3) as (36, K/16, C, 16), in the order in which
    products read them.

    C and K are multiples of 16. Computed in the filters' type and returned in float32.
    """
    outputs, inputs = weight.shape[:2]
    panels = weight.detach().permute(2, 3, 0, 1).reshape(TAPS * TAPS, outputs // PANEL, PANEL, inputs).transpose(2, 3)
    points = FILTER_TRANSFORM.to(weight.dtype) @ panels.reshape(TAPS * TAPS, -1)
    return points.float().view(POINTS, outputs // PANEL, inputs, PANEL)


def convolve_transformed(x: Tensor, points: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution (N, K, H, W) of maps (N, C, H, W) with filters from `transform_filters` and a bias
    (K,)."""
    return _run_convolution(x, points, points.shape[1] * PANEL, bias, [0] * 6)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the convolution (N, K, H, W) of maps (N, C, H, W) with float32 filters (K, C, 3, 3), in any layout, and a
    bias (K,)."""
    weight = weight.detach()
    strides = [FLOAT_BYTES * step for step in weight.stride()]
    points = WORKSPACES.acquire(POINTS, weight.shape[0], weight.shape[1])
    output = _run_convolution(x, points, weight.shape[0], bias, [weight.data_ptr(), *strides, weight.shape[0] // PANEL])
    WORKSPACES.release(points)
    return output


def input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient (N, C, H, W) with respect to the input of a convolution with filters (K, C, 3, 3), from that
    of its output (N, K, H, W): the convolution with the filters rotated by 180° and their two map axes swapped."""
    weight = weight.detach()
    step_k, step_c, down, right = (FLOAT_BYTES * step for step in weight.stride())
    points = WORKSPACES.acquire(POINTS, weight.shape[0], weight.shape[1])
    last = weight.data_ptr() + 2 * (down + right)
    output = _run_convolution(
        gradient, points, weight.shape[1], None, [last, step_c, step_k, -down, -right, weight.shape[1] // PANEL]
    )
    WORKSPACES.release(points)
    return output


def _run_convolution(x: Tensor, points: Tensor, outputs: int, bias: Tensor | None, weight: list[int]) -> Tensor:
    """Run `run_convolution`. ``weight``: the filters' address and byte strides, and the number of panels to
    transform into ``points`` first; 0 if they are transformed already."""
    maps, count = x.shape[1], count_tiles(x)
    x = _to_channels_last(x)
    y = torch.empty((x.shape[0], outputs, *x.shape[2:]), memory_format=torch.channels_last)
    plus = torch.zeros(outputs) if bias is None else bias.detach().contiguous()
    block = _choose_block(count)
    halves = block == BLOCK and maps * outputs < HUGE
    small = block // 2 if halves else block  # the last blocks are half as large, so that the threads end together
    large = max(0, count - max(1, torch.get_num_threads()) * block) // block
    scratch = _allocate_scratch(block, maps, outputs)
    tensors = (t.data_ptr() for t in (x, points, plus, y, scratch))
    shape = (*x.shape[2:], maps, outputs, count, block, large, small)
    parallel_for(
        run_convolution(),
        large + -(-(count - large * block) // small),
        [*tensors, scratch.stride(0), *shape, *weight],
    )
    return y


def weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient (K, C, 3, 3) with respect to the filters, from the input (N, C, H, W) and the gradient of the
    output (N, K, H, W).

    The transpose of `convolve` with respect to its filters: Gᵀ [Σ (Bᵀ d B) (A y Aᵀ)ᵀ] G, with a sum over tiles at each
    point. The threads share the tiles, each share with a sum of its own, or where sums are large they share the maps,
    so that the result is reproducible.
    """
    maps, outputs, count = x.shape[1], gradient.shape[1], count_tiles(x)
    x, gradient = _to_channels_last(x), _to_channels_last(gradient)
    along, across = _split_work(maps, outputs, count)
    block = ROWS * -(-min(2 * BLOCK, count) // ROWS) if maps * outputs >= HUGE else _choose_block(count)
    sums, scratch = WORKSPACES.acquire(along, POINTS, maps, outputs), _allocate_scratch(block, maps, outputs)
    result = torch.empty((outputs, maps, TAPS, TAPS), memory_format=torch.channels_last)
    tensors = (t.data_ptr() for t in (x, gradient, sums, scratch))
    shape = (*x.shape[2:], maps, outputs, count, block, along, across)
    parallel_for(
        gradient_kernel(),
        along * across,
        [*tensors, scratch.stride(0), *shape, result.data_ptr(), *(FLOAT_BYTES * s for s in result.stride())],
    )
    WORKSPACES.release(sums)
    return result


def _split_work(maps: int, outputs: int, count: int) -> tuple[int, int]:
    """Return into how many parts the tiles, and the maps in, of a filter gradient are split: more parts than threads,
    so that a thread without a core does not delay the others for long."""
    threads = max(1, torch.get_num_threads())
    if threads == 1:
        return 1, 1
    if maps * outputs >= LARGE:
        across = min(2 * threads, max(min(threads, maps // WIDE), maps // NARROW))
        return max(1, min(threads // across, count)), across
    return max(1, min(count, threads * max(1, min(SHARES, count // (2 * BLOCK * threads))))), 1


def _to_channels_last(x: Tensor) -> Tensor:
    """Return maps with channels last in memory."""
    return x.detach().contiguous(memory_format=torch.channels_last)


def _choose_block(count: int) -> int:
    """Return the number of tiles in a block: at most `BLOCK`, at most those of a thread, a multiple of `ROWS`."""
    share = -(-count // max(1, torch.get_num_threads()))
    return ROWS * -(-min(BLOCK, share) // ROWS)


def _allocate_scratch(block: int, maps: int, outputs: int) -> Tensor:
    """Return a buffer (threads, bytes) for a block's planes of both sides and for one edge tile of each side; before
    and after the blocks, for the 36 and 9 vectors of a filter."""
    size = POINTS * (plane_bytes(block, maps) + plane_bytes(block, outputs)) + FLOAT_BYTES * (
        IN * IN * maps + OUT * OUT * outputs
    )
    return torch.empty((max(1, torch.get_num_threads()), size), dtype=torch.uint8)
