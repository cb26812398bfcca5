# `make` alone lists what there is. The only things needed beforehand are Python 3.11+ with pip, and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
# A test that nothing interrupts, because its process hangs below Python, ends with a traceback of every thread.
HUNG := -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true

.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow test-long attack bench pretrained docs lint format clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Make .venv and install into it (the other targets do this by themselves)
	@echo "ready: source $(BIN)/activate"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("vivit-core needs Python 3.11 or newer, and %s is %s; say which one to take: make PYTHON=python3.11 $(MAKECMDGOALS)" % (sys.executable, sys.version.split()[0]))'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

train: $(STAMP)  ## The main job: train a ViViT twin on the simulated recordings (more settings: ARGS="seed=1 …")
	$(BIN)/python run.py model=vivit_small data=multi_backimage $(ARGS)

test: $(STAMP)  ## The tests, two at a time, without those that are slow, take long or need a GPU (one at a time: ARGS="-n 0")
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not long and not gpu" -n 2 --dist worksteal $(HUNG) $(ARGS)

test-slow: $(STAMP)  ## The tests of four seconds and more, two at a time: whole commands, the site, the wheel
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not long and not gpu" -n 2 --dist worksteal $(HUNG) $(ARGS)

test-long: $(STAMP)  ## The tests that take minutes each
	$(BIN)/python -m pytest -m "long and not gpu" --timeout 3600 $(ARGS)

attack: $(STAMP)  ## Kills, full disks, damaged files and odd names, for 15 minutes (longer: ATTACK_MINUTES=60 make attack)
	$(BIN)/python -m pytest -q tests/attack

bench: $(STAMP)  ## Speed and memory beside the machine's own peak, in 6 minutes (on a GPU: ARGS="--device cuda")
	$(BIN)/python benchmarks/bench.py $(ARGS)

pretrained: $(STAMP)  ## Train the twin that comes with the package, and put it in its place (it took 38 minutes on a busy machine)
	$(BIN)/python tools/pretrained.py

docs: $(STAMP)  ## The site, in site/; a broken link or reference is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir site
	@echo "open site/index.html"

lint: $(STAMP)  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## Put the code into the style that lint asks for
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove .venv and everything the tools wrote; outputs/ and data stay
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
