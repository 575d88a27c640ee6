"""Images: one conversion (F03), told by content (F04), bombs and damage refused (F01, F02)."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from layerwise.data.images import decoding
from layerwise.errors import DataError, UsageError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)


def encode_image(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def make_bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims width × height, without the pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_give_back_their_pixels(kind: str) -> None:
    data = encode_image(Image.fromarray(RGB), kind)
    np.testing.assert_array_equal(decoding.decode(data, 3), RGB)
    assert decoding.read_shape(data) == decoding.inspect_image(data) == (6, 9, 3)


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WEBP"])
def test_lossy_formats_agree_with_pillow(kind: str) -> None:
    data = encode_image(Image.fromarray(RGB), kind)
    np.testing.assert_array_equal(decoding.decode(data, 3), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_gray_and_rgb() -> None:
    weights = np.array([0.299, 0.587, 0.114])
    gray = decoding.decode(encode_image(Image.fromarray(RGB)), 1)
    assert gray.shape == (6, 9, 1)
    assert np.abs(gray[..., 0] - RGB @ weights).max() <= 1
    wide = decoding.decode(encode_image(Image.fromarray(GRAY)), 3)
    np.testing.assert_array_equal(wide, np.repeat(GRAY[..., None], 3, 2))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = orientation
    data = encode_image(Image.fromarray(RGB), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    np.testing.assert_array_equal(decoding.decode(data, 3), expected)
    assert expected.shape[0] == (9 if orientation >= 5 else 6)
    assert decoding.read_shape(data) == decoding.inspect_image(data) == expected.shape


def test_alpha_is_composited_over_white() -> None:
    rgba = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(decoding.decode(encode_image(Image.fromarray(rgba)), 3) - expected).max() <= 1
    clear = encode_image(Image.new("LA", (2, 2), (0, 0)))
    np.testing.assert_array_equal(decoding.decode(clear, 1), np.full((2, 2, 1), 255))


def test_palette_is_looked_up_with_its_transparent_color() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    np.testing.assert_array_equal(decoding.decode(encode_image(image), 3), [[[10, 20, 30], [200, 100, 50]]])
    through = decoding.decode(encode_image(image, "PNG", transparency=1), 3)
    np.testing.assert_array_equal(through, [[[10, 20, 30], [255, 255, 255]]])


def test_sixteen_bits_keep_the_high_byte() -> None:
    deep = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    data = encode_image(Image.fromarray(deep))
    np.testing.assert_array_equal(decoding.decode(data, 1)[..., 0], [[0, 0, 1, 128, 255]])
    assert decoding.inspect_image(data) == (1, 5, 1)


def test_cmyk_becomes_rgb() -> None:
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    red = decoding.decode(encode_image(cmyk, "TIFF"), 3)
    assert red.shape == (4, 4, 3)
    np.testing.assert_array_equal(red[0, 0], np.asarray(cmyk.convert("RGB"))[0, 0])


def test_wrong_extension_and_animation_are_told_by_content(tmp_path) -> None:
    path = tmp_path / "image.png"
    frames = [Image.new("RGB", (3, 3), c) for c in ("red", "lime")]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decoding.decode(path, 3)[0, 0], [255, 0, 0])
    np.testing.assert_array_equal(decoding.decode(str(path), 3), decoding.decode(path.read_bytes(), 3))


def test_every_kind_of_raw_input_gives_the_same(tmp_path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    for raw in (path, str(path), path.read_bytes(), Image.fromarray(RGB), RGB):
        np.testing.assert_array_equal(decoding.decode(raw, 3), RGB)
    np.testing.assert_array_equal(decoding.decode(GRAY, 1), decoding.decode(GRAY[..., None], 1))


def test_bombs_are_refused_by_their_header() -> None:
    for width, height in ((9000, 9000), (12000, 12000), (60000, 60000)):
        with pytest.raises(DataError, match=r"x.png is too large to decode"):
            decoding.decode(make_bomb(width, height), 3, name="x.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_truncated_files_are_named(tmp_path, kind: str) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    data = encode_image(image, kind)
    path = tmp_path / "cut.img"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut.img"):
        decoding.decode(path, 3)


@pytest.mark.parametrize(
    ("data", "text"), [(b"", "is empty"), (b"hello, world", "as an image"), (b"%PDF-1.4", "as an image")]
)
def test_what_is_no_image(tmp_path, data: bytes, text: str) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(data)
    for read in (decoding.read_shape, decoding.inspect_image, lambda p: decoding.decode(p, 3)):
        with pytest.raises(DataError, match=rf"bad\.jpg {text}"):
            read(path)


def test_what_cannot_be_a_image(tmp_path) -> None:
    with pytest.raises(DataError, match="float64 of shape"):
        decoding.decode(np.zeros((3, 3)), 1)
    with pytest.raises(DataError, match="uint8 of shape"):
        decoding.decode(np.zeros((3, 3, 2), dtype=np.uint8), 3)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        decoding.decode(tmp_path / "none.png", 3)
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        decoding.decode(tmp_path, 3)
    with pytest.raises(DataError, match="received: int"):
        decoding.decode(3, 3)
    with pytest.raises(UsageError, match="1 or 3 channels"):
        decoding.decode(RGB, 2)
    with pytest.raises(DataError, match="floating-point samples"):
        decoding.decode(Image.fromarray(np.zeros((2, 2), dtype=np.float32)), 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_flipped_bytes_never_show_a_raw_exception(kind: str) -> None:
    data = encode_image(Image.fromarray(RGB), kind)
    for at in range(0, len(data), max(1, len(data) // 60)):
        broken = bytearray(data)
        broken[at] ^= 0xFF
        try:
            assert decoding.decode(bytes(broken), 3).shape[2] == 3
        except DataError as error:
            assert "the image given" in str(error)  # noqa: PT017 - damage may be harmless
