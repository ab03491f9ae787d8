#!/usr/bin/env bash
# Gives users of a configuration new tokens: writes their digests into the file, prints the new tokens once.
#
#   scripts/rotate-api-keys.sh                        every user of config.toml that has a literal token
#   scripts/rotate-api-keys.sh -c FILE team_a team_b  only these users
#
# The old file is kept beside it as FILE.bak (mode 600). The new one is checked before it takes the old one's place; a running
# server sees the change and reloads. Tokens that come from ${VARIABLES} or files are rotated where they live, not here.
set -euo pipefail

config=${CONFIG_PATH:-config.toml}
users=()
while (($#)); do
  case "$1" in
    -c | --config) config=${2:?"-c needs a file"}; shift ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "unknown option $1" >&2; exit 2 ;;
    *) users+=("$1") ;;
  esac
  shift
done
[ -f "$config" ] || { echo "$config: there is no such file; name one with -c" >&2; exit 1; }
checker=${BERRY_API:-berry-api}
command -v "$checker" >/dev/null || checker=$(dirname "$0")/../target/release/berry-api
[ -x "$(command -v "$checker" || true)" ] || { echo "berry-api is needed to check the result; set BERRY_API to its path" >&2; exit 1; }

umask 077
new=$(mktemp "$config.XXXXXX")
trap 'rm -f "$new"' EXIT
printed=()
current=
while IFS= read -r line || [ -n "$line" ]; do
  if [[ $line =~ ^\[users\.\"?([^]\".]+)\"?\] ]]; then
    current=${BASH_REMATCH[1]}
  elif [[ $line =~ ^\[ ]]; then
    current=
  elif [[ -n $current && $line =~ ^token(_sha256)?[[:space:]]*= && $line != *'${'* ]]; then
    if ((${#users[@]} == 0)) || [[ " ${users[*]} " == *" $current "* ]]; then
      token=berry-$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
      digest=$(printf %s "$token" | sha256sum | cut -d' ' -f1)
      line="token_sha256 = \"$digest\""
      printed+=("$current $token")
    fi
  fi
  printf '%s\n' "$line" >>"$new"
done <"$config"

((${#printed[@]})) || { echo "no user of $config has a token to rotate" >&2; exit 1; }
"$checker" --check-config --config "$new" >/dev/null || { echo "the new file does not pass the check; nothing was changed" >&2; exit 1; }
cp -p "$config" "$config.bak" && chmod 600 "$config.bak"
mv "$new" "$config"
trap - EXIT
echo "new tokens, shown this once:"
printf '  %s\n' "${printed[@]}"
