# Sourced by scripts/quickstart and scripts/test. Changes to the root of the repository and creates
# .venv with the tested versions. Needs a package index and Python ≥ 3.11; set PYTHON to choose one.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo 'error: no Python 3.11 or later found; set PYTHON to its path.' >&2
  return 1
}

# Shows lines of pip as one that changes, on a terminal; nothing elsewhere. Errors are on stderr.
show_progress() {
  local line
  if [ -t 1 ]; then
    while IFS= read -r line; do
      printf '\r\033[K%.76s' "$line"
    done
    printf '\r\033[K'
  else
    cat >/dev/null
  fi
}

# make_environment '[EXTRA]': installs the checkout into .venv, unless it is already installed.
make_environment() {
  local wanted python
  wanted=$(cat setup.cfg constraints.txt | cksum)
  if [ "$(cat ".venv/installed$1" 2>/dev/null)" != "$wanted" ]; then
    python=$(find_python)
    echo "Installing Python packages into $PWD/.venv, in a minute or two ..."
    "$python" -m venv .venv
    .venv/bin/python -m pip install --progress-bar off --disable-pip-version-check \
      --constraint constraints.txt --editable ".$1" | show_progress
    echo "$wanted" >".venv/installed$1"
  fi
}
