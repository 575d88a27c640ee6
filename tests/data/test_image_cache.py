"""Decoding to a size, and decoded images kept on disk: the same pixels, checked, rebuilt, bounded, never half
written."""

from __future__ import annotations

import errno
import io
import os
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from layerwise import api
from layerwise.data import cache_folders
from layerwise.data.images import decoding, folders, image_cache
from layerwise.data.images.folders import ImageSource
from layerwise.data.images.image_cache import CachedImages, open_cache
from layerwise.data.source import Subset, set_image_size
from layerwise.runtime import owned_folders
from layerwise.tasks.classification import Classification
from layerwise.tasks.inputs import ImageInputs
from test_contract import weights_of

BIG = 1 << 40


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of 24 JPEGs: parts of two real photographs, 160×120."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for label, pixels in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (folder / label).mkdir()
        for n in range(12):
            top, left = rng.integers(0, 300), rng.integers(0, 470)
            Image.fromarray(pixels[top : top + 120, left : left + 160]).save(folder / label / f"{n}.jpg", quality=90)
    return folder


def open_images(folder: Path, size: tuple[int, int] = (48, 48)) -> ImageSource:
    images = set_image_size(folders.open_folder(folder)[0]["train"], size)
    assert isinstance(images, ImageSource)
    return images


def make_jpeg(width: int, height: int, *, orientation: int = 1, mode: str = "RGB") -> bytes:
    """Return a photograph as JPEG bytes."""
    image = (
        Image.fromarray(load_sample_images().images[0]).resize((width, height), Image.Resampling.LANCZOS).convert(mode)
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92, exif=exif)
    return out.getvalue()


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("channels", [1, 3])
def test_scaled_decoding_shows_the_same_image(orientation: int, channels: int) -> None:
    """Beside decoding everything and Pillow's own antialiased resizing, upright, its middle cut out."""
    raw = make_jpeg(640, 400, orientation=orientation)
    got = decoding.decode(raw, channels, size=(90, 120)).astype(float)
    full = decoding.decode(raw, channels)
    height, width = full.shape[:2]
    factor = max(90 / height, 120 / width)
    image = Image.fromarray(full.squeeze()).resize(
        (round(width * factor), round(height * factor)), Image.Resampling.BILINEAR
    )
    left, top = (image.width - 120) // 2, (image.height - 90) // 2
    want = np.asarray(image.crop((left, top, left + 120, top + 90)), dtype=float).reshape(90, 120, channels)
    assert np.abs(got - want).mean() < 5  # of 255: the codec's scaling is a little sharper
    assert np.abs(got - np.roll(want, 2, axis=1)).mean() > 8


def test_only_as_much_as_is_needed_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the size that Pillow has after decoding: an eighth of the sides of a large photograph, all of one just large
    enough."""
    seen = []
    load = decoding._make_upright
    monkeypatch.setattr(decoding, "_make_upright", lambda p: seen.append(load(p).size) or load(p))
    decoding.decode(make_jpeg(2400, 1600), 3, size=(180, 180))
    decoding.decode(make_jpeg(2400, 1600, orientation=6), 3, size=(180, 180))
    decoding.decode(make_jpeg(400, 300), 3, size=(180, 180))
    decoding.decode(make_jpeg(400, 300), 3)
    assert seen == [(300, 200), (200, 300), (400, 300), (400, 300)]


def test_a_truncated_file_is_found_by_the_check() -> None:
    for orientation in (1, 6):
        raw = make_jpeg(640, 400, orientation=orientation)
        assert decoding.inspect_image(raw) == ((400, 640, 3) if orientation == 1 else (640, 400, 3))
        with pytest.raises(decoding.DataError, match="truncated"):
            decoding.inspect_image(raw[: len(raw) * 2 // 3])
    assert decoding.inspect_image(make_jpeg(64, 40, mode="CMYK")) == (40, 64, 3)
    assert decoding.inspect_image(make_jpeg(64, 40, mode="L")) == (40, 64, 1)


def test_training_and_prediction_see_the_same_pixels(photographs: Path) -> None:
    inputs = ImageInputs((48, 48), 3, (0.0,) * 3, (1.0,) * 3)
    files = inputs.convert_source(open_images(photographs))
    path = files.name_of(5)
    trained = inputs.tensor(files[5].input[None])[0]
    assert torch.equal(inputs.encode(path), trained)
    assert torch.equal(inputs.encode(Path(path).read_bytes()), trained)


def test_statistics_hold_a_few_images_at_a_time(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those of all images at once, and their size is the median of the shorter sides without decoding."""
    files = folders.open_folder(photographs)[0]["train"]
    shapes = []
    decode = decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda *a, **k: shapes.append(out := decode(*a, **k)) or out)
    inputs = ImageInputs.fit(Subset(files, np.arange(0, 24, 2)), size=32, scale="standard")
    assert {one.shape for one in shapes} == {(32, 32, 3)}
    every = np.stack(shapes).reshape(-1, 3) / 255
    np.testing.assert_allclose(inputs.mean, every.mean(0), atol=1e-6)
    np.testing.assert_allclose(inputs.std, every.std(0), atol=1e-6)


def test_a_cache_gives_the_pixels_of_the_files(photographs: Path, tmp_path: Path) -> None:
    files, steps = open_images(photographs), []
    folder = open_cache(tmp_path, files, limit=BIG, progress=lambda done, count: steps.append((done, count)))
    assert isinstance(folder, Path)
    assert steps[-1] == (24, 24)
    cached = CachedImages(files, str(folder))
    at = np.array([3, 0, 23, 3])
    want, got = files.fetch(at), cached.fetch(at)
    assert np.array_equal(np.asarray(got.inputs), np.asarray(want.inputs))
    assert np.array_equal(got.targets, want.targets)  # type: ignore[arg-type]
    assert (cached.fingerprint(), cached.name_of(2), len(cached)) == (files.fingerprint(), files.name_of(2), 24)
    assert cached[7].target == files[7].target
    again = pickle.dumps(cached)
    assert len(again) < len(pickle.dumps(files)) + 300  # no pixels go to a worker
    assert np.array_equal(pickle.loads(again)[7].input, files[7].input)
    steps.clear()
    assert open_cache(tmp_path, files, limit=BIG, progress=lambda done, count: steps.append((done, count))) == folder
    assert not steps


def test_other_files_sizes_and_channels_have_another_cache(photographs: Path, tmp_path: Path) -> None:
    names = {
        image_cache.compute_cache_name(open_images(photographs)),
        image_cache.compute_cache_name(open_images(photographs, (32, 32))),
    }
    copy = tmp_path / "copy"
    for path in photographs.rglob("*.jpg"):
        (copy / path.parent.name).mkdir(parents=True, exist_ok=True)
        (copy / path.parent.name / path.name).write_bytes(path.read_bytes())
    assert image_cache.compute_cache_name(open_images(copy)) in names  # the same contents elsewhere
    first = copy / "temple" / "0.jpg"
    status = first.stat()
    first.write_bytes((copy / "temple" / "1.jpg").read_bytes())
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert image_cache.compute_cache_name(open_images(copy)) not in names  # by content, not by time


def test_a_damaged_image_is_decoded_from_its_file(photographs: Path, tmp_path: Path) -> None:
    files = open_images(photographs)
    folder = open_cache(tmp_path, files, limit=BIG, progress=lambda *_: None)
    assert isinstance(folder, Path)
    with (folder / image_cache.PIXELS).open("r+b") as stream:
        stream.seek(128 + 5 * 48 * 48 * 3 + 100)
        byte = stream.read(1)
        stream.seek(-1, 1)
        stream.write(bytes([byte[0] ^ 1]))
    cached = CachedImages(files, str(folder))
    assert np.array_equal(cached[5].input, files[5].input)
    assert not image_cache.is_complete(folder, files)  # and built anew the next time
    open_cache(tmp_path, files, limit=BIG, progress=lambda *_: None)
    assert image_cache.is_complete(folder, files)
    with (folder / image_cache.PIXELS).open("r+b") as stream:
        stream.truncate(1000)
    assert not image_cache.is_complete(folder, files)
    (folder / cache_folders.INDEX).write_text("{")
    assert not image_cache.is_complete(folder, files)
    assert open_cache(tmp_path, files, limit=BIG, progress=lambda *_: None) == folder
    assert image_cache.is_complete(folder, files)


KILLED = """
import sys, time
from pathlib import Path
from layerwise.data.images import folders, image_cache
from layerwise.data.source import set_image_size
files = set_image_size(folders.open_folder(Path(sys.argv[1]))[0]["train"], (48, 48))
def report_progress(done, count):
    print("writing", flush=True)
    time.sleep(60)
image_cache.open_cache(Path(sys.argv[2]), files, limit=1 << 40, progress=report_progress)
"""


def test_a_killed_build_leaves_nothing_that_counts(photographs: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(photographs), str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.kill()
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".lock", ".new"]
    folder = open_cache(tmp_path, open_images(photographs), limit=BIG, progress=lambda *_: None)
    assert list(tmp_path.iterdir()) == [folder]


def test_one_that_is_being_built_is_waited_for(photographs: Path, tmp_path: Path) -> None:
    """Two runs begin at once: the second says now and then that it waits, and uses what the first has built."""
    calls: list[tuple[int, int]] = []
    code = KILLED.replace("time.sleep(60)", "time.sleep(1.5)")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(photographs), str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        folder = open_cache(tmp_path, open_images(photographs), limit=BIG, progress=lambda *call: calls.append(call))
        assert process.wait() == 0
    assert set(calls) == {(0, 24)}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_cache_that_is_gone_is_read_from_its_files(photographs: Path, tmp_path: Path) -> None:
    """Another run needed its room: workers that open it later decode."""
    files = open_images(photographs)
    folder = open_cache(tmp_path, files, limit=BIG, progress=lambda *_: None)
    cached = CachedImages(files, str(folder))
    assert owned_folders.remove_owned(Path(folder), cache_folders.KIND)
    at = [3, 0, 17]
    assert np.array_equal(cached.fetch(at).inputs, files.fetch(at).inputs)
    assert np.array_equal(cached[5].input, files[5].input)


def test_a_disk_that_refuses_is_said_and_leaves_no_litter(photographs: Path, tmp_path: Path) -> None:
    """Files may not grow beyond 50,000 bytes: the same error from the system's side as a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        reason = open_cache(tmp_path, open_images(photographs), limit=BIG, progress=lambda *_: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.strerror(errno.EFBIG) in str(reason)
    assert not list(tmp_path.iterdir())


def test_old_caches_make_room_and_too_much_is_refused(photographs: Path, tmp_path: Path) -> None:
    sizes = [(16, 16), (20, 20), (24, 24)]
    caches = []
    for size in sizes:
        caches.append(
            open_cache(
                tmp_path,
                open_images(photographs, size),
                limit=24 * 3 * (16**2 + 24**2) + 1000,
                progress=lambda *_: None,
            )
        )
        time.sleep(0.02)  # their times tell which was used last
    assert [isinstance(one, Path) and one.exists() for one in caches] == [False, False, True]
    (tmp_path / "notes").mkdir()
    cache_folders.evict_caches(tmp_path, 0, large=image_cache.PIXELS)
    assert [p.name for p in tmp_path.iterdir()] == ["notes"]
    assert "data.cache_gib allows" in str(
        open_cache(tmp_path, open_images(photographs), limit=1000, progress=lambda *_: None)
    )


RUN: dict[str, Any] = {
    "train.memory_mib": 1,
    "train.threads": 1,
    "task.size": 96,
    "model.widths": [4],
    "model.dense": [8],
}


def test_runs_with_and_without_a_cache_learn_the_same(
    photographs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run that streams keeps its images; the second reads them, and one that decodes each time has the same
    weights."""
    runs = []
    for name, cache in (("a", str(tmp_path / "cache")), ("b", str(tmp_path / "cache")), ("c", "off")):
        options = {**RUN, "data.cache": cache, "train.workers": -1 if cache == "off" else 0}
        runs.append(
            api.train(
                "cnn", data=photographs, epochs=2, batch_size=8, out=tmp_path / name, options=options, quiet=False
            )
        )
    output = capfd.readouterr().err
    assert output.count("decoding 24 images once") == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1
    first, *others = (weights_of(run) for run in runs)
    for other in others:
        assert all(torch.equal(first[n], other[n]) for n in first)
    assert runs[0].info["fingerprint"] == runs[2].info["fingerprint"]


def test_a_cache_that_cannot_be_had_is_said(
    photographs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {**RUN, "data.cache": str(tmp_path / "cache"), "data.cache_gib": 0, "train.workers": -1}
    api.train("cnn", data=photographs, epochs=2, batch_size=8, out=tmp_path / "run", options=options, quiet=False)
    assert "the decoded images are not kept: they would take" in capfd.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_tables_have_no_cache() -> None:
    with pytest.raises(decoding.UsageError, match=r"data\.cache has no meaning"):
        api.train("mlp", data="iris", options={"data.cache": "off"})


def test_stacks_of_sizes_are_one_tensor(photographs: Path) -> None:
    """Arrays of several sizes, as bytes and as numbers, come to one size."""
    task = Classification.prepare(folders.open_folder(photographs)[0]["train"], Classification.Options(size=16))
    mixed = [np.zeros((16, 16, 3), np.uint8), np.full((40, 30, 3), 255, np.uint8)]
    assert task.inputs.tensor(mixed).shape == (2, 3, 16, 16)
