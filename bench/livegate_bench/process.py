"""Child processes pinned to cores, and what /proc says they used.

Every child gets its own session (Ctrl-C reaches only this program, which then ends them by pid)
and a parent-death signal, so that none outlives this program however it ends.
"""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None, use_errno=True)
# The same for proxies, load and origin: it keeps other programs out, and favours none of ours.
_NICE = -15
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

# 10 000 idle connections need as many descriptors in one process, and upstream ones beside them.
DESCRIPTORS = 65_536


def raise_descriptor_limit():
    """Raises RLIMIT_NOFILE as far as this user may; children inherit it. Returns the limit reached."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, max(hard, DESCRIPTORS)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@dataclass(frozen=True)
class CpuReading:
    """What a process and its descendants had used at one moment."""

    run_ns: dict  # (pid, tid) -> time on a CPU, nanoseconds (schedstat)
    user_ticks: int  # threads that ended are in these, not in run_ns
    kernel_ticks: int


@dataclass(frozen=True)
class CpuUse:
    """Difference of two readings, in microseconds."""

    user: float
    kernel: float
    threads: dict  # (pid, tid) -> microseconds

    @property
    def total(self):
        return self.user + self.kernel


def cpu_between(before, after):
    """CPU time used between two readings.

    The sum is schedstat's (nanoseconds); /proc/PID/stat (10 ms ticks, sampled) only says how it splits
    into user and kernel time. Where a thread ended in between, the sum is that of the ticks.
    """
    threads = {key: (ns - before.run_ns.get(key, 0)) / 1e3 for key, ns in after.run_ns.items()}
    user = (after.user_ticks - before.user_ticks) * 1e6 / TICKS_PER_SECOND
    kernel = (after.kernel_ticks - before.kernel_ticks) * 1e6 / TICKS_PER_SECOND
    total = sum(threads.values())
    if before.run_ns.keys() - after.run_ns.keys():
        total = max(total, user + kernel)
    scale = total / (user + kernel) if user + kernel > 0 else 0.0
    return CpuUse(user * scale, kernel * scale if scale else total, threads)


def read_on_time():
    """Lets this program run as soon as it wants to: counters that belong together are read together.

    Real-time, since the load is already ahead of everything else; it sleeps nearly always. Children start
    with the usual policy.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        return  # unprivileged: a reading that took too long makes its round invalid


def ahead_of_others():
    """Lets the calling process run before the machine's other work, where that is permitted."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        # A session is a scheduling group of its own, and the group's niceness is what counts.
        Path("/proc/self/autogroup").write_text(str(_NICE))
    except OSError:
        return  # unprivileged, or a kernel without autogroups: the report shows what others took


def at_once():
    """Lets it run as soon as it wants to, whatever its core does (this program, too), where that is permitted."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(2))
    except OSError:
        ahead_of_others()


def when_idle():
    """Lets it run when nobody else wants its core."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        # Among sessions the policy does not count, see `ahead_of_others`.
        Path("/proc/self/autogroup").write_text("19")
    except OSError:
        return


class Child:
    """A running program: pinned, logged to a file, ended by `stop`."""

    def __init__(self, name, argv, cpus, log, stdout=None, cwd=None, schedule=ahead_of_others):
        self.name = name
        self._log = Path(log)

        def prepare():
            os.sched_setaffinity(0, cpus)
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            schedule()

        with open(self._log, "wb") as stderr:
            self.process = subprocess.Popen(
                [str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=stdout or stderr, stderr=stderr,
                cwd=cwd, start_new_session=True, preexec_fn=prepare)

    @property
    def pid(self):
        return self.process.pid

    def is_running(self):
        return self.process.poll() is None

    def log_tail(self, lines=12):
        """The last lines of what it wrote to stderr."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def pids(self):
        """This process and all its descendants that run now."""
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    stat = Path(f"/proc/{entry}/stat").read_text()
                except OSError:
                    continue
                parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
        found = [self.pid]
        for pid in found:
            found.extend(parents.get(pid, []))
        return found

    def read_cpu(self):
        run_ns, user, kernel = {}, 0, 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            user += int(fields[11])
            kernel += int(fields[12])
            for tid in os.listdir(f"/proc/{pid}/task"):
                try:
                    run_ns[pid, int(tid)] = int(Path(f"/proc/{pid}/task/{tid}/schedstat").read_text().split()[0])
                except FileNotFoundError:  # the thread ended meanwhile; its ticks stay in /proc/PID/stat
                    continue
        return CpuReading(run_ns, user, kernel)

    def read_memory(self):
        """Resident memory of the process tree in KiB: (RSS, PSS). PSS counts shared pages once."""
        sums = {"Rss:": 0, "Pss:": 0}
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                words = line.split()
                if words[0] in sums:
                    sums[words[0]] += int(words[1])
        return sums["Rss:"], sums["Pss:"]

    def stop(self):
        """Ends it: SIGTERM, and SIGKILL for what is left after five seconds."""
        pids = self.pids() if self.is_running() else []
        if pids:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                for pid in pids:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
                self.process.wait()


class Awake:
    """Keeps cores from sleeping, for the hypervisor of a virtual machine may wake them some milliseconds late."""

    def __init__(self, cpus, work):
        spin = [sys.executable, "-c", "while True: pass"]
        self._children = {cpu: Child(f"spin-{cpu}", spin, [cpu], work / f"spin-{cpu}.log", schedule=when_idle)
                          for cpu in cpus}

    def used_us(self, cpus):
        """For how long it has kept these cores busy."""
        readings = [self._children[cpu].read_cpu() for cpu in cpus]
        return sum(sum(reading.run_ns.values()) for reading in readings) / 1e3

    def stop(self):
        for child in self._children.values():
            child.stop()


def wait_until(condition, seconds, what):
    """Polls `condition` until it is true; a sentence naming `what` when it never is."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not happen within {seconds} s")
        time.sleep(0.02)


@dataclass(frozen=True)
class HostReading:
    """Counters of the whole machine."""

    busy_us: float  # of the given cores: user, nice, system, irq, softirq
    steal_us: float  # of the given cores: the hypervisor ran somebody else
    accepted: int  # TCP connections accepted (PassiveOpens)


def read_host(cpus):
    tick = 1e6 / TICKS_PER_SECOND
    busy = steal = 0.0
    for line in Path("/proc/stat").read_text().splitlines():
        words = line.split()
        if words[0] in {f"cpu{cpu}" for cpu in cpus}:
            user, nice, system, _, _, irq, softirq, stolen = map(int, words[1:9])
            busy += (user + nice + system + irq + softirq) * tick
            steal += stolen * tick
    names, values = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines()
                     if line.startswith("Tcp:")]
    return HostReading(busy, steal, int(values[names.index("PassiveOpens")]))
