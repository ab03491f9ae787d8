#!/usr/bin/env bash
# Fuzzes everything that reads what clients and upstreams send (fuzz/src/targets.rs), with libFuzzer on the stable compiler.
#
#   scripts/fuzz.sh [SECONDS [TARGET...]]   so many seconds of CPU for each target (20), each target or those that are named
#
# Two run at a time. What is found along the way goes to target/fuzz/corpus, never into the repository; a finding is left in
# target/fuzz/artifacts, with the command that repeats it. The exit status is 1 if there is one.
#   BERRY_FUZZ_JOBS   how many run at a time (2)
#   BERRY_FUZZ_SEED   where chance begins (0: anywhere); with another, the same machine tries the same inputs again
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

seconds=${1:-20}
shift || true
home=target/fuzz

# What cargo-fuzz would ask for, without the memory checker: the code has no `unsafe`.
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
coverage+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
host=$(rustc -vV | sed -n 's/^host: //p')
# The versions that Berry itself is built with.
cp Cargo.lock fuzz/Cargo.lock
RUSTFLAGS="$coverage" cargo build --release --manifest-path fuzz/Cargo.toml --target "$host" --target-dir "$home" || exit 1
binary=$home/$host/release/berry-fuzz

targets=("$@")
if ((${#targets[@]} == 0)); then
  mapfile -t targets < <(sed -n 's/^    ("\([a-z_]*\)", .*/\1/p' fuzz/src/targets.rs)
fi

TIMEFORMAT='%U'

# CPU time counts: on a busy machine a target is started again, with what it found so far, until it had its seconds.
run() {
  local target=$1 log=$home/$1.log spent=0 status=0
  mkdir -p "$home/corpus/$target" "$home/artifacts"
  : >"$log"
  while ((spent < seconds && status == 0)); do
    {
      time BERRY_FUZZ_TARGET=$target "$binary" "$home/corpus/$target" "fuzz/corpus/$target" -dict=fuzz/words.dict \
        -max_total_time=$((seconds - spent)) -seed="${BERRY_FUZZ_SEED:-0}" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
        -print_final_stats=1 -artifact_prefix="$home/artifacts/$target-" >>"$log" 2>&1
      status=$?
    } 2>"$log.time"
    # At least one, so that this ends whatever the clock says.
    spent=$((spent + $(sed 's/[.,].*//' "$log.time") + 1))
  done
  if ((status == 0)); then
    printf '%-20s %s CPU seconds, %s inputs run, no finding\n' "$target" "$spent" \
      "$(awk '/^stat::number_of_executed_units:/ { sum += $2 } END { print sum }' "$log")"
  else
    printf '%-20s FINDING; repeat with BERRY_FUZZ_TARGET=%s %s FILE\n' "$target" "$target" "$binary"
    tail -n 25 "$log"
    return 1
  fi
}

failed=0
running=0
for target in "${targets[@]}"; do
  if ((running >= ${BERRY_FUZZ_JOBS:-2})); then
    wait -n || failed=1
    running=$((running - 1))
  fi
  run "$target" &
  running=$((running + 1))
done
while ((running > 0)); do
  wait -n || failed=1
  running=$((running - 1))
done
exit "$failed"
