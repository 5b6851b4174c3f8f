"""What a request costs where a busy machine cannot blur it: user instructions and system calls, counted."""

import re
import signal

from . import proxies
from .load import send_exactly
from .process import Child, wait_until

# Instructions are the difference of two runs, so start-up and connecting cancel out.
_FEW, _MANY = 1_000, 5_000
_CONNECTIONS = 8
# System calls are counted by attaching, which stops the process at each: a short run is enough.
_TRACED = 4_000


def run(bench, scenarios, names):
    """Prints a table per scenario with load over kept connections; returns the exit code."""
    for scenario in scenarios:
        if scenario.kind != "load" or scenario.close:
            continue
        print(f"\n{scenario.name}: {scenario.title}, {_CONNECTIONS} connections", flush=True)
        for name in names:
            instructions = _instructions(bench, scenario, name)
            total, calls = _system_calls(bench, scenario, name)
            shown = "  ".join(f"{call} {count:.2f}" for call, count in calls)
            print(f"  {name:14} {instructions:8.0f} user instructions, {total:.2f} system calls per request: {shown}",
                  flush=True)
    print(f"\nby function: callgrind_annotate {bench.work}/NAME/callgrind.out.PID")
    return 0


def _send(bench, proxy, scenario, requests):
    if not send_exactly(bench.programs["h2load"], bench.work, bench.load_cpus, proxy.url, scenario.path, requests,
                        _CONNECTIONS):
        raise RuntimeError(f"{proxy.name}: not all of {requests} requests were answered 2xx ({bench.work}/h2load.out)")


def _instructions(bench, scenario, name):
    totals = []
    for requests in (_FEW, _MANY):
        folder = bench.work / name
        for old in folder.glob("callgrind.out.*"):
            old.unlink()
        wrapper = [bench.programs["valgrind"], "--tool=callgrind", f"--callgrind-out-file={folder}/callgrind.out.%p"]
        proxy = proxies.start(bench, scenario, name, wrapper)
        try:
            _send(bench, proxy, scenario, requests)
        finally:
            proxy.stop()
        totals.append(sum(_callgrind_total(path) for path in folder.glob("callgrind.out.*")))
    return (totals[1] - totals[0]) / (_MANY - _FEW)


def _callgrind_total(path):
    found = re.search(r"^(?:totals|summary): (\d+)", path.read_text(errors="replace"), re.MULTILINE)
    return int(found.group(1)) if found else 0


def _system_calls(bench, scenario, name):
    """(all, [(call, per request)]): those made at least once in ten requests are listed."""
    output = bench.work / name / "strace.txt"
    proxy = proxies.start(bench, scenario, name)
    try:
        _send(bench, proxy, scenario, _FEW)  # so that pools are filled
        pids = [word for pid in proxy.child.pids() for word in ("-p", pid)]
        strace = Child("strace", [bench.programs["strace"], "-f", "-c", "-o", output, *pids], bench.load_cpus,
                       bench.work / name / "strace.log")
        try:
            wait_until(lambda: "attached" in strace.log_tail() or not strace.is_running(), 10, "attaching strace")
            if not strace.is_running():
                raise RuntimeError(f"strace ended: {strace.log_tail()}")
            _send(bench, proxy, scenario, _TRACED)
        finally:
            strace.process.send_signal(signal.SIGINT)  # detaches and writes the summary
            strace.process.wait(20)
    finally:
        proxy.stop()
    calls, total = [], 0
    for line in output.read_text().splitlines():
        words = line.split()
        if len(words) >= 5 and words[3].isdigit() and words[-1] != "total":
            total += int(words[3])
            calls.append((words[-1], int(words[3]) / _TRACED))
    calls.sort(key=lambda call: -call[1])
    return total / _TRACED, [call for call in calls if call[1] >= 0.1]
