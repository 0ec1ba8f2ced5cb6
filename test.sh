#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lints, dependencies, tests.
#
#   ./test.sh               all of it
#   ./test.sh ARGS...       only `cargo test --release ARGS...`, with the Python judges at hand
#
# MQUANT_VENV   folder of the judges' virtual environment (default: in the user's cache, by content of the requirements)
# MQUANT_CHROMIUM  a Chromium or Chrome, for the tests of the report page (default: the first on the path)
# CI            when set: Cargo.lock must be up to date, and cargo-deny is installed where it is missing
set -euo pipefail
cd "$(dirname "$0")"

requirements=tests/judges/requirements.txt
cache="${XDG_CACHE_HOME:-$HOME/.cache}/mquant-export"
deny_version=0.20.2
locked=(${CI:+--locked})

section() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }

# The first Python of 3.11 or later.
find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "error: no Python 3.11 or later was found; the judges in tests/judges need one" >&2
    return 1
}

# Makes the judges' virtual environment unless it is complete. It cannot be moved once made, so a mark tells that it is.
make_venv() {
    local python key
    python="$(find_python)"
    key="$("$python" -c 'import hashlib, sys
text = open(sys.argv[1], "rb").read() + sys.version.encode()
print(hashlib.sha256(text).hexdigest()[:16])' "$requirements")"
    venv="${MQUANT_VENV:-$cache/venv-$key}"
    if [[ "$(cat "$venv/.complete" 2>/dev/null)" == "$key" ]]; then
        return
    fi
    if [[ -e "$venv" && ! -e "$venv/pyvenv.cfg" ]]; then
        echo "error: $venv exists and is no virtual environment" >&2
        return 1
    fi
    echo "making $venv"
    "$python" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --requirement "$requirements"
    "$venv/bin/python" -m pip check
    echo "$key" >"$venv/.complete"
}

# Advisories are left out: their database is on the network and changes by itself. `cargo deny check` has them.
check_dependencies() {
    local deny=cargo-deny
    if ! command -v "$deny" >/dev/null; then
        deny="$cache/cargo-deny-$deny_version/bin/cargo-deny"
    fi
    if [[ ! -x "$(command -v "$deny")" && -n "${CI:-}" ]]; then
        cargo install cargo-deny --version "$deny_version" --locked --debug --quiet --root "$cache/cargo-deny-$deny_version"
    fi
    if [[ -x "$(command -v "$deny")" ]]; then
        "$deny" --log-level error check bans licenses sources
    else
        echo "skipped: cargo-deny is not installed (cargo install cargo-deny --locked); licences are tested all the same"
    fi
}

# Chromium, which the page of reports is tested in. Root on Debian or Ubuntu gets it installed; others are told how.
have_browser() {
    local name
    if [[ -n "${MQUANT_CHROMIUM:-}" ]]; then
        return
    fi
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        if command -v "$name" >/dev/null; then
            return
        fi
    done
    if [[ "$(id -u)" == 0 ]] && command -v apt-get >/dev/null; then
        echo "installing chromium"
        apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium >/dev/null && return
    fi
    echo "error: no Chromium or Chrome was found; the page of reports is tested in one (apt-get install chromium, or set MQUANT_CHROMIUM)" >&2
    return 1
}

section "judges in Python"
make_venv
export MQUANT_PYTHON="$venv/bin/python"
"$MQUANT_PYTHON" --version

if [[ $# -eq 0 ]]; then
    section "format"
    cargo fmt --all --check
    section "lints"
    # The release profile, because it shares build scripts and macros with the tests.
    cargo clippy ${locked[@]+"${locked[@]}"} --release --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc ${locked[@]+"${locked[@]}"} --release --no-deps --quiet
    section "browser"
    have_browser
    section "dependencies"
    check_dependencies
fi

section "tests"
cargo test ${locked[@]+"${locked[@]}"} --release "$@"

section "done"
