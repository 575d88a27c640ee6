"""Memory that ran out, told from other failures. Nothing here imports torch: the command asks before it knows whose
error it is."""

from __future__ import annotations

REFUSED = ("can't allocate memory", "not enough memory", "out of memory")  # by torch's allocators: CPU, Windows, CUDA


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, or torch's allocators', which are RuntimeErrors."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in REFUSED)
    )
