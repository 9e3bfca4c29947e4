# What finetune_demo.sh and evaluate_demo.sh share: their settings, and how they prepare and train. It is sourced, not run, from the
# repository's root, after scripts/stage.sh.
# shellcheck shell=bash

SEED=${SEED:-1}
PERCENT=${PERCENT:-100}
VENV=${VENV:-.venv}
RUN=${RUN:-runs/finetune_demo}
PYTHON=$VENV/bin/python

# check_settings NAME ARGUMENT...: of the script of that name, which has no arguments
check_settings() {
    [ $# = 1 ] || {
        echo "$1: argument '$2', expected none: settings are variables, as in SEED=2 scripts/$1.sh" >&2
        exit 2
    }
    [[ $SEED =~ ^[0-9]+$ ]] || {
        echo "$1: SEED='$SEED', expected a number" >&2
        exit 2
    }
    [[ $PERCENT =~ ^[1-9][0-9]?$|^100$ ]] || {
        echo "$1: PERCENT='$PERCENT', expected 1 to 100: so much of the data, and of the steps" >&2
        exit 2
    }
}

# chats OUTPUT TOKENIZER FILE|OPTION...: rows of conversations or pairs
chats() {
    "$PYTHON" data/prepare_chat.py --output "$RUN/$1" --tokenizer "$RUN/$2" "${@:3}"
}

# train DATA STAGE OPTION...
train() {
    "build/$TARGET/train_llama3" --train-data "$RUN/$1/train_*.bin" --val-data "$RUN/$1/val_*.bin" --output "$RUN/$2" \
        --seq-len 256 --seed "$SEED" "${@:3}"
}
