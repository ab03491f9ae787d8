#!/usr/bin/env bash
# Builds both binaries on this machine and packs them into an image: faster than building inside a container.
#
#   scripts/build-precompiled-docker.sh [TAG]     the tag is berry-api:latest without one
#   scripts/build-precompiled-docker.sh --no-image    only the binaries, in docker-binaries/
set -euo pipefail
cd "$(dirname "$0")/.."

image=1
tag=berry-api:latest
case "${1:-}" in
  --no-image) image=0 ;;
  -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
  "") ;;
  *) tag=$1 ;;
esac

case "$(uname -m)" in
  x86_64) target=x86_64-unknown-linux-gnu ;;
  aarch64 | arm64)
    target=aarch64-unknown-linux-gnu
    # The allocator's pages are as large as the largest of such kernels': built for 4 KiB it would not start where they have 64.
    export JEMALLOC_SYS_WITH_LG_PAGE=16
    ;;
  *) echo "images are built on x86_64 and aarch64 only, this is $(uname -m)" >&2; exit 1 ;;
esac

cargo build --locked --profile "${BERRY_PROFILE:-dist}" -p berry-api -p berry-cli --target "$target"
profile_folder=${BERRY_PROFILE:-dist}
[ "$profile_folder" = dev ] && profile_folder=debug
mkdir -p docker-binaries
cp "target/$target/$profile_folder/berry-api" "target/$target/$profile_folder/berry-cli" docker-binaries/
ls -lh docker-binaries

if ((image)); then
  command -v docker >/dev/null || { echo "docker is not installed; the binaries are in docker-binaries/" >&2; exit 1; }
  docker build -f Dockerfile.prebuilt -t "$tag" .
fi
