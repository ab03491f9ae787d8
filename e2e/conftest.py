"""Shared fixtures, and what a run says about itself: versions first, measured figures last."""

import importlib.metadata
import json
import platform
import subprocess

import pytest

from harness.emulator import Emulator
from harness.gateway import Gateway
from harness.paths import BINARY, E2E


def pytest_report_header() -> list[str]:
    packages = json.loads((E2E / "package-lock.json").read_text())["packages"]
    version = {name.removeprefix("node_modules/"): entry.get("version") for name, entry in packages.items()}
    node = subprocess.run(["node", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    return [
        f"gateway: {BINARY}",
        f"openai-python {importlib.metadata.version('openai')} on Python {platform.python_version()}",
        f"openai-node {version['openai']} on Node {node}",
        f"independent emulator: @copilotkit/aimock {version['@copilotkit/aimock']}",
    ]


def pytest_terminal_summary(terminalreporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    figures = [f"{report.nodeid}: {name} {value}" for report in reports for name, value in report.user_properties]
    if figures:
        terminalreporter.section("measured")
        for line in figures:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def binary() -> None:
    assert BINARY.exists(), f"{BINARY} is missing: run scripts/check.sh build first"


@pytest.fixture(scope="module")
def emulator():
    emulator = Emulator()
    yield emulator
    emulator.stop()


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts gateways that live as long as the module's tests; each must then stop with exit code 0."""
    running = []

    def start(config, **options) -> Gateway:
        gateway = Gateway(config, tmp_path_factory.mktemp("gateway"), **options)
        running.append(gateway)
        return gateway

    yield start
    for gateway in running:
        gateway.stop()
