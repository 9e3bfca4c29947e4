#!/usr/bin/env bash
# Installs what is missing, builds every variant, runs every test. Arguments go to pytest (scripts/test.sh -k attention).
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
JOBS=${JOBS:-$(nproc)}
BUILDS=(
    "TARGET=cpu PRECISION=bf16"
    "TARGET=cpu PRECISION=fp32"
    "TARGET=cpu PRECISION=fp32 SANITIZE=address,undefined"
)
CUDA_BUILDS=("TARGET=cuda PRECISION=bf16")

say() { printf '== test: %s (at %d s)\n' "$*" "$SECONDS"; }

build() {
    local settings
    for settings in "$@"; do
        say "build $settings"
        # shellcheck disable=SC2086  # the settings are words for make
        make -s -j "$JOBS" $settings || {
            say "build $settings failed" >&2
            exit 1
        }
    done
}

say "setup"
scripts/setup.sh test
build "${BUILDS[@]}"
if command -v nvcc >/dev/null; then
    build "${CUDA_BUILDS[@]}"
else
    say "no nvcc on PATH: the cuda target is not built"
fi
say "pytest"
exec "$VENV/bin/python" -m pytest tests -q "$@"
