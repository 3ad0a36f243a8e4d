# Two commands: `make run` and `make test`. Both first install what is missing.
DATA ?= ./data
PORT ?= 8776
FUZZ_EXAMPLES ?= 5000
FUZZ_SECONDS ?= 600
FUZZ_DIR ?= /tmp/breezeblock-fuzz
# One more than there are cores: tests wait for clocks and for programs.
WORKERS ?= $(shell expr $$(nproc) + 1)
# In memory, where there is enough: tests sync some hundred thousand times, and what they kill dies without a disk too.
SCRATCH ?= $(shell [ "$$(df -k --output=avail /dev/shm 2> /dev/null | tail -n 1)" -gt 8000000 ] 2> /dev/null \
	&& echo /dev/shm || echo "$${TMPDIR:-/tmp}")
UPGRADE ?=
MAKEFLAGS += --no-print-directory
BIN := .venv/bin

.PHONY: help run test fuzz lint bench docs lock clean setup

help: ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

run: ## start the service on 127.0.0.1 (DATA=./data PORT=8776)
	@tools/setup.sh run
	@exec $(BIN)/breezeblock quickstart --data "$(DATA)" --port "$(PORT)"

test: ## lint, then run all tests (WORKERS=N, at most 4; SCRATCH=DIR for their files)
	@tools/setup.sh test
	@$(MAKE) lint
	TMPDIR="$(SCRATCH)" $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal $(ARGS)

lint: ## check style, types and the floors
	@tools/setup.sh python
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fuzz: ## hostile and random images for a long time (FUZZ_EXAMPLES=5000, FUZZ_SECONDS=600 per format)
	@tools/setup.sh test
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest --timeout 0 -q tests/images -k "fields_of_any_value or random_verbs"
	@for format in vhd vhdx qcow2; do \
		rm -rf $(FUZZ_DIR)/$$format && mkdir -p $(FUZZ_DIR)/$$format && \
		$(BIN)/python tests/images/fuzz_images.py $$format $(FUZZ_DIR)/$$format -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

bench: ## run the benchmarks (see benchmarks/README.md)
	@tools/setup.sh test
	$(BIN)/python -m benchmarks $(ARGS)

docs: ## build the documentation into docs/_build/html
	@tools/setup.sh python
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo docs/_build/html/index.html

lock: ## resolve requirements/*.txt, keeping what is pinned (UPGRADE=--upgrade: newest; needs uv)
	uv pip compile -q $(LOCK) requirements/build.in -o requirements/build.txt
	uv pip compile -q $(LOCK) pyproject.toml -o requirements/run.txt
	uv pip compile -q $(LOCK) pyproject.toml --group clients -o requirements/try.txt
	uv pip compile -q $(LOCK) pyproject.toml --group dev --group docs -o requirements/dev.txt
	uv pip compile -q $(LOCK) requirements/cinder.in -o requirements/cinder.txt
LOCK := --universal --no-header --no-annotate --generate-hashes --python-version 3.11 $(UPGRADE)

clean: ## remove what can be made again (never DATA)
	rm -rf .venv .venv-cinder docs/_build dist tests/xenapi/node_modules .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
