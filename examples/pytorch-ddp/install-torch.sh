#!/usr/bin/env bash
# PyTorch for the example, on this host: install-torch.sh [DIRECTORY]. What is there is kept. Python
# must be of the image's minor version (3.11); some gigabytes come from PyPI.
set -euo pipefail
readonly DIRECTORY=${1:-/opt/muster-example/torch}
[[ ! -e $DIRECTORY/torch/__init__.py ]] || exit 0
python3 -m pip install --quiet --target "$DIRECTORY.new" torch==2.13.0 numpy
mv "$DIRECTORY.new" "$DIRECTORY"
