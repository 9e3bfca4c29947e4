# Functions that quickstart.sh and finetune_demo.sh share; they are sourced, not run.
# shellcheck shell=bash

# stage NAME COMMAND...: announces a command, runs it and prints its time. A failure names the stage and ends the script with the
# command's exit code.
stage() {
    local name=$1 begin=$SECONDS code=0
    shift
    printf '\n== %s\n' "$name"
    "$@" || code=$?
    if [ "$code" != 0 ]; then
        printf '%s: stage "%s" failed with exit code %d after %d s\n' "$(basename "$0" .sh)" "$name" "$code" \
            $((SECONDS - begin)) >&2
        exit "$code"
    fi
    printf '== %s: done in %d s\n' "$name" $((SECONDS - begin))
}

# choose_target: prints cuda where there is a GPU and nvcc to build for it, else cpu.
choose_target() {
    if ! nvidia-smi -L >/dev/null 2>&1; then
        echo cpu
    elif ! command -v nvcc >/dev/null; then
        printf '%s: there is a GPU but no nvcc on PATH to build for it, so the CPU is used\n' "$(basename "$0" .sh)" >&2
        echo cpu
    else
        echo cuda
    fi
}
