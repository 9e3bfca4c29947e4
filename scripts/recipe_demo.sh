#!/usr/bin/env bash
# Trains a small model by recipes/mini.json, which passes through every kind of stage: the batch grows, the mixture changes, rows
# grow from 128 to 2048 tokens, a stage ends once most needles are found, and annealing with the mean of the weights.
#
#   scripts/recipe_demo.sh    takes a few minutes on 2 CPU cores
#
# dev/bench/long_context.py makes the data. The demo runs on the GPU where there is one (and nvcc to build for it), else on the
# CPU. It replaces runs/recipe_demo/, its result.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
# shellcheck disable=SC1091
. scripts/stage.sh

VENV=${VENV:-.venv}
DATA=data/mini_long
RUN=runs/recipe_demo
JOBS=${JOBS:-$(nproc)}

# train OPTION...
train() {
    "build/$TARGET/train_llama3" --recipe recipes/mini.json --config "$DATA/config.json" "$@"
}

[ $# = 0 ] || {
    echo "recipe_demo: argument '$1', expected none" >&2
    exit 2
}
TARGET=$(choose_target)
stage "install what is missing" scripts/setup.sh
stage "build for $TARGET" make -s -j "$JOBS" TARGET="$TARGET"
stage "make the data" "$VENV/bin/python" dev/bench/long_context.py --data
stage "show what is planned" train --dry-run
stage "train the stages on $TARGET" train --eval-tasks "$DATA/needle_*.eval" --output "$RUN" --overwrite --log-every 100
stage "draw the recipe" "$VENV/bin/python" scripts/plot.py --recipe recipes/mini.json --output "$RUN/recipe.png"
stage "draw the loss" "$VENV/bin/python" scripts/plot.py "$RUN" --x tokens --title "recipes/mini.json"
printf '\nThis took %d s in all. In %s/: log.jsonl, recipe.png, loss.png, and checkpoint/, which transformers opens.\n' "$SECONDS" "$RUN"
