#!/usr/bin/env bash
# Trains a small Llama 3 by recipes/mini.json, which passes through every kind of stage: the batch grows, rows grow, the mixture of
# plays and poems changes, long rows with RoPE scaled, where the stage ends once needles are found, and annealing with the mean of
# the weights.
#
#   scripts/recipe_demo.sh    takes about 6 minutes on 2 CPU cores
#
# It runs on the GPU where there is one (and nvcc to build for it), else on the CPU. It replaces runs/recipe_demo/, its result.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
# shellcheck disable=SC1091
. scripts/stage.sh

VENV=${VENV:-.venv}
DATA=data/shakespeare
RUN=runs/recipe_demo
JOBS=${JOBS:-$(nproc)}
POEMS="sonnets lovers_complaint passionate_pilgrim phoenix_and_the_turtle rape_of_lucrece"

prepare() {
    local python=$VENV/bin/python poem poems=() plays=() text
    "$python" data/get_corpus.py --output "$DATA/text"
    for text in "$DATA"/text/*.txt; do
        poem=$(basename "$text" .txt)
        if [[ " $POEMS " == *" $poem "* ]]; then poems+=("$text"); else plays+=("$text"); fi
    done
    "$python" data/prepare_data.py "$DATA/text" --output "$DATA" --vocab-size 2048 --overwrite
    "$python" data/prepare_data.py "${plays[@]}" --tokenizer "$DATA" --output data/plays --overwrite
    "$python" data/prepare_data.py "${poems[@]}" --tokenizer "$DATA" --output data/poems --overwrite
    "$python" data/prepare_eval.py "$DATA/text" --tokenizer "$DATA" --output data/plays/needle.eval --overwrite \
        --needle-lengths 256 --needle-depths 5 --needle-trials 8
}

train() {
    "build/$TARGET/train_llama3" --recipe recipes/mini.json --config configs/quickstart.json \
        --eval-tasks 'data/plays/needle_*.eval' --output "$RUN" --overwrite
}

[ $# = 0 ] || {
    echo "recipe_demo: argument '$1', expected none" >&2
    exit 2
}
TARGET=$(choose_target)
stage "install what is missing" scripts/setup.sh
stage "build for $TARGET" make -s -j "$JOBS" TARGET="$TARGET"
stage "prepare plays, poems and needles" prepare
stage "train the recipe's stages on $TARGET" train
stage "draw the recipe" "$VENV/bin/python" scripts/plot.py --recipe recipes/mini.json --output "$RUN/recipe.png"
stage "draw the loss" "$VENV/bin/python" scripts/plot.py "$RUN" --x tokens
printf '\nThis took %d s in all. In %s/: log.jsonl, recipe.png, loss.png, and checkpoint/, which transformers opens.\n' "$SECONDS" "$RUN"
