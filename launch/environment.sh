# Sourced by the scripts of this project: finds a Python, makes a virtual environment, installs.
# shellcheck shell=bash

least_minor=11

# Prints the first Python >= 3.11; $PYTHON alone is looked at where it is set.
find_python() {
  local candidate version
  local found="none"
  for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
    command -v "$candidate" >/dev/null 2>&1 || continue
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

# make_environment FOLDER REQUIREMENTS: a virtual environment with these requirements and the project.
# Installs again only when the Python or a requirements file has changed.
make_environment() {
  local folder=$1 requirements=$2 python stamp
  python=$(find_python) || return 2
  stamp=$("$python" -c '
import hashlib, pathlib, sys
text = sys.version + sys.argv[1] + "".join(pathlib.Path(name).read_text() for name in sys.argv[2:])
print(hashlib.sha256(text.encode()).hexdigest())' "$PWD" requirements.txt "$requirements" setup.cfg)
  if [ -f "$folder/.installed" ] && [ "$(cat "$folder/.installed")" = "$stamp" ]; then
    return 0
  fi
  echo "making $folder with $python from $requirements"
  [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements"
  "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
  echo "$stamp" >"$folder/.installed"
}
