"""Gives kazoo's tests one server of our choice instead of the ensemble that they would start themselves.

kazoo asks `kazoo.testing.harness.get_global_cluster` for its servers. It gets a list of one here: a process that is
started with the command line in ONE_SERVER_COMMAND, listens on the port ONE_SERVER_PORT, and is stopped and started
again when a test wants that. Its output goes to ONE_SERVER_LOG.
"""

import logging
import os
import shlex
import socket
import subprocess
import sys
import time

import kazoo.testing.harness
import pytest

PATIENCE = 60


class Server:
    def __init__(self):
        self.client_port = int(os.environ["ONE_SERVER_PORT"])
        self.address = "127.0.0.1:%d" % self.client_port
        self.secure_address = self.address
        self.process = None

    @property
    def running(self):
        return self.process is not None

    def run(self):
        if self.running:
            return
        command = shlex.split(os.environ["ONE_SERVER_COMMAND"])
        with open(os.environ["ONE_SERVER_LOG"], "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while not self._serves():
            if self.process.poll() is not None:
                raise RuntimeError("the server ended with %d: see %s" % (self.process.returncode, os.environ["ONE_SERVER_LOG"]))
            if time.monotonic() > deadline:
                raise RuntimeError("the server does not serve")
            time.sleep(0.05)

    def _serves(self):
        try:
            with socket.create_connection(("127.0.0.1", self.client_port), 2) as connection:
                connection.settimeout(2)
                connection.sendall(b"srvr")
                answer = b""
                while chunk := connection.recv(4096):
                    answer += chunk
                return b"Mode:" in answer
        except OSError:
            return False

    def stop(self):
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    destroy = stop

    def get_logs(self, num_lines=100):
        with open(os.environ["ONE_SERVER_LOG"], errors="replace") as log:
            return log.readlines()[-num_lines:]


class Ensemble(list):
    def start(self):
        for server in self:
            server.run()

    def stop(self):
        for server in self:
            server.stop()

    def terminate(self):
        """After each class of tests; the next one can have the same server."""

    def reset(self):
        """After a failure; what a test leaves behind has a name of its own."""

    def get_logs(self):
        return [line for server in self for line in server.get_logs()]

    def get_ssl_client_configuration(self):
        raise NotImplementedError("tests with TLS are left out")


ENSEMBLE = Ensemble([Server()])


def pytest_configure(config):
    kazoo.testing.harness.get_global_cluster = lambda: ENSEMBLE


def main():
    """pytest, whose summary is the last that is said: clients that tests have left behind are not waited for."""
    status = pytest.main(sys.argv[1:], plugins=[sys.modules[__name__]])
    logging.disable()
    ENSEMBLE.stop()
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
