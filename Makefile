# Run `make help` for a list of targets. All of them use the virtual environment in $(VENV), which is created when needed.
PYTHON ?= python3
VENV ?= .venv
VENV_LOWEST ?= .venv-lowest
ifeq ($(OS),Windows_NT)
SCRIPTS = Scripts
else
SCRIPTS = bin
endif
BIN = $(VENV)/$(SCRIPTS)
LOWEST = $(VENV_LOWEST)/$(SCRIPTS)
INSTALLED = $(VENV)/.installed
# Memory use is measured with current versions only.
QUICK_TESTS = tests/cli tests/weights tests/images --ignore tests/images/test_memory.py
PYTEST = -m pytest -n logical --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

venv: $(INSTALLED) ## Create the virtual environment and install the project in it

demo: $(INSTALLED) ## Classify the sample images
	$(BIN)/densenet predict sample_images --variant tiny -k 3

test: $(INSTALLED) ## Run the tests (a few minutes)
	$(BIN)/python $(PYTEST) -m "not slow and not ray"

test-slow: $(INSTALLED) ## Run the slow tests
	$(BIN)/python -m pytest -m slow

test-lowest: $(INSTALLED) ## Run every command and the quick tests with the lowest supported dependencies
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV_LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/python --resolution lowest-direct --editable '.[test]'
	$(BIN)/python scripts/smoke_test.py $(LOWEST)/densenet
	$(LOWEST)/python $(PYTEST) -m "not slow and not ray" --disable-warnings $(QUICK_TESTS)

test-ray: $(INSTALLED) ## Run predict and embed on clusters of Ray on this machine (about 8 minutes)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[ray]'
	$(BIN)/python -m pytest -m ray tests/ray

test-ray-quick: $(INSTALLED) ## Run the tests on Ray without failing nodes (about 3 minutes)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[ray]'
	$(BIN)/python -m pytest -m ray tests/ray/test_runs.py tests/ray/test_cluster.py

test-backends: $(INSTALLED) ## Train with TensorFlow, JAX, and PyTorch, and exchange files with PyTorch's libraries
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 timm==1.0.31 monai==1.6.1 jax
	$(BIN)/python -m pytest -m slow tests/training/test_backends.py tests/export/test_torch.py \
		tests/images/test_timm_transforms.py tests/weights/test_timm_folders.py tests/weights/pytorch/test_libraries.py

smoke: $(INSTALLED) ## Run every command once
	$(BIN)/python scripts/smoke_test.py $(BIN)/densenet

fuzz: $(INSTALLED) ## Test damaged images, archives, and checkpoints and interrupted runs (about an hour)
	$(BIN)/python -m tests.weights.fuzz_checkpoints 5000
	$(BIN)/python -m tests.images.fuzz_images 20000
	$(BIN)/python -m tests.images.fuzz_archives 20000
	$(BIN)/python -m tests.cli.kill_rounds 50

lint: $(INSTALLED) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED) ## Update the help pages and images in docs/
	$(BIN)/python scripts/help_pages.py
	$(BIN)/python scripts/terminal_images.py
	$(BIN)/python scripts/explained_image.py

site: $(INSTALLED) ## Build the documentation site in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

benchmark: $(INSTALLED) ## Compare speed and memory with Keras (about an hour)
	$(BIN)/python benchmarks/run.py

check-published: $(INSTALLED) ## Compare the published weights with Keras and timm (needs internet access)
	$(BIN)/python scripts/check_published.py

wheel: $(INSTALLED) ## Build the wheel in dist/
	$(BIN)/python -m build --wheel

clean: ## Remove everything that was built
	rm -rf $(VENV) $(VENV_LOWEST) build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help venv demo test test-slow test-lowest test-ray test-ray-quick test-backends smoke fuzz lint format docs site benchmark check-published wheel clean
