"""Images and matrices as plain SVG: PNG bytes, data URIs, sheets of images with captions, confusion matrices.

Shape letters: ``N`` examples, ``C`` channels, ``H W`` pixels, ``K`` classes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layerwise.plotting.svg import INK, MUTED, RIGHT, WRONG, build_svg, escape_text, estimate_width, shorten

LARGEST = 160  # longest side of an image in a sheet or page, in pixels of its own
SIDE, CAPTION = 96.0, 12.0  # an image's side in a sheet, and the font size of the text under it
Floats = NDArray[np.floating]
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601-2
SMALL = 48  # the longer side up to which an image's pixels are repeated
HEAT = 0.6  # the share of a map in an image that it overlays


def encode_png(image: Floats, *, largest: int = LARGEST) -> bytes:
    """Return an image (C, H, W) in [0, 1] as PNG; one channel is gray, three are RGB, of others the first is shown.

    Images with a side over ``largest`` are shrunk to it. Values outside [0, 1] and NaN are clipped.
    """
    return _encode(image, "PNG", largest)


def encode_jpeg(image: Floats, *, largest: int = 2 * LARGEST) -> bytes:
    """Return a photograph as JPEG, much smaller than PNG; the rest is as in `encode_png`."""
    return _encode(image, "JPEG", largest)


def _encode(image: Floats, kind: str, largest: int) -> bytes:
    """Return an image as the bytes of a file."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(0, 1)
    pixels = np.round(values * 255).astype(np.uint8)
    encoded = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)) if len(pixels) == 3 else pixels[0])
    if max(encoded.size) > largest:
        encoded.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    encoded.save(buffer, format=kind, optimize=True)
    return buffer.getvalue()


def to_data_uri(data: bytes, kind: str = "png") -> str:
    """Return the bytes of an image's file, PNG unless ``kind`` says ``jpeg``, as a data URI."""
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def draw_image_sheet(
    rows: Sequence[Sequence[Floats]],
    *,
    captions: Sequence[Sequence[str]] = (),
    labels: Sequence[str] = (),
    photos: tuple[float, float] | None = None,
) -> str:
    """Draw rows of images as one SVG.

    Args:
        rows: images (C, H, W) in [0, 1], row by row.
        captions: a text under each image, in the shape of ``rows``; empty for none. Lines are cut to the image's
            width.
        labels: a text above each row; empty for none, as is an empty text.
        photos: width and height of an image in the sheet, for photographs: they become JPEG and are smoothed. None
            shows every pixel as a square.
    """
    gap, size = 8.0, CAPTION
    side, high = photos or (SIDE, SIDE)
    lines = max((text.count("\n") + 1 for row in captions for text in row), default=0)
    body: list[str] = []
    top = gap
    for at, row in enumerate(rows):
        if labels and labels[at]:
            body.append(_draw_text(labels[at], gap, top + size, size=size + 2, color=MUTED, anchor="start"))
            top += size + 10
        for column, image in enumerate(row):
            left = gap + column * (side + gap)
            smooth = "auto" if photos else "pixelated"
            uri = to_data_uri(encode_jpeg(image), "jpeg") if photos else to_data_uri(encode_png(image))
            body.append(
                f'<image x="{left:g}" y="{top:g}" width="{side:g}" height="{high:g}" style="image-rendering: '
                f'{smooth}" href="{uri}"/>'
            )
            texts = captions[at][column].split("\n") if captions else []
            for number, text in enumerate(texts):
                y = top + high + (number + 1) * (size + 3)
                color = INK if number == 0 else MUTED
                body.append(
                    _draw_text(shorten(text, side, size), left + side / 2, y, size=size, color=color, anchor="middle")
                )
        top += high + lines * (size + 3) + gap
    width = gap + max((len(row) for row in rows), default=0) * (side + gap)
    return build_svg(body, max(width, 2 * gap), top)


def overlay_heatmap(image: Floats, heat: Floats) -> Floats:
    """Return an image (C, H, W) in gray beneath a map (H, W), both in [0, 1], as (3, H, W): dark where the map is 0,
    yellow where it is 1.

    The scale is matplotlib's *inferno*, whose lightness rises evenly, so that it is read without colors too.
    """
    values = np.asarray(image, dtype=np.float64)
    gray = np.tensordot(LUMA, values, 1) if len(values) == 3 else values[0]
    colors = mpl.colormaps["inferno"](heat)[..., :3].transpose(2, 0, 1)
    mixed: Floats = (1 - HEAT) * gray + HEAT * colors
    return mixed


def enlarge(image: Floats, *, least: int = SMALL) -> Floats:
    """Return an image (C, H, W) with every pixel repeated until its longer side is at least ``least``, for viewers
    that smooth."""
    factor = -(-least // max(image.shape[1:]))
    return image.repeat(factor, 1).repeat(factor, 2) if factor > 1 else image


def split_into_rows(images: Sequence[Floats], columns: int) -> list[list[Floats]]:
    """Cut a sequence of images into rows of ``columns``."""
    return [list(images[start : start + columns]) for start in range(0, len(images), columns)]


def draw_confusion_matrix(
    counts: NDArray[np.integer], classes: Sequence[str], *, true: str = "true", predicted: str = "predicted"
) -> str:
    """Draw a confusion matrix (K, K), true class by row: the share of the row as color, blue where right, orange where
    wrong.

    Counts are written into the cells of up to 30 classes.
    """
    number = len(classes)
    cell = 34.0 if number <= 30 else max(6.0, 900.0 / number)
    size = 13.0 if number <= 30 else min(13.0, cell)
    names = [shorten(name, 150, size) for name in classes]
    margin = 30 + max((estimate_width(name, size) for name in names), default=0.0)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    body = [
        _draw_text(true, 14, margin + number * cell / 2, size=14, color=MUTED, anchor="middle", rotation=-90),
        _draw_text(predicted, margin + number * cell / 2, 16, size=14, color=MUTED, anchor="middle"),
    ]
    for i in range(number):
        middle = margin + (i + 0.5) * cell
        body.append(_draw_text(names[i], margin - 6, middle + size * 0.35, size=size, color=INK, anchor="end"))
        body.append(
            _draw_text(names[i], middle + size * 0.35, margin - 6, size=size, color=INK, anchor="start", rotation=-90)
        )
        for j in range(number):
            if counts[i, j] or number <= 30:
                body += _draw_cell(
                    int(counts[i, j]), float(shares[i, j]), margin + j * cell, margin + i * cell, cell, right=i == j
                )
    side = margin + number * cell + 8
    return build_svg(body, side, side)


def _draw_cell(count: int, share: float, x: float, y: float, side: float, *, right: bool) -> list[str]:
    """Return a cell of a confusion matrix: its color and, if it is large enough, its count."""
    alpha = 0.0 if not count else 0.12 + 0.88 * share
    color = RIGHT if right else WRONG
    frame = f"; stroke: {MUTED}; stroke-opacity: 0.18" if side > 20 else ""
    paint = f"fill: {color}; fill-opacity: {alpha:.3f}{frame}"
    out = [f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" style="{paint}"/>']
    if side > 20 and count:
        size = 13.0 if count < 1000 else 10.0
        ink = "#ffffff" if alpha > 0.6 else INK
        out.append(
            _draw_text(str(count), x + side / 2, y + side / 2 + size * 0.35, size=size, color=ink, anchor="middle")
        )
    return out


def _draw_text(text: str, x: float, y: float, *, size: float, color: str, anchor: str, rotation: int = 0) -> str:
    """Return an SVG text, rotated about its own position."""
    transform = f' transform="rotate({rotation} {x:g} {y:g})"' if rotation else ""
    style = f'font-size="{size:g}" text-anchor="{anchor}" style="fill: {color}"'
    return f'<text x="{x:g}" y="{y:g}" {style}{transform}>{escape_text(text)}</text>'
