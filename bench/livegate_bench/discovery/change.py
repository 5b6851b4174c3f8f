"""From a change in the registry to picks that obey it: the example program `change_latency`, which has the registry,
the watch, the cluster's task and the balancer in one process, so that what it sees is not a matter of polling."""

import json
import subprocess

from ..process import Child

INSTANCES = 1000
# Longer than additions wait for each other (50 ms): the changes are single ones.
_PAUSE_MS = 60
# Of each kind: an addition, changed data, a removal.
_ROUNDS, _ROUNDS_QUICK = 300, 60


def measure(bench):
    """Kind of change -> percentiles in microseconds; `reads` and `changed` are counts of nodes."""
    rounds = _ROUNDS_QUICK if bench.quick else _ROUNDS
    bench.show(f"change: {3 * rounds} changes among {INSTANCES} instances")
    argv = [bench.programs["change_latency"], INSTANCES, _PAUSE_MS, rounds]
    child = Child("change_latency", argv, bench.gateway_cpus, bench.work / "change.log", subprocess.PIPE)
    try:
        output, _ = child.process.communicate(timeout=60 + rounds)
        if child.process.returncode != 0:
            raise RuntimeError(f"change_latency failed: {child.log_tail()}")
        return json.loads(output)
    finally:
        child.stop()
