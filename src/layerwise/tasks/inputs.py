"""Inputs: from what a person has (a picture, a row) to what a network takes. Fitted once, saved with the weights.

Shape letters: ``N`` examples, ``C`` channels, ``H W`` pixels, ``D`` features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from layerwise.data.images import decode
from layerwise.data.source import Array, Schema, Source, fetch
from layerwise.errors import DataError, unknown

Scale = Literal["standard", "unit", "none"]
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
    def check(self, schema: Schema, origin: str) -> None:
        """Raise `DataError` if a source with this schema cannot be encoded."""

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

    def check(self, schema: Schema, origin: str) -> None:
        """Raise `DataError` unless the source holds pictures of as many channels."""
        if schema.kind != "image" or schema.shape[2] != self.channels:
            raise DataError(
                f"{origin} does not hold what this network was trained on",
                expected=f"pictures with {self.channels} channel(s)",
                received=f"{schema.kind}s of shape {schema.shape}",
            )

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


@dataclass(frozen=True)
class RowInputs(Inputs):
    """Rows of numbers: (x − shift) / spread by column; ``unit`` rows are clamped to [0, 1]."""

    kind = "row"
    features: tuple[str, ...]
    shift: tuple[float, ...]
    spread: tuple[float, ...]
    clamp: bool = False

    @classmethod
    def fit(cls, source: Source, *, scale: Scale) -> Self:
        """Take each column's mean and deviation (``standard``) or range (``unit``) from the training part."""
        rows = np.asarray(fetch(source, np.arange(len(source))).inputs, dtype=np.float64)  # (N, D)
        if scale == "standard":
            shift, spread = rows.mean(0), rows.std(0)
        elif scale == "unit":
            shift, spread = rows.min(0), np.ptp(rows, axis=0)
        else:
            shift, spread = np.zeros(rows.shape[1]), np.ones(rows.shape[1])
        spread = np.where(spread > 1e-12, spread, 1.0)
        return cls(source.schema.features, tuple(shift.tolist()), tuple(spread.tolist()), scale == "unit")

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """Make the inputs again from what `to_json` returned."""
        return cls(tuple(saved["features"]), tuple(saved["shift"]), tuple(saved["spread"]), saved["clamp"])

    def to_json(self) -> dict[str, Any]:
        """Return column names and statistics."""
        return {
            "kind": self.kind,
            "features": list(self.features),
            "shift": list(self.shift),
            "spread": list(self.spread),
            "clamp": self.clamp,
        }

    def model_args(self) -> dict[str, Any]:
        """Return ``features``, the number of columns."""
        return {"features": len(self.features)}

    def check(self, schema: Schema, origin: str) -> None:
        """Raise `DataError` unless the source has the same columns in the same order."""
        if schema.kind != "row" or schema.features != self.features:
            raise DataError(
                f"{origin} does not hold what this network was trained on",
                expected=f"columns {', '.join(self.features)}",
                received=f"columns {', '.join(schema.features)}" if schema.features else f"{schema.kind}s",
            )

    def tensor(self, inputs: Array | list[Array]) -> Tensor:
        """Turn rows (N, D) into (N, D) float32, scaled."""
        rows = (np.asarray(inputs, dtype=np.float64) - np.array(self.shift)) / np.array(self.spread)
        return torch.from_numpy(np.clip(rows, 0, 1) if self.clamp else rows).float()

    def encode(self, raw: object) -> Tensor:
        """Turn a row into (D,): a mapping by column name, a sequence in column order, or text with commas."""
        if isinstance(raw, str):
            raw = [cell.strip() for cell in raw.split(",")]
        if isinstance(raw, Mapping):
            for column in self.features:
                if column not in raw:
                    raise unknown("column", column, [str(name) for name in raw], where="the row given")
            raw = [raw[column] for column in self.features]
        if not isinstance(raw, Sequence | np.ndarray) or len(raw) != len(self.features):
            got = f"{len(raw)} values" if isinstance(raw, Sequence | np.ndarray) else type(raw).__name__
            raise DataError(
                "this row does not fit the network",
                expected=f"{len(self.features)} numbers: {', '.join(self.features)}",
                received=got,
            )
        return self.tensor(np.array([[self._number(v, at) for at, v in enumerate(raw)]]))[0]

    def _number(self, value: object, at: int) -> float:
        """Return a cell as a finite number, or say which column is wrong."""
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = float("nan")
        if not np.isfinite(number):
            raise DataError(f"column '{self.features[at]}' is not a number", expected="a finite number", received=f"{value!r}")
        return number

    def raw(self, tensor: Tensor) -> Tensor:
        """Return rows (N, D) in the columns' own units."""
        spread, shift = (torch.tensor(v, dtype=tensor.dtype, device=tensor.device) for v in (self.spread, self.shift))
        return tensor * spread + shift


def fit(source: Source, *, size: int, scale: Scale) -> Inputs:
    """Fit the inputs that the source's schema asks for."""
    if source.schema.kind == "image":
        return ImageInputs.fit(source, size=size, scale=scale)
    return RowInputs.fit(source, scale=scale)


def from_json(saved: Mapping[str, Any]) -> Inputs:
    """Make inputs again from what their ``to_json`` returned."""
    return ImageInputs.from_json(saved) if saved["kind"] == "image" else RowInputs.from_json(saved)

