"""HTTP/2 without and with TLS, ALPN, and the preflight of the OpenAI client in a browser. Driven by curl and openssl."""

import json
import socket
import ssl
import subprocess

import pytest

from harness.gateway import DEMO, TOKEN


@pytest.fixture(scope="module")
def gateway(start):
    return start(DEMO)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1 and localhost, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", key, "-out", cert]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return cert, key


@pytest.fixture(scope="module")
def secure(start, certificate):
    cert, key = certificate
    return start(f'[server]\ntls_cert = "{cert}"\ntls_key = "{key}"\n' + DEMO, tls=True)


def curl(*arguments, body=None) -> tuple[str, str]:
    """The body of curl's answer, and the protocol version with the status."""
    command = ["curl", "-sS", "--max-time", "30", "-w", "\n%{http_version} %{http_code}", "-H", f"Authorization: Bearer {TOKEN}"]
    if body is not None:
        command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    run = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stderr
    answer, _, outcome = run.stdout.rpartition("\n")
    return answer, outcome


def chat(stream: bool) -> dict:
    return {"model": "demo-model", "messages": [{"role": "user", "content": "hello"}], "stream": stream}


def check_chat(url: str, *options) -> None:
    """A plain and a streamed chat over HTTP/2."""
    answer, outcome = curl(*options, f"{url}/v1/chat/completions", body=chat(False))
    assert outcome == "2 200"
    assert json.loads(answer)["choices"][0]["message"]["content"]
    answer, outcome = curl(*options, f"{url}/v1/chat/completions", body=chat(True))
    assert outcome == "2 200"
    assert answer.startswith("data: ") and answer.rstrip().endswith("data: [DONE]")


def test_http2_with_prior_knowledge(gateway):
    check_chat(gateway.url, "--http2-prior-knowledge")


def test_an_error_over_http2_has_the_same_shape(gateway):
    answer, outcome = curl("--http2-prior-knowledge", f"{gateway.url}/v1/models/no-such-model")
    assert outcome == "2 404"
    assert json.loads(answer)["error"]["code"] == "model_not_found"


def test_http2_over_tls(secure, certificate):
    check_chat(secure.url, "--http2", "--cacert", str(certificate[0]))


def test_http1_over_tls(secure, certificate):
    answer, outcome = curl("--http1.1", "--cacert", str(certificate[0]), f"{secure.url}/v1/models")
    assert outcome == "1.1 200"
    assert [item["id"] for item in json.loads(answer)["data"]] == ["demo-model"]


@pytest.mark.parametrize(
    ("offered", "agreed"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), (["h2"], "h2"), ([], None)]
)
def test_the_protocol_agreed_on_in_the_handshake(secure, certificate, offered, agreed):
    context = ssl.create_default_context(cafile=str(certificate[0]))
    if offered:
        context.set_alpn_protocols(offered)
    with context.wrap_socket(socket.create_connection(("127.0.0.1", secure.port), 10), server_hostname="localhost") as tls:
        assert tls.selected_alpn_protocol() == agreed
        assert tls.version() in ("TLSv1.2", "TLSv1.3")


def test_plain_http_at_a_tls_port_is_refused(secure):
    run = subprocess.run(["curl", "-sS", "--max-time", "10", f"http://{secure.address}/livez"], capture_output=True)
    assert run.returncode != 0 or not run.stdout.startswith(b"{")


# What openai-node sends from a browser, beside the two headers of every JSON request with a token.
STAINLESS = [
    "x-stainless-arch",
    "x-stainless-lang",
    "x-stainless-os",
    "x-stainless-package-version",
    "x-stainless-retry-count",
    "x-stainless-runtime",
    "x-stainless-runtime-version",
    "x-stainless-timeout",
    "x-stainless-helper-method",
]


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("POST", "/v1/audio/transcriptions")])
def test_a_browsers_preflight_passes_without_a_token(gateway, method, path):
    wanted = ["authorization", "content-type", *STAINLESS]
    answer = gateway.request(
        "OPTIONS",
        path,
        headers={
            "origin": "https://app.example",
            "access-control-request-method": method,
            "access-control-request-headers": ",".join(wanted),
        },
    )
    assert answer.status in (200, 204)
    assert answer.headers["access-control-allow-origin"] in ("*", "https://app.example")
    assert method in [name.strip() for name in answer.headers["access-control-allow-methods"].split(",")]
    # A browser does not take "*" for the authorization header, so each must be named.
    allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert set(wanted) <= allowed


@pytest.mark.parametrize("token", [TOKEN, "wrong"], ids=["answered", "refused"])
def test_a_browser_may_read_answers_and_errors_and_the_request_id(gateway, token):
    body = chat(False)
    answer = gateway.request("POST", "/v1/chat/completions", body, token, {"origin": "https://app.example"})
    assert answer.status == (200 if token == TOKEN else 401)
    assert answer.headers["access-control-allow-origin"] in ("*", "https://app.example")
    exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert "x-request-id" in exposed or exposed == {"*"}


def test_no_other_site_may_use_the_admin_interface(gateway):
    answer = gateway.request(
        "OPTIONS", "/admin/config", headers={"origin": "https://app.example", "access-control-request-method": "GET"}
    )
    assert "access-control-allow-origin" not in answer.headers
