"""A real Prometheus server scrapes the gateway, and the shipped rules hold against what it finds.

`prometheus` and `promtool` are those of the system; .ci/run installs them.
"""

import json
import re
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from harness.gateway import DEMO, PORTS, USERS, Gateway, model

MONITORING = Path(__file__).resolve().parent.parent / "monitoring"

#: Every name of the contract.
NAMES = {
    "http_requests_total",
    "http_request_duration_seconds",
    "http_requests_in_flight",
    "backend_health_status",
    "backend_request_count_total",
    "backend_error_count_total",
    "backend_latency_seconds",
    "load_balance_selections_total",
    "smart_ai_confidence_score",
    "circuit_breaker_state",
    "berry_ttft_seconds",
    "berry_inter_token_seconds",
    "berry_tokens_total",
    "berry_cost_usd_total",
    "berry_cost_reported_usd_total",
    "berry_cost_compared_usd_total",
    "berry_unpriced_requests_total",
    "berry_estimated_requests_total",
    "berry_retries_total",
    "berry_cancellations_total",
    "berry_config_last_reload_success",
    "berry_build_info",
}

#: A provider at which nothing listens, beside the demo.
BROKEN = (
    DEMO
    + '[providers.broken]\nname = "Broken"\nbase_url = "http://127.0.0.1:9/v1"\napi_key = ""\nmodels = []\n'
    + model("broken-model", "broken", "broken-upstream")
)


def promtool(*arguments: str | Path, text: str | None = None) -> str:
    done = subprocess.run(
        ["promtool", *arguments], input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def metrics(gateway: Gateway) -> str:
    answer = gateway.request("GET", "/prometheus")
    assert answer.status == 200
    return answer.body.decode()


class Prometheus:
    """A Prometheus server that scrapes one gateway several times a second."""

    def __init__(self, directory: Path, gateway: Gateway, rules: str):
        self.port = next(PORTS)
        (directory / "alerts.yml").write_text(rules)
        config = (MONITORING / "prometheus.yml").read_text()
        config = config.replace("localhost:3000", gateway.address).replace("scrape_interval: 10s", "scrape_interval: 200ms")
        config = config.replace("evaluation_interval: 15s", "evaluation_interval: 200ms")
        (directory / "prometheus.yml").write_text(config)
        self.log = directory / "prometheus.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def get(self, path: str, **query: str) -> dict | None:
        """The data of an API call; `None` while the server is not there yet."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def query(self, expression: str) -> list:
        data = self.get("query", query=expression)
        return data["result"] if data else []

    def firing(self) -> set[str]:
        data = self.get("alerts")
        return {alert["labels"]["alertname"] for alert in data["alerts"] if alert["state"] == "firing"} if data else set()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)


def at_once(rules: str) -> str:
    """The rules without their waiting times, and with a window that a short test fills."""
    return re.sub(r"\n +for: \w+", "", rules).replace("[5m]", "[5s]")


@pytest.fixture
def scraped(start, tmp_path):
    gateway = start(BROKEN)
    server = Prometheus(tmp_path, gateway, at_once((MONITORING / "alerts.yml").read_text()))
    yield gateway, server
    server.stop()


def test_promtool_accepts_the_shipped_files():
    rules = (MONITORING / "alerts.yml").read_text().count("- alert: ")
    assert rules and f"{rules} rules found" in promtool("check", "rules", MONITORING / "alerts.yml")
    promtool("check", "config", MONITORING / "prometheus.yml")


def test_every_alert_has_a_case_and_the_cases_hold():
    assert "SUCCESS" in promtool("test", "rules", MONITORING / "alerts_test.yml")
    alerts = set(re.findall(r"- alert: (\w+)", (MONITORING / "alerts.yml").read_text()))
    assert alerts == set(re.findall(r"- name: (\w+)", (MONITORING / "alerts_test.yml").read_text()))


def test_the_page_has_every_name_and_promtool_finds_nothing_wrong_in_it(start):
    gateway = start(DEMO)
    assert gateway.chat("demo-model").status == 200
    assert gateway.chat("demo-model", stream=True).status == 200
    page = metrics(gateway)
    assert NAMES <= set(re.findall(r"^# TYPE (\w+) ", page, re.MULTILINE))
    promtool("check", "metrics", text=page)


def test_dashboard_and_rules_use_names_that_exist(start):
    gateway = start(DEMO)
    gateway.chat("demo-model", stream=True)
    page = metrics(gateway)
    known = set(re.findall(r"^(\w+)[ {]", page, re.MULTILINE)) | set(re.findall(r"^# TYPE (\w+) ", page, re.MULTILINE)) | {"up"}
    dashboard = json.loads((MONITORING / "grafana/dashboards/berry-api.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = set(re.findall(r"\b((?:http|backend|berry|load_balance|smart_ai|circuit)_\w+)", " ".join(expressions)))
    rules = (MONITORING / "alerts.yml").read_text()
    used |= set(re.findall(r"\b((?:http_request|backend_|berry_|circuit_)\w+)", rules))
    assert len(used) > 15 and used <= known, used - known


def test_a_scrape_arrives_and_an_outage_fires_its_alerts(scraped):
    gateway, prometheus = scraped
    gateway.wait_for(lambda: prometheus.query('up{job="berry-api"} == 1'), 20, "a scrape")
    assert prometheus.firing() == set()

    def outage():
        for _ in range(5):
            assert gateway.chat("broken-model").status >= 500
        return {"HighErrorRate", "BackendDown", "CircuitOpen"} <= prometheus.firing()

    gateway.wait_for(outage, 30, "the alerts of an outage")
    down = prometheus.query("backend_health_status == 0")
    assert [row["metric"]["provider"] for row in down] == ["broken"]
    errors = prometheus.query('sum(http_requests_total{status=~"5.."})')
    assert float(errors[0]["value"][1]) >= 5


def test_the_monitoring_page_is_protected_on_demand(start):
    gateway = start(USERS + "[server]\nprotect_monitoring = true\n" + DEMO.removeprefix(USERS))
    assert gateway.request("GET", "/prometheus").status == 401
