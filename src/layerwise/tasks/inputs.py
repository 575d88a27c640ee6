"""Inputs: from what a person has (an image, a row) to what a network takes. Fitted once, saved with the weights.

Shape letters: ``N`` examples, ``C`` channels, ``H W`` pixels, ``D`` features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from layerwise.data.images.decoding import decode
from layerwise.data.images.resize import resize_image, resize_images
from layerwise.data.source import Array, Source, fetch, get_shorter_sides, set_image_size
from layerwise.errors import DataError
from layerwise.runtime.resources import count_cores
from layerwise.tasks.records import ImageInputsRecord
from layerwise.tasks.scaling import get_constant

PIECE = 128  # examples at a time
SAMPLE = 10_000  # examples that statistics of images are taken from, evenly spaced
LARGEST = 224  # side to which images of mixed sizes are resized unless task.size is set


@dataclass(frozen=True)
class Inputs(ABC):
    """How one kind of input becomes a tensor."""

    kind: ClassVar[str]

    @abstractmethod
    def tensor(self, inputs: Array | list[Array]) -> Tensor:
        """Turn decoded inputs into one float32 tensor (N, …), preprocessed."""

    @abstractmethod
    def encode(self, raw: object) -> Tensor:
        """Turn one raw input into the network's input, without a batch dimension."""

    @abstractmethod
    def model_args(self) -> dict[str, Any]:
        """What the inputs decide of the network."""

    @abstractmethod
    def convert_source(self, source: Source) -> Source:
        """Return the source with its inputs in these terms, or raise `DataError` if it cannot be encoded."""

    @abstractmethod
    def notes(self, source: Source) -> tuple[str, ...]:
        """Return notes on a source before it is converted: values that training never had."""

    @abstractmethod
    def probe(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw made-up inputs (count, …) such as `tensor` gives, to compare two forms of a network on."""

    @abstractmethod
    def raw(self, tensor: Tensor) -> Tensor:
        """Undo the scaling: inputs (N, …) in the units of the data, for figures."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return what must travel with the weights."""


class Statistics(NamedTuple):
    """Each channel's mean and standard deviation, of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ImageInputs(Inputs):
    """Images: brought to one size (shorter side, then center crop), scaled to [0, 1], then (x − mean) / std by
    channel."""

    kind = "image"
    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    plain: bool = False  # `tensor` leaves images unscaled: bytes where they have the size, else in [0, 1]

    @classmethod
    def fit(cls, source: Source, *, size: int, scale: str, known: Statistics | None = None) -> Self:
        """Take size, channels and, for ``standard``, each channel's statistics from the training part, unless they are
        known."""
        channels = source.schema.shape[2]
        side = _choose_size(source, size)
        if known is not None:
            return cls(side, channels, *known)
        plain = cls(side, channels, (0.0,) * channels, (1.0,) * channels)
        if scale != "standard":
            return plain
        converted = plain.convert_source(source)
        total, square, pixels = torch.zeros(channels).double(), torch.zeros(channels).double(), 0

        def sum_pixels(at: Array) -> tuple[Tensor, Tensor, int]:
            part = plain.tensor(fetch(converted, at).inputs).double()
            return part.sum((0, 2, 3)), part.square().sum((0, 2, 3)), part.shape[0] * part.shape[2] * part.shape[3]

        with ThreadPoolExecutor(max_workers=count_cores()) as pool:
            for totals, squares, count in pool.map(
                sum_pixels, np.array_split(_sample_indices(source), -(-min(len(source), SAMPLE) // PIECE))
            ):
                total, square, pixels = total + totals, square + squares, pixels + count
        mean = total / pixels
        std = (square / pixels - mean.square()).clamp_min(0).sqrt()
        std = torch.where(std > 1e-6, std, torch.ones_like(std))
        return cls(plain.size, channels, tuple(mean.tolist()), tuple(std.tolist()))

    @classmethod
    def from_record(cls, saved: ImageInputsRecord) -> Self:
        """Make the inputs again from what `to_json` returned, checked."""
        return cls(saved.size, saved.channels, saved.mean, saved.std)

    def to_json(self) -> dict[str, Any]:
        """Return size, channels and statistics."""
        return {
            "kind": self.kind,
            "size": list(self.size),
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def model_args(self) -> dict[str, Any]:
        """Return ``channels``, ``size`` and, for networks that flatten, ``features``."""
        return {"channels": self.channels, "size": self.size, "features": self.channels * self.size[0] * self.size[1]}

    def convert_source(self, source: Source) -> Source:
        """Return the source, its images in this size if it decodes them. Raises `DataError` unless they have as many
        channels."""
        schema = source.schema
        if schema.kind != "image" or schema.shape[2] != self.channels:
            raise DataError(
                f"{source.name_of(0)} does not hold what this network was trained on",
                expected=f"images with {self.channels} channel(s)",
                received=f"{schema.kind}s of shape {schema.shape}",
            )
        return set_image_size(source, self.size)

    def notes(self, source: Source) -> tuple[str, ...]:
        """Return nothing: any image can be encoded."""
        return ()

    def tensor(self, inputs: Array | list[Array]) -> Tensor:
        """Turn images (N, H, W, C) uint8, or a list of such, into (N, C, h, w) float32."""
        if isinstance(inputs, list):
            return torch.cat([self.tensor(resize_image(image, self.size)[None]) for image in inputs])
        x = torch.from_numpy(np.ascontiguousarray(inputs)).permute(0, 3, 1, 2)  # (N, C, H, W)
        if self.plain and x.shape[2:] == self.size:
            return x
        x = resize_images(x.float().div_(255), self.size)
        return x if self.plain else self.normalize(x).contiguous()

    def normalize(self, x: Tensor) -> Tensor:
        """Normalize images (N, C, h, w) in [0, 1], a tensor of the caller's own, in place: (x − mean) / std by
        channel."""
        mean, std = (get_constant(v, x.dtype, x.device) for v in (self.mean, self.std))
        if x.is_contiguous(memory_format=torch.channels_last):
            # row by row: three channels are too few for vector instructions
            rows = x.permute(0, 2, 3, 1).view(-1, x.shape[3] * x.shape[1])
            rows.sub_(mean.repeat(x.shape[3])).div_(std.repeat(x.shape[3]))
            return x
        return x.sub_(mean.view(1, -1, 1, 1)).div_(std.view(1, -1, 1, 1))

    def encode(self, raw: object) -> Tensor:
        """Turn a path, bytes, PIL image or uint8 array (H, W[, C]) into (C, h, w)."""
        size = None if isinstance(raw, np.ndarray) else self.size  # arrays are brought to size as those of a source are
        return self.tensor(decode(raw, self.channels, size=size)[None])[0]

    def probe(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw images of noise, (count, C, h, w), scaled."""
        return self.normalize(torch.rand(count, self.channels, *self.size, generator=generator))

    def raw(self, tensor: Tensor) -> Tensor:
        """Return images (N, C, h, w) in [0, 1]."""
        mean, std = (get_constant(v, tensor.dtype, tensor.device) for v in (self.mean, self.std))
        return (tensor * std.view(1, -1, 1, 1) + mean.view(1, -1, 1, 1)).clamp(0, 1)


def _sample_indices(source: Source) -> Array:
    """Return the numbers of the examples that statistics are taken from."""
    return np.linspace(0, len(source) - 1, min(len(source), SAMPLE)).astype(np.int64)


def _choose_size(source: Source, size: int) -> tuple[int, int]:
    """Return the size of images: the one asked for, their own, or of mixed ones the median of the shorter sides, at
    most 224."""
    height, width, _ = source.schema.shape
    if size:
        return size, size
    if height and width:
        return height, width
    sides, at = get_shorter_sides(source), _sample_indices(source)
    if sides is None:
        sides = np.array([min(source[int(i)].input.shape[:2]) for i in range(len(source))])
    return (min(int(np.median(sides[at])), LARGEST),) * 2
