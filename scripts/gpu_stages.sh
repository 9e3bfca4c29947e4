# shellcheck shell=bash
# The stages of scripts/gpu_check.sh, which sources this file in a process for each: stage_NAME is one. STAGE_END is when it
# will be stopped (seconds since 1970), WORK a folder that the stages of a call share, and OUT that of the results.

BESIDE=$(($(nproc) < 8 ? $(nproc) : 8)) # test files that run at a time
TEST_FILES=(tests/kernels/test_attention.py tests/model/test_model.py tests/device/test_matmul.py tests/kernels/test_*.py
    tests/generate/test_decoder.py)
NO_GPU_TESTS=" tests/kernels/test_machine_code.py " # which look at compiled files alone

# ---- what a stage says

fact() { # key value
    event stage "$STAGE" fact "$1" value "$2"
    printf '   = %s: %s\n' "$1" "$2"
}

ITEM_START=0

# A part of a stage, which is judged by itself.
item() { # name, verdict, reason
    event stage "$STAGE" item "$1" verdict "$2" reason "$3" seconds $((SECONDS - ITEM_START))
    ITEM_START=$SECONDS
    printf '%s\t%s\n' "$2" "$1" >>"$WORK/items"
    printf '   = %-8s %s%s\n' "$2" "$1" "${3:+: $3}"
}

end_with() { # exit code, reason
    echo "$2" >"$WORK/reason"
    echo "$2"
    exit "$1"
}
fault() { end_with 1 "$1"; }
not_run() { end_with "$NOT_RUN" "$1"; }

items_of() { awk -F'\t' -v verdict="$1" '$1 ~ verdict { printf "%s%s", comma, $2; comma = ", " }' "$WORK/items"; }

# Ends a stage of items: one that was not run keeps it from passing.
judge_items() {
    local bad left
    bad=$(items_of 'FAIL|cut') left=$(items_of 'not run')
    [ -z "$bad" ] || fault "failed: $bad"
    [ -n "$(items_of pass)" ] || not_run "not run: ${left:-nothing}"
    [ -z "$left" ] || end_with "$PARTLY" "not run: $left"
}

need_gpu() { [ "$TARGET" != cuda ] || [ -n "$GPU" ] || not_run "no GPU visible"; }
need_file() { [ -e "$1" ] || not_run "$1 is missing"; }
need_tool() { [ -n "$2" ] || not_run "no $1"; }
need_python() { # modules
    local module
    [ -n "$PYTHON" ] || not_run "no python3"
    for module in "$@"; do has_module "$module" || not_run "$PYTHON has no $module"; done
}
seconds_left() { echo $((STAGE_END - $(date +%s) - 1)); }
on_gpu() { [ "$TARGET" = cuda ]; }

# ---- device, builds

version_of() { # command...
    "$@" 2>&1 | grep -m1 -E '[0-9]\.[0-9]' || echo "none"
}

stage_device() {
    local library
    fact host "$(uname -srm), $(nproc) processors, $(awk '/^MemTotal/ { print int($2 / 1048576) }' /proc/meminfo) GiB"
    fact gcc "$(version_of gcc --version)"
    fact python "${PYTHON:-none}: $("$PYTHON" -c 'from importlib.metadata import version as v
for name in ("torch", "triton", "transformers", "numpy", "pytest", "pytest-xdist"):
    try: print(name, v(name), end=" ")
    except Exception: print("no", name, end=" ")' 2>&1)"
    for library in "cublasLt.h cublasLt" "nccl.h nccl" "cudnn.h cudnn"; do
        # shellcheck disable=SC2086  # a header and a library
        fact "${library#* }" "$(scripts/find_nvidia.sh link $library | sed "s/ -Wl.*//" | grep . || echo none)"
    done
    fact device "$DEVICE"
    on_gpu || return 0
    fact nvcc "$(version_of "$NVCC" --version)"
    fact sanitizer "${SANITIZER:-none}"
    fact ncu "${NCU:-none}"
    [ -n "$GPU" ] || fault "no GPU visible (nvidia-smi and PyTorch name none)"
    nvidia-smi
    fact architecture "$ARCHS"
    fact driver "$DRIVER"
    fact memory "$MEMORY"
}

make_precision() { # precision, more settings
    local settings=("TARGET=$TARGET" "PRECISION=$1" "${@:2}")
    [ -z "$DEPS" ] || settings+=("DEPS=$DEPS")
    on_gpu && settings+=("ARCHS=$ARCHS" "CUDA_HOME=$CUDA_HOME")
    make -s -j "$JOBS" "${settings[@]}"
}

# Says in one line what a compiler would say in a hundred.
need_headers() {
    local header missing=()
    for header in cjson/cJSON.h pcre2.h xxhash.h; do
        printf '#define PCRE2_CODE_UNIT_WIDTH 8\n#include <%s>\n' "$header" |
            gcc ${DEPS:+-isystem "$DEPS/usr/include"} -E -x c - >/dev/null 2>&1 || missing+=("$header")
    done
    [ ${#missing[@]} = 0 ] || fault "headers are missing: ${missing[*]} (give their folder as DEPS)"
}

prepare_build() {
    need_headers
    on_gpu || return 0
    [ -x "$NVCC" ] || not_run "no nvcc (set CUDA_HOME)"
    [ -n "$ARCHS" ] || not_run "no GPU visible to build for (ARCHS=90a builds without one)"
    # objects for other architectures would not run here
    if [ -d build/cuda ] && [ "$(cat build/cuda-archs 2>/dev/null)" != "$ARCHS" ]; then rm -rf build/cuda build/cuda-fp32; fi
    mkdir -p build && echo "$ARCHS" >build/cuda-archs
}

report_ptxas() { # build folders
    local reports
    mapfile -t reports < <(find "$@" -name '*.ptxas')
    [ ${#reports[@]} -gt 0 ] || return 0
    awk '/Compiling entry function/ { split($0, part, "\047"); name = part[2] }
         /bytes spill stores/ { kernels++; if ($5 > 0) { spilling++; printf "%s bytes spilt: %s\n", $5, name } }
         / registers/ { for (i = 2; i <= NF; i++) if ($i ~ /^registers/ && $(i - 1) > most) most = $(i - 1) }
         END { printf "%d kernels, %d with spills, at most %d registers\n", kernels, spilling, most }' \
        "${reports[@]}" | tee "$WORK/ptxas"
    fact ptxas "$(tail -1 "$WORK/ptxas")"
}

stage_build() {
    prepare_build
    touch "$WORK/prepared" # lets the background begin
    make_precision bf16 || fault "the build in bf16 failed"
    ! on_gpu || report_ptxas build/cuda
}

stage_background() {
    [ -z "$PYTHON" ] || "$PYTHON" -c 'import torch, transformers' &
    until [ -e "$WORK/prepared" ]; do sleep 0.1; done
    make_precision fp32
    echo $? >"$WORK/fp32"
    wait
}

stage_build_fp32() {
    prepare_build
    if [ -e "$WORK/background" ]; then
        until [ -e "$WORK/fp32" ]; do sleep 0.2; done
        cat "$WORK/background"
    else
        make_precision fp32
        echo $? >"$WORK/fp32"
    fi
    [ "$(cat "$WORK/fp32")" = 0 ] || fault "the build in fp32 failed"
    ! on_gpu || report_ptxas build/cuda-fp32
}

stage_build_both() {
    prepare_build
    local precision
    for precision in bf16 fp32; do make_precision "$precision" || fault "the build in $precision failed"; done
}

# ---- programs and tests

test_llama3() { # build folder
    need_gpu
    need_file "$1/test_llama3"
    "$1/test_llama3" --seed "$SEED" | tee "$WORK/program"
    local code=${PIPESTATUS[0]}
    fact checks "$(tail -1 "$WORK/program")"
    [ "$code" = 0 ] || fault "test_llama3 --seed $SEED ended with $code: $(grep -m1 -iE '^fail|error|wrong' "$WORK/program")"
}

stage_program() { test_llama3 "build/$TARGET"; }
stage_program_fp32() { test_llama3 "build/$TARGET-fp32"; }

sanitize() { # tool
    need_gpu
    need_file "build/$TARGET/test_llama3"
    need_tool compute-sanitizer "$SANITIZER"
    "$SANITIZER" --tool "$1" --error-exitcode 9 "build/$TARGET/test_llama3" --small --seed "$SEED" 2>&1 | tee "$WORK/$1"
    local code=${PIPESTATUS[0]}
    fact "$1" "$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$WORK/$1" | tail -1)"
    [ "$code" = 0 ] || fault "$1 ended with $code: $(grep -m1 -E '=== *(Invalid|Error|Race|Barrier|Program|Unable)' "$WORK/$1")"
}

stage_memcheck() { sanitize memcheck; }
stage_racecheck() { sanitize racecheck; }
stage_synccheck() { sanitize synccheck; }

# One test file. Where pytest-xdist is there, it goes on with a new process behind a test that ended its own.
stage_test_file() { # file, what pytest's -k chooses
    local code name=${1//\//_} left last options=(-v -rs -p no:cacheprovider)
    left=$(seconds_left)
    if [ "$left" -lt 2 ]; then item "$1" "not run" "the stage's time is used up" && return; fi
    if has_module xdist; then options+=(-n 1 --max-worker-restart 8); fi
    on_gpu || options+=(--few 1)
    LLMC_TARGET=$TARGET LLMC_TEST_SEED=$SEED PYTHONUNBUFFERED=1 OMP_NUM_THREADS=$((($(nproc) + BESIDE - 1) / BESIDE)) \
        timeout --foreground -k 1 "$left" "$PYTHON" -m pytest "${options[@]}" -k "$2" "$1" 2>&1 |
        tee "$WORK/$name" | sed -u "s|^|$(basename "$1"): |"
    code=${PIPESTATUS[0]}
    last=$(tail -1 "$WORK/$name" | tr -d =)
    if grep -qs ModuleNotFoundError "$WORK/$name"; then
        code=5 last=$(grep -m1 -oE "No module named [^ ]+" "$WORK/$name")
    fi
    case $code in
        0) [[ $last == *" passed"* ]] && item "$1" pass "$last" && return ;;
        5) ;; # no test was left
        124 | 137) item "$1" cut "stopped in $(last_test "$WORK/$name")" && return ;;
        *) item "$1" FAIL "$(first_failure "$WORK/$name" "$code"); $last" && return ;;
    esac
    item "$1" "not run" "$last"
}

last_test() { grep -oE '[^ ]+\.py::[^ ]+' "$1" | tail -1; }

first_failure() { # pytest's output, exit code
    local test
    test=$(grep -m1 -E '^(\[gw[0-9]+\] .*)?(FAILED|ERROR)|::.* (FAILED|ERROR)|crashed while running' "$1" |
        grep -oE '[^ ]+\.py::[^ ]+' | head -1)
    if [ -n "$test" ]; then echo "first $test"; else echo "ended with $2 in $(last_test "$1")"; fi
}

run_tests() { # what pytest's -k chooses, files
    local which=$1
    shift
    need_gpu
    need_file "build/$TARGET/libllmc.so"
    need_python torch pytest numpy
    if [ ! -e "build/$TARGET-fp32/libllmc.so" ]; then
        fact left_out "fp32, which is not built"
        export LLMC_BUILD=build/$TARGET
    fi
    printf '%s\n' "$@" | xargs -P "$BESIDE" -I'{}' "$BASH" scripts/gpu_check.sh --inside test_file '{}' "$which"
    judge_items
}

stage_tests() {
    local file files=()
    for file in "${TEST_FILES[@]}"; do
        [[ " ${files[*]} $NO_GPU_TESTS" == *" $file "* ]] || files+=("$file")
    done
    on_gpu || files=("${files[@]:0:4}")
    run_tests "" "${files[@]}"
}

stage_finetuning() {
    need_python transformers tokenizers
    run_tests "test_sft or test_dpo or test_reward or test_resume or in_bf16 or packed_rows or gradient or test_columns" \
        tests/train/test_finetune.py tests/model/test_packed_rows.py tests/model/test_lora.py
}

# ---- training

# The losses of the steps, one per line.
losses_of() { sed -n 's/.*"loss": *\([0-9.eE+-]*\).*/\1/p' "$1/log.jsonl"; }

LAUNCH=() # the launcher of train's ranks; empty for a single rank

train() { # run's folder, steps, more options
    local folder=$1 steps=$2
    shift 2
    "${LAUNCH[@]}" "build/$TARGET/train_llama3" --config configs/tiny.json --train-data "$WORK/data/train_*.bin" \
        --output "$folder" --steps "$steps" --schedule-steps "$STEPS" --batch-size 8 --seq-len 128 --lr 1e-3 \
        --warmup-steps 5 --eval-every 0 --seed "$SEED" "$@"
}

same_run() { # run's folder: its losses and weights must be those of run_a
    local weights
    cmp <(losses_of "$WORK/run_a") <(losses_of "$1") || return 1
    for weights in "$WORK"/run_a/checkpoint/*.safetensors; do
        cmp "$weights" "$1/checkpoint/$(basename "$weights")" || return 1
    done
}

prepare_training() {
    need_gpu
    need_file "build/$TARGET/train_llama3"
    command -v perl >/dev/null || not_run "no perl, which makes the synthetic tokens"
    STEPS=$(on_gpu && echo 60 || echo 10)
    [ -e "$WORK/data/train_000.bin" ] || perl dev/synthetic_shards.pl "$WORK/data" || fault "synthetic tokens could not be made"
}

# Judges a run, as an item, by its exit code and by whether it has the bits of run_a.
compare_run() { # item, its folder, exit code
    if [ "$3" != 0 ]; then item "$1" FAIL "train_llama3 ended with $3"
    elif ! same_run "$2"; then item "$1" FAIL "other losses or weights"
    else item "$1" pass "same losses and weights"; fi
}

stage_training() {
    local code=0 first last
    prepare_training
    train "$WORK/run_a" "$STEPS" --overwrite || fault "train_llama3 ended with $?"
    cp "$WORK/run_a/log.jsonl" "$OUT/training.jsonl"
    first=$(losses_of "$WORK/run_a" | head -1) last=$(losses_of "$WORK/run_a" | tail -1)
    fact loss "$first to $last in $STEPS steps"
    awk -v first="$first" -v last="$last" 'BEGIN { exit !(last > 0 && last < 0.75 * first) }' || fault "the loss did not fall"
    train "$WORK/run_b" "$STEPS" --overwrite || code=$?
    compare_run "second run" "$WORK/run_b" $code
    train "$WORK/run_c" $((STEPS / 2)) --overwrite && train "$WORK/run_c" "$STEPS" --resume auto
    code=$?
    compare_run "stopped and resumed" "$WORK/run_c" $code
    judge_items
}

# A single rank exchanges data with itself: all calls of NCCL on one GPU.
stage_nccl() {
    local zero code gpus=1
    prepare_training
    need_file "$WORK/run_a/log.jsonl"
    for zero in 0 1 2; do
        code=0
        train "$WORK/run_nccl" "$STEPS" --overwrite --transport nccl --zero "$zero" 2>&1 | tee "$WORK/nccl"
        code=${PIPESTATUS[0]}
        if grep -q "built without NCCL" "$WORK/nccl"; then not_run "$(tail -1 "$WORK/nccl")"; fi
        compare_run "one rank, ZeRO-$zero" "$WORK/run_nccl" "$code"
    done
    ! on_gpu || gpus=$(nvidia-smi -L | grep -c '^GPU')
    if [ "$gpus" -gt 1 ]; then two_ranks; fi
    judge_items
}

# The losses may differ by what another order of additions changes in bf16.
near_losses() { # two runs' folders
    paste <(losses_of "$1") <(losses_of "$2") |
        awk 'NF != 2 || $1 - $2 > 0.02 * $1 || $2 - $1 > 0.02 * $1 { exit 1 }'
}

two_ranks() {
    local code=0 name="two ranks, two GPUs"
    command -v torchrun >/dev/null || { item "$name" "not run" "no torchrun" && return; }
    LAUNCH=(torchrun --nproc-per-node 2 --no-python)
    train "$WORK/run_ranks" "$STEPS" --overwrite --batch-size 4 --transport nccl || code=$?
    LAUNCH=()
    if [ $code != 0 ]; then item "$name" FAIL "train_llama3 ended with $code"
    elif ! near_losses "$WORK/run_a" "$WORK/run_ranks"; then item "$name" FAIL "other losses"
    else item "$name" pass "losses within 2 % of one rank's"; fi
}

# ---- speed

# Llama 3.2 1B on rows of 4096 tokens of all its vocabulary, or what a CPU can do of it.
train_1b() { # steps, run's folder, more options
    local shape=(--config configs/llama3.2_1b.json --batch-size 4 --seq-len 4096) tokens=(1000000 128256)
    on_gpu || shape=(--config configs/tiny.json --batch-size 2 --seq-len 64) tokens=(20000)
    need_gpu
    need_file "build/$TARGET/train_llama3"
    [ -e "$WORK/tokens/train_000.bin" ] || perl dev/synthetic_shards.pl "$WORK/tokens" "${tokens[@]}" ||
        not_run "the synthetic tokens could not be made"
    "build/$TARGET/train_llama3" "${shape[@]}" --train-data "$WORK/tokens/train_*.bin" --output "$2" --overwrite \
        --steps "$1" --save off --eval-every 0 --checksum-every 0 --document-mask off --log-every 1 --seed "$SEED" \
        "${@:3}" 2>&1 | tee "$WORK/step"
    local code=${PIPESTATUS[0]}
    [ "$code" != 2 ] || not_run "refused: $(tail -1 "$WORK/step")"
    [ "$code" = 0 ] || fault "train_llama3 ended with $code: $(tail -1 "$WORK/step")"
}

# The first two steps load and choose what the others use.
median_rate() { # run's folder
    sed -n 's/.*"tokens_per_second": *\([0-9.]*\).*/\1/p' "$1/log.jsonl" | tail -n +3 | sort -n |
        awk '{ rate[NR] = $1 } END { print rate[int((NR + 1) / 2)] }'
}

stage_step_1b() {
    train_1b 15 "$WORK/step_1b"
    cp "$WORK/step_1b/log.jsonl" "$OUT/step_1b.jsonl"
    fact tokens_per_second "$(median_rate "$WORK/step_1b")"
    fact share_of_peak "$(grep -oE '[0-9.]+% of peak' "$WORK/step" | tail -1)"
    fact memory "$(grep -E '^ *total' "$WORK/step" | head -1)"
    fact loss "$(losses_of "$WORK/step_1b" | sed -n '1p;$p' | paste -sd ' ')"
}

bench() { # name, command...
    local code name=$1
    shift
    LLMC_TARGET=$TARGET "$@" --json "$OUT/$name.json" 2>&1 | tee "$WORK/bench"
    code=${PIPESTATUS[0]}
    if [ "$code" = 0 ]; then item "$name" pass "$(tail -1 "$WORK/bench")"
    else item "$name" FAIL "ended with $code: $(grep -m1 '^FAIL' "$WORK/bench" || tail -1 "$WORK/bench")"; fi
}

need_torch_on_gpu() {
    ! on_gpu || "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || not_run "PyTorch sees no GPU"
}

need_bench() { # modules
    need_gpu
    need_file "build/$TARGET/libllmc.so"
    need_python torch numpy "$@"
}

# Two processes, so that a kernel that ends its own leaves the other's results.
stage_accuracy() {
    local only models
    models=$(on_gpu && echo 1B,8B || echo tiny)
    need_bench
    need_torch_on_gpu
    for only in attention products; do
        bench "accuracy_$only" "$PYTHON" dev/bench/accuracy.py --models "$models" --only "$only" --seed "$SEED"
    done
    judge_items
}

stage_bench_kernels() {
    need_bench
    if on_gpu; then bench kernels "$PYTHON" dev/bench/kernels.py --models 8B
    else bench kernels "$PYTHON" dev/bench/kernels.py --models tiny --only rms; fi
    judge_items
}

stage_generation() {
    local options=(--batches '1,8' --precisions bf16 --tokens 128)
    need_bench transformers safetensors tokenizers
    need_torch_on_gpu
    on_gpu || options=(--batches 1 --precisions bf16 --rounds 1 --tokens 4)
    bench generate "$PYTHON" dev/bench/generate.py --target "$TARGET" "${options[@]}"
    judge_items
}

stage_pytorch() {
    local options=(--config configs/llama3.2_1b.json --batch 4 --sequence 4096 --rounds 2 --models lean --modes compiled)
    need_bench tokenizers
    need_torch_on_gpu
    on_gpu || options=(--rounds 1 --steps 1 --batch 1 --models lean --modes eager)
    bench pytorch "$PYTHON" dev/bench/vs_pytorch.py --target "$TARGET" --precisions bf16 "${options[@]}"
    judge_items
}

# The first four launches of attention: forward and the three kernels of the backward pass. Clocks are left as they are.
stage_ncu() {
    local sections=(--section SpeedOfLight --section Occupancy --section LaunchStats --section MemoryWorkloadAnalysis
        --section ComputeWorkloadAnalysis --section WarpStateStats)
    need_tool ncu "$NCU"
    need_bench
    LLMC_TARGET=$TARGET "$NCU" --clock-control none --target-processes all --kernel-name regex:attention --launch-count 4 \
        "${sections[@]}" --csv --log-file "$OUT/ncu_attention.csv" \
        "$PYTHON" dev/bench/accuracy.py --models 8B --only attention --errors-only 2>&1 | tee "$WORK/ncu"
    local code=${PIPESTATUS[0]}
    if grep -qs ERR_NVGPUCTRPERM "$WORK/ncu" "$OUT/ncu_attention.csv"; then not_run "the GPU's counters are for root alone"; fi
    [ "$code" = 0 ] || fault "ncu ended with $code: $(tail -1 "$WORK/ncu")"
    fact kernels "$(grep -o 'attention_[a-z]*_kernel' "$OUT/ncu_attention.csv" | sort -u | paste -sd ' ')"
    grep -q attention_ "$OUT/ncu_attention.csv" || fault "ncu saw no kernel of attention"
}

# cuDNN is built in here, so that no other stage depends on its headers.
stage_cudnn() {
    local kind
    need_gpu
    if on_gpu; then
        scripts/find_nvidia.sh link cudnn.h cudnn >/dev/null || not_run "no cudnn.h with libcudnn"
        scripts/find_nvidia.sh compile cudnn_frontend.h >/dev/null || not_run "no cudnn_frontend.h (pip's nvidia-cudnn-frontend)"
        make_precision bf16 USE_CUDNN=1 || fault "the build with cuDNN failed"
    fi
    for kind in own cudnn cudnn-nondeterministic; do
        train_1b 8 "$WORK/step_$kind" --attention "$kind"
        fact "tokens_per_second $kind" "$(median_rate "$WORK/step_$kind")"
        near_losses "$WORK/step_own" "$WORK/step_$kind" || fault "--attention $kind: losses more than 2 % from ours"
    done
}
