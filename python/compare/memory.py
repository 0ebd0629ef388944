"""Memory of processes, for the scripts beside this one."""

from pathlib import Path


def peak_gb(pid="self"):
    """Peak resident memory of a process so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1e6
    return float("nan")
