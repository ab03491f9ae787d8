"""The current openai-node through the gateway: runs node/sdk.test.mjs, whose own report is shown when it fails."""

import json
import re
import subprocess

from harness import sdk
from harness.gateway import DISABLED_TOKEN, NARROW_TOKEN, TOKEN
from harness.paths import E2E, environment


def test_openai_node(start, emulator, record_property):
    gateway = start(sdk.config(emulator))
    env = environment(
        BERRY_URL=gateway.url,
        BERRY_TOKEN=TOKEN,
        BERRY_NARROW_TOKEN=NARROW_TOKEN,
        BERRY_DISABLED_TOKEN=DISABLED_TOKEN,
        BERRY_MODELS=json.dumps(sdk.MODELS),
    )
    command = ["node", "--test", "--test-reporter=tap", E2E / "node" / "sdk.test.mjs"]
    run = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    counts = dict(re.findall(r"^# (tests|pass|fail) (\d+)$", run.stdout, re.MULTILINE))
    record_property("openai-node tests", ", ".join(f"{name} {count}" for name, count in counts.items()))
    assert run.returncode == 0, run.stdout
    assert int(counts["pass"]) == int(counts["tests"]) > 40
