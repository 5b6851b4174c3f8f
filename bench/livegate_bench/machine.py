"""The machine that a benchmark runs on, and the right to use it alone."""

import fcntl
import os
import time
from pathlib import Path
from statistics import median


def take_turn(stack, work):
    """One benchmark at a time: two would measure each other."""
    work.mkdir(parents=True, exist_ok=True)
    lock = stack.enter_context(open(work / "lock", "w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RuntimeError("another benchmark is at work in this checkout; wait for it") from None


def describe(measured_cpus, load_cpus, measured="server"):
    """When and where: for the head of a report."""
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "unknown")
    siblings = Path(f"/sys/devices/system/cpu/cpu{measured_cpus[0]}/topology/thread_siblings_list")
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cpu": model, "cores": os.cpu_count(), "kernel": os.uname().release, "load": os.getloadavg(),
                    f"{measured}_cpus": measured_cpus, "load_cpus": load_cpus,
                    f"{measured}_cpu_siblings": siblings.read_text().strip() if siblings.exists() else "unknown"},
    }


def fsync_us(directory):
    """What one small append costs until it is on disk, in this directory."""
    times = []
    path = directory / "fsync"
    with open(path, "wb") as file:
        for _ in range(200):
            began = time.monotonic()
            file.write(bytes(256))
            file.flush()
            os.fdatasync(file.fileno())
            times.append((time.monotonic() - began) * 1e6)
    path.unlink()
    return median(times)
