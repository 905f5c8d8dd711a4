# make install | check | test | docs | results | results-page
#
# PYTHON makes the environment; everything else runs in .venv.
PYTHON ?= python3
BIN := .venv/bin
# The folder of the real streams (photographs, emoji, stamps, ..) and their backbone, for results-real.
REAL ?= ../shared/real

.PHONY: install check test docs results results-compare results-real results-page

install:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'

check:
	.ci/check

test:
	$(BIN)/python -m pytest -n auto

# The documentation as a site, in site/.
docs:
	$(BIN)/python -m mkdocs build --strict

# Figures of the embedded world and of speed; about an hour on two cores, step.py on a machine that does nothing else.
results:
	$(BIN)/lpi run scenes --rows all --seeds 0-4 --results results/scenes.json
	$(BIN)/python benchmarks/step.py --results results/step.json

# Every method on the embedded world, with sources and without, each with the same few trials on validation data; three
# hours on two cores.
SCENES = $(BIN)/lpi compare compare_scenes --tuned results/tuned_scenes.json --set stream.redrawn=true --seeds 0-2 \
	--planned-seeds 0-7 --results results/compare_scenes.json
results-compare:
	$(BIN)/lpi tune compare_scenes --trials 3 --further 1 --results results/tuned_scenes.json
	$(SCENES) --part with_sources
	$(SCENES) --part without_sources --set stream.sources=false --out runs/without

# docs/results.md from results/*.json and docs/published.json; a test holds the page against them.
results-page:
	$(BIN)/python benchmarks/results_page.py

results-real:
	$(BIN)/lpi run experiments/real_domains.toml --set stream.root=$(REAL) --rows all --results results/real_domains.json
