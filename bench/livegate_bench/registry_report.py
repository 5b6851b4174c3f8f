"""Tables, ratios and targets of the registry benchmark."""

from dataclasses import dataclass
from statistics import median

from .report import table

OURS, THEIRS = "livegate", "apache"


@dataclass(frozen=True)
class Load:
    operation: str
    clients: int
    depth: int  # requests that each client keeps under way

    @property
    def name(self):
        return f"{self.operation}-{self.clients}x{self.depth}"


LOADS = [Load(operation, clients, depth) for operation in ("create", "set", "get")
         for clients in (1, 64) for depth in (1, 16)]

# Issue 3: at least twice the operations, p99 no worse, a fifth of the memory, and these.
_THROUGHPUT_MIN, _P99_MAX, _MEMORY_MAX, _FANOUT_MAX_MS, _START_MAX_MS = 2.0, 1.0, 0.2, 20.0, 100.0

_COLUMNS = [  # heading, figure, decimals
    ("ops/s", "per_second", 0),
    ("p50 us", "p50_us", 0),
    ("p99 us", "p99_us", 0),
    ("max us", "max_us", 0),
    ("CPU us/op", "cpu_us", 2),
    ("core %", "core_percent", 0),
    ("others %", "others_percent", 0),
    ("load's core %", "load_percent", 0),
]


def header(about):
    machine = about["machine"]
    lines = [f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, load {machine['load'][0]:.1f}; "
             f"server on core {machine['server_cpus']}, load on {machine['load_cpus']}; "
             f"an append of 256 bytes is on disk after {about['fsync_us']:.0f} us"]
    lines.extend(f"{name}: {version}" for name, version in about["versions"].items())
    return "\n".join(lines)


def ratios(rounds, figure):
    """Ours over theirs, round by round: (median, least, greatest), or None."""
    each = [ours[figure] / theirs[figure] for ours, theirs in zip(rounds.get(OURS, []), rounds.get(THEIRS, []))
            if theirs[figure]]
    return (median(each), min(each), max(each)) if each else None


def load_text(results):
    rows = [["load", "server", *(heading for heading, _, _ in _COLUMNS), "ops/s ratio", "p99 ratio", "CPU ratio"]]
    for name, rounds in results.items():
        for server, entries in rounds.items():
            cells = [f"{median(entry[figure] for entry in entries):.{decimals}f}" for _, figure, decimals in _COLUMNS]
            compared = [""] * 3
            if server == OURS:
                found = [ratios(rounds, figure) for figure in ("per_second", "p99_us", "cpu_us")]
                compared = ["{:.2f} ({:.2f}-{:.2f})".format(*ratio) if ratio else "" for ratio in found]
            rows.append([name, server, *cells, *compared])
    count = max(len(entries) for rounds in results.values() for entries in rounds.values())
    return f"operations, clients x requests under way (medians of {count} rounds)\n" + table(rows, left=2)


def fanout_text(results):
    rows = [["server", "last told ms", "max ms", "set answered ms"]]
    for server, found in results.items():
        rows.append([server, f"{median(found['last_us']) / 1e3:.1f}", f"{max(found['last_us']) / 1e3:.1f}",
                     f"{median(found['set_us']) / 1e3:.1f}"])
    count = max(len(found["last_us"]) for found in results.values())
    return f"1 000 connections watch one node: from the set until the last is told (medians of {count} rounds)\n" \
        + table(rows)


def memory_text(results):
    rows = [["server", "start ms", "max ms", "start full ms", "RSS MiB empty", "after 100 000 creates",
             "after a restart with them"]]
    for server, found in results.items():
        rows.append([server, f"{median(found['start_ms']):.0f}", f"{max(found['start_ms']):.0f}",
                     f"{median(found['restart_ms']):.0f}",
                     *(f"{found[key] / 1024:.1f}" for key in ("empty_kib", "full_kib", "reloaded_kib"))])
    return "start-up (process start to first session) and memory\n" + table(rows)


def verdicts(results):
    """Each target with what was measured: (sentence, met: True or False); without ratios none."""
    found = []

    def judge(what, value, limit, least=False, unit=""):
        met = value >= limit if least else value <= limit
        found.append((f"{what} at {'least' if least else 'most'} {limit:g}{unit}: {value:.3g}{unit}", met))

    for load in LOADS:
        rounds = results.get("load", {}).get(load.name, {})
        if ratio := ratios(rounds, "per_second"):
            judge(f"{load.name}: operations per second / Apache ZooKeeper's", ratio[0], _THROUGHPUT_MIN, least=True)
            judge(f"{load.name}: p99 / Apache ZooKeeper's", ratios(rounds, "p99_us")[0], _P99_MAX)
    if ours := results.get("fanout", {}).get(OURS):
        judge("fan-out: the last of 1 000 is told after", median(ours["last_us"]) / 1e3, _FANOUT_MAX_MS, unit=" ms")
    memory = results.get("memory", {})
    if ours := memory.get(OURS):
        judge("start-up", median(ours["start_ms"]), _START_MAX_MS, unit=" ms")
        if theirs := memory.get(THEIRS):
            for key, what in [("empty_kib", "empty"), ("full_kib", "with 100 000 nodes")]:
                judge(f"memory {what} / Apache ZooKeeper's", ours[key] / theirs[key], _MEMORY_MAX)
    return found


def verdict_text(found):
    words = {True: "met", False: "MISSED"}
    return "\n".join(["targets", *(f"  {words[met]:8}{sentence}" for sentence, met in found)])
