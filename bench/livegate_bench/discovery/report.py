"""Tables and targets of the discovery benchmark. Figures are those that the parts' `measure` return."""

from statistics import linear_regression, median

from ..report import FOREIGN_MAX, table
from .change import INSTANCES as CHANGE_INSTANCES
from .churn import INSTANCES, PER_SECOND
from .restart import AWAY
from .stage import percentile

# Issue 4, "It is done when". "At once" and "flat" are given a number here: half a second, most of which is the time that
# a start gives the registry to answer; and a trend of 2 % over the run, which is less than samples differ by.
_CHANGE_P99_MS, _REGISTER_P99_MS, _DEATH_MS, _CHURN_P99_RATIO, _RESTART_MS = 10.0, 100.0, 50.0, 1.05, 500.0
_MEMORY_GROWTH = 0.02


def header(about):
    machine = about["machine"]
    lines = [f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, load {machine['load'][0]:.1f}; "
             f"gateway on core {machine['gateway_cpus']}, all else on {machine['load_cpus']}; "
             f"an append of 256 bytes is on disk after {about['fsync_us']:.0f} us"]
    lines.extend(f"{name}: {version}" for name, version in about["versions"].items())
    return "\n".join(lines)


def _quantiles(values, decimals=1):
    ordered = [percentile(values, 50), percentile(values, 90), percentile(values, 99), max(values)]
    return [f"{value:.{decimals}f}" for value in ordered]


_QUANTILE_HEADINGS = ["p50 ms", "p90 ms", "p99 ms", "max ms"]


def change_text(found):
    rows = [["change", "times", *_QUANTILE_HEADINGS]]
    for kind, times in found["times_us"].items():
        rows.append([kind, str(len(times)), *_quantiles([time / 1e3 for time in times], 2)])
    return f"change in the registry until picks obey it, {CHANGE_INSTANCES} instances, its fdatasync included\n" \
        + table(rows)


def register_text(found):
    names = {"new": "of a new service", "existing": "of a service that is there"}
    rows = [["instance", "times", *_QUANTILE_HEADINGS]]
    rows.extend([names[kind], str(len(times)), *_quantiles(times)] for kind, times in found.items())
    return "registering an instance until it has served a request\n" + table(rows)


def death_text(found):
    rows = [["kills", *_QUANTILE_HEADINGS, "requests sent after the signal", "most", "client errors", "of"]]
    picks = found["picks"]
    rows.append([str(len(picks)), *_quantiles(found["last_ms"]), f"{sum(picks) / len(picks):.1f}", str(max(picks)),
                 str(sum(found["errors"].values())), str(found["requests"])])
    return "end of an instance (kill -9) until the last request is sent to it\n" + table(rows)


def restart_text(found):
    rows = [["registry", "starts", "median ms", "min ms", "max ms"]]
    for kind, times in found.items():
        rows.append([kind, str(len(times)), f"{median(times):.0f}", f"{min(times):.0f}", f"{max(times):.0f}"])
    return "start of a gateway until an instance of each service has answered\n" + table(rows)


_CHURN_COLUMNS = [  # heading, of a phase, decimals
    ("requests", lambda phase: phase["requests"], 0),
    ("p50 us", lambda phase: phase["p50_us"], 0),
    ("p90 us", lambda phase: phase["p90_us"], 0),
    ("p99 us", lambda phase: phase["p99_us"], 0),
    ("with new connections %", lambda phase: 100 * phase["first_requests"] / phase["requests"], 2),
    ("p99 of all us", lambda phase: phase["all_p99_us"], 0),
    ("worker waits us/req", lambda phase: phase["worker_wait_us"] / phase["requests"], 1),
    ("CPU us/req", lambda phase: phase["cpu_us"] / phase["requests"], 1),
    ("core %", lambda phase: phase["cpu_us"] / phase["seconds"] / 1e4, 1),
    ("others %", lambda phase: phase["others_percent"], 1),
]


def churn_text(found):
    rows = [["phases", *(heading for heading, _, _ in _CHURN_COLUMNS)]]
    phases = {kind: [phase for phase in found["phases"] if phase["kind"] == kind] for kind in ("quiet", "churn")}
    for kind, of_kind in phases.items():
        rows.append([kind, *(f"{median(map(figure, of_kind)):.{decimals}f}" for _, figure, decimals in _CHURN_COLUMNS)])
    ratio, memory = p99_ratio(found), [kib for _, kib in found["memory"]]
    seconds = sum(phase["seconds"] for phase in phases["churn"])
    lines = [
        f"{INSTANCES} instances, {PER_SECOND} changes a second for {seconds:.0f} s (medians of {len(phases['churn'])} "
        "phases)", table(rows),
        "  p99, churn/quiet: {:.3f} ({:.3f}-{:.3f})".format(*ratio),
        f"  CPU time for a change: {_change_cpu_us(phases):.0f} us",
        f"  changes {found['changes']}, of which to be read {found['to_read']}; reads {found['reads']}; "
        f"instances that are not as in the registry at the end: {found['differences']}",
        f"  RSS KiB: {min(memory)} to {max(memory)}, trend {_growth(found) * 100:+.2f} % over {len(memory)} samples",
        f"  requests {found['requests']}, client errors {sum(found['errors'].values())}",
    ]
    noise = median(phase["others_percent"] for phase in found["phases"])
    if noise > FOREIGN_MAX:
        lines.append(f"  NOISY: others used {noise:.0f} % of the gateway's core; repeat on a quiet machine")
    return "\n".join(lines)


def p99_ratio(found):
    """Of churning phases to the quiet ones on both sides of them: (median, least, greatest)."""
    phases = found["phases"]
    each = []
    for index in range(1, len(phases), 2):
        around = phases[index - 1:index + 2:2]
        each.append(phases[index]["p99_us"] * len(around) / sum(quiet["p99_us"] for quiet in around))
    return median(each), min(each), max(each)


def _change_cpu_us(phases):
    """What a change costs the gateway: what it used more per second, over the changes of a second."""
    use = {kind: median(phase["cpu_us"] / phase["seconds"] for phase in of_kind) for kind, of_kind in phases.items()}
    return (use["churn"] - use["quiet"]) / PER_SECOND


def _growth(found):
    """By how much memory grew from the first sample to the last, as a straight line has it."""
    times, sizes = zip(*found["memory"])
    slope = linear_regression(times, sizes).slope
    return slope * (times[-1] - times[0]) / median(sizes)


def verdicts(results):
    """Each target with what was measured: (sentence, met)."""
    found = []

    def judge(what, value, limit, unit=" ms"):
        found.append((f"{what} at most {limit:g}{unit}: {value:.3g}{unit}", value <= limit))

    for kind, times in results.get("change", {}).get("times_us", {}).items():
        judge(f"{kind}: until picks obey, p99", percentile(times, 99) / 1e3, _CHANGE_P99_MS)
    for kind, times in results.get("register", {}).items():
        judge(f"first request to an instance of a service that is {kind}, p99", percentile(times, 99), _REGISTER_P99_MS)
    if death := results.get("death"):
        judge("last request to an instance that was killed, each time", max(death["last_ms"]), _DEATH_MS)
        found.append((f"no client sees it: {sum(death['errors'].values())} errors", not death["errors"]))
    if churn := results.get("churn"):
        found.append((f"data reads = new or changed instances: {churn['reads']} = {churn['to_read']}",
                      churn["reads"] == churn["to_read"] and churn["differences"] == 0))
        judge("memory is flat: its trend is", _growth(churn) * 100, _MEMORY_GROWTH * 100, " %")
        judge("traffic's p99, churning/quiet", p99_ratio(churn)[0], _CHURN_P99_RATIO, "")
        found.append((f"no client sees it: {sum(churn['errors'].values())} errors", not churn["errors"]))
    restart = results.get("restart", {})
    for kind in [kind for kind in AWAY[1:] if kind in restart]:
        judge(f"start while the registry {kind}, each time", max(restart[kind]), _RESTART_MS)
    return found
