#!/usr/bin/env bash
# Fuzzes every reader of files from outside (tests/fuzz), several at once over the cores.
#
#   scripts/fuzz.sh [--seconds N] [NAME...]     N seconds each, default 60; NAME: shard, safetensors, ...
#
# A crash, a leak, an input that takes over 5 seconds or 1 GB is kept in build/fuzz/found/NAME-*. To make it smaller:
#   build/fuzz/NAME -minimize_crash=1 -runs=100000 FILE
# then fix the fault and put the file into tests/fuzz/crashes/NAME/, where the tests replay it. What was learnt of the
# format stays in build/fuzz/corpus for the next run. The last line counts: N passed, N failed, N skipped.
# Exit codes: 0 no target failed; 1 one did; 2 bad usage.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

SECONDS_EACH=60
JOBS=${JOBS:-$(nproc)}

say() { printf 'fuzz: %s\n' "$*"; }

names() { for file in tests/fuzz/fuzz_*.c; do basename "$file" .c | sed 's/^fuzz_//'; done; }

# can_fuzz: is there a clang with libFuzzer and the sanitizers?
can_fuzz() {
    local program=build/fuzz/can_fuzz
    mkdir -p build/fuzz
    echo 'int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d == 0 && n > 0; }' |
        ${FUZZ_CC:-clang} -x c - -fsanitize=fuzzer,address,undefined -o "$program" 2>build/fuzz/can_fuzz.log
}

# fuzz_one NAME: runs the target, writes passed or failed to build/fuzz/result/NAME, prints one line
fuzz_one() {
    local name=$1 corpus=build/fuzz/corpus/$1 log=build/fuzz/log/$1 result=passed last
    mkdir -p "$corpus" build/fuzz/found build/fuzz/log build/fuzz/result "tests/fuzz/crashes/$name"
    UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=allocator_may_return_null=1 \
        "build/fuzz/$name" -max_total_time="$SECONDS_EACH" -max_len=2048 -timeout=5 -rss_limit_mb=1024 \
        -dict=tests/fuzz/json.dict -artifact_prefix="build/fuzz/found/$name-" -print_final_stats=1 \
        "$corpus" "tests/fuzz/seeds/$name" "tests/fuzz/crashes/$name" >"$log" 2>&1 || result=failed
    echo "$result" >"build/fuzz/result/$name"
    last=$(grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -n 1 || true)
    say "$name: $result, $(grep -oE 'number_of_executed_units: [0-9]+' "$log" | grep -oE '[0-9]+' || echo 0) inputs, ${last:-no coverage}"
    [ "$result" = passed ] || tail -n 60 "$log"
}

if [ "${1:-}" = --one ]; then # from xargs below
    SECONDS_EACH=$2
    fuzz_one "$3"
    exit 0
fi
if [ "${1:-}" = --seconds ]; then
    SECONDS_EACH=${2:-}
    shift 2 || true
fi
case $SECONDS_EACH in '' | *[!0-9]* | 0) printf 'fuzz: --seconds %s: expected a number of seconds\n' "$SECONDS_EACH" >&2 && exit 2 ;; esac
mapfile -t TARGETS < <(if [ $# -gt 0 ]; then printf '%s\n' "$@"; else names; fi)
for name in "${TARGETS[@]}"; do
    [ -f "tests/fuzz/fuzz_$name.c" ] || { printf 'fuzz: %s: expected one of: %s\n' "$name" "$(names | xargs)" >&2 && exit 2; }
done

if ! can_fuzz; then
    say "skipped: ${FUZZ_CC:-clang} cannot build with libFuzzer here ($(head -n 1 build/fuzz/can_fuzz.log))"
    printf '0 passed, 0 failed, %d skipped\n' "${#TARGETS[@]}"
    exit 0
fi
make -s -j "$JOBS" fuzz
rm -rf build/fuzz/result
say "${#TARGETS[@]} targets, $SECONDS_EACH seconds each, $JOBS at once"
printf '%s\n' "${TARGETS[@]}" | xargs -P "$JOBS" -n 1 "$0" --one "$SECONDS_EACH"
FAILED=$(cat build/fuzz/result/* | grep -c failed || true)
printf '%d passed, %d failed, 0 skipped\n' "$((${#TARGETS[@]} - FAILED))" "$FAILED"
[ "$FAILED" = 0 ]
