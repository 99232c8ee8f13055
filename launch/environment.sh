# Sourced by the scripts of this project: finds a Python, makes a virtual environment, installs.
# shellcheck shell=bash

least_minor=11

# Prints the path of a Python >= 3.11: $PYTHON where it is set, else the first that is new enough.
find_python() {
  local candidates=(python3.13 python3.12 python3.11 python3) candidate version found="none"
  if [ -n "${PYTHON:-}" ]; then
    candidates=("$PYTHON")
  fi
  for candidate in "${candidates[@]}"; do
    # A name may be there and not run: version managers leave such stand-ins.
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    found="$candidate $version"
    if [ "${version%%.*}" -eq 3 ] && [ "${version##*.}" -ge "$least_minor" ]; then
      command -v "$candidate"
      return 0
    fi
  done
  echo "error: Python 3.$least_minor or newer is needed, found: $found. Install one, or name it: PYTHON=/path/to/python $0" >&2
  return 2
}

# make_environment FOLDER REQUIREMENTS [EXTRA]: a virtual environment with these requirements and the project,
# with an extra of setup.cfg (tpu, cuda) where one is named: the requirements then limit its versions.
# Installs only where the Python, the place of the project, the requirements or the extra have changed.
make_environment() {
  local folder=$1 requirements=$2 extra=${3:-} python origin stamp
  python=$(find_python) || return 2
  origin=$("$python" -c 'import sys; print(*sys.version.split(), sys.argv[1])' "$PWD")
  stamp=$("$python" -c '
import hashlib, pathlib, sys
text = sys.argv[1] + "".join(pathlib.Path(name).read_text() for name in sys.argv[2:])
print(hashlib.sha256(text.encode()).hexdigest())' "$origin$extra" requirements.txt "$requirements" setup.cfg)
  if [ -x "$folder/bin/python" ] && [ "$(cat "$folder/.installed" 2>/dev/null)" = "$stamp" ]; then
    return 0
  fi
  # Another Python or place: what is installed would not fit. No pip: making it was cut off.
  if { [ -f "$folder/.made_for" ] && [ "$(cat "$folder/.made_for")" != "$origin" ]; } ||
    ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    # What is no virtual environment is never emptied.
    if [ -n "$(ls -A "$folder" 2>/dev/null)" ] && [ ! -f "$folder/pyvenv.cfg" ]; then
      echo "error: $folder holds other files and no virtual environment. Choose another folder: VENV=/path/to/folder $0" >&2
      return 2
    fi
    echo "making $folder with $python"
    "$python" -m venv --clear "$folder"
    echo "$origin" >"$folder/.made_for"
  fi
  echo "installing $requirements into $folder"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements"
  if [ -n "$extra" ]; then
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$requirements" \
      --no-build-isolation --editable ".[$extra]"
  else
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
  fi
  echo "$stamp" >"$folder/.installed"
}
