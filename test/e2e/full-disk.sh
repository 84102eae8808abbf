# Called as: unshare -rm bash full-disk.sh HOME COPY CONVERSATION
# A copy of HOME on a disk of 80 MB of its own. Prints what `skein send` says when less room is left than the store wants to
# keep, when none is left, and when there is room again; then the conversation.
set -euo pipefail
home=$1 small=$2 conversation=$3
skein() {
  local command=$1
  shift
  node "$(dirname "$0")/../../node/skein.ts" "$command" --home "$small" --json --offline "$@" || (($? == 1))
}

mkdir "$small"
mount -t tmpfs -o size=80m none "$small"
cp -r "$home/." "$small"
head -c 48M /dev/zero >"$small/filler"
skein send "$conversation" "disk has too little room"
cat /dev/zero >>"$small/filler" 2>/dev/null || true
skein send "$conversation" "disk is full"
rm "$small/filler"
skein send "$conversation" "disk has room"
skein messages "$conversation"
