"""The machine's facts (`layerwise.runtime.machine.describe`) in words, for ``doctor``, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Facts = Mapping[str, Any]
Lang = Literal["en", "zh"]


def format_facts(facts: Facts, lang: Lang) -> list[tuple[str, str]]:
    """Return each fact's name and its value here, from the system down to the settings."""
    zh = lang == "zh"
    cpu, torch, memory = facts["cpu"], facts["torch"], facts["memory"]
    cores = f"{cpu['cores']} 核" if zh else f"{cpu['cores']} core{'s' * (cpu['cores'] != 1)}"
    threads = f"{torch['threads']} 线程" if zh else f"{torch['threads']} thread{'s' * (torch['threads'] != 1)}"
    libraries = [name for name, is_available in (("MKL", torch["mkl"]), ("oneDNN", torch["onednn"])) if is_available]
    total, free = _format_gib(memory["total"]), _format_gib(memory["available"])
    return [
        ("系统" if zh else "system", facts["platform"]),
        ("Python", facts["python"]),
        ("处理器" if zh else "processor", ", ".join((cpu["model"], cpu["instructions"], cores))),
        ("内存" if zh else "memory", f"{total}，可用 {free}" if zh else f"{total}, {free} free"),
        ("torch", ", ".join((torch["version"], threads, *libraries))),
        ("设备" if zh else "devices", ", ".join(_format_devices(facts["devices"]))),
        ("float32 矩阵乘" if zh else "float32 products", _format_products(facts["matmul"], zh=zh)),
        ("3×3 卷积" if zh else "3×3 convolutions", _format_convolutions(facts["openmp"], zh=zh)),
        ("大块内存" if zh else "large buffers", _format_buffers(facts["allocator"], zh=zh)),
    ]


def _format_gib(size: int) -> str:
    """Return bytes as GiB."""
    return f"{size / 2**30:.1f} GiB"


def _format_devices(devices: Facts) -> list[str]:
    """Return the devices by name."""
    return [
        "cpu",
        *(f"cuda ({spec['name']}, {_format_gib(spec['memory'])})" for spec in devices["cuda"]),
        *(["mps"] if devices["mps"] else []),
    ]


def _format_products(matmul: Facts, *, zh: bool) -> str:
    """Return the route that is used, and what the measurement of both gave."""
    measured, precision = matmul["measured"], matmul["precision"]
    speed, error = measured["speedup"], measured["error_ratio"]
    is_overridden = precision != measured["chosen"]
    if zh:
        why = f"实测 medium 的速度是 highest 的 {speed:.2f} 倍，误差是 {error:.1f} 倍"
        return f"{precision}（{why}{'；由 LAYERWISE_MATMUL 指定' if is_overridden else ''}）"
    why = f"measured: medium is {speed:.2f} times as fast as highest, with {error:.1f} times its error"
    return f"{precision} ({why}{'; LAYERWISE_MATMUL decides' if is_overridden else ''})"


def _format_convolutions(openmp: str | None, *, zh: bool) -> str:
    """Return how 3×3 convolutions are computed, and on which threads."""
    if zh:
        on = f"torch 自己的线程（{openmp}）" if openmp else "Python 线程，因为没有找到 torch 的 OpenMP"
        return f"float32 时由实测较快的内核计算：torch 自己的，或 Winograd 的 F(4×4, 3×3)（用 {on}）"
    on = f"torch's own threads ({openmp})" if openmp else "Python threads, as torch's OpenMP was not found"
    return f"in float32 by the kernel measured as faster: torch's own, or Winograd's F(4×4, 3×3) on {on}"


def _format_buffers(allocator: Facts, *, zh: bool) -> str:
    """Return whether freed large buffers stay with the process."""
    are_kept = allocator["large buffers kept"]
    limits = ", ".join(f"{name} {value >> 20} MiB" for name, value in allocator["thresholds"].items())
    if zh:
        return f"保留在进程内（{limits}）" if are_kept else "按系统默认归还"
    return f"kept by the process ({limits})" if are_kept else "given back, as the system does by default"
