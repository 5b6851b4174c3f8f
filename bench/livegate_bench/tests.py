"""The arithmetic behind the claims: `PYTHONPATH=bench python3 -B -m unittest livegate_bench.tests`."""

import unittest

from . import registry_report, report, scenarios
from .discovery import report as discovery_report
from .discovery.stage import percentile
from .measure import Round
from .process import CpuReading, cpu_between


class CpuBetween(unittest.TestCase):
    def test_sum_is_of_schedstat_and_split_is_of_ticks(self):
        before = CpuReading({(1, 1): 5_000_000}, 10, 10)
        after = CpuReading({(1, 1): 9_000_000, (1, 2): 4_000_000}, 11, 13)
        used = cpu_between(before, after)
        self.assertAlmostEqual(used.total, 8_000)
        self.assertAlmostEqual(used.user, 2_000)
        self.assertAlmostEqual(used.kernel, 6_000)

    def test_time_of_a_thread_that_ended_is_not_lost(self):
        before = CpuReading({(1, 1): 0, (1, 2): 7_000_000}, 0, 0)
        after = CpuReading({(1, 1): 1_000_000}, 2, 0)
        self.assertAlmostEqual(cpu_between(before, after).total, 20_000)

    def test_less_than_a_tick_is_not_lost(self):
        used = cpu_between(CpuReading({(1, 1): 0}, 0, 0), CpuReading({(1, 1): 3_000}, 0, 0))
        self.assertAlmostEqual(used.total, 3)


class Ratios(unittest.TestCase):
    def test_rounds_are_compared_in_pairs(self):
        # The machine is twice as slow in the second round: the ratio does not notice.
        results = {"livegate": [Round(cpu=8), Round(cpu=16), Round(cpu=9)],
                   "nginx": [Round(cpu=10), Round(cpu=20), Round(cpu=10)]}
        self.assertEqual(report.ratios(results, "cpu", "nginx"), (0.8, 0.8, 0.9))

    def test_nothing_to_compare(self):
        self.assertIsNone(report.ratios({"nginx": [Round(cpu=1)]}, "cpu", "nginx"))


class Verdicts(unittest.TestCase):
    def _met(self, results, names):
        found = report.verdicts(results, scenarios.select(names, 1))
        return {(target.scenario, target.rival): met for target, _, met in found}

    def test_limit_is_inclusive_and_rivals_are_apart(self):
        results = {"small": {"livegate": [Round(cpu=9.0)], "nginx": [Round(cpu=10.0)], "haproxy": [Round(cpu=9.5)]}}
        met = self._met(results, ["small"])
        self.assertIs(met["small", "nginx"], True)
        self.assertIs(met["small", "haproxy"], False)
        self.assertIsNone(met["1m", "nginx"])

    def test_what_was_asked_for_and_not_measured_is_missed(self):
        self.assertIs(self._met({"idle-memory": {}}, ["idle-memory"])["idle-memory", None], False)

    def test_idle_memory_is_livegates_alone(self):
        results = {"idle-memory": {"livegate": [Round(kib_per_connection=1.9)]}}
        self.assertIs(self._met(results, ["idle-memory"])["idle-memory", None], True)


class Selection(unittest.TestCase):
    def test_groups_and_names_mix_without_repeats(self):
        names = [scenario.name for scenario in scenarios.select(["1m", "default", "spread"], 3)]
        self.assertEqual(names[0], "1m")
        self.assertEqual(sorted(names), sorted(scenarios.NAMES))

    def test_connections_are_for_the_closed_loop_only(self):
        small, idle = scenarios.select(["small", "idle-memory"], 1, connections=8)
        self.assertEqual((small.connections, idle.connections), (8, scenarios.IDLE_CONNECTIONS))


class RegistryVerdicts(unittest.TestCase):
    def _met(self, results):
        return [met for _, met in registry_report.verdicts(results)]

    def _rounds(self, ours, theirs, p99=1):
        return {"livegate": [{"per_second": value, "p99_us": p99} for value in ours],
                "apache": [{"per_second": value, "p99_us": 1} for value in theirs]}

    def test_rounds_are_compared_in_pairs(self):
        rounds = self._rounds([300, 30, 300], [100, 10, 200])
        self.assertEqual(registry_report.ratios(rounds, "per_second"), (3.0, 1.5, 3.0))

    def test_twice_the_operations_and_no_worse_p99(self):
        self.assertEqual(self._met({"load": {"set-64x16": self._rounds([19], [10])}}), [False, True])
        self.assertEqual(self._met({"load": {"set-64x16": self._rounds([20], [10], p99=1.1)}}), [True, False])

    def test_memory_is_compared_with_the_default_heap(self):
        entry = {"start_ms": [99, 150, 98]}
        results = {"livegate": {**entry, "empty_kib": 20, "full_kib": 21}, "apache": {"empty_kib": 100, "full_kib": 100},
                   "apache-256m": {"empty_kib": 1, "full_kib": 1}}
        self.assertEqual(self._met({"memory": results}), [True, True, False])

    def test_one_server_alone_has_no_ratio(self):
        self.assertEqual(self._met({"load": {"set-64x16": {"apache": [{"per_second": 1, "p99_us": 1}]}},
                                    "memory": {"apache": {}}, "fanout": {"apache": {"last_us": [1]}}}), [])


class Discovery(unittest.TestCase):
    def _churn(self, p99s, memory=(100, 100, 100), reads=10, differences=0, errors=None):
        kinds = ["quiet", "churn"] * (len(p99s) // 2)
        return {"phases": [{"kind": kind, "p99_us": p99} for kind, p99 in zip(kinds, p99s)],
                "memory": [[5.0 * number, kib] for number, kib in enumerate(memory)],
                "to_read": 10, "reads": reads, "differences": differences, "errors": errors or {}}

    def _met(self, results):
        return [met for _, met in discovery_report.verdicts(results)]

    def test_percentiles_are_values_that_occurred(self):
        values = list(range(1, 101))
        self.assertEqual([percentile(values, percent) for percent in (50, 99, 100)], [50, 99, 100])
        self.assertEqual(percentile([7], 99), 7)
        self.assertEqual(percentile([1, 2], 50), 1)

    def test_a_churning_phase_is_compared_with_the_quiet_ones_around_it(self):
        # The machine gets slower all the time: the first ratio does not notice, the last has one side only.
        median, least, greatest = discovery_report.p99_ratio(self._churn([10, 15, 20, 30]))
        self.assertEqual((median, least, greatest), (1.25, 1.0, 1.5))

    def test_each_read_counts_and_the_lists_must_agree(self):
        self.assertEqual(self._met({"churn": self._churn([10, 10])}), [True] * 4)
        self.assertEqual(self._met({"churn": self._churn([10, 10], reads=11)}), [False, True, True, True])
        self.assertEqual(self._met({"churn": self._churn([10, 10], differences=1)}), [False, True, True, True])

    def test_memory_that_grows_is_not_flat_and_memory_that_swings_is(self):
        self.assertEqual(self._met({"churn": self._churn([10, 10], memory=[100, 110, 120, 130])})[1], False)
        self.assertEqual(self._met({"churn": self._churn([10, 10], memory=[100, 120, 120, 100])})[1], True)

    def test_ratio_and_errors(self):
        self.assertEqual(self._met({"churn": self._churn([100, 106])})[2], False)
        self.assertEqual(self._met({"churn": self._churn([100, 105], errors={"failed": 1})})[2:], [True, False])

    def test_times_have_units(self):
        results = {"change": {"times_us": {"register": [10_000], "deregister": [10_001]}},
                   "register": {"new": [100.0], "existing": [100.1]},
                   "death": {"last_ms": [1, 51], "errors": {}},
                   "restart": {"answers": [5000], "refuses": [500], "is silent": [501]}}
        self.assertEqual(self._met(results), [True, False, True, False, False, True, True, False])


if __name__ == "__main__":
    unittest.main()
