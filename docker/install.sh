#!/bin/sh
# Installs the checkout that this script lies in, with what serving needs, into a new environment.
# What only building and testing need is left out, so that an image stays small.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 PREFIX" >&2; exit 2; }
source=$(cd "$(dirname "$0")/.." && pwd)
python3 -m venv "$1"
"$1/bin/pip" install --no-cache-dir --quiet "$source"
# Tests that libraries bring along; nothing imports them.
find "$1" -type d \( -name tests -o -name test \) -path '*/site-packages/*' -prune -exec rm -r {} +
"$1/bin/pip" uninstall --yes --quiet pip setuptools 2>/dev/null
