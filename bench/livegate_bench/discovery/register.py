"""From registering an instance that listens to the first request that it serves, through a gateway with its own
registry: an instance of a new service, and one more of a service that is there."""

import random
import time
from contextlib import ExitStack

from . import zookeeper
from .stage import Connection, Gateway, Origin, ROOT, now, registration

_ROUNDS, _ROUNDS_QUICK = 250, 40
# So many services are there, which take turns, each with so many instances besides. One of four may leave every second
# or two; more at a time would be held for not being believed.
_SERVICES, _OTHERS = 16, 3
# Between two requests that are not answered by the new instance.
_PAUSE = 0.0005
# After a change of the service, at most: additions wait up to 50 ms for others after that, and these pauses let them wait
# for any part of it, or not at all.
_BETWEEN = 0.150
_PATIENCE = 10


def measure(bench):
    """`new` and `existing` -> milliseconds of each round."""
    rounds = _ROUNDS_QUICK if bench.quick else _ROUNDS
    times = {"new": [], "existing": []}
    with ExitStack() as stack:
        origin = Origin(bench)
        stack.callback(origin.stop)
        gateway = Gateway(bench, "register")
        stack.callback(gateway.stop)
        registry = stack.enter_context(zookeeper.Session(gateway.registry))
        client = stack.enter_context(Connection(gateway.port))
        existing = [f"existing-{number}" for number in range(_SERVICES)]
        others = [origin.instance(number) for number in range(_OTHERS)]
        for service in existing:
            registry.ensure(f"{ROOT}/{service}")
            registry.call(*(_create(service, instance) for instance in others))
            _until_served(client, service, others)
        left = {}
        for number in range(rounds):
            bench.show(f"register: round {number + 1} of {rounds}")
            instance = origin.instance(_OTHERS + number)
            service = existing[number % _SERVICES]
            if service in left:
                registry.call(_delete(service, left[service]))
            time.sleep(_BETWEEN * random.random())
            times["existing"].append(_serve_ms(registry, client, service, instance))
            left[service] = instance
            service = f"new-{number}"
            root = zookeeper.create(f"{ROOT}/{service}")
            times["new"].append(_serve_ms(registry, client, service, instance, root))
            registry.call(_delete(service, instance))
    return times


def _serve_ms(registry, client, service, instance, *before):
    """Registers an instance (after other requests), and waits until it has served one."""
    began = now()
    registry.call(*before, _create(service, instance))
    _until_served(client, service, [instance])
    return (now() - began) * 1e3


def _delete(service, instance):
    return zookeeper.delete(f"{ROOT}/{service}/{instance}")


def _create(service, instance):
    return zookeeper.create(f"{ROOT}/{service}/{instance}", registration(service, instance), ephemeral=True)


def _until_served(client, service, instances):
    """Asks until each of these has answered."""
    deadline = now() + _PATIENCE
    missing = set(instances)
    while True:
        _, body = client.get(f"/{service}/")
        missing.discard(body.decode(errors="replace"))
        if not missing:
            return
        if now() > deadline:
            raise RuntimeError(f"no answer from {', '.join(sorted(missing))} within {_PATIENCE} s; last: {body[:200]}")
        time.sleep(_PAUSE)
