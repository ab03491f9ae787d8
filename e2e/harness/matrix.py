"""What every client does with every upstream dialect, and the configuration for it."""

import base64
import json

from .emulator import KEY
from .gateway import USERS, model
from .paths import E2E, ROOT
from .tap import Tap

#: Upstream dialects, and the model that each is asked for.
UPSTREAMS = {"openai": "gpt-5", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-flash"}
#: What is tried in each.
FEATURES = ("chat", "stream", "tools", "parallel", "image", "pdf", "structured", "thinking", "error")

TEXT = "Hello from the emulator, word by word."
PARALLEL = "It is 18 degrees and noon in Paris."
#: Tokens that the emulator counts.
USAGE = (11, 7)
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n is enough for an emulator").decode()
PDF = base64.b64encode(b"%PDF-1.7 is enough for an emulator").decode()

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TIME = {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"], "additionalProperties": False}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "population": {"type": "integer"}},
    "required": ["city", "population"],
    "additionalProperties": False,
}


def config(tap: Tap) -> str:
    """One model for each upstream dialect, by the dialect's name, and `vectors` at the Gemini one."""
    tables = ["[settings]\nmax_retries = 0\n", USERS]
    for dialect, upstream in UPSTREAMS.items():
        kind = {"anthropic": "claude"}.get(dialect, dialect)
        tables.append(
            f'[providers.{dialect}]\nname = "{dialect}"\nbackend_type = "{kind}"\nbase_url = "{tap.url}"\n'
            f'api_key = "{KEY}"\nmodels = []\ntimeout_seconds = 60\n'
        )
        tables.append(model(dialect, dialect, upstream))
    tables.append(model("vectors", "gemini", "gemini-embedding-001"))
    return "\n".join(tables)


#: Clients in test_matrix_python.py and, after them, in node/matrix.test.mjs, with the package and the dialect that they speak.
PYTHON_CLIENTS = {
    "openai-python": ("openai", "chat completions"),
    "openai-python-responses": ("openai", "Responses"),
    "anthropic-python": ("anthropic", "Messages"),
    "google-genai": ("google-genai", "generateContent"),
    "langchain-openai": ("langchain-openai", "chat completions"),
    "langchain-anthropic": ("langchain-anthropic", "Messages"),
}
NODE_CLIENTS = {
    "openai-node": ("openai", "chat completions"),
    "anthropic-node": ("@anthropic-ai/sdk", "Messages"),
    "ai-sdk-openai": ("@ai-sdk/openai", "chat completions"),
    "ai-sdk-responses": ("@ai-sdk/openai", "Responses"),
    "ai-sdk-anthropic": ("@ai-sdk/anthropic", "Messages"),
}
#: Where the table stands.
DOCS = ROOT / "docs" / "dialects.md"
BEGIN, END = "<!-- matrix: begin -->\n", "<!-- matrix: end -->\n"


def table() -> str:
    """What answers in each cell, from the lists above and the pinned versions."""
    packages = json.loads((E2E / "package-lock.json").read_text())["packages"]
    pins = dict(line.split("==") for line in (E2E / "requirements.txt").read_text().splitlines() if "==" in line)
    emulator = f"aimock {packages['node_modules/@copilotkit/aimock']['version']}"
    lines = [
        f"| Client | Package | Speaks | {' | '.join(UPSTREAMS)} |",
        "|---|---|---|" + "---|" * len(UPSTREAMS),
    ]
    for clients, version in (
        (PYTHON_CLIENTS, lambda package: pins[package]),
        (NODE_CLIENTS, lambda package: packages[f"node_modules/{package}"]["version"]),
    ):
        for name, (package, dialect) in clients.items():
            cells = " | ".join([emulator] * len(UPSTREAMS))
            lines.append(f"| {name} | `{package}` {version(package)} | {dialect} | {cells} |")
    lines.append("| openai-python, openai-node: vectors, default settings | | embeddings | | | own mock |")
    cells = (len(PYTHON_CLIENTS) + len(NODE_CLIENTS)) * len(UPSTREAMS) * len(FEATURES)
    lines += ["", f"{cells} cells of {len(FEATURES)} features ({', '.join(FEATURES)}), and 2 cells at the own mock."]
    return "\n".join(lines) + "\n"


def documented() -> tuple[str, str, str]:
    """The documentation before the table, the table, and the documentation after it."""
    before, rest = DOCS.read_text().split(BEGIN)
    table, after = rest.split(END)
    return before + BEGIN, table, END + after
