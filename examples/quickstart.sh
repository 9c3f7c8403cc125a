#!/usr/bin/env bash
# A message leaves, arrives and is read, without a phone: builds Waya, starts it on an emulated WhatsApp,
# sends a text, waits until the other person has read it, shows both sides, and stops.
# Exit 0 only if all of that happened. Nothing leaves this machine.
set -euo pipefail
cd "$(dirname "$0")/.."

number=6281200000002
text="Halo from Waya, $(date +%H:%M:%S)"

echo "== building"
cargo build --locked --quiet -p waya-cli
cargo build --locked --quiet -p waya-sandbox
bin="${CARGO_TARGET_DIR:-target}/debug"

work=$(mktemp -d)
export WAYA_SOCKET="$work/waya.sock"
stop() {
  status=$?
  trap - EXIT
  if [ -n "${daemon:-}" ]; then
    kill "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
  fi
  if [ "$status" -ne 0 ]; then
    echo "quickstart failed; the daemon's last words:" >&2
    tail -n 20 "$work/daemon.log" >&2 || true
  fi
  rm -rf "$work"
  exit "$status"
}
trap stop EXIT

echo "== starting waya-sandbox: the daemon, an emulated WhatsApp and five simulated people"
"$bin/waya-sandbox" --data-dir "$work/data" --http off >"$work/ready" 2>"$work/daemon.log" &
daemon=$!
for _ in $(seq 600); do
  [ -s "$work/ready" ] && break
  kill -0 "$daemon" 2>/dev/null || { echo "the daemon ended before it was ready" >&2; exit 1; }
  sleep 0.1
done
[ -s "$work/ready" ] || { echo "the daemon was not ready within 60 s" >&2; exit 1; }
cat "$work/ready"

echo "== waya status"
"$bin/waya" status
echo "== waya sandbox people"
"$bin/waya" sandbox people

echo "== waya send $number \"$text\" --ref quickstart --wait read"
"$bin/waya" send "$number" "$text" --ref quickstart --wait read --timeout 60s

echo "== waya sandbox inbox $number: what the other side's own client decrypted"
"$bin/waya" sandbox inbox "$number"
echo "== waya message quickstart"
"$bin/waya" message quickstart

# What was shown must be so.
"$bin/waya" --json sandbox inbox "$number" | grep -qF "\"$text\"" || { echo "the text did not arrive" >&2; exit 1; }
message=$("$bin/waya" --json message quickstart)
for expected in '"status":"sent"' '"ack":"read"'; do
  grep -qF "$expected" <<<"${message//\": /\":}" || { echo "expected $expected in $message" >&2; exit 1; }
done
echo "== done: sent, delivered and read"
