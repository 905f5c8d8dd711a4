# make install | check | test | results
#
# PYTHON makes the environment; everything else runs in .venv.
PYTHON ?= python3
BIN := .venv/bin
# The folder of the real streams (photographs, emoji, stamps, ..) and their backbone, for results-real.
REAL ?= ../shared/real

.PHONY: install check test results results-real

install:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'

check:
	.ci/check

test:
	$(BIN)/python -m pytest

# Figures of the embedded world and of speed; about an hour on two cores, step.py on a machine that does nothing else.
results:
	$(BIN)/lpi run scenes --rows all --seeds 0-4 --results results/scenes.json
	$(BIN)/python benchmarks/step.py --results results/step.json

results-real:
	$(BIN)/lpi run experiments/real_domains.toml --set stream.root=$(REAL) --rows all --results results/real_domains.json
