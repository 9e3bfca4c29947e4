#!/usr/bin/env bash
# Installs what is missing, builds every variant, runs every test, several at a time: JOBS of them, default one a core. Arguments
# go to pytest (scripts/test.sh -k attention); without any, the readers of foreign files are fuzzed at the end, FUZZ_SECONDS
# (default 20, 0: not at all) each. scripts/soak.sh tests for hours.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

VENV=${VENV:-.venv}
JOBS=${JOBS:-$(nproc)}
FUZZ_SECONDS=${FUZZ_SECONDS:-20}
BESIDE=(-n "$JOBS" --dist worksteal)
TIMED=(tests/ranks/test_watchdog.py)         # judges times, so nothing runs beside it
KERNELS=(tests/kernels tests/device)         # on all cores, as a run has them, so that races among them show
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}  # threads that wait leave the core to the test beside them
BUILDS=(
    "TARGET=cpu PRECISION=bf16"
    "TARGET=cpu PRECISION=fp32"
    "TARGET=cpu PRECISION=fp32 SANITIZE=address,undefined"
    "TARGET=cpu PRECISION=fp32 SANITIZE=thread"
)
# these take NVIDIA's libraries from the packages of Python, if from nowhere else
CUDA_BUILDS=("TARGET=cuda PRECISION=bf16")
STANDIN_BUILDS=("TARGET=cuda-on-cpu PRECISION=bf16")

say() { printf '== test: %s (at %d s)\n' "$*" "$SECONDS"; }

build() {
    local settings
    for settings in "$@"; do
        say "build $settings"
        # shellcheck disable=SC2086  # the settings are words for make
        make -s -j "$JOBS" WERROR=1 $settings || {
            say "build $settings failed" >&2
            exit 1
        }
    done
}

# run_pytest PATHS... -- ARGUMENTS...: each run's own last line is kept, to be added up at the end.
run_pytest() {
    local status=0 log=build/pytest.log paths=()
    while [ "$1" != -- ]; do paths+=("$1") && shift; done
    shift
    "$VENV/bin/python" -m pytest "${paths[@]}" -q -rs "$@" 2>&1 | tee "$log" || status=$?
    LAST_LINES+="$(tail -n 1 "$log")"$'\n'
    # 5: the arguments given to this script left none of these tests
    [ "$status" = 5 ] && [ ${#CHOSEN[@]} -gt 0 ] && status=0
    [ "$status" = 0 ] || FAILED=1
}

# Tests marked `checked` against a build with sanitizers, whose reports are kept in files, as pytest hides what a test prints.
run_sanitized() {
    local build=build/$1 libraries=$2 reports=build/$1/report name preload="" report log
    log=log_path="'$PWD/$reports'" # in quotes: the folder's name may have a space
    shift 2
    rm -f "$reports".*
    for name in $libraries; do preload+="$(gcc -print-file-name="$name") "; done
    say "pytest, small shapes, $build"
    local -x LD_PRELOAD=$preload LLMC_BUILD=$build ASAN_OPTIONS=detect_leaks=0:$log
    local -x UBSAN_OPTIONS=print_stacktrace=1:$log TSAN_OPTIONS=ignore_noninstrumented_modules=1:$log
    run_pytest tests -- -m checked "${BESIDE[@]}" "${TIMED[@]/#/--ignore=}" "$@"
    run_pytest "${TIMED[@]}" -- -m checked "$@"
    unset LD_PRELOAD
    for report in "$reports".*; do
        [ -e "$report" ] || continue
        FAILED=1
        cat "$report"
    done
}

run_fuzz() {
    local log=build/fuzz.log
    say "fuzz, $FUZZ_SECONDS seconds each"
    WERROR=1 JOBS=$JOBS scripts/fuzz.sh --seconds "$FUZZ_SECONDS" 2>&1 | tee "$log" || FAILED=1
    LAST_LINES+="$(tail -n 1 "$log")"$'\n'
}

# total WORD: the sum of "N WORD" over the last lines of pytest's runs
total() { { grep -oE "[0-9]+ $1" <<<"$LAST_LINES" || true; } | awk '{ sum += $1 } END { print sum + 0 }'; }

CHOSEN=("$@")
LAST_LINES=""
FAILED=0
say "setup"
scripts/setup.sh build
trap wait EXIT # nothing is left half installed
scripts/setup.sh test &
build "${BUILDS[@]}"
say "the rest of setup"
wait $!
if command -v nvcc >/dev/null; then
    build "${CUDA_BUILDS[@]}"
else
    say "no nvcc on PATH: the cuda target is not built"
fi
if scripts/find_nvidia.sh compile cublasLt.h >/dev/null; then
    build "${STANDIN_BUILDS[@]}"
else
    say "no headers of NVIDIA's libraries: the cuda target's host code is not tested"
fi
say "pytest, $JOBS at a time"
OMP_NUM_THREADS=1 run_pytest tests -- "${BESIDE[@]}" "${KERNELS[@]/#/--ignore=}" "${TIMED[@]/#/--ignore=}" "$@"
say "pytest, kernels"
run_pytest "${KERNELS[@]}" -- -n 2 --dist worksteal "$@" # one prepares while the other computes
say "pytest, one at a time"
run_pytest "${TIMED[@]}" -- "$@"
run_sanitized cpu-fp32-checked "libasan.so libubsan.so" "$@"
# not those where a whole model takes minutes, nor readers of files, which have one thread
run_sanitized cpu-fp32-race libtsan.so --few 2 --ignore tests/test_program.py --ignore tests/checkpoint/test_checkpoint.py \
    --ignore tests/eval/test_eval_items.py --ignore tests/checkpoint/test_safetensors.py \
    --ignore tests/model/test_block_inputs.py --ignore tests/model/test_changing_shape.py \
    --ignore tests/generate/test_engine.py "$@"
if [ ${#CHOSEN[@]} = 0 ] && [ "$FUZZ_SECONDS" != 0 ]; then run_fuzz; fi
say "all runs together"
printf '%s passed, %s failed, %s skipped\n' "$(total passed)" "$(($(total failed) + $(total 'errors?')))" "$(total skipped)"
exit "$FAILED"
