"""What processes spend, as the kernel tells."""

from __future__ import annotations

import psutil


def cpu_s(pid: int) -> float:
    """Processor time of a process and of its children, living or ended, so far."""
    process = psutil.Process(pid)
    children = process.children(recursive=True)
    return sum(process.cpu_times()[:4]) + sum(sum(each.cpu_times()[:2]) for each in children)


def memory_mib(pid: int) -> float:
    """A process's share of the machine's memory (PSS)."""
    return float(psutil.Process(pid).memory_full_info().pss) / 2**20
