#!/usr/bin/env bash
# PyTorch for the example, on this host: install-torch.sh [DIRECTORY]. What is there is kept. It is for
# the image's Python, 3.11, whichever is here; PYTHON is one that has pip. Takes 5 GB, from PyPI.
set -euo pipefail
readonly DIRECTORY=${1:-/opt/muster-example/torch}
[[ ! -e $DIRECTORY/torch/__init__.py ]] || exit 0
rm -rf "$DIRECTORY.new"
"${PYTHON:-python3}" -m pip --disable-pip-version-check install --quiet --root-user-action ignore --no-cache-dir \
    --python-version 3.11 --only-binary :all: --target "$DIRECTORY.new" torch==2.13.0 numpy
mv "$DIRECTORY.new" "$DIRECTORY"
