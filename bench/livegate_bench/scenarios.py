"""What is measured, and the targets that `--check` holds livegate to. Data only."""

from dataclasses import dataclass, replace

# One reply of the origin for the small case, head and body together: nginx's shortest head
# (status line, Server, Date, Content-Length, Connection: 115 bytes) and a 20-byte body.
SMALL_BODY = b"livegate benchmark.\n"
SMALL_REPLY_BYTES = 135

# Client connections held open and idle for `idle-memory`.
IDLE_CONNECTIONS = 10_000


@dataclass(frozen=True)
class Scenario:
    """One row group of the report."""

    name: str
    title: str
    kind: str  # "load": saturating closed loop; "idle": memory; "spread": fixed rate, many workers
    path: str = "/small"
    connections: int = 64
    close: bool = False  # a new client connection for each request
    access_log: bool = False
    workers: int = 1


_LOAD = [
    Scenario("small", f"{SMALL_REPLY_BYTES}-byte reply", "load"),
    Scenario("64k", "64 KiB reply", "load", path="/64k"),
    Scenario("1m", "1 MiB reply", "load", path="/1m"),
    Scenario("access-log", f"{SMALL_REPLY_BYTES}-byte reply, access log to a file", "load", access_log=True),
    Scenario("new-connection", f"{SMALL_REPLY_BYTES}-byte reply, a new client connection for each request",
             "load", close=True),
]
_IDLE = Scenario("idle-memory", f"{IDLE_CONNECTIONS} client connections, each idle after one request", "idle",
                 connections=IDLE_CONNECTIONS)
_SPREAD = [
    Scenario(f"spread-{count}", f"{count} client connections at a fixed rate", "spread", connections=count)
    for count in (8, 64, 512)
]

DEFAULT = [scenario.name for scenario in [*_LOAD, _IDLE]]
GROUPS = {"default": DEFAULT, "spread": [s.name for s in _SPREAD], "all": [*DEFAULT, *(s.name for s in _SPREAD)]}
_BY_NAME = {scenario.name: scenario for scenario in [*_LOAD, _IDLE, *_SPREAD]}
NAMES = list(_BY_NAME)


def select(names, workers, connections=None):
    """Scenarios for `names` (scenario or group names), in the given order and without repeats.

    `workers` is for the spread scenarios, `connections` instead of 64 for those of kind load.
    """
    flat = [name for given in names for name in GROUPS.get(given, [given])]
    unknown = [name for name in flat if name not in _BY_NAME]
    if unknown:
        raise ValueError(f"no scenario {unknown[0]!r}; there are {', '.join([*NAMES, *GROUPS])}")
    chosen = [_BY_NAME[name] for name in dict.fromkeys(flat)]
    changes = {"spread": {"workers": workers}, "load": {"connections": connections} if connections else {}}
    return [replace(scenario, **changes.get(scenario.kind, {})) for scenario in chosen]


@dataclass(frozen=True)
class Target:
    """livegate's `figure` in `scenario` must be at most `limit` (times the rival's, where there is one)."""

    scenario: str
    figure: str  # "cpu": CPU time per request; "idle": KiB per idle connection
    rival: str | None
    limit: float


# Source: the repository's issue 2, "It is done when".
TARGETS = [
    *(Target(scenario, "cpu", rival, limit)
      for scenario, limit in [("small", 0.90), ("64k", 0.65), ("1m", 0.40), ("access-log", 0.95)]
      for rival in ("nginx", "haproxy")),
    Target("new-connection", "cpu", "nginx", 1.00),
    Target("idle-memory", "idle", None, 2.0),
]
