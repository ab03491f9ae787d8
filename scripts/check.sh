#!/usr/bin/env bash
# The one check of this repository: continuous integration runs exactly this.
#
#   scripts/check.sh                 every step, in the order below
#   scripts/check.sh fmt clippy      only these steps
#   scripts/check.sh --list          the names of the steps
#   scripts/check.sh e2e -- -k tls   what follows `--` goes to pytest
#
# A step that fails does not stop the ones after it, so that one run shows everything; the exit status is 1 if any failed.
# What scripts/acceptance.py counts at the end is kept in target/check: how each step ended, and the reports of the tests.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

steps=(fmt clippy features windows doc dashboard test examples fuzz licences build configs e2e acceptance)
seen=target/check
# What a step answers that could not be tried for want of something on this machine.
not_run=77

step_fmt() { cargo fmt --all --check; }

step_clippy() { cargo clippy --locked --workspace --all-targets -- -D warnings; }

# The server without metrics and traces.
step_features() { cargo clippy --locked -p berry-api --no-default-features --all-targets -- -D warnings; }

# Everything compiles for Windows too, where that target and a C compiler for it are installed
# (rustup target add x86_64-pc-windows-gnu; gcc-mingw-w64-x86-64).
step_windows() {
  local target=x86_64-pc-windows-gnu
  if ! command -v x86_64-w64-mingw32-gcc >/dev/null || [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
    echo "not checked: $target or its C compiler is not installed"
    return "$not_run"
  fi
  cargo check --locked --workspace --bins --target "$target"
}

step_doc() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps; }

step_test() { cargo test --locked --workspace --no-fail-fast 2>&1 | tee "$seen/test.log"; }

step_examples() {
  cargo run --locked --quiet --example initial_health_check_demo &&
    cargo run --locked --quiet -p berry-loadbalance --example route_selector
}

# Twenty seconds of each target, two at a time, from the same seed, so that what passed once passes again; scripts/fuzz.sh with
# more seconds looks longer and elsewhere.
step_fuzz() { BERRY_FUZZ_SEED=1 scripts/fuzz.sh 20; }

# The page that is built into the server is what its sources give; with Node and the pinned packages.
step_dashboard() {
  local home=target/dashboard
  mkdir -p "$home"
  cp -R dashboard/. "$home/" || return 1
  (cd "$home" && npm ci --no-audit --no-fund --loglevel=error && npm run --silent build -- --logLevel warn) || return 1
  diff -r dashboard/dist "$home/dist" || { echo "dashboard/dist is stale: run npm run build in dashboard/" >&2; return 1; }
}

# cargo-deny takes minutes to build; this reads the same deny.toml.
step_licences() { python3 scripts/licences.py; }

step_build() { cargo build --locked --release --workspace --bins; }

# Every configuration that is shipped passes the server's own check. A name missing here is a failure, not a skip.
step_configs() {
  local file status=0
  local files=(config-example.toml config_example.toml config_simple.toml test_config.toml smart_ai_example.toml config/*.toml)
  for file in "${files[@]}"; do
    printf '%s\n' "--- $file"
    target/release/berry-api --check-config --config "$file" || status=1
  done
  return "$status"
}

# Installs the pinned Python and Node packages under target/e2e and runs the end-to-end suite against the release binary.
# First everything that may share the machine, then, alone, the tests that measure time.
step_e2e() {
  local home=target/e2e
  mkdir -p "$home"
  if ! cmp -s e2e/requirements.txt "$home/venv/requirements.txt"; then
    rm -rf "$home/venv"
    python3 -m venv "$home/venv" || return 1
    "$home/venv/bin/pip" install --quiet --disable-pip-version-check -r e2e/requirements.txt || return 1
    cp e2e/requirements.txt "$home/venv/requirements.txt"
  fi
  if ! cmp -s e2e/package-lock.json "$home/package-lock.json" || [ ! -d "$home/node_modules" ]; then
    cp e2e/package.json e2e/package-lock.json "$home/" || return 1
    (cd "$home" && npm ci --no-audit --no-fund --loglevel=error) || return 1
  fi
  local pytest=("$home/venv/bin/python" -m pytest -c e2e/pytest.ini --rootdir e2e e2e)
  local shared alone
  rm -f "$seen"/e2e-*.xml
  "${pytest[@]}" -m "not alone" -n 4 --dist loadscope --junitxml "$seen/e2e-shared.xml" "$@"
  shared=$?
  "${pytest[@]}" -m alone --junitxml "$seen/e2e-alone.xml" "$@"
  alone=$?
  # Pytest answers 5 when it selected nothing, which is a fault of the suite unless the caller did the selecting.
  if (($#)); then
    ((shared == 5)) && shared=0
    ((alone == 5)) && alone=0
  fi
  ((shared == 0 && alone == 0))
}

# How many rows of docs/acceptance.md the steps above have shown.
step_acceptance() { python3 scripts/acceptance.py --results; }

chosen=()
extra=()
while (($#)); do
  case "$1" in
    --list) printf '%s\n' "${steps[@]}"; exit 0 ;;
    --) shift; extra=("$@"); break ;;
    *)
      if ! declare -F "step_$1" >/dev/null; then
        echo "no step named \"$1\"; the steps are: ${steps[*]}" >&2
        exit 2
      fi
      chosen+=("$1") ;;
  esac
  shift
done
if ! ((${#chosen[@]})); then
  chosen=("${steps[@]}")
  # Nothing of an earlier run may count.
  rm -rf "$seen"
fi
mkdir -p "$seen"

failed=0
untried=0
summary=()
for step in "${chosen[@]}"; do
  printf '\n== %s\n' "$step"
  began=$SECONDS
  if [ "$step" = e2e ]; then "step_$step" "${extra[@]}"; else "step_$step"; fi
  status=$?
  printf '%s\n' "$status" >"$seen/$step.status"
  took="$((SECONDS - began)) s"
  if ((status == 0)); then
    summary+=("passed  $step ($took)")
  elif ((status == not_run)); then
    summary+=("not run $step ($took)")
    untried=$((untried + 1))
  else
    summary+=("FAILED  $step ($took, status $status)")
    failed=$((failed + 1))
  fi
  printf '== %s: status %s after %s\n' "$step" "$status" "$took"
done

printf '\n== summary after %s s\n' "$SECONDS"
printf '%s\n' "${summary[@]}"
printf 'steps: %s passed, %s failed, %s not run\n' "$((${#chosen[@]} - failed - untried))" "$failed" "$untried"
((failed == 0))
