#!/usr/bin/env bash
# Makes a small Llama 3 that writes Shakespeare on a fresh machine: installs what is missing, builds, prepares the text, trains,
# plots, and prints a sample.
#
#   scripts/quickstart.sh             takes about 5 minutes on 2 CPU cores
#   STEPS=100 scripts/quickstart.sh   is shorter
#
# It runs on the GPU where there is one (and nvcc to build for it), else on the CPU. It replaces runs/quickstart/, its result.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
# shellcheck disable=SC1091
. scripts/stage.sh

STEPS=${STEPS:-700}
VENV=${VENV:-.venv}
DATA=data/shakespeare
RUN=runs/quickstart
JOBS=${JOBS:-$(nproc)}

prepare() {
    "$VENV/bin/python" data/get_corpus.py --output "$DATA/text" &&
        "$VENV/bin/python" data/prepare_data.py "$DATA/text" --output "$DATA" --vocab-size 2048 --overwrite
}

# With 8 rows of 256 tokens per step, 790 steps see the text once.
train() {
    "build/$TARGET/train_llama3" --config configs/quickstart.json \
        --train-data "$DATA/train_*.bin" --val-data "$DATA/val_*.bin" --output "$RUN" --overwrite \
        --steps "$STEPS" --batch-size 8 --seq-len 256 \
        --lr 2e-3 --final-lr-fraction 0.1 --eval-every 50 --sample-every 200 --save-every 200
}

show_sample() {
    "$VENV/bin/python" - "$RUN/log.jsonl" <<'PYTHON'
import json, sys
entries = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
samples = [entry for entry in entries if "sample" in entry]
if samples:
    print(f"After {samples[-1]['step']} steps the model writes:\n\n{samples[-1]['sample'].strip()}")
PYTHON
}

[ $# = 0 ] || {
    echo "quickstart: argument '$1', expected none: settings are variables, as in STEPS=50 scripts/quickstart.sh" >&2
    exit 2
}
[[ $STEPS =~ ^[1-9][0-9]*$ ]] || {
    echo "quickstart: STEPS='$STEPS', expected a number of training steps" >&2
    exit 2
}
TARGET=$(choose_target)
stage "install what is missing" scripts/setup.sh
stage "build for $TARGET" make -s -j "$JOBS" TARGET="$TARGET"
stage "prepare the text" prepare
stage "train $STEPS steps on $TARGET" train
stage "draw the loss curve" "$VENV/bin/python" scripts/plot.py "$RUN" --title "Llama 3, 3.7M parameters, on Shakespeare"
stage "show a sample" show_sample
printf '\nThis took %d s in all. In %s/: log.jsonl, loss.png, and checkpoint/, which transformers opens.\n' "$SECONDS" "$RUN"
