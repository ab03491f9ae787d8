"""`berry-cli` as a new user tries it: for each case the exit code, what is printed, and the next step that it names.

Exit codes: 0 = yes, 1 = no, 2 = the question could not be asked.
"""

import json
import subprocess

import pytest

from harness.gateway import DEMO, NARROW_TOKEN, TOKEN
from harness.paths import BINARY, environment

CLI = BINARY.parent / "berry-cli"
#: Nothing listens there.
NOWHERE = "http://127.0.0.1:9"


def run(*arguments, cwd=None, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [CLI, *arguments], cwd=cwd, env=environment(**env), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def gateway(start):
    return start(DEMO)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a good file and a bad one."""
    place = tmp_path_factory.mktemp("cli")
    (place / "good.toml").write_text(DEMO)
    (place / "bad.toml").write_text(DEMO.replace('name = "Demo"', 'nam = "Demo"'))
    for file in place.iterdir():
        file.chmod(0o600)
    return place


#: Arguments, exit code, all of standard error; `{url}` is the server, `{nowhere}` an address where none is.
SNAPSHOTS = {
    "missing file": (
        ["validate-config", "-c", "nowhere.toml"],
        2,
        "❌ nowhere.toml: there is no such file (--config names it)\n   Write one with: berry-cli generate-config -o config.toml\n",
    ),
    "no file at all": (
        ["validate-config"],
        2,
        "   Write one with: berry-cli generate-config -o config.toml\n",
    ),
    "bad file": (
        ["validate-config", "-c", "bad.toml"],
        1,
        "❌ Configuration is not valid: bad.toml\n",
    ),
    "metrics without a server": (
        ["metrics", "--url", "{nowhere}"],
        2,
        "   Is the server running? Name its address with --url or BERRY_URL.\n",
    ),
    "explain without a server": (
        ["explain", "demo-model", "--url", "{nowhere}"],
        2,
        "   Is the server running? Name its address with --url or BERRY_URL.\n",
    ),
    "no token": (
        ["explain", "demo-model", "--url", "{url}"],
        2,
        "   Give the token of an administrator with --token or BERRY_TOKEN.\n",
    ),
    "wrong token": (
        ["reload", "--url", "{url}", "--token", "not-a-token-of-anybody"],
        2,
        "   Give the token of an administrator with --token or BERRY_TOKEN.\n",
    ),
    "not an administrator": (
        ["reload", "--url", "{url}", "--token", NARROW_TOKEN],
        2,
        '   Use the token of a user with the tag admin, or add it: tags = ["admin"].\n',
    ),
    "not a Berry server": (
        ["metrics", "--url", "{url}/openapi.json?"],
        2,
        "❌ the answer holds no figures\n   Is this the address of a Berry server? Name another one with --url.\n",
    ),
    "unknown model": (
        ["explain", "no-such-model", "--url", "{url}", "--token", TOKEN],
        2,
        "   Check the names: berry-cli metrics --detailed lists models and providers.\n",
    ),
    "unknown request": (
        ["explain", "--request", "req_none", "--url", "{url}", "--token", TOKEN],
        2,
        "   Check the name, and the address of the server (--url).\n",
    ),
    "unknown provider": (
        ["test-backend", "-c", "good.toml", "-p", "no-such-provider", "-m", "x"],
        2,
        "❌ no provider no-such-provider in the configuration\n   Known: demo.\n",
    ),
    "diff with a bad file": (
        ["diff", "bad.toml", "--url", "{url}", "--token", TOKEN],
        1,
        "❌ Configuration is not valid: bad.toml\n",
    ),
    "wrong flag": (["validate-config", "--confg", "x"], 2, "For more information, try '--help'.\n"),
    "wrong command": (["metric"], 2, "For more information, try '--help'.\n"),
    "nothing to explain": (["explain"], 2, "For more information, try '--help'.\n"),
}


@pytest.mark.parametrize("case", SNAPSHOTS)
def test_what_failed_and_what_to_do_next(case, gateway, place):
    arguments, code, said = SNAPSHOTS[case]
    done = run(*(argument.format(url=gateway.url, nowhere=NOWHERE) for argument in arguments), cwd=place)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr, done.stderr
    # Not a terminal: no colours, whatever the libraries would do.
    assert "\x1b" not in done.stderr
    assert TOKEN not in done.stderr and NARROW_TOKEN not in done.stderr


def test_no_arguments_show_the_help_and_help_lists_every_command():
    bare, asked = run(), run("--help")
    assert (bare.returncode, asked.returncode) == (2, 0)
    commands = {"validate-config", "generate-config", "health-check", "test-backend", "metrics", "explain", "reload", "diff"}
    for command in commands | {"mock", "simulate", "bench", "completions", "man"}:
        assert f"  {command} " in asked.stdout and f"  {command} " in bare.stderr, command


def test_figures_of_a_server_in_short_and_in_detail(gateway, place):
    assert gateway.chat("demo-model").status == 200
    config = (place / "good.toml").read_text() + f'\n[server]\nbind_address = "{gateway.address}"\n'
    (place / "server.toml").write_text(config)
    short = run("metrics", "-c", "server.toml", cwd=place)
    assert short.returncode == 0 and "📊 Metrics" in short.stdout and "providers healthy  1 of 1" in short.stdout
    long = run("metrics", "-c", "server.toml", "--detailed", cwd=place)
    assert long.returncode == 0 and "Providers\n  ✅ demo" in long.stdout and "Models\n" in long.stdout
    machine = json.loads(run("--json", "metrics", "--url", gateway.url).stdout)
    assert machine["load_balancer"]["total_selections"] >= 1


def test_lines_that_the_documents_promise(place):
    valid = run("validate-config", "-c", "good.toml", cwd=place)
    counts = "  - 1 providers configured\n  - 1 models configured\n  - 3 users configured\n"
    assert valid.stdout.startswith("✅ Configuration is valid\n" + counts)
    health = run("health-check", "-c", "good.toml", cwd=place)
    assert health.returncode == 0 and "✅ Health check completed" in health.stdout
    one = run("health-check", "-c", "good.toml", "-p", "demo", cwd=place)
    assert "✅ Provider demo is healthy" in one.stdout
    backend = run("test-backend", "-c", "good.toml", "-p", "demo", "-m", "demo-model", cwd=place)
    assert "✅ Backend demo:demo-model connectivity test passed" in backend.stdout


def test_explain_names_the_choice_before_and_after(gateway):
    asked = ["--url", gateway.url, "--token", TOKEN]
    before = run("explain", "demo-model", *asked)
    assert before.returncode == 0 and before.stdout.startswith("✅ demo:demo-model by round_robin\n  → demo:demo-model ")
    body = {"model": "demo-model", "messages": [{"role": "user", "content": "hello"}]}
    answer = gateway.request("POST", "/v1/chat/completions", body, TOKEN, headers={"x-berry-explain": "1"})
    after = run("explain", "--request", answer.headers["x-request-id"], BERRY_URL=gateway.url, BERRY_TOKEN=TOKEN)
    assert after.returncode == 0 and after.stdout.startswith("Attempt 1, after "), after.stdout + after.stderr
    refused = run("explain", "demo-model", "--provider", "no-such-provider", *asked)
    assert refused.returncode == 1 and refused.stderr.startswith("❌ No backend: "), refused.stderr


def test_a_file_is_compared_and_then_taken(start, tmp_path):
    gateway = start(DEMO)
    asked = ["--url", gateway.url, "--token", TOKEN]
    same = run("diff", gateway.log_path.parent / "gateway.toml", *asked)
    assert same.returncode == 0 and "changes nothing" in same.stdout, same.stderr
    other = DEMO.replace('strategy = "round_robin"', 'strategy = "failover"')
    (gateway.log_path.parent / "gateway.toml").write_text(other)
    gateway.wait_for(lambda: "configuration reloaded" in gateway.log(), 10, "the reload by the file's change")
    (tmp_path / "old.toml").write_text(DEMO)
    back = run("diff", tmp_path / "old.toml", *asked)
    assert 'models.demo_model.strategy: "failover" → "round_robin"' in back.stdout, back.stdout
    taken = run("reload", *asked)
    assert taken.returncode == 0 and "✅ Configuration reloaded, generation " in taken.stdout, taken.stderr


def test_completions_and_manual_come_from_the_commands(tmp_path):
    for shell in ("bash", "zsh", "fish", "powershell", "elvish"):
        assert "explain" in run("completions", shell).stdout
    script = tmp_path / "berry-cli.bash"
    script.write_text(run("completions", "bash").stdout)
    subprocess.run(["bash", "-n", script], check=True)
    manual = run("man").stdout
    assert manual.startswith(".ie") or ".TH" in manual
    assert "berry\\-cli" in manual and "explain" in manual
