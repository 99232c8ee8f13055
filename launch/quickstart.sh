#!/usr/bin/env bash
# Makes a virtual environment, installs the project, and runs the whole job on synthetic triage notes.
set -euo pipefail

if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
  cat <<'TEXT'
Usage: launch/quickstart.sh [KEY=VALUE]...

Installs r2d_jax into .venv (once) and runs
  r2d run --config configs/quickstart.yaml --workdir runs/quickstart
in 5 to 10 minutes on two free CPU cores, longer beside other work. Run again, it goes on where it stopped, or says that it is done.

  KEY=VALUE    settings to change, for example stage2.max_steps=200
  PYTHON=      Python to use, 3.11 or newer (default: the first found of python3.13, 3.12, 3.11 and python3)
  VENV=        folder of the virtual environment (default: .venv)
  WORKDIR=     folder of the run (default: runs/quickstart)

Paths count from the folder of the project.
TEXT
  exit 0
fi

CDPATH='' cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/environment.sh
. launch/environment.sh

venv=${VENV:-.venv}
make_environment "$venv" requirements.txt
exec "$venv/bin/r2d" run --config configs/quickstart.yaml --workdir "${WORKDIR:-runs/quickstart}" "$@"
