# The two commands that need nothing but Python 3.11+ and make: `make demo` and `make test`.
# Everything they install goes into .venv; PYTHON=/path/to/python chooses the interpreter.

VENV := .venv
BIN := $(VENV)/bin
# pip compiles on one core and compileall on all of them; a template that is no Python is not compiled, nor used.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-compile --editable
COMPILE := $(BIN)/python -W ignore -m compileall -qq -j 0 $(VENV)/lib || true
# Tests start a thousand processes, and each would compile the package anew where bytecode must not be written.
unexport PYTHONDONTWRITEBYTECODE
# A file of tests stays on one process, which shares its servers. Half of the time these wait for servers and children:
# on two cores three are done sooner than two.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile
UNIT_TESTS := synqx_dagster_tests/unit $(wildcard synqx_dagster_tests/test_*.py)

.DEFAULT_GOAL := help
.PHONY: help demo dev test test-slow unit check format bench clean

help: ## Say what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

demo: $(VENV)/.demo ## Fill a shop database, load the warehouse through Dagster, show the result
	@$(BIN)/synqx demo

dev: $(VENV)/.demo ## The demo project with Dagster's web UI and daemon; Ctrl-C stops everything
	@$(BIN)/synqx demo --dev

test: $(VENV)/.dev ## Run the tests
	@$(PYTEST) -m "not slow"

test-slow: $(VENV)/.dev ## Run the tests that take minutes
	@$(PYTEST) -m slow

unit: $(VENV)/.dev ## Run the tests that need no server
	@$(PYTEST) -q -m "not slow" $(UNIT_TESTS)

check: $(VENV)/.dev ## Lint, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.dev ## Sort the imports and format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# 75 minutes, and nothing else should run. BENCH='--case pg_pg --scale 0.1 --runs 1' measures less.
bench: $(VENV)/.bench ## Compare with psql, Sling and dlt, and write docs/benchmarks.md
	@$(BIN)/python -m benchmarks.run $(BENCH)

clean: ## Remove the virtual environment, the demo and the caches
	@if [ -x $(BIN)/python ]; then $(BIN)/synqx demo --stop || true; fi
	rm -rf $(VENV) .benchmarks .synqx/demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# One environment, filled as far as the command needs it. Each stamp is newer than what it was made from, so the
# second time costs nothing; an interrupted installation leaves no stamp and is done again.
$(VENV)/.created:
	@sh scripts/create-venv $(VENV) "$(PYTHON)"
	@touch $@

$(VENV)/.demo: $(VENV)/.created pyproject.toml setup.py
	@echo "Installing SynqX into $(VENV) (the first time takes about a minute)"
	@$(INSTALL) ".[demo]"
	@$(COMPILE)
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml setup.py
	@echo "Installing SynqX and its tools into $(VENV) (the first time takes about a minute)"
	@$(INSTALL) ".[dev]"
	@$(COMPILE)
	@touch $(VENV)/.demo $@

$(VENV)/.bench: $(VENV)/.created pyproject.toml setup.py
	@$(INSTALL) ".[bench-harness]"
	@$(COMPILE)
	@touch $(VENV)/.demo $@
