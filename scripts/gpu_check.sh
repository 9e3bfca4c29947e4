#!/usr/bin/env bash
# Builds, checks and measures everything that needs a GPU, in under 9 minutes and without a network.
#
#   scripts/gpu_check.sh [--stages a,b,...] [--target cuda|cpu]
#
# Stages, in this order (all by default):
#   device         name, memory, driver, compiler
#   build          bf16 and fp32 for this GPU's architecture only; registers and spills by ptxas
#   program        test_llama3 in both precisions: the whole model against the oracle
#   kernels        tests of the kernels and of the model by pytest, on the device (needs python3 with torch and pytest)
#   sanitizer      compute-sanitizer memcheck, racecheck and synccheck on test_llama3 --small
#   training       a short run on synthetic tokens: the loss falls; a second run, and one stopped and resumed, give the same bits
#   ranks          one rank through NCCL gives the same bits as without; two ranks: NCCL on two GPUs if there are, and MPI on one
#   finetuning     SFT, DPO, reward models, adapters: gradients, packed rows, short and resumed runs against transformers
#   bench_kernels  dev/bench/kernels.py: each kernel's share of the device's measured ceilings
#   bench_pytorch  dev/bench/vs_pytorch.py: tokens per second, compared with PyTorch
#   bench_generate dev/bench/generate.py: new tokens per second, compared with transformers
#
# A stage passes, fails, or is "not run", which never counts as passed: where no GPU is visible, the stages that need one are not
# run and the exit code is 1. Exit codes: 0 no stage failed; 1 one did, or no GPU is visible; 2 bad usage.
#
# --target cpu runs the same stages on the cpu target (with the checked build in place of compute-sanitizer), to try this script
# where there is no GPU.
#
# Results go to $OUT (default: dev/bench/results/DEVICE-COMMIT): stages.jsonl receives one object when a stage ends, log.txt all
# output; bench_kernels.json, bench_pytorch.json and train_log.jsonl are what these stages leave.
#
# It needs a compiler (nvcc at CUDA_HOME or on PATH, gcc, make), cJSON (to read config.json), PCRE2, and xxHash's header (for
# checksums). If they are not installed, DEPS=FOLDER names a folder with them (default: .deps if it exists). To make such a
# folder, on any machine with a network and the same type of processor:
#   mkdir .deps && cd .deps && apt-get download libcjson-dev libcjson1 \
#     libpcre2-dev libpcre2-8-0 libxxhash-dev && for f in *.deb; do dpkg -x "$f" .; done
#
# More variables: ARCHS (default: that of the GPU), JOBS, PYTHON (default: python3, else .venv's), DEADLINE (seconds, default
# 525), SEED, STEPS (of the short run).
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/.." || exit 1

STAGES=(device build program kernels sanitizer training ranks finetuning bench_kernels bench_pytorch bench_generate)
declare -A LIMITS=([device]=20 [build]=240 [program]=60 [kernels]=150 [sanitizer]=120 [training]=60 [ranks]=60 [finetuning]=60
    [bench_kernels]=70 [bench_pytorch]=100 [bench_generate]=60) # seconds
KERNEL_TESTS=(embedding rmsnorm rope attention attention_decode swiglu classifier preference reward_head matmul grad_norm
    update_gate adamw average_kernel checksum model decoder)
NOT_RUN=77 # exit code of a stage that could not run

usage() {
    printf 'gpu_check: %s\nusage: scripts/gpu_check.sh [--stages %s] [--target cuda|cpu]\n' "$1" \
        "$(IFS=,; echo "${STAGES[*]}")" >&2
    exit 2
}

# ---- inside a stage: facts for its JSON object, and ways to end early

fact() { # key value
    printf '%s\t%s\n' "$1" "$2" >>"$WORK/facts"
    printf '   %s: %s\n' "$1" "$2"
}
end_with() { # exit code, reason
    echo "$2" >"$WORK/reason"
    echo "$2"
    exit "$1"
}
fault() { end_with 1 "$1"; }
not_run() { end_with "$NOT_RUN" "$1"; }

need_gpu() { [ "$TARGET" = cpu ] || [ -n "$GPU" ] || not_run "no GPU visible"; }
need_file() { [ -e "$1" ] || not_run "$1 is missing"; }
need_python() { # modules
    local module
    [ -n "$PYTHON" ] || not_run "no python3"
    for module in "$@"; do
        "$PYTHON" -c "import $module" 2>/dev/null || not_run "$PYTHON has no $module"
    done
}

# ---- stages

stage_device() {
    fact host "$(uname -srm), $(nproc) cores"
    fact gcc "$(gcc --version 2>&1 | head -1)"
    [ "$TARGET" = cuda ] || { fact device "$DEVICE" && return 0; }
    fact nvcc "$("$NVCC" --version 2>&1 | tail -2 | head -1)"
    [ -n "$GPU" ] || fault "no GPU visible (nvidia-smi names none)"
    nvidia-smi
    fact device "$GPU"
    fact architectures "$ARCHS"
    fact driver "$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -1)"
    fact memory "$(nvidia-smi --query-gpu=memory.total --format=csv,noheader | head -1)"
}

# Removes objects that were built for other architectures, which would not run here.
forget_other_architectures() {
    local built="build/cuda-archs"
    if [ -d build/cuda ] && [ "$(cat "$built" 2>/dev/null)" != "$ARCHS" ]; then rm -rf build/cuda build/cuda-fp32; fi
    mkdir -p build && echo "$ARCHS" >"$built"
}

summarize_ptxas() {
    local reports
    mapfile -t reports < <(find build/cuda build/cuda-fp32 -name '*.ptxas')
    [ ${#reports[@]} -gt 0 ] || return 0
    awk '/Compiling entry function/ { split($0, part, "\047"); name = part[2] }
         /bytes spill stores/ { kernels++; if ($5 > 0) { spilling++; printf "   %s bytes spilt: %s\n", $5, name } }
         / registers/ { for (i = 2; i <= NF; i++) if ($i ~ /^registers/ && $(i - 1) > most) most = $(i - 1) }
         END { printf "%d kernels, %d with spills, at most %d registers\n", kernels, spilling, most }' \
        "${reports[@]}" >"$WORK/ptxas"
    cat "$WORK/ptxas"
    fact ptxas "$(tail -1 "$WORK/ptxas")"
}

stage_build() {
    local precision failed=0 settings=("TARGET=$TARGET" "DEPS=$DEPS") job jobs=()
    if [ "$TARGET" = cuda ]; then
        [ -x "$NVCC" ] || not_run "no nvcc (set CUDA_HOME)"
        [ -n "$ARCHS" ] || not_run "no GPU visible to build for (ARCHS=90a builds without one)"
        forget_other_architectures
        settings+=("ARCHS=$ARCHS" "CUDA_HOME=$CUDA_HOME")
    fi
    for precision in bf16 fp32; do
        make -s -j "$JOBS" "${settings[@]}" "PRECISION=$precision" &
        jobs+=($!)
    done
    [ "$TARGET" = cuda ] || { make -s -j "$JOBS" "${settings[@]}" PRECISION=fp32 SANITIZE=address,undefined & jobs+=($!); }
    for job in "${jobs[@]}"; do wait "$job" || failed=1; done
    [ $failed = 0 ] || fault "a build failed"
    [ "$TARGET" = cpu ] || summarize_ptxas
}

run_test_llama3() { # build folder, arguments...
    local folder=$1 code=0
    shift
    "$folder/test_llama3" --seed "$SEED" "$@" | tee "$WORK/program" || code=1
    fact "$(basename "$folder")" "$(tail -1 "$WORK/program") with --seed $SEED${*:+ $*}"
    return $code
}

stage_program() {
    local folder failed=0
    need_gpu
    for folder in "build/$TARGET" "build/$TARGET-fp32"; do
        need_file "$folder/test_llama3"
        run_test_llama3 "$folder" || failed=1
    done
    [ $failed = 0 ] || fault "test_llama3 failed"
}

stage_kernels() {
    local name files=()
    need_gpu
    need_file "build/$TARGET/libllmc.so"
    need_python torch pytest numpy
    for name in "${KERNEL_TESTS[@]}"; do
        if [[ $name = model || $name = decoder ]] && ! "$PYTHON" -c 'import transformers' 2>/dev/null; then
            fact left_out "test_$name.py: $PYTHON has no transformers"
            continue
        fi
        files+=(tests/*/"test_$name.py")
    done
    LLMC_TARGET=$TARGET LLMC_TEST_SEED=$SEED "$PYTHON" -m pytest -q -rs -p no:cacheprovider "${files[@]}" |
        tee "$WORK/pytest" || fault "pytest: $(tail -1 "$WORK/pytest")"
    fact pytest "$(tail -1 "$WORK/pytest")"
}

# Each tool gets a share of the stage's time, so that a slow one does not hide the verdicts of the others.
sanitize() { # share, tool
    local code=0
    echo "--- $2"
    timeout -k 5 "$1" "$SANITIZER" --tool "$2" --error-exitcode 9 "build/cuda/test_llama3" --small --seed "$SEED" \
        >"$WORK/sanitizer" 2>&1 || code=$?
    tail -40 "$WORK/sanitizer"
    case $code in
        0) fact "$2" "$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$WORK/sanitizer" | tail -1)" ;;
        124 | 137) fact "$2" "cut off after $1 s" ;;
        *) fact "$2" "exit code $code" ;;
    esac
    return $code
}

stage_sanitizer() {
    local tool failed=()
    need_gpu
    if [ "$TARGET" = cpu ]; then
        need_file build/cpu-fp32-checked/test_llama3
        run_test_llama3 build/cpu-fp32-checked --small || fault "the checked build failed"
        return 0
    fi
    need_file build/cuda/test_llama3
    [ -n "$SANITIZER" ] || not_run "no compute-sanitizer"
    for tool in memcheck racecheck synccheck; do
        sanitize $((STAGE_SECONDS / 3 - 2)) "$tool" || failed+=("$tool")
    done
    [ ${#failed[@]} = 0 ] || fault "failed: ${failed[*]}"
}

LAUNCH=() # the launcher of train_once's ranks; empty for a single rank

train_once() { # run's folder, steps, more options
    local folder=$1 steps=$2
    shift 2
    "${LAUNCH[@]}" "build/$TARGET/train_llama3" --config configs/tiny.json \
        --train-data "$WORK/data/train_*.bin" --output "$folder" \
        --steps "$steps" --schedule-steps "$STEPS" --batch-size 8 --seq-len 128 --lr 1e-3 --warmup-steps 5 --eval-every 0 \
        --seed "$SEED" "$@" || fault "train_llama3 ended with $?"
}

same_run() { # run's folder, what it is: its losses and weights must be those of run_a
    local weights
    cmp <(losses_of "$WORK/run_a") <(losses_of "$1") || fault "$2 has other losses"
    for weights in "$WORK"/run_a/checkpoint/*.safetensors; do
        cmp "$weights" "$1/checkpoint/$(basename "$weights")" || fault "$2 ends with other weights"
    done
}

# The losses of the steps, one per line.
losses_of() { sed -n 's/.*"loss": *\([0-9.eE+-]*\).*/\1/p' "$1/log.jsonl"; }

stage_training() {
    local first last run
    need_gpu
    need_file "build/$TARGET/train_llama3"
    command -v perl >/dev/null || not_run "no perl, which makes the synthetic tokens"
    perl dev/synthetic_shards.pl "$WORK/data" || fault "synthetic tokens could not be made"
    for run in a b; do train_once "$WORK/run_$run" "$STEPS" --overwrite; done
    train_once "$WORK/run_c" $((STEPS / 2)) --overwrite --save-every 5
    train_once "$WORK/run_c" "$STEPS" --resume auto --save-every 5
    cp "$WORK/run_a/log.jsonl" "$OUT/train_log.jsonl"
    first=$(losses_of "$WORK/run_a" | head -1)
    last=$(losses_of "$WORK/run_a" | tail -1)
    fact loss "$first to $last in $STEPS steps"
    awk -v first="$first" -v last="$last" 'BEGIN { exit !(last > 0 && last < 0.75 * first) }' ||
        fault "the loss did not fall: $first to $last"
    same_run "$WORK/run_b" "a second run with the same seed"
    same_run "$WORK/run_c" "a run stopped half-way and resumed"
    fact same_bits "losses and weights, of a second run and of one stopped and resumed"
}

# Makes all calls of NCCL on one GPU: a single rank that exchanges data with itself.
one_rank_by_nccl() {
    local refused zero
    refused=$("build/$TARGET/train_llama3" --transport nccl --config configs/tiny.json --train-data none \
        --output "$WORK/none" 2>&1)
    if grep -q "built without NCCL" <<<"$refused"; then
        fact nccl "not built: $(tail -1 <<<"$refused")"
        return
    fi
    for zero in 0 1; do
        train_once "$WORK/run_nccl_$zero" "$STEPS" --overwrite --transport nccl --zero "$zero"
        same_run "$WORK/run_nccl_$zero" "one rank through NCCL (--zero $zero)"
    done
    fact nccl "one rank through NCCL: the bits of one rank without"
}

# The losses may differ by what another order of additions changes in bf16.
near_run() { # run's folder, what it is
    paste <(losses_of "$WORK/run_a") <(losses_of "$1") |
        awk 'NF != 2 || $1 - $2 > 0.02 * $1 || $2 - $1 > 0.02 * $1 { exit 1 }' || fault "$2 has other losses"
}

two_ranks() { # what it is, options...
    local name=$1 run="$WORK/run_ranks"
    shift
    LAUNCH=(env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 mpirun -q -np 2)
    train_once "$run" "$STEPS" --overwrite --batch-size 4 "$@"
    LAUNCH=()
    near_run "$run" "$name"
    fact "two ranks" "$name: losses within 2 % of one rank's"
}

stage_ranks() {
    local gpus=1
    need_gpu
    need_file "$WORK/run_a/log.jsonl"
    one_rank_by_nccl
    if ! command -v mpirun >/dev/null; then
        fact "two ranks" "not run: no mpirun"
        return
    fi
    [ "$TARGET" = cpu ] || gpus=$(nvidia-smi -L | wc -l)
    if [ "$gpus" -gt 1 ]; then two_ranks "NCCL, two GPUs" --transport nccl; fi
    two_ranks "MPI" --transport mpi
}

stage_finetuning() {
    need_gpu
    need_file "build/$TARGET-fp32/train_llama3"
    need_python torch pytest numpy transformers tokenizers
    LLMC_TARGET=$TARGET LLMC_TEST_SEED=$SEED "$PYTHON" -m pytest -q -rs -p no:cacheprovider tests/train/test_finetune.py \
        tests/model/test_packed_rows.py tests/model/test_lora.py \
        -k "test_sft or test_dpo or test_reward or test_resume or in_bf16 or packed_rows or gradient or test_columns" |
        tee "$WORK/pytest" || fault "pytest: $(tail -1 "$WORK/pytest")"
    fact pytest "$(tail -1 "$WORK/pytest")"
}

bench() { # name, command...
    local code=0 name=$1
    shift
    "$@" --json "$OUT/$name.json" || code=$?
    [ $code = 0 ] || fault "$name ended with $code"
    fact result "$name.json"
}

stage_bench_kernels() {
    need_gpu
    need_file "build/$TARGET/libllmc.so"
    need_file dev/bench/kernels.py
    need_python torch numpy
    export LLMC_TARGET=$TARGET
    if [ "$TARGET" = cpu ]; then bench bench_kernels "$PYTHON" dev/bench/kernels.py --only rms
    else bench bench_kernels "$PYTHON" dev/bench/kernels.py; fi
}

stage_bench_pytorch() {
    local options=(--config configs/small_124m.json --batch 8 --sequence 1024 --rounds 2 --precisions bf16)
    need_gpu
    need_file "build/$TARGET/train_llama3"
    need_file dev/bench/vs_pytorch.py
    need_python torch tokenizers
    [ "$TARGET" = cuda ] || options=(--rounds 1 --steps 2 --models lean --modes eager --precisions fp32)
    bench bench_pytorch "$PYTHON" dev/bench/vs_pytorch.py --target "$TARGET" "${options[@]}"
}

stage_bench_generate() {
    local options=(--batches '1,8' --precisions bf16 --tokens 128)
    need_gpu
    need_file "build/$TARGET/libllmc.so"
    need_file dev/bench/generate.py
    need_python torch transformers safetensors tokenizers
    [ "$TARGET" = cuda ] || options=(--batches 1 --precisions fp32 --rounds 1 --tokens 8)
    bench bench_generate "$PYTHON" dev/bench/generate.py --target "$TARGET" "${options[@]}"
}

# ---- running the stages

json_text() { # as a JSON string
    printf '"%s"' "$(printf '%s' "$1" | tr -d '\000-\010\013-\037' | sed 's/\\/\\\\/g; s/"/\\"/g; s/\t/ /g' | tr '\n' ' ')"
}

write_object() { # stage, verdict, reason, seconds
    local key value comma=""
    {
        printf '{"stage": %s, "verdict": %s, "reason": %s, "seconds": %d, ' "$(json_text "$1")" "$(json_text "$2")" \
            "$(json_text "$3")" "$4"
        printf '"device": %s, "target": "%s", "commit": "%s", "time": "%s", "facts": {' "$(json_text "$DEVICE")" "$TARGET" \
            "$COMMIT" "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
        while IFS=$'\t' read -r key value; do
            printf '%s%s: %s' "$comma" "$(json_text "$key")" "$(json_text "$value")"
            comma=", "
        done <"$WORK/facts"
        printf '}}\n'
    } >>"$OUT/stages.jsonl"
}

verdict_of() { # exit code
    case $1 in
        0) echo pass ;;
        "$NOT_RUN") echo "not run" ;;
        *) echo FAIL ;;
    esac
}

# The stage runs as a separate process, so that `timeout` can end it with everything that it started.
run_stage() { # stage
    local stage=$1 limit=${LIMITS[$1]} left=$((DEADLINE - SECONDS)) code=0 start=$SECONDS verdict reason log_start
    : >"$WORK/facts"
    : >"$WORK/reason"
    [ "$left" -ge "$limit" ] || limit=$left
    printf '== %-13s (at %d s, limit %d s)\n' "$stage" "$SECONDS" "$limit" | tee -a "$OUT/log.txt"
    log_start=$(wc -l <"$OUT/log.txt")
    if [ "$limit" -lt 5 ]; then
        code=$NOT_RUN
        echo "the time of the whole run, $DEADLINE s, is used up" >"$WORK/reason"
    else
        STAGE_SECONDS=$limit timeout -k 5 "$limit" "$BASH" scripts/gpu_check.sh --inside "$stage" >>"$OUT/log.txt" 2>&1 || code=$?
    fi
    reason=$(cat "$WORK/reason")
    case $code in 124 | 137) reason="cut off after $limit s" ;; esac
    verdict=$(verdict_of "$code")
    write_object "$stage" "$verdict" "$reason" $((SECONDS - start))
    sed 's/\t/: /; s/^/   /' "$WORK/facts"
    [ "$verdict" != FAIL ] || tail -n "+$((log_start + 1))" "$OUT/log.txt" | tail -25 | sed 's/^/   | /'
    printf '   %s%s\n' "$verdict" "${reason:+: $reason}"
    VERDICTS+=("$(printf '%-13s  %-7s  %4d s  %s' "$stage" "$verdict" $((SECONDS - start)) "$reason")")
    [ "$verdict" != FAIL ] || FAILED=1
}

find_gpu() { # prints its name, or nothing
    [ "$TARGET" = cuda ] || return 0
    nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1
}

find_architecture() { # as nvcc names it; Hopper's special instructions need the "a"
    local capability
    [ -n "$GPU" ] || return 0
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
    case $capability in 90) echo 90a ;; *) echo "$capability" ;; esac
}

find_python() { # the first with PyTorch, else the first
    local python found
    for python in ${PYTHON:+"$PYTHON"} python3 .venv/bin/python; do
        command -v "$python" >/dev/null || continue
        found=${found:-$python}
        if "$python" -c 'import torch' 2>/dev/null; then
            found=$python
            break
        fi
    done
    echo "${found:-}"
}

find_tool() { # name: beside nvcc, else on PATH
    if [ -x "$CUDA_HOME/bin/$1" ]; then echo "$CUDA_HOME/bin/$1"; else command -v "$1"; fi
}

look_around() {
    local nvcc
    nvcc=$(command -v nvcc)
    CUDA_HOME=${CUDA_HOME:-$(dirname "$(dirname "$(realpath "${nvcc:-/usr/local/cuda/bin/nvcc}")")")}
    NVCC=$CUDA_HOME/bin/nvcc
    SANITIZER=$(find_tool compute-sanitizer)
    GPU=$(find_gpu)
    ARCHS=${ARCHS:-$(find_architecture)}
    PYTHON=$(find_python)
    JOBS=${JOBS:-$(nproc)}
    SEED=${SEED:-$((RANDOM * 32768 + RANDOM))}
    STEPS=${STEPS:-$([ "$TARGET" = cuda ] && echo 60 || echo 15)}
    DEADLINE=${DEADLINE:-525}
    if [ -z "${DEPS:-}" ] && [ -d .deps/usr ]; then DEPS=.deps; fi
    DEPS=${DEPS:-}
    COMMIT=$(git describe --always --dirty 2>/dev/null || echo unknown)
    DEVICE=${GPU:-no GPU}
    [ "$TARGET" = cuda ] || DEVICE="CPU $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)"
    OUT=${OUT:-dev/bench/results/$(tr -c 'A-Za-z0-9\n' _ <<<"$DEVICE")-$COMMIT}
    # each stage is a separate process
    export TARGET CUDA_HOME NVCC SANITIZER GPU ARCHS PYTHON JOBS SEED STEPS DEPS COMMIT DEVICE OUT
}

parse() {
    TARGET=cuda
    CHOSEN=("${STAGES[@]}")
    while [ $# -gt 0 ]; do
        [ $# -ge 2 ] || usage "option '$1': expected an option with a value"
        case $1 in
            --stages) IFS=, read -ra CHOSEN <<<"$2" ;;
            --target) TARGET=$2 ;;
            *) usage "unknown option '$1'" ;;
        esac
        shift 2
    done
    case $TARGET in cuda | cpu) ;; *) usage "--target: expected cuda or cpu, found '$TARGET'" ;; esac
    local stage
    for stage in "${CHOSEN[@]}"; do
        [ -n "${LIMITS[$stage]:-}" ] || usage "--stages: no stage is called '$stage'"
    done
}

main() {
    local stage
    parse "$@"
    look_around
    WORK=$(mktemp -d) || exit 1
    export WORK
    trap 'rm -rf "$WORK"' EXIT
    if ! { mkdir -p "$OUT" && : >"$OUT/stages.jsonl" && : >"$OUT/log.txt"; }; then usage "OUT: cannot write to '$OUT'"; fi
    FAILED=0
    VERDICTS=()
    echo "gpu_check: $DEVICE, target $TARGET, commit $COMMIT, SEED=$SEED, results in $OUT"
    for stage in "${CHOSEN[@]}"; do run_stage "$stage"; done
    printf '\n%s\n' "stage          verdict   time"
    printf '%s\n' "${VERDICTS[@]}"
    if [ "$TARGET" = cuda ] && [ -z "$GPU" ]; then
        echo "gpu_check: no GPU visible: nothing was checked on one"
        FAILED=1
    fi
    exit $FAILED
}

if [ "${1:-}" = --inside ] && [ -n "${WORK:-}" ]; then "stage_$2"
else main "$@"; fi
