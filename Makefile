# `make` alone lists the targets. Everything is installed into .venv, nothing outside this folder
# but the user's cache (fetched texts, smollm2) and the store of runs.

# The first Python that is new enough; `make lab PYTHON=/path/to/python` takes another.
PYTHON ?= $(shell for python in python3 python python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$python; break; }; done)
BIN := .venv/bin
TORCH_CPU := https://download.pytorch.org/whl/cpu
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PYTEST := $(BIN)/python -m pytest --nbval -n 2

.DEFAULT_GOAL := help
.PHONY: help setup lab test test-all soak test-lowest test-gpu evidence recorded refresh claims playground docs pictures javascript lint clean

help: ## list these targets
	@echo "make lab    opens the laboratory;  make test    proves that it works."
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | \
		while IFS='|' read -r target about; do printf '  make %-12s%s\n' "$$target" "$$about"; done

setup: .venv/prepared ## install into .venv and fetch what the notebooks need (minutes, once)

lab: ## set up, then open JupyterLab at the first notebook
	@test -e .venv/prepared || echo "First a set-up: 3 to 10 minutes, about 1.5 GB on disk" \
		"(more with CUDA). Next time the lab opens in seconds."
	@$(MAKE) --no-print-directory .venv/installed
	@$(MAKE) --no-print-directory .venv/prepared || echo "smollm2 and the real texts are not here" \
		"(the reason stands above). The pocket model works without them; 'make lab' tries again."
	@$(BIN)/lora-lab lab

test: setup ## the suite: units, notebooks, a real browser
	$(PYTEST)

test-all: setup .venv/docs .venv/hub ## the suite and all that is slow
	$(PYTEST) --slow

soak: setup ## 200 trainings that are killed, and 2,000 runs in one process: is nothing lost, and memory flat?
	$(BIN)/python -m pytest --slow -v tests/faults

test-lowest: .venv-lowest/installed setup ## the suite without notebooks, on the oldest versions that pyproject.toml allows
	.venv-lowest/bin/python -m pytest -n 2 tests

test-gpu: setup ## the tests that train on an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu tests

recorded: setup ## make what data/recorded/ lacks: runs on smollm2, claims (ONLY=needs-1000 for one)
	$(BIN)/python data/recorded/make_recorded.py $(ONLY)
	$(if $(ONLY),,for it in $(filter-out %/make_recorded.py,$(wildcard data/recorded/make_*.py)); do $(BIN)/python $$it || exit; done)

evidence: setup ## make the runs that data/evidence/ lacks (ONLY=id for one; CHECK=1 repeats a tenth)
	$(BIN)/python data/evidence/make.py $(ONLY) $(if $(CHECK),--check)

claims: setup ## write CLAIMS.md: every rule of thumb with its verdict
	$(BIN)/python -m lora_lab.findings.claims_page > CLAIMS.md

refresh: setup ## run the notebooks afresh and keep their outputs (ONLY=notebooks/x.ipynb for one)
	$(BIN)/python tests/refresh_notebooks.py $(ONLY)

playground: setup ## the page that trains in a browser: playground.html, and site/ for a web host
	rm -rf site/playground
	$(BIN)/lora-lab playground --file playground.html --site site/playground

docs: .venv/docs ## the course as a web site, in site/docs; no notebook is run
	$(BIN)/python -m sphinx -n -W --keep-going -c docs . site/docs

pictures: setup ## pictures of labs for that site, taken in a browser (ONLY=notebooks/x.ipynb for one)
	$(BIN)/python tests/picture_labs.py $(ONLY)

javascript: setup ## fetch what the playground has from npm anew (lora_lab/web/vendor/packages.toml)
	$(BIN)/python -m lora_lab.assets.javascript

lint: setup ## ruff: the format and the rules of pyproject.toml
	$(BIN)/ruff format --check && $(BIN)/ruff check

clean: ## remove .venv and what was built here; your runs and the cache stay
	rm -rf .venv .venv-lowest build dist site playground.html .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Done again when pyproject.toml has changed. On Linux without an NVIDIA driver torch comes from
# PyTorch's own index of CPU builds, if that answers within 3 seconds: pip's default build brings
# some 3 GB of CUDA along.
.venv/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found." \
		"Install one, or name it: make lab PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || { echo "Making .venv with $(PYTHON) …"; $(PYTHON) -m venv .venv; } \
		|| { rm -rf .venv; \
		echo "$(PYTHON) could not make a virtual environment; on Debian and Ubuntu," \
		"'apt install python3-venv' brings what it lacks"; exit 1; }
	@if [ "$$(uname -s)" = Linux ] && [ ! -e /dev/nvidiactl ] && [ ! -e /dev/dxg ] \
		&& ! $(BIN)/python -c 'import torch' 2>/dev/null; then \
		if $(BIN)/python -c 'import signal, sys, urllib.request; signal.alarm(3); \
			urllib.request.urlopen(sys.argv[1])' $(TORCH_CPU)/torch/ 2>/dev/null; \
		then $(BIN)/python -m pip install torch --index-url $(TORCH_CPU) \
			|| echo "That index failed; pip's default build follows."; \
		else echo "PyTorch's index of CPU builds did not answer; pip's default build follows:" \
			"with CUDA it takes about 3 GB more."; fi; fi
	$(BIN)/python -m pip install -e ".[dev]"
	@touch $@

# An environment of its own, with the oldest version of each package.
.venv-lowest/installed: pyproject.toml .venv/installed
	$(BIN)/python -m venv .venv-lowest
	$(BIN)/python tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install -e ".[dev]" -c .venv-lowest/constraints.txt
	@touch $@

# What builds the docs: learners do without.
.venv/docs: .venv/installed pyproject.toml
	$(BIN)/python -m pip install -e ".[docs]"
	@touch $@

# What starts a JupyterHub for its tests. Without npm they are skipped, and say so.
.venv/hub: .venv/installed pyproject.toml
	$(BIN)/python -m pip install -e ".[hub]"
	@! command -v npm >/dev/null || npm install --no-save --no-package-lock configurable-http-proxy@5
	@touch $@

# Done again when what is fetched, or how it is converted, has changed.
.venv/prepared: .venv/installed lora_lab/assets/downloads.py lora_lab/models/smollm2.py
	$(BIN)/lora-lab prepare
	@touch $@
