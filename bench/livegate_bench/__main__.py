"""The command line: `bench/run --help`."""

import argparse
import json
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from . import install, profile, proxies, replies, report, scenarios
from .arguments import cpus, names, positive, run_program, show
from .machine import describe, take_turn
from .measure import Bench, measure
from .origin import Origin
from .process import raise_descriptor_limit, read_on_time

REPOSITORY = Path(__file__).resolve().parents[2]
WORK = REPOSITORY / "bench" / ".work"
# Memory hardly differs from round to round, and each takes a fresh process.
_IDLE_ROUNDS = 3


def _arguments():
    parser = argparse.ArgumentParser(
        prog="bench/run", description="Measures livegate beside nginx and HAProxy: CPU time per request, "
        "requests per second, latency, memory. Installs what is missing (as root). See bench/README.md.",
        epilog="example: bench/run --scenarios small,64k --rounds 9 --json figures.json")
    choices = [*scenarios.NAMES, *scenarios.GROUPS]
    parser.add_argument("--scenarios", type=names(choices, "scenario"), default=["default"], metavar="NAME,...",
                        help=f"of {', '.join(choices)} (default: default)")
    parser.add_argument("--proxies", type=names(proxies.NAMES, "proxy"), default=proxies.DEFAULT,
                        metavar="NAME,...", help=f"of {', '.join(proxies.NAMES)} (default: the first three)")
    parser.add_argument("--livegate", type=Path, metavar="PATH", help="this binary instead of a build of the checkout")
    parser.add_argument("--rounds", type=positive(int), metavar="N", help="rounds per scenario (default 5)")
    parser.add_argument("--seconds", type=positive(float), metavar="S", help="measured part of a round (default 4)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 second, unless told otherwise")
    parser.add_argument("--balance", choices=list(proxies.BALANCERS), default="round-robin")
    parser.add_argument("--equal-work", action="store_true", help="nginx and HAProxy add the forwarding headers and "
                        "log the fields that livegate does (without it they do less)")
    parser.add_argument("--connections", type=positive(int), metavar="N",
                        help="client connections of the scenarios with a closed loop (default 64)")
    parser.add_argument("--workers", type=positive(int), default=2, metavar="N",
                        help="workers in the spread scenarios (default 2; all others run one)")
    parser.add_argument("--proxy-cpus", type=cpus, default="1", metavar="N,...", help="cores of the proxy (default 1)")
    parser.add_argument("--load-cpus", type=cpus, default="0", metavar="N,...",
                        help="cores of the load generator and the origin (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes all figures to FILE")
    parser.add_argument("--check", action="store_true", help="compares with the targets; exit 1 when one is missed")
    parser.add_argument("--profile", action="store_true", help="instead: user instructions (valgrind) and system "
                        "calls (strace) per request of each scenario with load; hardly affected by a busy machine")
    options = parser.parse_args()
    if set(options.proxy_cpus) & set(options.load_cpus):
        parser.error("--proxy-cpus and --load-cpus must not overlap")
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (1.0 if options.quick else 4.0)
    if options.profile and (options.json or options.check):
        parser.error("--profile goes neither with --json nor with --check")
    options.chosen = scenarios.select(options.scenarios, options.workers, options.connections)
    return options


def _programs(options):
    """Executable of each proxy and tool."""
    kinds = {proxies.program(name) for name in options.proxies}
    tools = {"wrk"} | ({"h2load", "valgrind", "strace"} if options.profile else set())
    if any(scenario.kind == "spread" for scenario in options.chosen):
        tools.add("h2load")
    # nginx is the origin as well.
    programs = install.require(sorted({"nginx", *kinds, *tools} - {"livegate"}))
    if "livegate" in kinds:
        programs["livegate"] = options.livegate or install.build_livegate(REPOSITORY)
        if not os.access(programs["livegate"], os.X_OK):
            raise RuntimeError(f"{programs['livegate']} is not a program; give --livegate PATH")
        programs["livegate"] = Path(programs["livegate"]).resolve()
    return programs


def _about(options, programs):
    arguments = {"nginx": "-v", "haproxy": "-v", "livegate": "--version", "wrk": "-v", "h2load": "--version"}
    return {
        **describe(options.proxy_cpus, options.load_cpus, "proxy"),
        "versions": {name: install.version(programs[name], argument)
                     for name, argument in arguments.items() if name in programs},
        "settings": {"rounds": options.rounds, "seconds": options.seconds, "balance": options.balance,
                     "equal_work": options.equal_work},
    }


def _header(about):
    machine = about["machine"]
    lines = [f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, load {machine['load'][0]:.1f}; "
             f"proxy on core {machine['proxy_cpus']} (hyperthreads of it: {machine['proxy_cpu_siblings']}), "
             f"load and origin on {machine['load_cpus']}"]
    lines.extend(f"{name}: {version}" for name, version in about["versions"].items())
    return "\n".join(lines)


def _start(stack, bench, scenario, name):
    proxy = proxies.start(bench, scenario, name)
    stack.callback(proxy.stop)
    return proxy


def _run_scenario(options, bench, scenario):
    """proxy -> rounds. The order of proxies rotates, so that none is always measured after the same one."""
    results = {name: [] for name in options.proxies}
    warm_up = replace(bench, seconds=min(1.0, bench.seconds))
    warm_scenario = scenarios.select(["small"], 1)[0] if scenario.kind == "idle" else scenario

    requests = {name: [] for name in options.proxies}
    with ExitStack() as stack:
        running = {}
        if scenario.kind != "idle":
            for name in options.proxies:
                running[name] = _start(stack, bench, scenario, name)
                show(f"{scenario.name}: warming up {name}")
                requests[name].append(measure(warm_up, warm_scenario, running[name]).requests)
        for number in range(min(options.rounds, _IDLE_ROUNDS) if scenario.kind == "idle" else options.rounds):
            turn = number % len(options.proxies)
            for name in options.proxies[turn:] + options.proxies[:turn]:
                show(f"{scenario.name}: round {number + 1} of {options.rounds}, {name}")
                if scenario.kind == "idle":  # a fresh process each time: memory is not given back by all
                    with ExitStack() as single:
                        proxy = _start(single, bench, scenario, name)
                        measure(warm_up, warm_scenario, proxy)
                        time.sleep(1)
                        results[name].append(measure(bench, scenario, proxy))
                else:
                    results[name].append(measure(bench, scenario, running[name]))
                    requests[name].append(results[name][-1].requests)
    show("")
    if scenario.access_log:
        for name, rounds in results.items():
            _check_access_log(proxies.access_log(bench, name), sum(requests[name]), rounds)
    return results


def _check_access_log(path, requests, rounds):
    """Logging was really on and complete: a line for each reply. The proxy has ended, so all is written."""
    if not path.exists():
        rounds[-1].problems.append("no access log was written")
        return
    with open(path, "rb") as log:
        lines = sum(block.count(b"\n") for block in iter(lambda: log.read(1 << 20), b""))
    path.unlink()
    if lines < requests:
        rounds[-1].problems.append(f"the access log has {lines} lines for at least {requests} requests")


def _run(options):
    with ExitStack() as stack:
        take_turn(stack, WORK)
        if raise_descriptor_limit() < 12_000 and any(s.kind == "idle" for s in options.chosen):
            raise RuntimeError("the limit of open files is under 12 000; raise it: ulimit -n 65536")
        programs = _programs(options)
        os.sched_setaffinity(0, options.load_cpus)
        about = _about(options, programs)
        print(_header(about), flush=True)
        origin = Origin(programs["nginx"], WORK / "origin", options.load_cpus)
        stack.callback(origin.stop)
        replies.check_origin(origin)
        read_on_time()
        bench = Bench(programs, WORK, options.proxy_cpus, options.load_cpus, origin, options.seconds,
                      options.balance, options.equal_work)

        if options.profile:
            return profile.run(bench, options.chosen, options.proxies)
        results = {}
        for scenario in options.chosen:
            results[scenario.name] = _run_scenario(options, bench, scenario)
            print("\n" + report.scenario_text(scenario, results[scenario.name]), flush=True)
        found = report.verdicts(results, options.chosen)
        if options.check:
            print("\n" + report.verdict_text(found))
        if options.json:
            options.json.write_text(json.dumps(report.document(about, options.chosen, results, found), indent=1) + "\n")
        valid = all(entry.is_valid() for of_scenario in results.values() for rounds in of_scenario.values()
                    for entry in rounds)
        missed = options.check and any(met is False for _, _, met in found)
        return 0 if valid and not missed else 1


def main():
    """Exit codes: 0 done (and all valid, targets met), 1 not so, 2 wrong usage, 130 interrupted."""
    return run_program(_run, _arguments())


sys.exit(main())
