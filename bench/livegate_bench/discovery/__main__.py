"""The command line: `bench/discovery --help`."""

import argparse
import json
import os
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

from .. import install
from ..arguments import cpus, names, run_program, show
from ..machine import describe, fsync_us, take_turn
from ..process import raise_descriptor_limit, read_on_time
from ..registry_report import verdict_text
from . import change, churn, death, register, report, restart
from .stage import Bench

REPOSITORY = Path(__file__).resolve().parents[3]
WORK = REPOSITORY / "bench" / ".work" / "discovery"
_PARTS = {
    "change": (change.measure, report.change_text),
    "register": (register.measure, report.register_text),
    "death": (death.measure, report.death_text),
    "churn": (churn.measure, report.churn_text),
    "restart": (restart.measure, report.restart_text),
}
# Each instance that is asked keeps a connection, at both of its ends.
_DESCRIPTORS_MIN = 12_000


def _arguments():
    parser = argparse.ArgumentParser(
        prog="bench/discovery", description="Measures how fast the gateway follows its registry, and what that costs. "
        "Installs what is missing (as root). See bench/README.md.",
        epilog="example: bench/discovery --quick --parts register,death --json figures.json")
    parser.add_argument("--parts", type=names(_PARTS, "part"), default=list(_PARTS), metavar="NAME,...",
                        help=f"of {', '.join(_PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and shorter phases: under two minutes instead of nineteen")
    parser.add_argument("--profile", default="release", metavar="NAME", help="cargo's profile for the programs "
                        "(default release; `quick` builds faster, and is a little slower)")
    parser.add_argument("--gateway-cpus", type=cpus, default="1", metavar="N,...",
                        help="cores of the gateway (default 1)")
    parser.add_argument("--load-cpus", type=cpus, default="0", metavar="N,...",
                        help="cores of load, instances and a registry of its own (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes all figures to FILE")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    options = parser.parse_args()
    if set(options.gateway_cpus) & set(options.load_cpus):
        parser.error("--gateway-cpus and --load-cpus must not overlap")
    return options


def _programs(options):
    programs = {"livegate": install.build_livegate(REPOSITORY, options.profile)}
    if "change" in options.parts:
        programs["change_latency"] = install.build_example(REPOSITORY, "livegate", "change_latency", options.profile)
    programs.update(install.require(["nginx", "h2load"]))
    return programs


def _run(options):
    with ExitStack() as stack:
        take_turn(stack, WORK.parent)
        shutil.rmtree(WORK, ignore_errors=True)
        WORK.mkdir(parents=True)
        if raise_descriptor_limit() < _DESCRIPTORS_MIN:
            raise RuntimeError(f"the limit of open files is under {_DESCRIPTORS_MIN}; raise it: ulimit -n 65536")
        programs = _programs(options)
        os.sched_setaffinity(0, options.load_cpus)
        versions = {"livegate": "--version", "nginx": "-v", "h2load": "--version"}
        about = {**describe(options.gateway_cpus, options.load_cpus, "gateway"), "fsync_us": fsync_us(WORK),
                 "versions": {name: install.version(programs[name], argument) for name, argument in versions.items()},
                 "settings": {"quick": options.quick, "profile": options.profile}}
        print(report.header(about), flush=True)
        read_on_time()
        bench = Bench(programs, WORK, options.gateway_cpus, options.load_cpus, options.quick, show)
        results = {}
        for part in options.parts:
            measure, text = _PARTS[part]
            results[part] = measure(bench)
            show("")
            print("\n" + text(results[part]), flush=True)
        found = report.verdicts(results)
        print("\n" + verdict_text(found))
        if options.json:
            targets = [{"what": what, "met": met} for what, met in found]
            options.json.write_text(json.dumps({**about, **results, "targets": targets}, indent=1) + "\n")
        return 1 if options.check and not all(met for _, met in found) else 0


def main():
    """Exit codes: 0 done (and with --check all targets met), 1 not so, 2 wrong usage, 130 interrupted."""
    return run_program(_run, _arguments())


if __name__ == "__main__":
    sys.exit(main())
