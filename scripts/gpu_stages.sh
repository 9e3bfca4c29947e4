# shellcheck shell=bash
# Stages of scripts/gpu_check.sh, which sources this file and gpu_runs.sh in a process for each: stage_NAME is one. STAGE_END is
# when it will be stopped (seconds since 1970), WORK a folder that the stages of a call share, and OUT that of the results.
# Here are what stages use to say what they found, the device, the builds, programs that check, and tests.

BESIDE=$(($(nproc) < 8 ? $(nproc) : 8)) # test files that run at a time
# long ones first, as eight run at a time
TEST_FILES=(tests/kernels/test_attention.py tests/model/test_model.py tests/device/test_matmul.py
    tests/generate/test_decoder.py tests/kernels/test_*.py)
# what looks at compiled files alone, what is the CPU target's alone, and what belongs to the stage cudnn
LEFT_OUT_TESTS=" tests/kernels/test_machine_code.py tests/kernels/test_launch_limits.py tests/kernels/test_large_offsets.py tests/kernels/test_attention_cudnn.py "

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
    # ranks meet without MPI here, and any mpicc but OpenMPI's would end the build
    on_gpu && settings+=("ARCHS=$ARCHS" "CUDA_HOME=$CUDA_HOME" "MPI=${MPI:-0}")
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
        [[ " ${files[*]} $LEFT_OUT_TESTS" == *" $file "* ]] || files+=("$file")
    done
    on_gpu || files=("${files[@]:0:3}")
    run_tests "" "${files[@]}"
}

stage_finetuning() {
    need_python transformers tokenizers
    run_tests "test_sft or test_dpo or test_reward or test_resume or in_bf16 or packed_rows or gradient or test_columns" \
        tests/train/test_finetune.py tests/model/test_packed_rows.py tests/model/test_lora.py
}
