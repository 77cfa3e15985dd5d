# Each target sets up what it needs in .venv; PYTHON chooses the interpreter (3.10 or newer).
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test test-all check bench faults day docs clean
help:
	@echo "make demo      synthetic speakers through the whole chain to a report (minutes on two cores)"
	@echo "make test      the tests for every change: about 14 minutes on two cores, after installation"
	@echo "make test-all  the tests that make test leaves out: slow ones, several nodes (about 45 minutes)"
	@echo "make faults    kill and cut off nodes of a running cluster, and compare results (half an hour)"
	@echo "make day       a new user's commands, from an empty environment, with times (DAY=--installed: in .venv)"
	@echo "make check     format, lint, types, import contracts"
	@echo "make bench     measure the figures of docs/performance.md, and compare (20 minutes; BENCH='reading overhead' for some)"
	@echo "make docs      the documentation as a site, in site/"
	@echo "make clean     remove .venv and runs/"

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: Python 3.10 or newer is needed; set PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a few GB the first time)"
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/installed
	@$(BIN)/arspm demo

# Two processes: all tests with Ray in one of them, since two cores cannot run two Ray clusters at the same time.
PYTEST := $(BIN)/python -m pytest --jaxtyping-packages=arspm.model,arspm.training,arspm.evaluation,beartype.beartype
PARALLEL := -n 2 --dist loadscope --no-loadscope-reorder

test: .venv/installed
	@tests/install-system
	@$(PYTEST) $(PARALLEL) -m 'not slow and not gpu and not faults'

SLOW ?= slow
test-all: .venv/installed
	@tests/install-system
	@$(PYTEST) $(PARALLEL) -m '$(SLOW) and not gpu and not faults'

check: .venv/installed
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

faults: .venv/installed
	@tests/install-system
	@$(BIN)/python -m pytest -m faults tests/faults

day: .venv/installed
	@$(BIN)/python -m tests.users_day $(DAY)

bench: .venv/installed
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,bench]'
	@$(BIN)/python -m benchmarks $(BENCH)

docs: .venv/installed
	@test -x $(BIN)/mkdocs || { echo "error: the site needs Python 3.11.5 or newer; make clean, and set PYTHON=..."; exit 1; }
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "open site/index.html; for its search: $(BIN)/python -m http.server -b 127.0.0.1 -d site"

clean:
	rm -rf .venv runs site
