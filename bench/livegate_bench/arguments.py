"""What the command lines of the benchmarks are made of."""

import argparse
import os
import signal
import subprocess
import sys


def run_program(run, options):
    """Runs a benchmark and returns its exit code: that of `run`, 1 after a failure, 130 when it was interrupted."""
    # SIGTERM ends like Ctrl-C: through the clean-up. A shell's background job starts with SIGINT ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        return run(options)
    except KeyboardInterrupt:
        return 130
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def show(text):
    """What is being done, on a terminal's last line; nothing for a file."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def cpus(text):
    """Cores of this machine, as in `0,1`."""
    chosen = [int(word) for word in text.split(",")]
    if not set(chosen) <= os.sched_getaffinity(0):
        raise argparse.ArgumentTypeError(f"this machine lets us use cores {sorted(os.sched_getaffinity(0))}")
    return chosen


def names(allowed, what):
    """A type of argument: some of the allowed names, separated by commas."""
    def parse(text):
        chosen = text.split(",")
        unknown = [name for name in chosen if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"no {what} {unknown[0]!r}; there are {', '.join(allowed)}")
        return list(dict.fromkeys(chosen))
    return parse


def positive(kind):
    """A type of argument: a number greater than 0."""
    def parse(text):
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError("must be greater than 0")
        return value
    return parse
