# `make help` lists the habits. Everything happens in $(VENV), which is made when it is missing or out of date.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

venv: $(INSTALLED) ## Make the virtual environment with the project in it

demo: $(INSTALLED) ## Classify the sample pictures
	$(BIN)/densenet predict sample_images --variant tiny -k 3

test: $(INSTALLED) ## Run the tests (minutes)
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(INSTALLED) ## Run the tests that take long
	$(BIN)/python -m pytest -m slow

test-backends: $(INSTALLED) ## Train on TensorFlow, JAX and PyTorch alike; load exports in PyTorch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 jax
	$(BIN)/python -m pytest -m slow tests/training/test_backends.py tests/export/test_torch.py

fuzz: $(INSTALLED) ## Damaged checkpoints and pictures, interrupted runs (about an hour)
	$(BIN)/python -m tests.weights.fuzz_checkpoints 5000
	$(BIN)/python -m tests.images.fuzz_images 20000
	$(BIN)/python -m tests.cli.kill_rounds 50

lint: $(INSTALLED) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## Bring the code into form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED) ## Write the help pages and pictures in docs/ anew
	$(BIN)/python scripts/help_pages.py
	$(BIN)/python scripts/terminal_images.py
	$(BIN)/python scripts/explained_image.py

site: $(INSTALLED) ## Build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

benchmark: $(INSTALLED) ## Measure speed beside Keras (about 20 minutes)
	$(BIN)/python benchmarks/run.py

check-published: $(INSTALLED) ## With a network: hold the published weights against keras.applications
	$(BIN)/python scripts/check_published.py

wheel: $(INSTALLED) ## Build the wheel into dist/
	$(BIN)/python -m build --wheel

clean: ## Remove what was built
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help venv demo test test-slow test-backends fuzz lint format docs site benchmark check-published wheel clean
