"""The registry benchmark's command line: `bench/registry --help`."""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from . import install, registry_report, registry_servers
from .arguments import cpus, names, positive, run_program, show
from .machine import describe, fsync_us, take_turn
from .process import Child, cpu_between, raise_descriptor_limit, read_host, read_on_time
from .registry_report import LOADS
from .registry_servers import LIVEGATE, APACHE, APACHE_SMALL, Registry

REPOSITORY = Path(__file__).resolve().parents[2]
WORK = REPOSITORY / "bench" / ".work" / "registry"
PARTS = ["load", "fanout", "memory"]

# Nodes that set and get use, and bytes in each.
_SHARED_NODES, _BYTES = 1000, 100
_FILL_NODES = 100_000
_WATCHERS = 1000
# Before anything counts, each server has this much of each operation: a JVM compiles what it runs often.
_WARM_UP_SECONDS = 4.0
# Replies of the first moments of a load are not counted.
_LEAD_IN_SECONDS = 0.5


def _arguments():
    parser = argparse.ArgumentParser(
        prog="bench/registry", description="Measures `livegate registry` beside Apache ZooKeeper: operations per "
        "second, latency, CPU time, fan-out of watches, start-up, memory. Installs what is missing (as root). "
        "See bench/README.md.",
        epilog="example: bench/registry --parts load --loads set-64x16,get-64x16 --json figures.json")
    parser.add_argument("--parts", type=names(PARTS, "part"), default=PARTS, metavar="NAME,...",
                        help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--loads", type=names([load.name for load in LOADS], "load"), metavar="NAME,...",
                        default=[load.name for load in LOADS],
                        help=f"of {', '.join(load.name for load in LOADS)} (default: all): operation, clients x depth")
    parser.add_argument("--only", choices=[LIVEGATE.name, APACHE.name], help="one of the two, without ratios")
    parser.add_argument("--livegate", type=Path, metavar="PATH", help="this binary instead of a build of the checkout")
    parser.add_argument("--rounds", type=positive(int), metavar="N", help="rounds of each load (default 5)")
    parser.add_argument("--seconds", type=positive(float), metavar="S", help="measured part of a round (default 3)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 second, unless told otherwise")
    parser.add_argument("--server-cpus", type=cpus, default="1", metavar="N,...",
                        help="cores of the server (default 1)")
    parser.add_argument("--load-cpus", type=cpus, default="0", metavar="N,...",
                        help="cores of the load generator (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes all figures to FILE")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    options = parser.parse_args()
    if set(options.server_cpus) & set(options.load_cpus):
        parser.error("--server-cpus and --load-cpus must not overlap")
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (1.0 if options.quick else 3.0)
    options.loads = [load for load in LOADS if load.name in options.loads]
    options.kinds = [kind for kind in (LIVEGATE, APACHE) if options.only in (None, kind.name)]
    return options


def _programs(options):
    programs = {"load": install.build_example(REPOSITORY, "livegate-zk", "registry_load")}
    if LIVEGATE in options.kinds:
        programs["livegate"] = (options.livegate or install.build_livegate(REPOSITORY)).resolve()
        if not os.access(programs["livegate"], os.X_OK):
            raise RuntimeError(f"{programs['livegate']} is not a program; give --livegate PATH")
    if APACHE in options.kinds:
        install.require_package("zookeeper", registry_servers.JAR)
        programs.update(install.require(["java"]))
    return programs


class Bench:
    """What every measurement needs."""

    def __init__(self, options, programs):
        self.options = options
        self.programs = programs

    def start(self, stack, kind, keep=False):
        registry = Registry(kind, self.programs, WORK, self.options.server_cpus, keep)
        stack.callback(registry.stop)
        return registry

    def run(self, registry, *words, between=None):
        """Runs the load generator to its end; `between` is given it when it says `begin` and `end`."""
        log = WORK / "load.log"
        load = Child("load", [self.programs["load"], registry.address, *words], self.options.load_cpus, log,
                     stdout=subprocess.PIPE)
        try:
            for line in load.process.stdout:
                word = line.decode().strip()
                if word not in ("begin", "end"):
                    last = word
                elif between:
                    between(load)
            if load.process.wait() != 0:
                raise RuntimeError(f"the load on {registry.kind.name} failed: {load.log_tail()}")
        finally:
            load.stop()
            load.process.stdout.close()
        return json.loads(last)


def _measure_load(bench, registry, load, seconds):
    readings = []

    def read(generator):
        host = read_host(bench.options.server_cpus)
        readings.append((time.monotonic(), host, registry.child.read_cpu(), generator.read_cpu()))

    words = [load.operation, load.clients, load.depth, _LEAD_IN_SECONDS, seconds]
    found = bench.run(registry, *map(str, words), between=read)
    if load.operation == "create":
        bench.run(registry, "clear")
    (began, host_before, *before), (ended, host_after, *after) = readings
    used, load_used = (cpu_between(*pair).total for pair in zip(before, after))
    one_percent = (ended - began) * 1e4
    others = host_after.busy_us + host_after.steal_us - host_before.busy_us - host_before.steal_us - used
    return {
        "per_second": found["operations"] / found["seconds"],
        "p50_us": found["p50_us"], "p99_us": found["p99_us"], "max_us": found["max_us"],
        "cpu_us": used / max(found["operations"], 1),
        "core_percent": used / one_percent, "load_percent": load_used / one_percent,
        "others_percent": max(others, 0) / one_percent,
    }


def _loads(bench):
    """load -> server -> rounds. The order alternates, so that none is always measured after the other."""
    results = {load.name: {kind.name: [] for kind in bench.options.kinds} for load in bench.options.loads}
    with ExitStack() as stack:
        registries = [bench.start(stack, kind) for kind in bench.options.kinds]
        for registry in registries:
            bench.run(registry, "prepare", str(_SHARED_NODES), str(_BYTES))
            for operation in dict.fromkeys(load.operation for load in bench.options.loads):
                show(f"warming up {registry.kind.name}: {operation}")
                warm = registry_report.Load(operation, 64, 16)
                _measure_load(bench, registry, warm, _WARM_UP_SECONDS)
        for number in range(bench.options.rounds):
            for load in bench.options.loads:
                for registry in registries if number % 2 == 0 else registries[::-1]:
                    show(f"round {number + 1} of {bench.options.rounds}: {load.name}, {registry.kind.name}")
                    entry = _measure_load(bench, registry, load, bench.options.seconds)
                    results[load.name][registry.kind.name].append(entry)
    show("")
    return results


def _fanout(bench):
    """server -> what the load generator says: the first rounds are not among its figures."""
    results = {}
    skip = 3
    for kind in bench.options.kinds:
        with ExitStack() as stack:
            registry = bench.start(stack, kind)
            show(f"{_WATCHERS} watchers: {kind.name}")
            found = bench.run(registry, "fanout", str(_WATCHERS), str(skip + 4 * bench.options.rounds))
            results[kind.name] = {key: found[key][skip:] for key in ("last_us", "set_us")}
    show("")
    return results


def _memory(bench):
    """server -> start-up and memory, empty and full. A fresh process for each."""
    results = {}
    kinds = bench.options.kinds + ([APACHE_SMALL] if APACHE in bench.options.kinds else [])
    for kind in kinds:
        starts, restarts = [], []
        for _ in range(bench.options.rounds):
            show(f"start-up: {kind.name}")
            with ExitStack() as stack:
                registry = bench.start(stack, kind)
                starts.append(registry.start_ms)
                time.sleep(1)
                empty, _ = registry.child.read_memory()
        with ExitStack() as stack:
            show(f"{_FILL_NODES} nodes: {kind.name}")
            registry = bench.start(stack, kind)
            bench.run(registry, "fill", str(_FILL_NODES), str(_BYTES))
            time.sleep(1)
            full, _ = registry.child.read_memory()
        for _ in range(bench.options.rounds):
            with ExitStack() as stack:
                registry = bench.start(stack, kind, keep=True)
                restarts.append(registry.start_ms)
                time.sleep(1)
                reloaded, _ = registry.child.read_memory()
        results[kind.name] = {"start_ms": starts, "restart_ms": restarts, "empty_kib": empty, "full_kib": full,
                              "reloaded_kib": reloaded}
    show("")
    return results


def _run(options):
    with ExitStack() as stack:
        take_turn(stack, WORK.parent)
        WORK.mkdir(parents=True, exist_ok=True)
        if raise_descriptor_limit() < 2 * _WATCHERS:
            raise RuntimeError("the limit of open files is under 2 000; raise it: ulimit -n 65536")
        programs = _programs(options)
        os.sched_setaffinity(0, options.load_cpus)
        about = {**describe(options.server_cpus, options.load_cpus), "fsync_us": fsync_us(WORK),
                 "versions": {"livegate": install.version(programs["livegate"], "--version")} if "livegate" in programs
                 else {}, "settings": {"rounds": options.rounds, "seconds": options.seconds}}
        if "java" in programs:
            about["versions"] |= {"java": install.version(programs["java"], "-version"),
                                  "zookeeper": install.package_version("zookeeper")}
        print(registry_report.header(about), flush=True)
        read_on_time()
        bench = Bench(options, programs)
        results = {}
        for part, measure, text in [("load", _loads, registry_report.load_text),
                                    ("fanout", _fanout, registry_report.fanout_text),
                                    ("memory", _memory, registry_report.memory_text)]:
            if part in options.parts:
                results[part] = measure(bench)
                print("\n" + text(results[part]), flush=True)
        found = registry_report.verdicts(results)
        if not options.only:
            print("\n" + registry_report.verdict_text(found))
        if options.json:
            targets = [{"what": what, "met": met} for what, met in found]
            options.json.write_text(json.dumps({**about, **results, "targets": targets}, indent=1) + "\n")
        missed = options.check and any(met is not True for _, met in found)
        return 1 if missed else 0


def main():
    """Exit codes: 0 done (and with --check all targets met), 1 not so, 2 wrong usage, 130 interrupted."""
    return run_program(_run, _arguments())


if __name__ == "__main__":
    sys.exit(main())
