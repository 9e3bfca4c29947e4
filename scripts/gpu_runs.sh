# shellcheck shell=bash
# Stages of scripts/gpu_check.sh that train and measure; they use what gpu_stages.sh defines.

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
    code=0
    train "$WORK/run_d" "$STEPS" --overwrite --cuda-graph on || code=$?
    compare_run "launched as graphs" "$WORK/run_d" $code
    fact "tokens_per_second of configs/tiny.json" "$(median_rate "$WORK/run_a")"
    fact "tokens_per_second of configs/tiny.json as graphs" "$(median_rate "$WORK/run_d")"
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
near_losses() { # two runs' folders; where the second has fewer steps, its own count
    paste <(losses_of "$1" | head -n "$(losses_of "$2" | grep -c .)") <(losses_of "$2") |
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
    # a program without cuDNN, or a cuDNN without kernels for the shape
    case $code,${*:3} in 2,*--attention\ cudnn*) not_run "refused: $(tail -1 "$WORK/step")" ;; esac
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
    [ "$TARGET" != cpu ] || return 0
    train_1b 8 "$WORK/step_timed" --schedule-steps 15 --matmul-algorithms "$OUT/matmul_algorithms"
    fact "tokens_per_second, matrix products timed" "$(median_rate "$WORK/step_timed")"
    near_losses "$WORK/step_1b" "$WORK/step_timed" || fault "losses more than 2 % away where matrix products are timed"
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

# Shapes of LLM.Q's published table. A shape that does not fit the memory or the time is not run.
stage_llmq() {
    local code line shapes=(--shapes "0.5B,1.5B")
    need_gpu
    need_file "build/$TARGET/train_llama3"
    need_python
    command -v perl >/dev/null || not_run "no perl, which makes the synthetic tokens"
    on_gpu || shapes=(--shapes tiny --sequence 64 --steps 3)
    "$PYTHON" dev/bench/vs_llmq.py --target "$TARGET" "${shapes[@]}" --device "$DEVICE" --seconds "$(seconds_left)" \
        --json "$OUT/llmq.json" 2>&1 | tee "$WORK/llmq"
    code=${PIPESTATUS[0]}
    while read -r line; do
        case $line in
            *" tokens/s"*) item "${line%%:*}" pass "${line#*: }" ;;
            *": FAIL"*) item "${line%%:*}" FAIL "${line#*: FAIL: }" ;;
            *": "*) item "${line%%:*}" "not run" "${line#*: }" ;;
        esac
    done <"$WORK/llmq"
    [ "$code" = 0 ] || [ -n "$(items_of FAIL)" ] || fault "vs_llmq.py ended with $code: $(tail -1 "$WORK/llmq")"
    judge_items
}

# The first four launches of attention: forward and the three kernels of the backward pass. Clocks are left as they are.
stage_ncu() {
    local sections=(--section SpeedOfLight --section Occupancy --section LaunchStats --section MemoryWorkloadAnalysis
        --section ComputeWorkloadAnalysis --section WarpStateStats)
    need_tool ncu "$NCU"
    need_bench
    need_torch_on_gpu
    LLMC_TARGET=$TARGET "$NCU" --clock-control none --target-processes all --kernel-name regex:attention --launch-count 4 \
        "${sections[@]}" --csv --log-file "$OUT/ncu_attention.csv" \
        "$PYTHON" dev/bench/accuracy.py --models "$(on_gpu && echo 8B || echo tiny)" --only attention --errors-only 2>&1 |
        tee "$WORK/ncu"
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
    run_tests "" tests/kernels/test_attention_cudnn.py
}
