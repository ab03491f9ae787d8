"""Finding, checking and running configuration files, and the quick start that the shipped example promises."""

import json
import re
import shutil
import subprocess

import pytest

from harness import check
from harness.gateway import DEMO, Gateway
from harness.paths import ROOT, SHIPPED, environment


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_configuration_passes_the_check_and_runs(tmp_path, shipped):
    check.accepted(shipped, cwd=tmp_path)
    gateway = Gateway(shipped, tmp_path, wait=False)
    gateway.wait_for(lambda: not gateway.refuses_connections(), 10, "the gateway listens")
    try:
        assert gateway.request("GET", "/livez").status == 200
        assert gateway.request("GET", "/health").json()["service_running"] is True
    finally:
        gateway.stop()


def test_a_wrong_file_is_refused_by_the_check_and_at_start(tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text("[settings]\nmax_retrys = 3\nrequest_timeout_seconds = -1\n")
    for arguments in (["--check-config"], []):
        answer = check.run(*arguments, "--config", path, cwd=tmp_path)
        assert answer.returncode == 1
        assert "wrong.toml:2:1" in answer.stdout and "max_retries" in answer.stdout, "place and suggestion of the first problem"
        assert "wrong.toml:3:" in answer.stdout, "the second problem in the same run"


@pytest.mark.parametrize(
    "keys, named",
    [
        ('[server]\ntls_cert = "gone.pem"\ntls_key = "gone.pem"\n', "tls_cert"),
        ('[providers.far]\nname = "Far"\nbase_url = "https://far.invalid/v1"\napi_key = "k"\nca_file = "gone.pem"\n', "far"),
    ],
    ids=["ours", "a provider's"],
)
def test_tls_files_that_cannot_be_read_are_refused_by_the_check_as_at_start(tmp_path, keys, named):
    path = tmp_path / "gateway.toml"
    path.write_text(keys + DEMO)
    for arguments in (["--check-config"], []):
        answer = check.run(*arguments, "--config", path, cwd=tmp_path)
        assert answer.returncode == 1
        assert "gone.pem" in answer.stdout and named in answer.stdout, answer.stdout


def test_a_variable_that_is_empty_says_nothing(tmp_path):
    (tmp_path / "config.toml").write_text("[server]\nbind_address = '127.0.0.1:0'\n" + DEMO)
    gateway = Gateway(DEMO, tmp_path, MAX_CONNECTIONS="", BIND_ADDRESS="", CONFIG_PATH="")
    gateway.stop()
    answer = check.run("--health", cwd=tmp_path, BIND_ADDRESS="")
    assert "127.0.0.1:0 does not answer" in answer.stdout, "the address of the configuration"
    for wrong in ("many", "0"):
        answer = check.run(cwd=tmp_path, MAX_CONNECTIONS=wrong)
        assert answer.returncode == 1 and "must be a number above 0" in answer.stdout


# The order in which a configuration is looked for: each file is offered together with every later one.


def test_the_search_order_of_configuration_files(tmp_path):
    order = ["config.toml", "config-example.toml", "config/smart_ai_example.toml"]
    (tmp_path / "config").mkdir()
    for name in [*order, "named.toml"]:
        (tmp_path / name).write_text(DEMO)

    def used(*arguments, **env: str) -> str:
        answer = check.run("--check-config", *arguments, cwd=tmp_path, **env)
        assert answer.returncode == 0, answer.stdout
        return answer.stdout

    assert "named.toml" in used("--config", "named.toml", CONFIG_PATH="config.toml")
    assert "named.toml" in used(CONFIG_PATH="named.toml")
    for name in order:
        assert name in used()
        (tmp_path / name).unlink()
    assert check.run("--check-config", cwd=tmp_path).returncode == 1


@pytest.mark.parametrize("named", [["--config", "absent.toml"], []], ids=["by flag", "by CONFIG_PATH"])
def test_a_file_that_was_named_and_is_missing_is_an_error_and_no_fall_through(tmp_path, named):
    (tmp_path / "config.toml").write_text(DEMO)
    answer = check.run("--check-config", *named, cwd=tmp_path, **({} if named else {"CONFIG_PATH": "absent.toml"}))
    assert answer.returncode == 1 and "absent.toml" in answer.stdout


def test_an_address_that_is_taken_is_told_and_the_process_ends(tmp_path):
    gateway = Gateway(DEMO, tmp_path)
    try:
        answer = check.run("--config", "gateway.toml", "--bind", gateway.address, cwd=tmp_path)
        assert answer.returncode == 1 and gateway.address in answer.stdout
    finally:
        gateway.stop()


def test_the_curl_line_of_the_log_can_be_pasted_plain_and_streamed(tmp_path):
    """The shipped example, found by itself in an empty directory, as on a fresh clone."""
    shutil.copy(ROOT / "config-example.toml", tmp_path)
    gateway = Gateway(tmp_path / "config-example.toml", tmp_path)
    try:
        # The log is written in batches. Escape sequences of a coloured one are no part of what is pasted.
        gateway.wait_for(lambda: "chat/completions" in gateway.log(), 5, "the line to paste")
        log = re.sub(r"\x1b\[[0-9;]*m", "", gateway.log())
        lines = re.findall(r"(curl [^\n]*chat/completions[^\n]*)", log)
        plain = next(line for line in lines if '"stream":true' not in line.replace(" ", ""))
        streamed = next((line for line in lines if line is not plain), plain.replace('"model"', '"stream":true,"model"', 1))
        assert streamed != plain

        def paste(line: str) -> str:
            run = subprocess.run(["bash", "-c", line], env=environment(), capture_output=True, text=True, timeout=60)
            assert run.returncode == 0, (line, run.stderr)
            return run.stdout

        assert json.loads(paste(plain))["choices"][0]["message"]["content"]
        assert "data: [DONE]" in paste(streamed)
    finally:
        gateway.stop()
