#!/usr/bin/env bash
# Evaluates the three models of the finetuning demonstration side by side: after pretraining, after SFT, after DPO. It starts the
# server, chats with the two assistants, and puts the suite scripts/demo/suite.json to all three: stories to go on with, held-out
# questions, and how often answers that are drawn are polite, 3,000 answers in all.
#
#   scripts/evaluate_demo.sh     takes a minute or two on 2 CPU cores; before it, trains the models if they are not there
#
# The models come from scripts/finetune_demo.sh, which takes a few minutes more. RUN=FOLDER: that of the models (default:
# runs/finetune_demo); the result is FOLDER/evaluation/, which is replaced.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
# shellcheck disable=SC1091
. scripts/stage.sh

VENV=${VENV:-.venv}
RUN=${RUN:-runs/finetune_demo}
PYTHON=$VENV/bin/python

is_trained() { [ -e "$RUN/dpo/checkpoint" ] && grep -q '"polite"' "$RUN/made/questions.jsonl" 2>/dev/null; }

chat() {
    PYTHONPATH=scripts "$PYTHON" scripts/demo/chat.py --models "sft=$RUN/sft/checkpoint" "dpo=$RUN/dpo/checkpoint" \
        --questions "$RUN/made/questions.jsonl" --target "$TARGET"
}

evaluate() {
    rm -rf "$RUN/evaluation" && cp scripts/demo/suite.json "$RUN/made/" &&
        "$PYTHON" scripts/evaluate.py --models "base=$RUN/pretrain/checkpoint" "sft=$RUN/sft/checkpoint" \
            "dpo=$RUN/dpo/checkpoint" --suite "$RUN/made/suite.json" --output "$RUN/evaluation" --target "$TARGET" --context 256
}

[ $# = 0 ] || {
    echo "evaluate_demo: argument '$1', expected none: settings are variables, as in RUN=runs/other scripts/evaluate_demo.sh" >&2
    exit 2
}
TARGET=$(choose_target)
export RUN VENV
stage "install what is missing" scripts/setup.sh eval
is_trained || stage "train the models" scripts/finetune_demo.sh
stage "build for $TARGET" make -s -j "${JOBS:-$(nproc)}" TARGET="$TARGET"
stage "chat over the server" chat
stage "evaluate" evaluate
printf '\nThis took %d s in all. Open %s/evaluation/report.html; every answer is in %s/evaluation/items/.\n' "$SECONDS" "$RUN" "$RUN"
