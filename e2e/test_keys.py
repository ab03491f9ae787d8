"""Keys issued at run time, over real processes: they outlive the process, and their networks believe no client's header."""

from harness.gateway import DEMO_PROVIDER, TOKEN, USERS, Gateway, model

#: The tests' own address stands for the proxy.
CONFIG = '[server]\ntrusted_proxies = ["127.0.0.0/8"]\n' + USERS + DEMO_PROVIDER + model("demo-model", "demo", "demo-model")


def create(gateway: Gateway, **grant) -> tuple[str, str]:
    made = gateway.request("POST", "/admin/keys", grant, TOKEN)
    assert made.status == 201, made.body
    return made.json()["key"]["id"], made.json()["token"]


def status(gateway: Gateway, token: str, forwarded: str | None = None) -> int:
    headers = {"x-forwarded-for": forwarded} if forwarded else None
    return gateway.request("GET", "/v1/models", None, token, headers).status


def test_keys_and_audit_outlive_the_process_and_revocation_does_too(tmp_path):
    first = Gateway(CONFIG, tmp_path)
    kept, kept_token = create(first, name="kept")
    gone, gone_token = create(first, name="gone")
    assert first.request("DELETE", f"/admin/keys/{gone}", None, TOKEN).status == 200
    first.stop()
    file = tmp_path / "data" / "keys.json"
    assert file.stat().st_mode & 0o777 == 0o600
    for token in (kept_token, gone_token):
        assert token not in file.read_text() and token not in first.log()
    second = Gateway(CONFIG, tmp_path)
    assert (status(second, kept_token), status(second, gone_token)) == (200, 401)
    assert [key["id"] for key in second.request("GET", "/admin/keys", None, TOKEN).json()["keys"]] == [kept]
    entries = second.request("GET", "/admin/audit", None, TOKEN).json()["entries"]
    assert [entry["action"] for entry in entries] == ["key.revoke", "key.create", "key.create"]
    second.stop()


def test_a_spoofed_forwarded_address_does_not_open_a_keys_network(tmp_path):
    trusting = Gateway(CONFIG, tmp_path)
    _, token = create(trusting, name="office", allowed_networks=["198.51.100.0/24"])
    assert status(trusting, token, "198.51.100.7") == 200
    assert status(trusting, token, "203.0.113.9") == 401
    # What the client itself wrote stands to the left of what the proxy saw.
    assert status(trusting, token, "198.51.100.7, 203.0.113.9") == 401
    assert status(trusting, token) == 401
    trusting.stop()
    # Without a trusted proxy the header says nothing.
    alone = Gateway(CONFIG.replace('"127.0.0.0/8"', ""), tmp_path)
    assert status(alone, token, "198.51.100.7") == 401
    alone.stop()
