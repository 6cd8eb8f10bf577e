# `make demo` and `make test` are enough on a fresh machine: each sets up what it needs.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help setup demo test check fmt proto docs sim chaos bench example-mpi example-pytorch-ddp

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-19s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(DEV)  ## The virtual environment .venv with all that development needs

demo: $(RUNTIME)  ## Real multi-node jobs on this machine (ARGS="--nodes 8 --engine podman")
	$(BIN)/muster demo $(ARGS)

test: $(DEV)  ## All tests; what needs a component that is missing says so (ARGS="-k name")
	$(BIN)/python -m pytest -q $(ARGS)

check: $(DEV)  ## Lint, format and types, without changing anything
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

fmt: $(DEV)  ## Format, and fix what can be fixed safely
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

proto: $(DEV)  ## The stubs and proto/api.txtpb from the .proto files
	$(BIN)/python proto/generate.py

docs: $(DEV)  ## The pages of docs/ that are made from the code
	$(BIN)/python docs/make_states.py

sim: $(DEV)  ## The simulator (ARGS as for its module)
	$(BIN)/python -m tests.sim $(ARGS)

chaos: $(DEV)  ## Real daemons, disturbed for ten minutes; root (ARGS="--seconds 60 --seed 7")
	PYTHONPATH=.:proto $(BIN)/python -m tests.chaos $(ARGS)

bench: $(DEV)  ## Speed, as ratios to floors measured in the same run
	$(BIN)/python -m bench $(ARGS)

example-mpi: $(DEV)  ## Open MPI over ssh on four hosts of this machine; root, podman, debootstrap
	examples/build-image.sh examples/mpi localhost/muster-example-mpi:1
	PYTHONPATH=.:proto $(BIN)/python -m tests.e2e.four_hosts examples/mpi/definition.json

example-pytorch-ddp: $(DEV)  ## torchrun on four hosts of this machine; root, podman, debootstrap
	examples/build-image.sh examples/pytorch-ddp localhost/muster-example-pytorch:1
	PYTHON=$(BIN)/python examples/pytorch-ddp/install-torch.sh
	PYTHONPATH=.:proto $(BIN)/python -m tests.e2e.four_hosts examples/pytorch-ddp/definition.json

# Anew when pyproject.toml changed: it lists what is installed and the commands.
$(RUNTIME): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: no program $(PYTHON); Muster needs Python \
	3.11 or later (make PYTHON=/path/to/python3.11)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and \
	  "make: $(PYTHON) is Python %s; Muster needs 3.11 or later (make PYTHON=/path/to/python3.11)" % v)'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "make: $(PYTHON) cannot make virtual \
	environments; install its venv module (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --editable .
	@touch $@

$(DEV): $(RUNTIME)
	$(PIP) install --editable '.[dev]'
	@touch $@
