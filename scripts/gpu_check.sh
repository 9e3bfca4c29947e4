#!/usr/bin/env bash
# Builds, checks and measures what needs a GPU, without a network, in two calls that end by themselves: the first within 340
# seconds, the second within 240.
#
#   scripts/gpu_check.sh [first|second] [--stages a,b,...] [--target cuda|cuda-on-cpu|cpu]
#
# first (the default), ordered by what it tells:
#   device         names, memory, driver, compilers, NVIDIA's libraries
#   build          bf16, for this GPU alone; registers and spills by ptxas. fp32 is built in the background from here on
#   program        test_llama3: the whole model against the oracle
#   accuracy       dev/bench/accuracy.py: attention and products at the shapes of 1B and 8B beside PyTorch's: errors, rates
#   bench_kernels  dev/bench/kernels.py at the shapes of 8B: each kernel's share of the device's measured ceilings
#   step_1b        15 steps of Llama 3.2 1B on rows of 4096 synthetic tokens: tokens per second, share of peak; 8 more with
#                  cuBLASLt's algorithms timed
#   build_fp32     waits for the build in the background
#   tests          tests of the kernels and of the model by pytest: each file a process, eight at once
#   training       the loss falls; a second run, one stopped and resumed, and one launched as graphs, give the same bits
#   nccl           one rank through NCCL gives the bits of one without; on several GPUs, two ranks
# second:
#   device         as above
#   build_both     both precisions, where the first call has not built them on this machine
#   program_fp32   test_llama3 in fp32
#   memcheck, racecheck, synccheck    compute-sanitizer on test_llama3 --small
#   finetuning     SFT, DPO, reward models, adapters: gradients, packed rows, short and resumed runs against transformers
#   generation     dev/bench/generate.py: new tokens per second beside transformers'
#   pytorch        dev/bench/vs_pytorch.py: tokens per second of Llama 3.2 1B beside PyTorch's, compiled, with its fused attention
#   llmq           dev/bench/vs_llmq.py: tokens per second of the shapes of LLM.Q's published table, beside the figures there
#   ncu            Nsight Compute's counters of the attention kernels at the shapes of 8B
#   cudnn          --attention cudnn, where cuDNN and its frontend are found: losses near those of ours, tokens per second, tests
#
# A stage has at least the seconds that CALLS gives it, and besides them all that the stages before it have left. Its verdict is
# pass, FAIL, cut (it was stopped), "not run", or partly (something in it was not run). Exit codes: 0 every stage has passed;
# 1 one has failed or was cut; 2 bad usage; 3 none has, but not all of it was run.
#
# --target cuda-on-cpu or cpu takes the same stages with small shapes and few tests, to try this script without a GPU.
#
# Results go to $OUT (default: dev/bench/results/DEVICE-COMMIT): first.jsonl and second.jsonl receive an object as soon as
# something begins, is known or ends; first.log and second.log all output; the benchmarks leave their own files. A call that is
# killed loses only what it had not begun. dev/bench/report.py makes tables of such a folder.
#
# It needs a compiler (nvcc at CUDA_HOME or on PATH, gcc, make), perl, cJSON, PCRE2, and xxHash's header; python3 with torch,
# pytest, numpy and transformers for what is compared with them. If libraries are not installed, DEPS=FOLDER names a folder with
# them (default: .deps if it exists). To make such a folder, on any machine with a network and the same type of processor:
#   mkdir .deps && cd .deps && apt-get download libcjson-dev libcjson1 \
#     libpcre2-dev libpcre2-8-0 libxxhash-dev && for f in *.deb; do dpkg -x "$f" .; done
#   pip download --no-deps nvidia-cudnn-frontend==1.18.0 && unzip -d usr nvidia_cudnn_frontend*.whl 'include/*'   # for cudnn
#
# More variables: ARCHS (default: that of the GPU), JOBS, PYTHON (default: python3, else .venv's), SEED, DEADLINE (seconds of
# the whole call).
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/.." || exit 1
export LC_ALL=C
shopt -s extglob

# stage:seconds, the seconds in which a killed stage ends included
declare -A CALLS=(
    [first]="device:10 build:60 program:20 accuracy:55 bench_kernels:35 step_1b:40 build_fp32:15 tests:60 training:25 nccl:15"
    [second]="device:5 build_both:25 program_fp32:10 memcheck:20 racecheck:20 synccheck:15 finetuning:20 generation:15
        pytorch:50 llmq:20 ncu:15 cudnn:25"
)
declare -A DEADLINES=([first]=340 [second]=240)
GRACE=2 # seconds between the signals that ask a stage to end and that make it
NOT_RUN=77 PARTLY=78 # exit codes of a stage

usage() {
    printf 'gpu_check: %s\nusage: scripts/gpu_check.sh [first|second] [--stages %s] [--target cuda|cuda-on-cpu|cpu]\n' "$1" \
        "a,b,..." >&2
    exit 2
}

# ---- results

json_text() { # as a JSON string
    local text=${1//+([[:cntrl:] ])/ }
    text=${text//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

# Appends an object in one write, so that processes do not mix theirs. `seconds` is a number.
event() { # key value...
    local object
    object="{\"call\": \"$CALL\", \"time\": \"$(date -u +%Y-%m-%dT%H:%M:%SZ)\""
    while [ $# -gt 0 ]; do
        object+=", \"$1\": "
        if [ "$1" = seconds ]; then object+=$2; else object+=$(json_text "$2"); fi
        shift 2
    done
    printf '%s}\n' "$object" >>"$OUT/$CALL.jsonl"
}

verdict_of() { # exit code
    case $1 in
        0) echo pass ;;
        "$NOT_RUN") echo "not run" ;;
        "$PARTLY") echo partly ;;
        124 | 137 | 143) echo cut ;;
        *) echo FAIL ;;
    esac
}

# ---- running the stages

later_seconds() { # of the stages that follow the one just begun
    local pair sum=0
    for pair in "${PLAN[@]:$1}"; do sum=$((sum + ${pair#*:})); done
    echo "$sum"
}

# A group of processes that has been asked to end, if it has not.
end_group() { # the number of `timeout`, which made it
    local end=$((SECONDS + GRACE))
    while kill -0 -- "-$1" 2>/dev/null; do
        if [ "$SECONDS" -ge "$end" ]; then kill -KILL -- "-$1" && return; fi
        sleep 0.1
    done
}

# The seconds of a stage: its own, what the ones before it have left, and no more than there are.
seconds_for() { # its own, those of later ones, those left of the call
    local limit=$(($3 - $2))
    limit=$((limit > $1 ? limit : $1))
    echo $(((limit < $3 ? limit : $3) - GRACE))
}

# The stage is a process, so that `timeout` can end it with everything that it started.
run_stage() { # stage, its seconds, those of later ones
    local left=$((DEADLINE - SECONDS)) start=$SECONDS limit log_start code=0 verdict
    limit=$(seconds_for "$2" "$3" "$left")
    export STAGE=$1
    : >"$WORK/reason"
    : >"$WORK/items"
    printf '== %-13s (at %d s: up to %d s of the %d s that are left)\n' "$STAGE" "$SECONDS" "$limit" "$left" | tee -a "$LOG"
    event stage "$STAGE" verdict begun
    log_start=$(wc -l <"$LOG")
    if [ "$limit" -lt 2 ]; then
        code=$NOT_RUN
        echo "the time of the whole call, $DEADLINE s, is used up" >"$WORK/reason"
    else
        STAGE_END=$(($(date +%s) + limit)) timeout -k "$GRACE" "$limit" "$BASH" scripts/gpu_check.sh --inside "$STAGE" \
            >>"$LOG" 2>&1 &
        RUNNING=$!
        wait "$RUNNING" || code=$?
        end_group "$RUNNING"
        RUNNING=""
    fi
    verdict=$(verdict_of "$code")
    [ "$verdict" != cut ] || echo "stopped after $limit s" >"$WORK/reason"
    close_stage "$verdict" $((SECONDS - start)) "$log_start"
}

close_stage() { # verdict, seconds, length of the log before
    local reason
    reason=$(cat "$WORK/reason")
    event stage "$STAGE" verdict "$1" reason "$reason" seconds "$2"
    tail -n "+$(($3 + 1))" "$LOG" | sed -n 's/^   = /   /p'
    case $1 in FAIL | cut) tail -n "+$(($3 + 1))" "$LOG" | grep -v '^   = ' | tail -25 | sed 's/^/   | /' ;; esac
    printf '   %s%s\n' "$1" "${reason:+: $reason}"
    VERDICTS+=("$(printf '%-13s  %-7s  %4d s  %s' "$STAGE" "$1" "$2" "$reason")")
    case $1 in FAIL | cut) FAILED=1 ;; "not run" | partly) LEFT_OUT=1 ;; esac
}

# Builds fp32 while other stages run, and not in their way; reads PyTorch from the disk once, as that can take long.
begin_background() {
    timeout -k "$GRACE" $((DEADLINE - SECONDS)) nice -n 19 "$BASH" scripts/gpu_check.sh --inside background \
        >"$WORK/background" 2>&1 &
    BACKGROUND=$!
}

# shellcheck disable=SC2317  # a trap calls it
end_background() {
    [ -z "$BACKGROUND" ] || kill "$BACKGROUND" 2>/dev/null
    BACKGROUND=""
}

# What the stage that was running has said is in the results already.
# shellcheck disable=SC2317  # a trap calls it
stopped() {
    event stage "$STAGE" verdict cut reason "this script was stopped"
    [ -z "$RUNNING" ] || { kill "$RUNNING" 2>/dev/null && end_group "$RUNNING"; }
    echo "gpu_check: stopped in stage $STAGE; what was known is in $OUT"
    exit 1
}

summary() {
    printf '\n%s\n' "stage          verdict   time"
    printf '%s\n' "${VERDICTS[@]}"
    printf 'gpu_check: %s call, %d s, results in %s\n' "$CALL" "$SECONDS" "$OUT"
    if [ "$TARGET" = cuda ] && [ -z "$GPU" ]; then
        echo "gpu_check: no GPU visible: nothing was checked on one"
        FAILED=1
    fi
}

# ---- what is there

# "name, compute capability, driver, memory" of the first GPU, or nothing. nvidia-smi writes its errors to standard output, and
# containers may lack it: then PyTorch is asked.
query_gpu() {
    local found asked=name,compute_cap,driver_version,memory.total
    found=$(timeout 20 nvidia-smi --query-gpu=$asked --format=csv,noheader 2>/dev/null | head -1)
    if [[ ! $found =~ ^.+,\ [0-9]+\.[0-9]+,\ .+,\ .+$ ]] && [ -n "$PYTHON" ]; then
        found=$(timeout 60 "$PYTHON" -c 'import torch
p = torch.cuda.get_device_properties(0)
print(f"{p.name}, {p.major}.{p.minor}, unknown driver, {p.total_memory >> 20} MiB")' 2>/dev/null)
    fi
    echo "$found"
}

has_module() {
    "$PYTHON" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)' "$1" 2>/dev/null
}

find_python() { # the first with PyTorch, else the first
    local PYTHON first=""
    for PYTHON in "$@" python3 .venv/bin/python; do
        command -v "$PYTHON" >/dev/null || continue
        first=${first:-$PYTHON}
        if has_module torch; then echo "$PYTHON" && return; fi
    done
    echo "$first"
}

find_tool() { # name: beside nvcc, else on PATH
    if [ -x "$CUDA_HOME/bin/$1" ]; then echo "$CUDA_HOME/bin/$1"; else command -v "$1"; fi
}

default_jobs() { # processors, but a GiB for each job
    local memory
    memory=$(awk '/^MemAvailable/ { print int($2 / 1048576) + 1 }' /proc/meminfo)
    echo $(($(nproc) < memory ? $(nproc) : memory))
}

look_around() {
    local nvcc query="" capability=""
    nvcc=$(command -v nvcc)
    [ -z "$nvcc" ] || nvcc=$(realpath "$nvcc")
    CUDA_HOME=${CUDA_HOME:-${nvcc:+${nvcc%/bin/nvcc}}}
    CUDA_HOME=${CUDA_HOME:-/usr/local/cuda}
    NVCC=$CUDA_HOME/bin/nvcc
    SANITIZER=$(find_tool compute-sanitizer)
    NCU=$(find_tool ncu)
    PYTHON=$(find_python ${PYTHON:+"$PYTHON"})
    [ "$TARGET" != cuda ] || query=$(query_gpu)
    IFS=$'\t' read -r GPU capability DRIVER MEMORY <<<"${query//, /$'\t'}"
    capability=${capability/./}
    ARCHS=${ARCHS:-${capability/#90/90a}} # Hopper's special instructions need the "a"
    JOBS=${JOBS:-$(default_jobs)}
    SEED=${SEED:-$((RANDOM * 32768 + RANDOM))}
    if [ -z "${DEPS:-}" ] && [ -d .deps/usr ]; then DEPS=.deps; fi
    DEPS=${DEPS:-}
    [ -z "$DEPS" ] || PATH=$PATH:$(realpath "$DEPS")/usr/bin # make or perl, where the machine has none
    COMMIT=$(git describe --always --dirty --exclude '*' 2>/dev/null || echo unknown)
    DEVICE=${GPU:-no GPU}
    [ "$TARGET" = cuda ] || DEVICE="CPU $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)"
    OUT=${OUT:-dev/bench/results/$(tr -c 'A-Za-z0-9\n' _ <<<"$DEVICE")-$COMMIT}
    LOG=$OUT/$CALL.log
    # each stage is a process
    export CALL TARGET CUDA_HOME NVCC SANITIZER NCU GPU DRIVER MEMORY ARCHS PYTHON JOBS SEED DEPS COMMIT DEVICE OUT LOG
}

parse() {
    local name
    TARGET=cuda CALL=first CHOSEN=""
    case ${1:-} in first | second) CALL=$1 && shift ;; esac
    while [ $# -gt 0 ]; do
        [ $# -ge 2 ] || usage "'$1': expected first, second, or an option with a value"
        case $1 in
            --stages) CHOSEN=$2 ;;
            --target) TARGET=$2 ;;
            *) usage "unknown option '$1'" ;;
        esac
        shift 2
    done
    case $TARGET in cuda | cuda-on-cpu | cpu) ;; *) usage "--target: expected cuda, cuda-on-cpu or cpu, found '$TARGET'" ;; esac
    DEADLINE=${DEADLINE:-${DEADLINES[$CALL]}}
    read -ra PLAN -d '' <<<"${CALLS[$CALL]}"
    [ -n "$CHOSEN" ] || return 0
    for name in ${CHOSEN//,/ }; do
        [[ " ${PLAN[*]}" == *" $name:"* ]] || usage "--stages: the $CALL call has no stage '$name', only ${PLAN[*]%:*}"
    done
    for name in "${!PLAN[@]}"; do [[ ,$CHOSEN, == *,${PLAN[name]%:*},* ]] || unset "PLAN[$name]"; done
    PLAN=("${PLAN[@]}")
}

main() {
    local i stage
    parse "$@"
    look_around
    WORK=$(mktemp -d) || exit 1
    export WORK
    RUNNING="" BACKGROUND="" STAGE=start FAILED=0 LEFT_OUT=0 VERDICTS=()
    if ! { mkdir -p "$OUT" && : >"$OUT/$CALL.jsonl" && : >"$LOG"; }; then usage "OUT: cannot write to '$OUT'"; fi
    trap 'end_background; rm -rf "$WORK"' EXIT
    trap stopped TERM INT HUP
    event device "$DEVICE" target "$TARGET" commit "$COMMIT" seed "$SEED" plan "${PLAN[*]}" seconds "$DEADLINE"
    echo "gpu_check: $CALL call on $DEVICE, target $TARGET, commit $COMMIT, SEED=$SEED, at most $DEADLINE s, results in $OUT"
    for i in "${!PLAN[@]}"; do
        stage=${PLAN[i]%:*}
        [ "$stage" != build ] || begin_background
        run_stage "$stage" "${PLAN[i]#*:}" "$(later_seconds $((i + 1)))"
        [ "$stage" != build ] || touch "$WORK/prepared"
    done
    summary
    [ $FAILED = 0 ] || exit 1
    [ $LEFT_OUT = 0 ] || exit 3
}

if [ "${1:-}" = --inside ] && [ -n "${WORK:-}" ]; then
    # shellcheck source=scripts/gpu_stages.sh
    . scripts/gpu_stages.sh
    # shellcheck source=scripts/gpu_runs.sh
    . scripts/gpu_runs.sh
    "stage_$2" "${@:3}"
else
    main "$@"
fi; exit # in the same line, which is read at once: this file may be changed while it runs
