#!/usr/bin/env bash
# Starts a server on the example configuration with debug logs, sends one plain and one streamed request, shows what it logged.
#
#   ./debug_demo.sh            builds what is missing; BERRY_API names a binary that is there already
set -euo pipefail
cd "$(dirname "$0")"

server=${BERRY_API:-target/release/berry-api}
[ -x "$server" ] || cargo build --locked --release -p berry-api
address=${BIND_ADDRESS:-127.0.0.1:3117}
log=$(mktemp)
RUST_LOG=${RUST_LOG:-berry_api=debug,berry_relay=debug,berry_loadbalance=debug} "$server" --config config-example.toml --bind "$address" >"$log" 2>&1 &
pid=$!
trap 'kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; rm -f "$log"' EXIT
for _ in $(seq 100); do
  curl -s -o /dev/null "http://$address/livez" && break
  kill -0 "$pid" || { cat "$log"; exit 1; }
  sleep 0.1
done

token=$(sed -n 's/^token = "\([^"]*\)".*/\1/p' config-example.toml | head -1)
model=$(curl -s -H "Authorization: Bearer $token" "http://$address/v1/models" | sed -n 's/.*"id":"\([^"]*\)".*/\1/p' | head -1)
ask() {
  curl -sS -N -H "Authorization: Bearer $token" -H "Content-Type: application/json" "http://$address/v1/chat/completions" \
    -d "{\"model\": \"$model\", \"stream\": $1, \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}"
}
echo "== a plain answer"; ask false; echo
echo "== a streamed one"; ask true
kill "$pid"; wait "$pid" || true
echo "== what the server logged"; cat "$log"
