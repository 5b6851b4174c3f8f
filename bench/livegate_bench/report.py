"""Tables for people, one JSON document for programs, and the verdict on the targets."""

from statistics import median

from .scenarios import TARGETS

# Above this share of the proxy's core used by others, figures are marked: the kernel charges a process
# for cache misses and interrupts that the others cause.
FOREIGN_MAX = 5.0

_COLUMNS = [  # heading, figure, decimals
    ("us/req", "cpu", 2),
    ("user", "user", 2),
    ("kernel", "kernel", 2),
    ("req/s", "requests_per_second", 0),
    ("p50 us", "p50_us", 0),
    ("p99 us", "p99_us", 0),
    ("KiB/conn", "kib_per_connection", 2),
    ("after close", "kib_per_connection_after", 2),
    ("busiest", "busiest_worker", 2),
    ("RSS MiB", "rss_kib", 1),
    ("core %", "core_percent", 0),
    ("others %", "foreign_percent", 0),
]
# What the ratios are of.
_HEADLINE = {"load": "cpu", "spread": "busiest_worker", "idle": "kib_per_connection"}


def medians(rounds):
    """Figure -> median over the rounds that have it."""
    records = [entry.record() for entry in rounds]
    names = {name for record in records for name, value in record.items() if isinstance(value, (int, float))}
    return {name: median(record[name] for record in records if name in record) for name in names}


def ratios(results, figure, rival):
    """livegate's figure over the rival's, round by round: (median, least, greatest), or None."""
    pairs = [(getattr(ours, figure), getattr(theirs, figure))
             for ours, theirs in zip(results.get("livegate", []), results.get(rival, []))]
    each = [ours / theirs for ours, theirs in pairs if ours and theirs]
    return (median(each), min(each), max(each)) if each else None


def table(rows, left=1):
    """Rows as aligned text; this many columns are aligned to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) if column < left else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(row, widths))]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def scenario_text(scenario, results):
    """One scenario's rows and ratios. `results`: proxy -> rounds, in the order of the rounds."""
    middle = {proxy: medians(rounds) for proxy, rounds in results.items()}
    columns = [column for column in _COLUMNS if any(column[1] in figures for figures in middle.values())]
    rows = [["proxy", *(heading for heading, _, _ in columns), "invalid"]]
    for proxy, figures in middle.items():
        cells = []
        for _, figure, decimals in columns:
            value = figures.get(figure)
            if value is not None and figure == "rss_kib":
                value /= 1024
            cells.append("-" if value is None else f"{value:.{decimals}f}")
        invalid = sum(not entry.is_valid() for entry in results[proxy])
        rows.append([proxy, *cells, f"{invalid}/{len(results[proxy])}"])
    count = max(len(rounds) for rounds in results.values())
    lines = [f"{scenario.name}: {_detail(scenario)} (medians of {count} round{'s' * (count != 1)})", table(rows)]
    for rival in results:
        found = ratios(results, _HEADLINE[scenario.kind], rival) if rival != "livegate" else None
        if found:
            lines.append("  livegate/{}  {:.2f}  ({:.2f}-{:.2f})".format(rival, *found))
    for proxy, rounds in results.items():
        for number, entry in enumerate(rounds, 1):
            lines.extend(f"  INVALID {proxy}, round {number}: {problem}" for problem in entry.problems)
        share = middle[proxy].get("foreign_percent", 0)
        if share > FOREIGN_MAX:
            lines.append(f"  NOISY {proxy}: others used {share:.0f} % of its core; repeat on a quiet machine")
    return "\n".join(lines)


def _detail(scenario):
    if scenario.kind == "load":
        return f"{scenario.title}, {scenario.connections} connections"
    if scenario.kind == "spread":
        return f"{scenario.title}, {scenario.workers} workers"
    return scenario.title


def verdicts(results, scenarios):
    """Each target with what was measured: (target, sentence, met: True, False, or None when not asked for)."""
    asked = {scenario.name for scenario in scenarios}
    found = []
    for target in TARGETS:
        of_scenario = results.get(target.scenario, {})
        if target.rival:
            what = f"{target.scenario}: CPU time per request / {target.rival}'s"
            measured = ratios(of_scenario, target.figure, target.rival)
            value = measured[0] if measured else None
        else:
            what = f"{target.scenario}: KiB per idle connection"
            value = medians(of_scenario.get("livegate", [])).get("kib_per_connection")
        if value is None:
            met = False if target.scenario in asked else None
            sentence = f"{what} at most {target.limit:.2f}: not measured"
        else:
            met = value <= target.limit
            sentence = f"{what} at most {target.limit:.2f}: {value:.3f}"
        found.append((target, sentence, met))
    return found


def verdict_text(found):
    words = {True: "met", False: "MISSED", None: "not run"}
    return "\n".join(["targets", *(f"  {words[met]:8}{sentence}" for _, sentence, met in found)])


def document(about, scenarios, results, found):
    """Everything, for programs: settings, every round, medians, ratios, targets."""
    entries = []
    for scenario in scenarios:
        of_scenario = results.get(scenario.name, {})
        compared = {rival: ratios(of_scenario, _HEADLINE[scenario.kind], rival)
                    for rival in of_scenario if rival != "livegate"}
        entries.append({
            "scenario": scenario.name, "connections": scenario.connections, "path": scenario.path,
            "workers": scenario.workers,
            "proxies": {proxy: {"median": medians(rounds), "rounds": [entry.record() for entry in rounds]}
                        for proxy, rounds in of_scenario.items()},
            "livegate_ratio": {rival: dict(zip(("median", "min", "max"), value))
                               for rival, value in compared.items() if value},
        })
    targets = [{"scenario": target.scenario, "rival": target.rival, "limit": target.limit, "met": met,
                "detail": sentence} for target, sentence, met in found]
    return {**about, "scenarios": entries, "targets": targets}
