"""Bad requests: the right status, the JSON error shape, and a process that stays flat in memory."""

import json
import socket
import time

import pytest

from harness.gateway import DEMO, DISABLED_TOKEN, NARROW_TOKEN, TOKEN, parse_response, read_until_closed

MIB = 1024 * 1024
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def gateway(start):
    return start(DEMO)


def post(gateway, body: bytes, **headers: str):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return gateway.request("POST", CHAT, body, TOKEN, headers)


def nested(opening: bytes, closing: bytes, depth: int) -> bytes:
    return b'{"model":"demo-model","messages":' + opening * depth + closing * depth + b"}"


MALFORMED = {
    "empty": b"",
    "not json": b"hello",
    "truncated": b'{"model":"demo-model","messages":[',
    "trailing comma": b'{"model":"demo-model","messages":[],}',
    "two documents": b'{"model":"demo-model"}{"model":"demo-model"}',
    "single quotes": b"{'model':'demo-model'}",
    "lone control character": b'{"model":"demo-model","messages":"\x01"}',
    "array": b'["demo-model"]',
    "string": b'"demo-model"',
    "null": b"null",
    "deep arrays never closed": nested(b"[", b"", 200_000),
    "deep arrays closed": nested(b"[", b"]", 200_000),
    "deep objects closed": nested(b'{"a":', b"}", 200_000).replace(b":}", b":1}", 1),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_body_that_is_not_a_json_object_is_400_invalid_json(gateway, body):
    error = post(gateway, body).error(400)
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_json")


def test_a_body_that_is_not_utf_8_is_400(gateway):
    """Strings pass unread, so it is the upstream that says so."""
    assert post(gateway, b'{"model":"demo-model","messages":"\xff\xfe"}').status == 400


def test_a_missing_model_is_400_missing_model(gateway):
    error = post(gateway, b'{"messages":[]}').error(400)
    assert (error["code"], error["param"]) == ("missing_model", "model")


@pytest.mark.parametrize("value", ["1", "null", "true", "[]", "{}", '""'])
def test_a_model_of_the_wrong_type_is_400(gateway, value):
    error = post(gateway, b'{"model":%s,"messages":[]}' % value.encode()).error(400)
    assert (error["type"], error["param"]) == ("invalid_request_error", "model")


@pytest.mark.parametrize("second", ['"model":"b"', '"mod\\u0065l":"b"', '"backend":"demo","backend":"demo"', '"stream":true,"stream":false'])
def test_a_duplicate_of_a_key_that_routes_is_400(gateway, second):
    post(gateway, b'{"model":"demo-model",%s,"messages":[]}' % second.encode()).error(400)


def test_an_encoded_body_is_415(gateway):
    post(gateway, b"\x1f\x8b", content_encoding="gzip").error(415)


def test_a_declared_65_mib_body_is_413_before_it_is_sent(gateway):
    with gateway.connect() as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {65 * MIB}\r\n\r\n"
        connection.sendall(head.encode())
        answer = parse_response(read_until_closed(connection, within=5))
    assert answer.error(413)["code"] == "payload_too_large"


def send_chunked(gateway, size: int) -> bytes:
    """Sends a chat body of `size` bytes in chunks without a declared length; stops where the gateway stops reading."""
    chunk = b"100000\r\n" + b"x" * MIB + b"\r\n"
    with gateway.connect() as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        try:
            for _ in range(size // MIB):
                connection.sendall(chunk)
            connection.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        return read_until_closed(connection, within=10)


def test_a_65_mib_body_of_undeclared_length_is_413(gateway):
    assert parse_response(send_chunked(gateway, 65 * MIB)).error(413)["code"] == "payload_too_large"


@pytest.mark.parametrize("path", ["/nowhere", "/v1/nowhere", "/v1/chat/completions/more", "/dashboard/nowhere", "/admin/nowhere"])
def test_an_unknown_path_is_404_without_a_token(gateway, path):
    gateway.request("GET", path).error(404)


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches", "/v1/assistants", "/v1/fine_tuning/jobs", "/v1/realtime"])
def test_an_endpoint_that_is_not_offered_says_so(gateway, path):
    assert gateway.request("GET", path, token=TOKEN).error(404)["code"] == "unsupported_endpoint"


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("DELETE", "/v1/models"), ("PUT", "/v1/embeddings"), ("POST", "/health")])
def test_a_wrong_method_is_405_and_names_the_right_one(gateway, method, path):
    answer = gateway.request(method, path)
    answer.error(405)
    assert answer.headers["allow"]


# The order of the checks, each request failing several of them.


def test_authentication_comes_before_size_json_and_model(gateway):
    for token in (None, "wrong", ""):
        assert gateway.request("POST", CHAT, b"x" * 100, token).error(401)["code"] == "invalid_token"
    assert gateway.request("POST", CHAT, b"{", DISABLED_TOKEN).error(401)["code"] == "disabled_user"


def test_an_unauthenticated_65_mib_body_is_401_and_not_read(gateway):
    with gateway.connect() as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {65 * MIB}\r\n\r\n".encode())
        parse_response(read_until_closed(connection, within=5)).error(401)


def test_a_model_that_exists_for_nobody_is_404_for_everybody(gateway):
    for token in (TOKEN, NARROW_TOKEN):
        assert gateway.chat("no-such-model", token=token).error(404)["code"] == "model_not_found"


def test_a_model_that_is_not_allowed_is_403(gateway):
    assert gateway.chat("demo-model", token=NARROW_TOKEN).error(403)["code"] == "model_access_denied"


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key", "x-goog-api-key"])
def test_every_header_that_may_carry_the_token_does(gateway, header):
    value = f"Bearer {TOKEN}" if header == "authorization" else TOKEN
    assert gateway.request("GET", "/v1/models", headers={header: value}).status == 200
    gateway.request("GET", "/v1/models", headers={header: value + "x"}).error(401)


def test_the_first_credential_decides_alone(gateway):
    gateway.request("GET", "/v1/models", headers={"authorization": "Bearer wrong", "x-api-key": TOKEN}).error(401)


def test_two_authorization_headers_are_401(gateway):
    with gateway.connect() as connection:
        twice = f"authorization: Bearer {TOKEN}\r\n" * 2
        connection.sendall(f"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{twice}\r\n".encode())
        parse_response(read_until_closed(connection, within=5)).error(401)


def test_a_refused_request_leaves_the_connection_usable(gateway):
    body = b'{"messages":[]}'
    refused = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer wrong\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    with gateway.connect() as connection:
        connection.sendall(refused + b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        received = read_until_closed(connection, within=5)
    assert received.startswith(b"HTTP/1.1 401 ") and b"HTTP/1.1 200 " in received


# Clients that are slow, and bytes that are not HTTP.


@pytest.fixture(scope="module")
def hasty(start):
    """A gateway that waits one second for whatever a client still owes."""
    return start("[server]\nheader_timeout_seconds = 1\nbody_timeout_seconds = 1\nidle_timeout_seconds = 1\n" + DEMO)


def trickle(gateway, start: bytes, drip: bytes) -> tuple[bytes, float]:
    """Sends `start`, then one `drip` five times a second: what came back when the connection ended, and after how long."""
    began = time.monotonic()
    received = b""
    with gateway.connect() as connection:
        connection.sendall(start)
        connection.settimeout(0.2)
        while time.monotonic() - began < 30:
            try:
                part = connection.recv(4096)
                received += part
                if not part:
                    break
            except TimeoutError:
                connection.sendall(drip)
            except ConnectionError:
                break
        else:
            raise AssertionError("the connection is still open after 30 s")
    return received, time.monotonic() - began


def test_a_head_that_trickles_is_408_at_the_deadline(hasty):
    received, seconds = trickle(hasty, b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n", b"x-slow: 1\r\n")
    parse_response(received).error(408)
    assert 0.9 < seconds < 4


def test_a_body_that_trickles_is_408_at_the_deadline(hasty):
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 1000\r\n\r\n"
    received, seconds = trickle(hasty, head.encode(), b" ")
    parse_response(received).error(408)
    assert 0.9 < seconds < 4


def test_an_idle_connection_is_closed_without_a_word(hasty):
    with hasty.connect() as connection:
        assert read_until_closed(connection, within=10) == b""


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"HELO mail\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 64 + b"\r\n\r\n"],
    ids=["tls hello", "smtp", "unknown version", "zeros"],
)
def test_bytes_that_are_not_http_end_the_connection_and_nothing_else(gateway, garbage):
    with gateway.connect() as connection:
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        received = read_until_closed(connection, within=10)
    assert not received or received.startswith(b"HTTP/1.1 400 ")
    assert gateway.request("GET", "/livez").status == 200


def test_headers_beyond_the_limit_are_431(gateway):
    with gateway.connect() as connection:
        try:
            connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * MIB + b"\r\n\r\n")
        except ConnectionError:
            pass
        received = read_until_closed(connection, within=10)
    assert not received or received.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))
    assert gateway.request("GET", "/livez").status == 200


# Memory.


def resident_after(gateway, rounds: int, storm) -> list[int]:
    """Resident MiB after each of so many rounds of refused requests, behind two that fill pools and caches."""
    settled = []
    for _ in range(rounds + 2):
        storm()
        settled.append(gateway.resident_kib() // 1024)
    return settled[2:]


def test_refused_requests_leave_memory_flat(start, record_property):
    gateway = start(DEMO)

    def storm() -> None:
        for body in MALFORMED.values():
            post(gateway, body)
        for _ in range(10):
            gateway.chat("no-such-model", "x" * 100_000)
            gateway.request("POST", CHAT, json.dumps({"model": "demo-model"}).encode(), "wrong")
            gateway.request("POST", "/v1/nowhere", b"x" * 100_000)

    settled = resident_after(gateway, 20, storm)
    record_property("resident MiB after rounds of malformed requests:", settled)
    assert max(settled) - settled[0] <= 8, settled


def test_oversized_bodies_do_not_add_up_in_memory(start, record_property):
    """The allocator may keep the pages of such a body for the next one; dozens of them still cost no more than two."""
    gateway = start(DEMO)
    idle = gateway.resident_kib() // 1024

    def storm() -> None:
        for _ in range(3):
            send_chunked(gateway, 65 * MIB)
            with gateway.connect() as connection:
                connection.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {65 * MIB}\r\n\r\n".encode())
                read_until_closed(connection, within=5)

    settled = resident_after(gateway, 10, storm)
    record_property(f"resident MiB, {idle} before, after rounds of three 65 MiB bodies:", settled)
    assert max(settled) - idle <= 2 * 64, settled
