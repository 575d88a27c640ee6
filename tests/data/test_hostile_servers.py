"""Servers that misbehave, on 127.0.0.1: each ends in one error after a few tries, and nothing of theirs is kept as the
file."""

from __future__ import annotations

import gc
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerwise.data.download.dataset_urls import DatasetFile, FileVersion
from layerwise.data.download.downloader import KIND, RetryPolicy, fetch_dataset
from layerwise.errors import DataError
from layerwise.runtime.owned_folders import MARKER, make_owned

BODY = bytes(range(256)) * 8
FILE = DatasetFile("f.bin", "", (FileVersion(len(BODY), hashlib.sha256(BODY).hexdigest()),))
QUICK = RetryPolicy(timeout=0.25, attempts=3, pause=0.0)
NEITHER = "could not be fetched|is not the file"
Answer = Callable[[socket.socket, bytes, int], None]  # a connection, the request, how many came before


@contextmanager
def serve_answer(answer: Answer) -> Iterator[tuple[str, list[bytes]]]:
    """Serve raw bytes; give the address and the requests."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                try:
                    one, _ = listening.accept()
                except TimeoutError:
                    continue
                with one:
                    one.settimeout(2)
                    try:
                        request = one.recv(1 << 16)
                        asked.append(request)
                        answer(one, request, len(asked) - 1)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        finally:
            done.set()
            thread.join()


def make_answer(status: str, *headers: str, body: bytes = b"", length: bool = True) -> Answer:
    """Return a server that always says the same."""
    lines = [f"HTTP/1.1 {status}", "Connection: close", *headers, *([f"Content-Length: {len(body)}"] if length else [])]
    return lambda one, request, before: one.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)


def redirect(one: socket.socket, request: bytes, before: int) -> None:
    one.sendall(f"HTTP/1.1 302 Found\r\nLocation: /{before}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())


def wait_for_client(one: socket.socket, request: bytes, before: int) -> None:
    threading.Event().wait(0.4)


HOSTILE: dict[str, tuple[Answer, str]] = {
    "416 for ever": (make_answer("416 Range Not Satisfiable"), "the server answers 416"),
    "500 for ever": (make_answer("500 Oh"), "the server answers 500"),
    "404": (make_answer("404 Not Found"), "the server answers 404"),
    "redirects for ever": (redirect, "the server answers 302"),
    "a redirect to itself": (make_answer("301 Moved", "Location: /"), "the server answers 301"),
    "a redirect to a file": (make_answer("301 Moved", "Location: file:///etc/passwd"), "the server answers 301"),
    "a redirect to nonsense": (make_answer("302 Found", "Location: http://[::bad"), "could not be fetched"),
    "a redirect with a port that is none": (
        make_answer("302 Found", "Location: http://127.0.0.1:x/"),
        "could not be fetched",
    ),
    "nothing": (lambda one, request, before: None, "could not be fetched"),
    "silence": (wait_for_client, "did not answer in time"),
    "no HTTP": (lambda one, request, before: one.sendall(b"\x1b[31mSSH-2.0\r\n"), "could not be fetched"),
    "a short body": (make_answer("200 OK", body=BODY[:100]), "is not the file it should be"),
    "a body that breaks off": (
        make_answer("200 OK", "Content-Length: 2048", body=b"", length=False),
        "could not be fetched",
    ),
    "a longer body": (make_answer("200 OK", body=BODY * 500), "is not the file it should be"),
    "a body without end": (
        lambda one, r, b: (one.sendall(b"HTTP/1.0 200 OK\r\n\r\n"), [one.sendall(BODY) for _ in range(10**5)])[0],
        "is not the file it should be",
    ),
    "other bytes": (make_answer("200 OK", body=BODY[::-1]), "is not the file it should be"),
    "a length of digits": (
        make_answer("200 OK", "Content-Length: " + "9" * 6000, body=BODY[:7], length=False),
        NEITHER,
    ),
    "a negative length": (make_answer("200 OK", "Content-Length: -5", body=BODY[:7], length=False), NEITHER),
    "headers without end": (
        lambda one, r, b: (one.sendall(b"HTTP/1.1 200 OK\r\n"), [one.sendall(b"a: b\r\n") for _ in range(10**5)])[0],
        "could not be fetched",
    ),
    "a line without end": (
        lambda one, r, b: (one.sendall(b"HTTP/1.1 200 "), [one.sendall(b"a" * 4096) for _ in range(1000)])[0],
        "could not be fetched",
    ),
    "bad chunks": (
        make_answer("200 OK", "Transfer-Encoding: chunked", body=b"f" * 20 + b"\r\nabc", length=False),
        NEITHER,
    ),
    "an escape in its words": (make_answer("404 \x1b[31mred"), "the server answers 404"),
}


def hold_part(place: Path, data: bytes) -> Path:
    """Put the part of an earlier attempt into a cache; return its path."""
    make_owned(place / ".partial", KIND)
    part = place / ".partial" / "set" / "f.bin.part"
    part.parent.mkdir()
    part.write_bytes(data)
    return part


HELD = [(kind, 0) for kind in HOSTILE] + [
    (kind, held)
    for kind in ("416 for ever", "a longer body", "redirects for ever", "other bytes", "nothing", "bad chunks")
    for held in (100, len(BODY), 5000)
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # urllib leaves a bad redirect's socket
@pytest.mark.parametrize(("kind", "held"), HELD)
def test_a_hostile_server_ends_in_one_error(
    kind: str, held: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer, message = HOSTILE[kind]
    hold_part(tmp_path, bytes(held))
    with serve_answer(answer) as (address, asked), pytest.raises(DataError, match=message) as caught:
        fetch_dataset("set", (FILE,), tmp_path, mirror=address, retries=QUICK)
    gc.collect()
    assert len(asked) <= 2 * 11 * QUICK.attempts
    assert "\x1b" not in str(caught.value) + capsys.readouterr().err
    assert not (tmp_path / "set").exists()
    sizes = {path.name: path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()}
    assert set(sizes) <= {"f.bin.part", "set.lock", MARKER}
    assert sizes.get("f.bin.part", 0) <= 2 * len(BODY) + 5000


def test_416_is_asked_again_from_the_first_byte_and_then_a_few_times(tmp_path: Path) -> None:
    hold_part(tmp_path, BODY[:100])
    with (
        serve_answer(make_answer("416 Range Not Satisfiable")) as (address, asked),
        pytest.raises(DataError, match="could not be fetched"),
    ):
        fetch_dataset("set", (FILE,), tmp_path, mirror=address, retries=QUICK)
    assert [b"Range: bytes=100-" in one for one in asked] == [True, False] * QUICK.attempts


def test_416_once_is_answered_by_the_whole_file(tmp_path: Path) -> None:
    hold_part(tmp_path, BODY[:100])

    def answer(one: socket.socket, request: bytes, before: int) -> None:
        (make_answer("416 Range Not Satisfiable") if b"Range" in request else make_answer("200 OK", body=BODY))(
            one, request, before
        )

    with serve_answer(answer) as (address, _):
        folder = fetch_dataset("set", (FILE,), tmp_path, mirror=address, retries=QUICK)
    assert (folder / "f.bin").read_bytes() == BODY


HEADERS = st.lists(
    st.sampled_from(
        [
            "Content-Length: 10",
            "Content-Length: 2048",
            "Content-Length: x",
            "Transfer-Encoding: chunked",
            "Content-Range: bytes 0-9/10",
            "Location: /x",
            "Location: http://\x7f/",
            "Content-Encoding: gzip",
            ":",
            "a" * 70000,
        ]
    ),
    max_size=3,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["200", "206", "301", "307", "416", "503", "999", "1", ""]),
    HEADERS,
    st.binary(max_size=60),
    st.booleans(),
)
def test_any_answer_ends_in_the_file_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, status: str, headers: list[str], body: bytes, held: bool
) -> None:
    place = tmp_path_factory.mktemp("s")
    hold_part(place, BODY[:100] if held else b"")
    with (
        serve_answer(make_answer(f"{status} x", *headers, body=body, length=False)) as (address, _),
        pytest.raises(DataError),
    ):
        fetch_dataset("set", (FILE,), place, mirror=address, retries=RetryPolicy(timeout=0.15, attempts=2, pause=0.0))
