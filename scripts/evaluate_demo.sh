#!/usr/bin/env bash
# Evaluates the models of the finetuning demonstration side by side, and how a share of safety data makes them refuse. From nothing
# it trains them (scripts/finetune_demo.sh), then briefly a guard, and models that are the one after SFT with safety data in the mix,
# more and less. It starts the server with the guard, chats, and writes two reports: base, SFT and DPO on stories to go on with,
# held-out questions and politeness; and violations against false refusals for each mix, as the guard and phrases judge them.
#
#   scripts/evaluate_demo.sh             takes a few minutes on 2 CPU cores
#   PERCENT=5 scripts/evaluate_demo.sh   makes 5 % of the data and of the steps, for a glimpse: the models learn nothing
#
# scripts/demo/hiding.py makes the safety data. RUN=FOLDER: that of the models (default: runs/finetune_demo); models that are there
# are not trained again. The results are FOLDER/evaluation/ and FOLDER/safety/, which are replaced.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
# shellcheck disable=SC1091
. scripts/stage.sh
# shellcheck disable=SC1091
. scripts/demo/training.sh

# models after SFT: name, the share of safety data in %, and the share of these that is borderline, in %
MIXES=("sft-2% 2 50" "sft-10% 10 50" "sft-20% 20 50" "sft-40% 40 50" "refusals-10% 10 0")
MIXED_PAIRS="dpo-40% 40 50" # begins with the model sft-10%

has_models() { [ -e "$RUN/dpo/checkpoint" ] && grep -q '"polite"' "$RUN/made/questions.jsonl" 2>/dev/null; }

has_mixes() { [ -e "$RUN/mixes/${MIXED_PAIRS%% *}/checkpoint" ]; }

train_guard() {
    "$PYTHON" scripts/demo/hiding.py "$RUN/made" --seed "$SEED" --percent "$PERCENT" &&
        chats guard_rows chats "$RUN/made/guard.jsonl" --overwrite --show 2 &&
        train guard_rows guard --overwrite --task sft --init-from "$RUN/sft/checkpoint" --epochs 1 --batch-size 2 --lr 2e-3
}

# mix KIND NAME SHARE BORDERLINE: prepares conversations (KIND is empty) or pairs (_pairs). The files of refusals and of borderline
# questions have half as many rows as the plain ones.
mix() {
    local kind=$1 name=$2 share=$3 borderline=$4 file part weight sources=()
    for file in refuse allow; do
        part=$([ $file = refuse ] && echo $((100 - borderline)) || echo "$borderline")
        weight=$(awk "BEGIN { print 2 * $share / (100 - $share) * $part / 100 }")
        [ "$weight" = 0 ] || sources+=(--source "$RUN/made/$file$kind.jsonl" "$weight")
    done
    chats "mixes/${name}_rows" chats "$RUN/made/plain$kind.jsonl" "${sources[@]}" --overwrite
}

train_mixes() {
    local line mixed
    for line in "${MIXES[@]}"; do
        read -ra mixed <<<"$line"
        mix "" "${mixed[@]}" && train "mixes/${mixed[0]}_rows" "mixes/${mixed[0]}" --overwrite --task sft \
            --init-from "$RUN/sft/checkpoint" --epochs 1 --batch-size 2 --lr 2e-3 || return
    done
    read -ra mixed <<<"$MIXED_PAIRS"
    mix _pairs "${mixed[@]}" && train "mixes/${mixed[0]}_rows" "mixes/${mixed[0]}" --overwrite --task dpo \
        --init-from "$RUN/mixes/sft-10%/checkpoint" --epochs 1 --batch-size 2 --lr 2e-4
}

chat() {
    PYTHONPATH=scripts "$PYTHON" scripts/demo/chat.py --models "sft=$RUN/sft/checkpoint" "dpo=$RUN/dpo/checkpoint" \
        --guard "$RUN/guard/checkpoint" --questions "$RUN/made/questions.jsonl" "$RUN/made/attacks.jsonl" --target "$TARGET"
}

# evaluate SUITE OUTPUT OPTION... NAME=DIR...
evaluate() {
    rm -rf "${RUN:?}/$2" && cp "scripts/demo/$1" "$RUN/made/" &&
        "$PYTHON" scripts/evaluate.py --suite "$RUN/made/$1" --output "$RUN/$2" --target "$TARGET" --context 256 "${@:3}"
}

evaluate_models() {
    evaluate suite.json evaluation --models "base=$RUN/pretrain/checkpoint" "sft=$RUN/sft/checkpoint" "dpo=$RUN/dpo/checkpoint"
}

evaluate_mixes() {
    local name models=()
    for name in "${MIXES[@]%% *}" "${MIXED_PAIRS%% *}"; do
        models+=("$name=$RUN/mixes/$name/checkpoint")
    done
    evaluate safety.json safety --guard "guard=$RUN/guard/checkpoint" --models "sft=$RUN/sft/checkpoint" "${models[@]}"
}

check_settings evaluate_demo "$@"
TARGET=$(choose_target)
export RUN VENV SEED PERCENT
stage "install what is missing" scripts/setup.sh eval
has_models || stage "train the models" scripts/finetune_demo.sh
stage "build for $TARGET" make -s -j "${JOBS:-$(nproc)}" TARGET="$TARGET"
[ -e "$RUN/guard/checkpoint" ] || stage "train a guard" train_guard
has_mixes || stage "train mixes with safety data" train_mixes
stage "chat over the server" chat
stage "evaluate the models" evaluate_models
stage "evaluate the mixes" evaluate_mixes
printf '\nThis took %d s in all. Open %s/evaluation/report.html and %s/safety/report.html; every answer is in items/ beside them.\n' \
    "$SECONDS" "$RUN" "$RUN"
