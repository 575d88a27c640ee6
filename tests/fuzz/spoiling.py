"""Spoil decoded content by its structure, and seal files again so that readers see what was spoiled and not a wrong
checksum."""

from __future__ import annotations

import hashlib
import json
import random
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import tomli_w
import torch
from fuzzing import mutate

from layerwise.run_directory import format_line
from layerwise.runtime.checksums import digest_file, dump_checksummed

DEEP: Any = []
for _ in range(60):
    DEEP = [DEEP]
TYPES = (torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool, torch.complex64)
ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3,
    7,
    2**31,
    2**53 + 1,
    -(2**63),
    10**9,
    10**30,
    1e308,
    -0.5,
    1e-320,
    "",
    "x",
    "0",
    "é" * 40,
    "../../etc/passwd",
    "/dev/zero",
    "/etc/passwd",
    "cuda:99",
    "\u202e\x1b[31m",
    "\0",
    "a" * 70_000,
    [],
    {},
    [[]],
    [0],
    [10**9],
    [30_000, 30_000],
    [1] * 5000,
    ["a", "a"],
    {"a": {"b": {}}},
    DEEP,
)


def spoil_value(value: Any, draw: random.Random, times: int = 3) -> Any:
    """Return decoded JSON with one to a few values replaced, removed, doubled, renamed or exchanged."""
    value = _copy(value)
    for _ in range(draw.randint(1, times)):
        containers = list(_iterate_containers(value))
        if not containers:
            return _copy(draw.choice(ODD))
        container = draw.choice(containers)
        keys = list(container) if isinstance(container, dict) else list(range(len(container)))
        key = draw.choice(keys)
        how = draw.randrange(6)
        if how <= 2:
            container[key] = _copy(draw.choice(ODD))
        elif how == 3:
            del container[key]
        elif how == 4:
            other = draw.choice(draw.choice(containers) and keys)
            container[key] = _copy(container[other])
        elif isinstance(container, dict):
            container[draw.choice(("x", "__class__", "../x", "kind", "name"))] = container.pop(key)
        else:
            container.append(_copy(container[key]))
    return value


def _copy(value: Any) -> Any:
    """Return a copy that shares nothing with the value."""
    return json.loads(json.dumps(value))


def _iterate_containers(value: Any) -> Any:
    """Yield every list and object that is not empty."""
    if isinstance(value, dict | list) and value:
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _iterate_containers(item)


def spoil_tensors(tensors: dict[str, torch.Tensor], draw: random.Random) -> dict[str, torch.Tensor]:
    """Return tensors with one to three removed, renamed, added, or of other shapes, types and numbers."""
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    for _ in range(draw.randint(1, 3)):
        if not tensors:
            break
        name = draw.choice(list(tensors))
        tensor = tensors[name]
        changes: tuple[Callable[[], torch.Tensor], ...] = (
            lambda t=tensor: t.flatten()[: t.numel() // 2].contiguous(),
            lambda t=tensor: t.unsqueeze(0),
            lambda t=tensor: t.to(draw.choice(TYPES)) if not t.is_complex() else t,
            lambda t=tensor: torch.full_like(t, float("nan")) if t.is_floating_point() else torch.full_like(t, -1),
            lambda t=tensor: torch.full_like(t, float("inf")) if t.is_floating_point() else t + 100,
            lambda t=tensor: torch.full_like(t, -6e4) if t.is_floating_point() else t.flip(0) if t.ndim else t,
            lambda t=tensor: torch.empty((0, *t.shape[1:]), dtype=t.dtype),
            lambda t=tensor: torch.zeros(3),
        )
        how = draw.randrange(len(changes) + 2)
        if how < len(changes):
            tensors[name] = changes[how]()
        elif how == len(changes):
            del tensors[name]
        else:
            tensors[draw.choice(("x", "", "rule.x", "window.part.x", "linear.weight", name + ".x"))] = tensors.pop(name)
    return tensors


def spoil_file(path: Path, draw: random.Random) -> None:
    """Spoil a file by what it holds: sealed JSON, JSON, TOML, lines of a log, tensors; now and then its bytes. Nothing
    is sealed here."""
    data = path.read_bytes()
    raw = draw.random() < 0.2 and path.name not in ("run.json", "state.json", "index.json")
    if raw:
        path.write_bytes(mutate(data, draw))
    elif path.suffix == ".safetensors":
        spoiled = spoil_tensors(safetensors.torch.load(data), draw)
        path.write_bytes(safetensors.torch.save({name: tensor.contiguous() for name, tensor in spoiled.items()}))
    elif path.suffix == ".toml":
        try:
            path.write_text(tomli_w.dumps(spoil_value(tomllib.loads(data.decode()), draw)), encoding="utf-8")
        except (TypeError, AttributeError, ValueError):  # what TOML cannot hold
            path.write_bytes(mutate(data, draw))
    elif path.suffix == ".jsonl":
        rows = [json.loads(row) for row in data.splitlines()]
        spoiled_rows = [spoil_value({k: v for k, v in row.items() if k != "crc"}, draw, 1) for row in rows[:3]]
        path.write_bytes(b"".join(format_line(row) for row in spoiled_rows if isinstance(row, dict)))
    else:
        path.write_text(json.dumps(spoil_value(json.loads(data), draw), ensure_ascii=False), encoding="utf-8")


def seal_file(path: Path, **more: Any) -> None:
    """Seal a JSON file again, with a right checksum, whatever it holds now."""
    content = json.loads(path.read_bytes())
    content = (
        {key: value for key, value in content.items() if key not in ("checksum", "format")}
        if isinstance(content, dict)
        else {}
    )
    path.write_bytes(dump_checksummed({**content, **more}))


def seal_run(run: Path) -> None:
    """Seal every file of a run again, from the inside out."""
    for folder in (run / "checkpoints").iterdir():
        names = ("model.safetensors", "state.safetensors")
        seal_file(folder / "state.json", files={name: digest_file(folder / name) for name in names})
    content = json.loads((run / "run.json").read_bytes())
    files = content.get("files") if isinstance(content, dict) else None
    if isinstance(files, dict):
        files = {**files, **{name: digest_file(run / name) for name in ("recipe.toml", "task.json") if name in files}}
        seal_file(run / "run.json", files=files)
    else:
        seal_file(run / "run.json")


def compute_folder_digest(folder: Path, *, without: str) -> str:
    """Return a digest of the names and bytes of everything below a place but one folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.relative_to(folder).parts[0] != without:
            digest.update(str(path).encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()
