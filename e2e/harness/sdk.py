"""The gateway configuration that both OpenAI clients are tested against: the demo upstream and the independent emulator."""

from .emulator import KEY, Emulator
from .gateway import DEMO_PROVIDER, USERS, model

#: Statuses that the emulator answers for the model `emulator-error-STATUS`.
EMULATED_ERRORS = (400, 409, 413, 422, 429, 500, 503)

#: Every public model of the configuration, in the order of the models list.
MODELS = sorted(
    [
        "demo-model",
        "emulator-model",
        "only-this",
        "azure-model",
        "wrong-key",
        "nobody-there",
        *(f"emulator-error-{status}" for status in EMULATED_ERRORS),
    ]
)


def config(emulator: Emulator) -> str:
    """Each emulated error has a provider of its own, so that no test meets the circuit or the cool-down of another."""
    tables = [
        "[settings]\nmax_retries = 0\n[server]\nmax_body_bytes = 1048576\n",
        USERS,
        DEMO_PROVIDER,
        _provider("emulator", f"{emulator.url}/v1", KEY),
        _provider("wrong_key", f"{emulator.url}/v1", "not-the-emulators-key"),
        # Nothing listens on the discard port.
        _provider("nobody", "http://127.0.0.1:9/v1", "any"),
        _provider("azure", emulator.url, KEY) + 'backend_type = "azure"\napi_version = "2024-10-21"\n',
        model("demo-model", "demo", "demo-model"),
        model("emulator-model", "emulator", "upstream-model"),
        model("only-this", "emulator", "upstream-model"),
        model("azure-model", "azure", "upstream-deployment"),
        model("wrong-key", "wrong_key", "upstream-model"),
        model("nobody-there", "nobody", "upstream-model"),
    ]
    for status in EMULATED_ERRORS:
        tables.append(_provider(f"error_{status}", f"{emulator.url}/v1", KEY))
        tables.append(model(f"emulator-error-{status}", f"error_{status}", f"upstream-error-{status}"))
    return "\n".join(tables)


def _provider(key: str, base_url: str, api_key: str) -> str:
    return f'[providers.{key}]\nname = "{key}"\nbase_url = "{base_url}"\napi_key = "{api_key}"\nmodels = []\n'
