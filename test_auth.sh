#!/usr/bin/env bash
# Asks a running server, with and without a token, and says whether each answer is the right one.
#
#   ./test_auth.sh                                    http://localhost:3000, the token of the shipped example
#   BERRY_URL=https://host BERRY_TOKEN=… BERRY_MODEL=… ./test_auth.sh
set -uo pipefail

url=${BERRY_URL:-http://localhost:3000}
token=${BERRY_TOKEN:-berry-admin-token-12345}
failed=0

# check WHAT EXPECTED-STATUS CURL-ARGUMENTS…
check() {
  local what=$1 expected=$2 status
  shift 2
  status=$(curl -s -o /dev/null -w '%{http_code}' --max-time 30 "$@")
  if [ "$status" = "$expected" ]; then
    echo "ok      $what: $status"
  else
    echo "FAILED  $what: $status instead of $expected"
    failed=1
  fi
}

curl -s -o /dev/null --max-time 5 "$url/livez" || { echo "no server at $url; start one with: cargo run --release" >&2; exit 1; }
model=${BERRY_MODEL:-$(curl -s -H "Authorization: Bearer $token" "$url/v1/models" | sed -n 's/.*"id":"\([^"]*\)".*/\1/p' | head -1)}
ask="{\"model\": \"$model\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}"

check "health needs no token" 200 "$url/health"
check "models without a token" 401 "$url/v1/models"
check "models with a wrong token" 401 -H "Authorization: Bearer wrong" "$url/v1/models"
check "models with the token" 200 -H "Authorization: Bearer $token" "$url/v1/models"
check "the token as x-api-key" 200 -H "x-api-key: $token" "$url/v1/models"
check "chat without a token" 401 -X POST -H "Content-Type: application/json" -d "$ask" "$url/v1/chat/completions"
check "chat with the token" 200 -X POST -H "Authorization: Bearer $token" -H "Content-Type: application/json" -d "$ask" "$url/v1/chat/completions"
check "a model that does not exist" 404 -X POST -H "Authorization: Bearer $token" -H "Content-Type: application/json" \
  -d "${ask/"$model"/no-such-model}" "$url/v1/chat/completions"
exit "$failed"
