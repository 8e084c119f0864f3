"""Memory used by this process, memory that is available, and the load of the machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def peak_bytes() -> int:
    """Largest resident memory of this process so far, in bytes; 0 if unknown."""
    if resource is None:
        import psutil

        return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # in KiB elsewhere


def available_bytes() -> int:
    """Memory that another process could take without swapping, in bytes.

    Inside a container (control groups, version 2) at most what the container's limit leaves.
    """
    import psutil

    return min(int(psutil.virtual_memory().available), _left_in_container())


def _left_in_container(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Free bytes below the control group's limit; inactive file pages count as free."""
    try:
        limit = (group / "memory.max").read_text("ascii").strip()
        used = int((group / "memory.current").read_text("ascii"))
        lines = (group / "memory.stat").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return sys.maxsize
    if not limit.isdigit():  # "max" means no limit
        return sys.maxsize
    dropped = next(
        (int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0
    )
    return max(0, int(limit) - used + dropped)


def load_average() -> float:
    """The load average of the last minute; NaN where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
