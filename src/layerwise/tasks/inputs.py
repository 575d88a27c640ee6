"""Inputs: from what a person has (a picture, a row) to what a network takes. Fitted once, saved with the weights.

Shape letters: ``N`` examples, ``C`` channels, ``H W`` pixels, ``D`` features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from layerwise.data.images import decode
from layerwise.data.source import Array, Source, fetch
from layerwise.errors import DataError
from layerwise.tasks.coders import Scale

SAMPLE = 10_000  # examples that statistics of pictures are taken from, evenly spaced
LARGEST = 224  # side to which pictures of mixed sizes are brought unless task.size says otherwise


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
    def adopt(self, source: Source) -> Source:
        """Return the source with its inputs in these terms, or raise `DataError` if it cannot be encoded."""

    @abstractmethod
    def notes(self, source: Source) -> tuple[str, ...]:
        """Return what is to be said of a source that is to be adopted: values that training never had."""

    @abstractmethod
    def probe(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw made-up inputs (count, …) such as `tensor` gives, to compare two forms of a network on."""

    @abstractmethod
    def raw(self, tensor: Tensor) -> Tensor:
        """Undo the scaling: inputs (N, …) in the units of the data, for figures."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return what must travel with the weights."""


@dataclass(frozen=True)
class ImageInputs(Inputs):
    """Pictures: brought to one size (shorter side, then centre crop), scaled to [0, 1], then (x − mean) / std by channel."""

    kind = "image"
    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, source: Source, *, size: int, scale: Scale) -> Self:
        """Take size, channels and, for ``standard``, each channel's statistics from the training part."""
        height, width, channels = source.schema.shape
        sampled = fetch(source, np.linspace(0, len(source) - 1, min(len(source), SAMPLE)).astype(np.int64)).inputs
        if size:
            side = (size, size)
        elif height and width:
            side = (height, width)
        else:
            median = int(np.median([min(a.shape[:2]) for a in sampled]))
            side = (min(median, LARGEST),) * 2
        plain = cls(side, channels, (0.0,) * channels, (1.0,) * channels)
        if scale != "standard":
            return plain
        total, square, pixels = torch.zeros(channels).double(), torch.zeros(channels).double(), 0
        for start in range(0, len(sampled), 512):
            part = plain.tensor(sampled[start : start + 512]).double()
            total += part.sum((0, 2, 3))
            square += part.square().sum((0, 2, 3))
            pixels += part.shape[0] * part.shape[2] * part.shape[3]
        mean = total / pixels
        std = (square / pixels - mean.square()).clamp_min(0).sqrt()
        std = torch.where(std > 1e-6, std, torch.ones_like(std))
        return cls(side, channels, tuple(mean.tolist()), tuple(std.tolist()))

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """Make the inputs again from what `to_json` returned."""
        return cls(tuple(saved["size"]), saved["channels"], tuple(saved["mean"]), tuple(saved["std"]))

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

    def adopt(self, source: Source) -> Source:
        """Return the source. Raises `DataError` unless it holds pictures of as many channels."""
        schema = source.schema
        if schema.kind != "image" or schema.shape[2] != self.channels:
            raise DataError(
                f"{source.name_of(0)} does not hold what this network was trained on",
                expected=f"pictures with {self.channels} channel(s)",
                received=f"{schema.kind}s of shape {schema.shape}",
            )
        return source

    def notes(self, source: Source) -> tuple[str, ...]:
        """Return nothing: any picture can be encoded."""
        return ()

    def tensor(self, inputs: Array | list[Array]) -> Tensor:
        """Turn pictures (N, H, W, C) uint8, or a list of such, into (N, C, h, w) float32."""
        if isinstance(inputs, list):
            return torch.cat([self.tensor(picture[None]) for picture in inputs])
        x = torch.from_numpy(np.ascontiguousarray(inputs)).permute(0, 3, 1, 2).float().div_(255)  # (N, C, H, W)
        return self.scaled(fitted(x, self.size)).contiguous()

    def scaled(self, x: Tensor) -> Tensor:
        """Scale pictures (N, C, h, w) in [0, 1], a tensor of the caller's own, in place: (x − mean) / std by channel."""
        mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return x.sub_(mean).div_(std)

    def encode(self, raw: object) -> Tensor:
        """Turn a path, bytes, PIL picture or uint8 array (H, W[, C]) into (C, h, w)."""
        return self.tensor(decode(raw, self.channels)[None])[0]

    def probe(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw pictures of noise, (count, C, h, w), scaled."""
        return self.scaled(torch.rand(count, self.channels, *self.size, generator=generator))

    def raw(self, tensor: Tensor) -> Tensor:
        """Return pictures (N, C, h, w) in [0, 1]."""
        mean, std = (torch.tensor(v, dtype=tensor.dtype, device=tensor.device) for v in (self.mean, self.std))
        return (tensor * std.view(1, -1, 1, 1) + mean.view(1, -1, 1, 1)).clamp(0, 1)


def fitted(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring pictures (N, C, H, W) to ``size``: scale until both sides reach it (bilinear, antialiased), crop the centre."""
    height, width = x.shape[2:]
    if (height, width) == size:
        return x
    factor = max(size[0] / height, size[1] / width)
    grown = (max(size[0], round(height * factor)), max(size[1], round(width * factor)))
    x = F.interpolate(x, grown, mode="bilinear", antialias=True)
    top, left = (grown[0] - size[0]) // 2, (grown[1] - size[1]) // 2
    return x[:, :, top : top + size[0], left : left + size[1]].clamp_(0, 1)
