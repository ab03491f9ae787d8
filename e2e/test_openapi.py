"""Schemathesis asks the gateway what `/openapi.json` says that it answers."""

import re
import subprocess
import sys
from pathlib import Path

from harness.gateway import DEMO, TOKEN

ST = Path(sys.executable).parent / "st"
#: Generated requests for each operation and phase.
EXAMPLES = 10


def test_the_description_is_true(start, record_property):
    gateway = start(DEMO)
    document = gateway.request("GET", "/openapi.json").json()
    # The page itself, which is read first, is not asked for again.
    operations = sum(len(methods) for methods in document["paths"].values()) - 1
    command = [
        ST,
        "run",
        f"{gateway.url}/openapi.json",
        f"--header=Authorization: Bearer {TOKEN}",
        "--generation-deterministic",
        f"--max-examples={EXAMPLES}",
        "--phases=examples,coverage,fuzzing",
        # A well-formed request may name a model, a provider or a generation that there is not.
        "--exclude-checks=positive_data_acceptance",
        "--no-color",
    ]
    done = subprocess.run(command, cwd=gateway.log_path.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:]
    assert f"Tested: {operations}" in done.stdout and operations > 30, done.stdout[-3000:]
    record_property("requests", re.search(r"(\d+) generated", done.stdout)[1])
    # Nothing that was sent has broken anything.
    assert gateway.chat("demo-model").status == 200
    assert "panicked" not in gateway.log()


def test_operations_of_the_vendors_are_not_described(start):
    paths = start(DEMO).request("GET", "/openapi.json").json()["paths"]
    assert "/admin/config" in paths and "/openapi.json" in paths
    assert "/v1/chat/completions" not in paths
