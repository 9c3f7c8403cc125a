#!/usr/bin/env bash
# Every check of the project: format, lints, docs, the shape of the release build, and all tests.
# Installs what it needs; ends by itself; talks to loopback only.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }

need_command() { # COMMAND PACKAGE: for the checks that run a system tool
  command -v "$1" >/dev/null 2>&1 && return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    (apt-get update -qq && apt-get install -y -qq --no-install-recommends "$2") >/dev/null 2>&1 || true
  fi
  command -v "$1" >/dev/null 2>&1 || printf 'note: %s (package %s) is missing; the tests that use it say that they skip\n' "$1" "$2"
}

need_component() { # COMMAND COMPONENT
  cargo "$1" --version >/dev/null 2>&1 || rustup component add "$2"
}

need_command cc gcc
need_command curl curl
need_command node nodejs
need_command npm npm
need_command mkfs.ext4 e2fsprogs
need_command ffmpeg ffmpeg
need_component fmt rustfmt
need_component clippy clippy
export PATH="$PATH:/sbin:/usr/sbin"
# What a later build could reuse costs as much disk as the build; a whole run compiles everything once.
export CARGO_INCREMENTAL="${CARGO_INCREMENTAL:-0}"
# By hand, what needs Node and npm's registry may be skipped; here it has to run.
[ "${CI:-}" != true ] || export WAYA_TEST_STRICT="${WAYA_TEST_STRICT:-1}"

say "format"
cargo fmt --all --check

say "the plain build leaves no certificate check out"
# Features unify across a build, so the question is asked of the very command that makes the release.
features=$(cargo tree --locked --edges features,normal,build --format '{p} {f}')
if ! grep -q 'whatsapp-rust' <<<"$features"; then
  echo "cargo tree does not show the build that was asked about" >&2
  exit 1
fi
if grep -n 'danger-skip' <<<"$features"; then
  echo "a certificate-skipping feature is on in the default build" >&2
  exit 1
fi
if cargo tree --locked --workspace --edges normal,build,dev -i openssl-sys 2>/dev/null | grep -q .; then
  echo "OpenSSL came in" >&2
  exit 1
fi

say "lints"
cargo clippy --locked --workspace --all-targets -- -D warnings

say "what the fuzz targets drive"
# As cargo-fuzz builds it, without the fuzzer: that takes a nightly compiler and a C++ one. Nothing but our own crates is
# compiled for it: the rest is there from the lints.
cargo clippy --locked --workspace --lib -- --cfg fuzzing -D warnings
for target in waya-sandbox/fuzz/fuzz_targets/*.rs; do
  name=$(basename "$target" .rs)
  if ! grep -q "^pub fn $name(bytes: &\[u8\])\|^pub fn $name(mut bytes: &\[u8\])" waya-sandbox/src/emulator/fuzzing.rs \
    || ! grep -q "fuzzing::$name(bytes)" "$target" || ! grep -q "^name = \"$name\"" waya-sandbox/fuzz/Cargo.toml; then
    echo "the fuzz target $name drives nothing" >&2
    exit 1
  fi
done

say "docs"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet

say "tests"
cargo build --locked --workspace --bins
cargo test --locked --workspace
# Once more as before WhatsApp's move to LIDs, whatever clients do with the emulator.
# For the whole workspace, so that the same binaries run again.
WAYA_TEST_PN_ONLY=1 cargo test --locked --workspace --test 'emulator_*' --test session --test soak
# Above, the sandbox's feature reached the daemon too; here it is the daemon that people run.
cargo test --locked -p waya-daemon --lib
