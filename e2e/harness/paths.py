"""Where things lie: in the repository, and under target/e2e what was installed for the suite."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
E2E = ROOT / "e2e"
HOME = ROOT / "target" / "e2e"
BINARY = ROOT / "target" / "release" / "berry-api"

#: The configurations that the repository ships.
SHIPPED = [
    *(ROOT / name for name in ("config-example.toml", "config_example.toml", "config_simple.toml")),
    *(ROOT / name for name in ("test_config.toml", "smart_ai_example.toml")),
    *sorted((ROOT / "config").glob("*.toml")),
]


def environment(**extra: str) -> dict[str, str]:
    """The environment of every process under test: only what is named here, so that a developer's own settings do not count."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "CARGO_HOME", "RUSTUP_HOME") if name in os.environ}
    return {**kept, "RUST_LOG": "info", "BERRY_E2E_HOME": str(HOME), **extra}
