"""The independent emulator of the OpenAI API, as a process."""

import json
import subprocess
import urllib.request

from .paths import E2E, environment

#: The only key that the emulator accepts.
KEY = "emulator-key"


class Emulator:
    """Runs until `stop`; `url` has no path."""

    def __init__(self):
        command = ["node", E2E / "node" / "emulator.mjs"]
        self.process = subprocess.Popen(
            command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:"), "the emulator did not start"

    def requests(self) -> list[dict]:
        """What the emulator received so far, oldest first: method, path, headers, body."""
        request = urllib.request.Request(f"{self.url}/v1/_requests", headers={"authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()
