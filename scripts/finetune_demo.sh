#!/usr/bin/env bash
# Pretraining, SFT and DPO in one command: a small model reads stories, learns to answer questions in a chat, and then to
# answer politely. After each stage it prints how many held-out questions the model answers.
#
#   scripts/finetune_demo.sh             takes a few minutes on 2 CPU cores
#   SEED=2 scripts/finetune_demo.sh      uses other stories and other weights
#   PERCENT=5 scripts/finetune_demo.sh   makes 5 % of the data and of the steps, for a glimpse: the models learn nothing
#
# scripts/demo/stories.py makes the data. The demo runs on the GPU where there is one (and nvcc to build for it), else on the
# CPU. It replaces runs/finetune_demo/, its result.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
# shellcheck disable=SC1091
. scripts/stage.sh
# shellcheck disable=SC1091
. scripts/demo/training.sh

JOBS=${JOBS:-$(nproc)}

prepare() {
    rm -rf "$RUN"/{made,stories,chats,pairs,pretrain,sft,dpo,table.json,guard,mixes} &&
        "$PYTHON" scripts/demo/stories.py "$RUN/made" --seed "$SEED" --percent "$PERCENT" &&
        "$PYTHON" data/prepare_data.py "$RUN/made/stories.jsonl" --output "$RUN/stories" --vocab-size 512 &&
        chats chats stories "$RUN/made/chats.jsonl" --show 1 &&
        chats pairs chats "$RUN/made/pairs.jsonl" --show 1
}

score() {
    "$PYTHON" scripts/demo/score.py "$RUN/$1/checkpoint" "$RUN/made/questions.jsonl" --name "$2" --table "$RUN/table.json" \
        --target "$TARGET"
}

check_settings finetune_demo "$@"
TARGET=$(choose_target)
stage "install what is missing" scripts/setup.sh
stage "build for $TARGET" make -s -j "$JOBS" TARGET="$TARGET"
stage "make the data" prepare
stage "pretrain on stories" train stories pretrain --config scripts/demo/config.json --steps $((8 * PERCENT)) --batch-size 8 \
    --lr 4e-3 --eval-every 250
stage "score it" score pretrain "pretrained"
stage "SFT on chats" train chats sft --task sft --init-from "$RUN/pretrain/checkpoint" --epochs 2 --batch-size 8 --lr 1e-3
stage "score it" score sft "after SFT"
stage "DPO on pairs" train pairs dpo --task dpo --init-from "$RUN/sft/checkpoint" --epochs 1 --batch-size 8 --lr 2e-4
stage "score it" score dpo "after DPO"
printf '\nThis took %d s in all. In %s/: pretrain, sft, dpo, each with log.jsonl and checkpoint/, which transformers opens.\n' \
    "$SECONDS" "$RUN"
