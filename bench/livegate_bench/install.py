"""What the benchmark needs and how it gets there: Debian packages and a release build of livegate."""

import json
import os
import shutil
import subprocess
from pathlib import Path

_PACKAGES = {"nginx": "nginx", "haproxy": "haproxy", "wrk": "wrk", "h2load": "nghttp2-client",
             "valgrind": "valgrind", "strace": "strace", "java": "default-jre-headless"}
_POLICY = Path("/usr/sbin/policy-rc.d")
_SBIN = ["/usr/local/sbin", "/usr/sbin", "/sbin"]


def find(program):
    """Path of an installed program, sbin folders included, or None."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), *_SBIN]))


def require(programs):
    """Installs what is absent of `programs`; returns program -> path."""
    absent = [program for program in programs if find(program) is None]
    if absent:
        _apt_install(sorted({_PACKAGES[program] for program in absent}))
    paths = {program: find(program) for program in programs}
    for program, path in paths.items():
        if path is None:
            raise RuntimeError(f"{program} is not installed; install Debian's package {_PACKAGES[program]}")
    return paths


def _apt_install(packages):
    if find("apt-get") is None or os.geteuid() != 0:
        raise RuntimeError(f"missing: {', '.join(packages)}; run `apt-get install {' '.join(packages)}` as root")
    print(f"installing {', '.join(packages)}", flush=True)
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # Debian starts a service as it is installed unless this script says no (101). Ours is removed again;
    # an existing one is the administrator's and stays.
    ours = not _POLICY.exists()
    if ours:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        if subprocess.run(install, env=environment).returncode != 0:
            subprocess.run(["apt-get", "update", "-q"], env=environment, check=True)
            subprocess.run(install, env=environment, check=True)
    finally:
        if ours:
            _POLICY.unlink()


def build_livegate(repository, profile="release"):
    """A build of this checkout; returns the binary's path."""
    if find("cargo") is None:
        raise RuntimeError("cargo is not installed; give --livegate PATH, or --proxies nginx,haproxy")
    return _build(repository, profile, "livegate", "-p", "livegate", "--bin", "livegate")


def build_example(repository, package, example, profile="release"):
    """A build of an example of this checkout; returns the binary's path."""
    if find("cargo") is None:
        raise RuntimeError("cargo is not installed")
    return _build(repository, profile, f"examples/{example}", "-p", package, "--example", example)


def _build(repository, profile, binary, *what):
    print(f"building {binary} ({profile})", flush=True)
    subprocess.run(["cargo", "build", "--profile", profile, "--locked", *what], cwd=repository, check=True)
    metadata = subprocess.run(["cargo", "metadata", "--format-version", "1", "--no-deps", "--offline"],
                              cwd=repository, check=True, capture_output=True)
    return Path(json.loads(metadata.stdout)["target_directory"]) / profile / binary


def require_package(package, file):
    """Installs a Debian package unless this file of it is there."""
    if not file.exists():
        _apt_install([package])
    if not file.exists():
        raise RuntimeError(f"{file} is missing; install Debian's package {package}")


def package_version(package):
    """The version of an installed Debian package."""
    answer = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True)
    return answer.stdout.strip() or "unknown"


def version(program, argument):
    """The first line a program says about its version."""
    answer = subprocess.run([program, argument], capture_output=True, text=True)
    lines = (answer.stdout + answer.stderr).strip().splitlines()
    return lines[0] if lines else "unknown"
