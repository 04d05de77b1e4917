"""How much memory there is, to say so before work begins that cannot end."""

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from sk_rqkplus._warn import warn

# What is needed is known within this factor.
UNCERTAINTY = 1.5
# A limit above this is none.
NO_LIMIT = 2**60


def check_memory(needed: int, n_rows: int, device: torch.device, advice: str) -> None:
    """Refuse work that needs more memory than there is, and warn where it may.

    Parameters
    ----------
    needed : int
        Bytes that the work allocates at its peak.

    n_rows : int
        Number of rows, for the message.

    device : torch.device
        Where they are allocated.

    advice : str
        What to do, for the message.

    Raises
    ------
    MemoryError
        If it cannot be enough. Where what is available cannot be found out, nothing
        happens.

    Warns
    -----
    UserWarning
        If it is not sure to be enough.
    """
    there = available_bytes(device)
    if there is None or needed <= there / UNCERTAINTY:
        return
    refused = needed > there * UNCERTAINTY
    message = (
        f"n_samples={n_rows} need about {needed / 2**30:.2f} GiB, which should be "
        f"{'<=' if refused else 'well below'} {there / 2**30:.2f} GiB, the memory "
        f"available. {advice}"
    )
    if refused:
        raise MemoryError(message)
    warn(message)


def give_back() -> None:
    """Give memory that was freed back to the system, where the C library can.

    What is freed in pieces between others stays with the process: a pass over many
    tiles would take memory in proportion to their number.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def available_bytes(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that this process may still allocate.

    Parameters
    ----------
    device : torch.device
        Where.

    root : path, default="/"
        Folder that has ``proc`` and ``sys``.

    Returns
    -------
    available : int or None
        On a GPU what it has free. On Linux the least of what the system has available,
        what the control groups of the process leave, and what ``ulimit -v`` and
        ``ulimit -d`` leave. None elsewhere.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if not sys.platform.startswith("linux"):
        return None
    room = [*_system(root), *_control_groups(root), *_limits(root)]
    return max(0, min(room)) if room else None


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number, in bytes; none where there is no such file."""
    try:
        lines = path.read_text().replace(":", " ").splitlines()
    except OSError:
        return {}
    return {
        words[0]: int(words[1]) * (1024 if words[2:] == ["kB"] else 1)
        for words in map(str.split, lines)
        if len(words) > 1 and words[1].isdigit()
    }


def _system(root: Path) -> Iterator[int]:
    found = _fields(root / "proc/meminfo")
    if "MemAvailable" in found:
        yield found["MemAvailable"]


def _control_groups(root: Path) -> Iterator[int]:
    """What every control group leaves, this process's own and those around it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folder, most, used = root / "sys/fs/cgroup", "max", "current"
        elif "memory" in controllers.split(","):
            folder = root / "sys/fs/cgroup/memory"
            most, used = "limit_in_bytes", "usage_in_bytes"
        else:
            continue
        own = folder / path.lstrip("/")
        for group in (own, *own.parents):
            limit = _number(group / f"memory.{most}")
            usage = _number(group / f"memory.{used}")
            if limit is not None and usage is not None and limit < NO_LIMIT:
                yield limit - usage + _pages_of_files(group)
            if group == folder:
                break


def _pages_of_files(group: Path) -> int:
    """What a control group gives back when memory is short.

    Pages of a file that is read twice, as a fit reads one, are active.
    """
    stat = _fields(group / "memory.stat")
    return sum(
        stat.get(f"total_{kind}_file", stat.get(f"{kind}_file", 0))
        for kind in ("active", "inactive")
    )


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _limits(root: Path) -> Iterator[int]:
    """What the resource limits of the process leave."""
    import resource

    used = _fields(root / "proc/self/status")
    for limit, field in (("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData")):
        most, _ = resource.getrlimit(getattr(resource, limit))
        if 0 <= most < NO_LIMIT and field in used:
            yield most - used[field]
