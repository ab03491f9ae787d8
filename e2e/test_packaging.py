"""What is shipped beside the binaries: images, compose files, nginx, systemd, Helm, scripts, workflows.

There is no container engine here, so images are linted and not built; the workflow `deploy.yml` builds and tries one. Everything
else runs: nginx stands before a real gateway, the scripts do what they say."""

import re
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from harness.gateway import DEMO, PORTS, TOKEN
from harness.paths import BINARY, ROOT, environment

BIN = Path(sys.executable).parent


def run(*command, **options) -> subprocess.CompletedProcess:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, **options)
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.prebuilt", "Dockerfile.prod"])
def test_the_dockerfiles_are_sound_and_have_both_binaries_and_a_health_check(name):
    run(BIN / "hadolint", "--failure-threshold", "info", ROOT / name)
    text = (ROOT / name).read_text()
    assert "HEALTHCHECK" in text and "berry-api" in text
    assert re.search(r"^USER (nonroot|65532)$", text, re.M), "not as root"
    assert "berry-cli" in text


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.prod.yml", "docker-compose.test.yml"])
def test_the_compose_files_follow_the_schema_and_mount_the_configuration_read_only(name):
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / name)
    assert re.search(r"config\.toml:/app/config\.toml:ro", (ROOT / name).read_text())


def test_the_workflows_follow_the_schema():
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *(ROOT / ".github/workflows").glob("*.yml"))


def test_the_shell_scripts_are_sound():
    scripts = [*ROOT.glob("*.sh"), *(ROOT / "scripts").glob("*.sh"), ROOT / ".ci/run"]
    run("shellcheck", "--severity", "warning", *scripts)


def test_the_helm_values_follow_their_schema_and_hold_a_valid_configuration(tmp_path):
    chart = ROOT / "packaging/helm/berry-api"
    run(BIN / "check-jsonschema", "--schemafile", chart / "values.schema.json", chart / "values.yaml")
    block = re.search(r"^config: \|\n((?:  .*\n|\n)+)", (chart / "values.yaml").read_text(), re.M)[1]
    config = tmp_path / "config.toml"
    config.write_text(re.sub(r"^  ", "", block, flags=re.M))
    config.chmod(0o600)
    run(BINARY, "--check-config", "--config", config, env=environment(BERRY_ADMIN_TOKEN="x" * 32, OPENAI_API_KEY="k" * 32))
    values = set(re.findall(r"\.Values\.([\w.]+)", "".join(path.read_text() for path in (chart / "templates").glob("*.yaml"))))
    for value in values:
        assert re.search(rf"^\s*{value.split('.')[-1]}:", (chart / "values.yaml").read_text(), re.M), value


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")
def test_the_systemd_unit_is_accepted_and_hardened(tmp_path):
    text = (ROOT / "packaging/systemd/berry-api.service").read_text()
    assert "StateDirectory=berry-api" in text
    unit = tmp_path / "berry-api.service"
    unit.write_text(text.replace("/usr/local/bin/berry-api", str(BINARY)))
    verified = run("systemd-analyze", "verify", "--man=no", unit)
    assert "berry-api.service" not in verified.stdout, verified.stdout
    security = subprocess.run(["systemd-analyze", "security", "--offline=true", unit], stdout=subprocess.PIPE, text=True).stdout
    exposure = float(re.search(r"Overall exposure level.*?(\d+\.\d+)", security)[1])
    assert exposure < 2.0, security


@pytest.fixture(scope="module")
def behind_nginx(start, tmp_path_factory):
    """The shipped nginx.conf with its addresses replaced, before a gateway whose upstream is silent for 90 s."""
    slow = DEMO.replace("first_token_latency_ms = 5", "first_token_latency_ms = 90_000")
    gateway = start("[server]\nkeep_alive_seconds = 3600\n" + slow)
    folder = tmp_path_factory.mktemp("nginx")
    certificate = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    certificate += ["-subj", "/CN=localhost", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run(certificate, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    http, https = next(PORTS), next(PORTS)
    text = (ROOT / "nginx.conf").read_text()
    for old, new in [
        ("listen 80;", f"listen 127.0.0.1:{http};"),
        ("listen 443 ", f"listen 127.0.0.1:{https} "),
        ("/etc/nginx/ssl/", f"{folder}/"),
        ("berry-api:3000", gateway.address),
        ("/tmp/nginx.pid", f"{folder}/nginx.pid"),
        ("/dev/stdout", f"{folder}/access.log"),
        ("/dev/stderr", f"{folder}/error.log"),
    ]:
        assert old in text, old
        text = text.replace(old, new)
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = folder / "nginx.conf"
    config.write_text(text.replace("http {", "http {" + temporary, 1))
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    run(nginx, "-t", "-q", "-c", config, "-e", folder / "error.log")
    process = subprocess.Popen([nginx, "-c", config, "-e", folder / "error.log", "-g", "daemon off;"])
    yield http, https
    process.terminate()
    process.wait()


def ask(url: str, data: bytes | None = None, timeout: float = 20):
    request = urllib.request.Request(url, data, {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"})
    trusting = ssl._create_unverified_context()
    for attempt in range(100):
        try:
            return urllib.request.urlopen(request, timeout=timeout, context=trusting)
        except urllib.error.URLError as error:
            # Until nginx listens.
            if attempt == 99 or not isinstance(error.reason, ConnectionRefusedError):
                raise
            time.sleep(0.05)


def test_nginx_passes_health_and_adds_the_security_headers(behind_nginx):
    http, https = behind_nginx
    assert ask(f"http://127.0.0.1:{http}/health").status == 200
    answer = ask(f"https://127.0.0.1:{https}/health")
    assert answer.status == 200
    answer = ask(f"https://127.0.0.1:{https}/v1/models")
    assert answer.headers["X-Content-Type-Options"] == "nosniff" and "max-age" in answer.headers["Strict-Transport-Security"]


def test_a_stream_that_is_silent_for_90_s_comes_through_nginx(behind_nginx):
    _, https = behind_nginx
    body = b'{"model": "demo-model", "stream": true, "messages": [{"role": "user", "content": "hello"}]}'
    answer = ask(f"https://127.0.0.1:{https}/v1/chat/completions", body, timeout=150)
    assert answer.status == 200 and answer.read().rstrip().endswith(b"data: [DONE]")


def test_the_auth_script_finds_the_example_in_order(start):
    gateway = start(ROOT / "config-example.toml")
    done = run("./test_auth.sh", env=environment(BERRY_URL=gateway.url))
    assert done.stdout.count("ok ") == 8 and "FAILED" not in done.stdout


def test_the_debug_demo_shows_both_answers_and_the_log(tmp_path):
    done = run("./debug_demo.sh", env=environment(BERRY_API=str(BINARY), BIND_ADDRESS=f"127.0.0.1:{next(PORTS)}", BERRY_DATA_DIR=str(tmp_path), RUST_LOG=""))
    for part in ('"object":"chat.completion"', "data: [DONE]", "Starting Berry API", "Backend selected", "selected backend"):
        assert part in done.stdout, part


def test_rotated_tokens_work_and_old_ones_do_not(start, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(DEMO)
    config.chmod(0o600)
    done = run("scripts/rotate-api-keys.sh", "-c", config, "everything", env=environment(BERRY_API=str(BINARY)))
    token = re.search(r"everything (berry-[0-9a-f]{48})", done.stdout)[1]
    assert token not in config.read_text() and "narrow berry-" not in done.stdout
    gateway = start(config)
    assert gateway.request("GET", "/v1/models", token=token).status == 200
    assert gateway.request("GET", "/v1/models", token=TOKEN).status == 401
    refused = subprocess.run(["scripts/rotate-api-keys.sh", "-c", "nowhere.toml"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert refused.returncode == 1 and "no such file" in refused.stderr


def test_the_precompiled_build_puts_both_binaries_in_place():
    script = (ROOT / "scripts/build-precompiled-docker.sh").read_text()
    assert "docker build -f Dockerfile.prebuilt" in script and "-p berry-api -p berry-cli" in script
    assert run("scripts/build-precompiled-docker.sh", "--help").stdout.startswith("Builds both binaries")


def test_the_wrk_script_sends_what_the_gateway_accepts(start):
    wrk = shutil.which("wrk")
    assert wrk, "install Debian's wrk; .ci/run does"
    gateway = start(ROOT / "config-example.toml")
    done = run(wrk, "-t1", "-c2", "-d1s", "--script=test.lua", f"{gateway.url}/v1/chat/completions", env=environment())
    assert "first failure" not in done.stdout and int(re.search(r"(\d+) requests in", done.stdout)[1]) > 0
