# Sourced by scripts/demo and scripts/test. Makes .venv once and sets $python; needs nothing but Python 3.11 or later.
# An existing torch is never replaced: neither one in .venv, nor one of the Python that .venv is made with.

say() { printf '%s\n' "$*" >&2; }

# A torch that is there stays: without this line pip would replace one that the project's floor excludes.
keep_torch() {
    "$python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >"$environment/constraints.txt" 2>/dev/null ||
        : >"$environment/constraints.txt"
}

find_python() {
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    say "error: there is no Python 3.11 or later. Install one (https://www.python.org/downloads), then type the same command again."
    exit 4
}

install() {
    "$python" -m pip install --quiet --disable-pip-version-check --constraint "$environment/constraints.txt" "$@" && return
    say "error: pip could not install $*. Look at its words above; without network, set up a mirror in pip.conf."
    exit 4
}

# $1: what to install, "use" or "develop". Done again only when pyproject.toml changed.
make_environment() {
    environment=$root/.venv
    python=$environment/bin/python
    stamp=$environment/.installed-$1-$(cksum <"$root/pyproject.toml" | cut -d ' ' -f 1)
    if [ -f "$stamp" ] && "$python" -c 'import autounet' 2>/dev/null; then
        return
    fi
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        maker=$(find_python)
        say "Making .venv with $("$maker" --version) (once)"
        if "$maker" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("torch"))' 2>/dev/null; then
            "$maker" -m venv --system-site-packages "$environment"
        else
            "$maker" -m venv "$environment" || {
                say "error: $maker cannot make a virtual environment. On Debian or Ubuntu: sudo apt install python3-venv; then type the same command again."
                exit 4
            }
        fi
    fi
    say "Installing into .venv (once; torch is large)"
    keep_torch
    [ -s "$environment/constraints.txt" ] || install torch==2.13.0
    keep_torch
    install --editable "$root"
    if [ "$1" = develop ]; then
        "$python" -c 'import sys, tomllib; print(*tomllib.load(open(sys.argv[1], "rb"))["dependency-groups"]["dev"], sep="\n")' \
            "$root/pyproject.toml" >"$environment/develop.txt"
        install --requirement "$environment/develop.txt" --editable "$root[fast,dicom,micro]"
    fi
    rm -f "$environment"/.installed-"$1"-*
    : >"$stamp"
}
