#!/usr/bin/env bash
# Makes a virtual environment, installs the project with its test tools, and runs every check and test.
set -euo pipefail

if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
  cat <<'TEXT'
Usage: tests/run.sh [PYTEST ARGUMENT]...

Installs into .venv-test (once), then runs ruff, mypy, shellcheck and pytest. All run even where one
fails; the exit code tells whether all passed. Tests of pages need Chromium and are skipped without it; as root
on Debian, with CI=true, it is installed by apt-get.

  PYTEST ARGUMENT   for example -k checkpoint, or tests/test_config.py
  PYTHON=           Python to use, 3.11 or newer (default: the first found of python3.13, 3.12, 3.11 and python3)
  VENV=             folder of the virtual environment (default: .venv-test)
  SLOW_TESTS_UNTIL= seconds since 1970, after which no test marked slow begins (with CI=true: 20 minutes from the
                    start; else never)

Paths count from the folder of the project.
TEXT
  exit 0
fi

CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.."
echo "installation, checks and tests take roughly half an hour on two free CPU cores, longer beside other work"
# shellcheck source=launch/environment.sh
. launch/environment.sh

# Pages are tested in a real browser; where there is none these tests are skipped, and say so.
install_browser() {
  local name
  for name in "${CHROMIUM:-chromium}" chromium-browser google-chrome chrome; do
    if command -v "$name" >/dev/null; then
      return 0
    fi
  done
  if [ "${CI:-}" != true ] || [ "$(id -u)" -ne 0 ] || [ ! -f /etc/debian_version ]; then
    return 0
  fi
  echo "== apt-get install chromium"
  if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    chromium curl fonts-dejavu-core; } >/dev/null; then
    echo "NO CHROMIUM: it could not be installed, so no page is opened in a browser"
  fi
}
# Beside the installation, which keeps one core busy; never cut off, where that fails.
install_browser &
browser=$!
trap 'wait "$browser" || true' EXIT

venv=${VENV:-.venv-test}
# Most of what is installed is never imported; Python compiles the rest when it is.
export PIP_NO_COMPILE=1
make_environment "$venv" requirements-test.txt
bin=$venv/bin
export R2D_COMPILE_CACHE=${R2D_COMPILE_CACHE:-$PWD/.pytest_cache/compiled}

# Beside the checks, each of which keeps one core busy: else both processes of pytest would compile the same.
"$bin/python" -c "
import datasets, orbax.checkpoint, pytest, scipy.stats, sklearn.metrics, torch
import r2d_jax.cli, r2d_jax.training.run
from transformers import AutoTokenizer, T5ForConditionalGeneration
" >/dev/null 2>&1 &
imports=$!

failed=()
check() {
  local tool=$1
  shift
  echo "== $tool $*"
  "$bin/$tool" "$@" || failed+=("$tool $1")
}

check ruff check .
check ruff format --check .
check mypy r2d_jax
check shellcheck --external-sources launch/*.sh launch/*.sbatch tests/*.sh .ci/run
wait "$browser" || true
trap - EXIT
wait "$imports" || true
if [ "${#failed[@]}" -gt 0 ]; then
  printf 'FAILED: %s\n' "${failed[@]}"
fi
# So that a slow machine keeps nearer to the 25 minutes in which one of usual speed is done with all of them.
if [ "${CI:-}" = true ]; then
  export SLOW_TESTS_UNTIL=${SLOW_TESTS_UNTIL:-$(($(date +%s) - SECONDS + 1200))}
fi
echo "== pytest"
status=0
"$bin/python" -m pytest "$@" || status=$?
# Nothing is printed after pytest, so that its closing line stays the last.
if [ "$status" -eq 0 ] && [ "${#failed[@]}" -gt 0 ]; then
  status=1
fi
exit "$status"
