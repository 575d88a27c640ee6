"""Other people's weights: nothing in them is executed, and what is malformed or does not fit is refused whole
(F29–F31)."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from layerwise import api
from layerwise.cli import main
from layerwise.errors import DamagedError, UsageError
from layerwise.weights.loading import load_weights


class Evil:
    """Unpickling this makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("form", ["pickle", "torch zip", "torch legacy", "in a state_dict"])
def test_a_malicious_pickle_is_never_executed(form: str, ending: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "it ran", tmp_path / f"weights{ending}"
    evil: Any = {"0.weight": torch.zeros(2), "x": Evil(marker)} if form == "in a state_dict" else Evil(marker)
    if form == "pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=form != "torch legacy")
    with pytest.raises(DamagedError) as caught:
        api.build("mlp", features=64, outputs=10, weights=path)
    assert not marker.exists()
    assert str(path) in str(caught.value)
    pickle.loads(pickle.dumps(Evil(marker))).close()  # the same object does harm where it is unpickled
    assert marker.exists()


@pytest.mark.parametrize("data", [b"", b"a,b\n1,2\n", b"\x80", b"}", bytes(range(256)), b"PK\x03\x04"])
def test_foreign_files_are_no_weights(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(data)
    with pytest.raises(DamagedError, match=r"w\.pt"):
        api.build("mlp", features=64, outputs=10, weights=tmp_path / "w.pt")


def test_the_command_refuses_a_malicious_pickle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(Evil(tmp_path / "it ran"), tmp_path / "x.pt")
    assert main(["train", "mlp", "--data", "digits", "--weights", "x.pt", "--out", "run", "--epochs", "1"]) == 2
    assert "was not opened" in capsys.readouterr().err
    assert not (tmp_path / "it ran").exists()


def header(**entries: Any) -> bytes:
    """Return a safetensors header with its length."""
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def malformed() -> dict[str, bytes]:
    """Return malformed safetensors files by what is wrong."""
    good = safetensors.torch.save({"1.weight": torch.zeros(3, 4), "1.bias": torch.zeros(3)})
    length = int.from_bytes(good[:8], "little")
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return {
        "empty": b"",
        "seven bytes": good[:7],
        "truncated": good[:-5],
        "truncated header": good[: 8 + length // 2],
        "header too long": (length + 50).to_bytes(8, "little") + good[8:],
        "header of exabytes": (1 << 60).to_bytes(8, "little") + good[8:],
        "header too short": (length - 9).to_bytes(8, "little") + good[8:],
        "overlapping": header(a=entry, b={**entry, "data_offsets": [4, 12]}) + bytes(12),
        "offsets backwards": header(a={**entry, "data_offsets": [8, 0]}) + bytes(8),
        "offsets outside": header(a={**entry, "data_offsets": [0, 800]}) + bytes(8),
        "shape too large": header(a={**entry, "shape": [1 << 62, 4]}) + bytes(8),
        "unknown type": header(a={**entry, "dtype": "P32"}) + bytes(8),
        "more behind": good + b"x",
        "no JSON": (4).to_bytes(8, "little") + b"evil",
    }


@pytest.mark.parametrize("name", sorted(malformed()))
def test_malformed_safetensors_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(malformed()[name])
    with pytest.raises(DamagedError, match="is damaged: it is not a safetensors file") as caught:
        api.build("mlp", features=4, outputs=3, weights=path)
    assert str(path) in str(caught.value)


def test_weights_of_another_shape_list_every_key_and_load_nothing(tmp_path: Path) -> None:
    model = api.build("mlp", features=64, outputs=10, hidden=[16])
    before = {n: t.clone() for n, t in model.state_dict().items()}
    other = {n: t + 1 for n, t in before.items()}
    other["3.weight"], other["3.bias"] = torch.zeros(7, 16), torch.zeros(7)
    other["9.weight"] = torch.zeros(2, 2)
    del other["1.bias"]
    safetensors.torch.save_file(other, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"4 key\(s\) differ") as caught:
        load_weights(model, tmp_path / "w.safetensors")
    for text in (
        "1.bias: missing (expected (16,))",
        "9.weight: not in the model (received (2, 2))",
        "3.weight: expected (10, 16), received (7, 16)",
        "3.bias: expected (10,), received (7,)",
    ):
        assert text in str(caught.value)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
