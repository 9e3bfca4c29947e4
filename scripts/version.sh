#!/usr/bin/env bash
# Prints this checkout's version, and its commit where git knows one: "0.4.0, commit 1a2b3c4". So does every program's --version.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

version=$(sed -n 's/^#define LLMC_VERSION "\(.*\)"$/\1/p' llmc/base/version.h)
commit=""
# without a .git of its own the folder may lie in somebody else's repository
if [ -e .git ]; then commit=$(git describe --always --dirty --exclude '*' 2>/dev/null || true); fi
printf '%s%s\n' "$version" "${commit:+, commit $commit}"
