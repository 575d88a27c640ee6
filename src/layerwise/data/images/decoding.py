"""Images to pixels: one conversion, the same in training and in prediction.

Shape letters: ``H W`` pixels, ``C`` channels (1 gray, 3 RGB). Everything becomes uint8:

- the content decides the format, never the name; of an animated file or several pages, the first frame is taken;
- EXIF rotation and mirroring are applied;
- palettes are looked up, and alpha is composited over white;
- 16-bit samples keep their high byte (65535 → 255); 32-bit integers and floats are refused;
- CMYK, YCbCr, LAB and HSV become RGB; RGB to gray is Y = 0.299 R + 0.587 G + 0.114 B (ITU-R 601-2); gray to
  RGB repeats.

Sizes are checked in the header, before anything is decoded. No global state of Pillow is read or set.

Images can be resized here (`resize.resize_images`); a JPEG is then decoded with only as much detail as needed: the
codec leaves out the higher frequencies of each 8×8 block and gives ½, ¼ or ⅛ of its sides (Pillow's draft mode).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layerwise.errors import DataError, UsageError
from layerwise.runtime.input_files import open_regular_file

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MAX_PIXELS = 64_000_000
ORIENTATION = 0x0112  # the EXIF tag
GRAY = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"})
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Pixels = NDArray[np.uint8]


def decode(raw: object, channels: int, *, name: str = "", size: tuple[int, int] | None = None) -> Pixels:
    """Return an image as uint8 pixels (H, W, channels).

    Args:
        raw: a path, the bytes of a file, a PIL image, or a uint8 array (H, W) or (H, W, C) with C 1, 3 or 4
            (RGBA).
        channels: 1 for gray, 3 for RGB.
        name: what messages call the image, where ``raw`` is not a path.
        size: (height, width) to resize to, with the proportions kept and the center cropped; None keeps the size.

    Raises:
        DataError: for what is not an image, is damaged, too large, or of a kind not converted; names the file.
        UsageError: for another number of channels.
    """
    if channels not in (1, 3):
        raise UsageError("images are decoded as gray or RGB", expected="1 or 3 channels", received=f"{channels}")
    display_name = _get_display_name(raw, name)
    if isinstance(raw, np.ndarray):
        return _resize(_convert_array(raw, channels, display_name), size)
    with _open_image(raw, display_name) as image, _translate_errors(display_name):
        if size is not None:
            _set_draft_size(image, size)
        return _resize(_convert_pixels(_make_upright(image), channels, display_name), size)


def _resize(pixels: Pixels, size: tuple[int, int] | None) -> Pixels:
    """Resize pixels, if a size is given."""
    if size is None:
        return pixels
    from layerwise.data.images.resize import resize_image  # imports torch: only where images are resized

    return resize_image(pixels, size)


def _set_draft_size(image: Image.Image, size: tuple[int, int]) -> None:
    """Let the codec leave out detail that an image of this size does not need, if it can."""
    from layerwise.data.images.resize import compute_draft_size

    if image.format not in ("JPEG", "MPO"):
        return
    width, height = image.size
    is_rotated = _read_orientation(image) >= 5  # the file's rows are the image's columns
    rows, columns = compute_draft_size(height, width, size[::-1] if is_rotated else size)
    image.draft(None, (columns, rows))


def inspect_image(raw: object, *, name: str = "") -> tuple[int, int, int]:
    """Decode an image completely and return its shape (H, W, C): C is 1 if it is gray, else 3.

    Raises `DataError` as `decode` does: this is the check before training starts.
    """
    display_name = _get_display_name(raw, name)
    with _open_image(raw, display_name) as image, _translate_errors(display_name):
        width, height = image.size
        if image.format in ("JPEG", "MPO"):
            image.draft(None, (1, 1))  # reads every byte all the same, and is done sooner
            image.load()
            is_rotated = _read_orientation(image) >= 5
            return (width, height, _count_channels(image)) if is_rotated else (height, width, _count_channels(image))
        upright = _make_upright(image)
        if upright.mode in ("I", "F"):  # the modes whose values decide whether they can be converted
            _convert_pixels(upright, _count_channels(upright), display_name)
        return upright.height, upright.width, _count_channels(upright)


def _count_channels(image: Image.Image) -> int:
    """Return 1 for gray images, 3 for others."""
    return 1 if image.mode in GRAY else 3


def read_shape(raw: object, *, name: str = "") -> tuple[int, int, int]:
    """Return the shape (H, W, C) an image will have, from its header alone: C is 1 if it is gray, else 3.

    The pixels are not decoded, so a file that is cut off further down passes. Raises `DataError` for what is
    no image.
    """
    display_name = _get_display_name(raw, name)
    with _open_image(raw, display_name) as image, _translate_errors(display_name):
        width, height = image.size
        has_late_exif = image.format == "PNG" and "exif" not in image.info  # PNG may carry EXIF behind its pixels
        if image.format != "TIFF" and not has_late_exif and _read_orientation(image) >= 5:
            width, height = height, width
        return height, width, _count_channels(image)


def escape_name(name: str) -> str:
    """Return a file name that can be printed, whatever bytes it is made of."""
    return name.encode("utf-8", "backslashreplace").decode()


def _get_display_name(raw: object, name: str) -> str:
    """Return the name of an image for messages."""
    if name:
        return escape_name(name)
    if isinstance(raw, str | os.PathLike):
        return escape_name(os.fsdecode(raw))
    return {bytes: "the image given as bytes", np.ndarray: "the array given"}.get(type(raw), "the image given")


@contextmanager
def _translate_errors(display_name: str) -> Iterator[None]:
    """Translate all errors of a codec to `DataError`: on damaged files Pillow raises almost anything."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _make_too_large_error(display_name, str(error)) from error
    except Exception as error:
        raise DataError(
            f"{display_name} cannot be decoded: {error}",
            expected="a complete image",
            received="a damaged or truncated file",
            do="replace the file, or leave bad files out with --set data.on_error=skip",
        ) from error


@contextmanager
def _open_image(raw: object, display_name: str) -> Iterator[Image.Image]:
    """Open an image without decoding it, and check its size."""
    if isinstance(raw, Image.Image):
        _check_size(raw, display_name)
        yield raw
        return
    with _open_stream(raw, display_name) as stream, _identify_format(stream, display_name) as image:
        _check_size(image, display_name)
        yield image


def _open_stream(raw: object, display_name: str) -> Any:
    """Return the bytes of a path or of a bytes object as a binary file."""
    if isinstance(raw, bytes | bytearray | memoryview):
        return io.BytesIO(raw)
    if not isinstance(raw, str | os.PathLike):
        raise DataError(
            f"cannot read {display_name} as an image",
            expected="a path, the bytes of a file, a PIL image or a uint8 array (H, W[, C])",
            received=type(raw).__name__,
        )
    try:
        return open_regular_file(raw)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{display_name} cannot be read: {reason}", do="check the path and its permissions") from error


def _identify_format(stream: Any, display_name: str) -> Image.Image:
    """Find the format by content, among those that are allowed."""
    if not stream.read(1):
        raise DataError(f"{display_name} is empty", expected="an image", received="0 bytes")
    stream.seek(0)
    try:
        return Image.open(stream, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _make_too_large_error(display_name, str(error)) from error
    except Exception as error:
        stream.seek(0)
        raise DataError(
            f"cannot read {display_name} as an image",
            expected=f"the contents of one of {', '.join(FORMATS)}",
            received=f"a file that begins with {stream.read(8)!r}",
            do="replace or remove the file, or leave bad files out with --set data.on_error=skip",
        ) from error


def _check_size(image: Image.Image, display_name: str) -> None:
    """Raise `DataError` for empty images and decompression bombs, by the header alone."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _make_too_large_error(display_name, f"{width} × {height} = {width * height} pixels")
    if width * height == 0:
        raise DataError(f"{display_name} has no pixels", expected="an image", received=f"{width} × {height} pixels")


def _make_too_large_error(display_name: str, received: str) -> DataError:
    """Make the error for a decompression bomb."""
    return DataError(
        f"{display_name} is too large to decode",
        expected=f"at most {MAX_PIXELS} pixels",
        received=received,
        do="scale it down first",
    )


def _read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where there is none or it cannot be read."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF says nothing about the pixels
        return 1
    return orientation if isinstance(orientation, int) else 1


def _make_upright(image: Image.Image) -> Image.Image:
    """Decode the first frame and apply its EXIF orientation. (Pillow rotates TIFFs by itself while decoding.)"""
    image.load()
    method = TRANSPOSES.get(_read_orientation(image))
    if method is None:
        return image
    rotated = image.transpose(method)
    rotated.info = image.info
    return rotated


def _convert_pixels(image: Image.Image, channels: int, display_name: str) -> Pixels:
    """Convert a decoded image to (H, W, channels) by the rules above."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_take_high_bytes(image, display_name))
    if image.mode in ("La", "RGBa"):  # alpha already multiplied in
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba).convert("RGB")
    if channels == 1 and image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    mode = "L" if channels == 1 else "RGB"
    pixels = np.array(image if image.mode == mode else image.convert(mode), dtype=np.uint8)
    return pixels[:, :, None] if channels == 1 else pixels


def _take_high_bytes(image: Image.Image, display_name: str) -> Pixels:
    """Return 16-bit gray samples (H, W) as their high bytes."""
    values = np.asarray(image)
    if image.mode == "F" or (values.size and (values.min() < 0 or values.max() > 65535)):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise DataError(
            f"{display_name} has {kind} samples",
            expected="8 or 16 bits a sample",
            do="convert it to 8-bit PNG first",
        )
    return (values.astype(np.uint16) >> 8).astype(np.uint8)


def _convert_array(raw: NDArray[Any], channels: int, display_name: str) -> Pixels:
    """Convert an array (H, W) or (H, W, C)."""
    has_image_shape = raw.ndim == 2 or (raw.ndim == 3 and raw.shape[2] in (1, 3, 4))
    if raw.dtype != np.uint8 or not has_image_shape or not raw.size:
        raise DataError(
            f"{display_name} is not an image",
            expected="a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) with values from 0 to 255",
            received=f"{raw.dtype} of shape {raw.shape}",
            do="scale it to 0…255 and convert with .astype(numpy.uint8)" if raw.dtype != np.uint8 else "",
        )
    if raw.shape[0] * raw.shape[1] > MAX_PIXELS:
        raise _make_too_large_error(display_name, f"{raw.shape[1]} × {raw.shape[0]} pixels")
    plain = raw[:, :, 0] if raw.ndim == 3 and raw.shape[2] == 1 else raw
    return _convert_pixels(Image.fromarray(np.ascontiguousarray(plain)), channels, display_name)
