#!/usr/bin/env bash
# The whole system in one command: raw pages, curation, a scaling law, a herd of models, an assistant made of the largest, an
# evaluation of all, and one report.
#
#   scripts/herd.sh                      herds/laptop.json: from packages alone, on 2 CPU cores
#   scripts/herd.sh node                 another preset of herds/, or a file of your own
#   scripts/herd.sh laptop --dry-run     what follows goes to scripts/herd.py
#
# It installs what is missing, builds, and runs scripts/herd.py, which goes on where an earlier run was stopped. docs/herd.md has more.
set -euo pipefail
PRESET=${1:-laptop}
[ $# = 0 ] || shift
[ ! -f "$PRESET" ] || PRESET=$(realpath "$PRESET")
cd "$(dirname "$(readlink -f "$0")")/.."
# shellcheck disable=SC1091
. scripts/stage.sh

VENV=${VENV:-.venv}
FILE=herds/$PRESET.json
[ -e "$FILE" ] || FILE=$PRESET
[ -f "$FILE" ] || {
    echo "herd: '$PRESET': expected a file of settings or one of:" herds/*.json >&2
    exit 2
}

setting() { "$VENV/bin/python" -c 'import json, sys; print(json.load(open(sys.argv[1])).get(sys.argv[2], sys.argv[3]))' "$FILE" "$@"; }

install() {
    local group
    for group in run curate eval herd; do
        scripts/setup.sh "$group"
    done
}

# Without nvcc a plan for GPUs can still be checked, by the build for the CPU.
build() {
    local target
    target=$(setting target "$(choose_target)")
    command -v nvcc >/dev/null || target=cpu
    make -s -j "${JOBS:-$(nproc)}" TARGET="$target" PRECISION="$(setting precision bf16)"
}

export VENV
stage "install what is missing" install
stage "build" build
exec "$VENV/bin/python" scripts/herd.py "$FILE" "$@"
