# Each target sets up what it needs in .venv; PYTHON chooses the interpreter (3.10 or newer).
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test check bench faults clean
help:
	@echo "make demo   made-up clips through the whole chain to a report (minutes on two cores)"
	@echo "make test   the test suite        make check  format, lint, types, import contract"
	@echo "make bench  figures for docs/     make faults kill and cut nodes, and compare (minutes)"
	@echo "make clean  remove .venv and runs/"

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: Python 3.10 or newer is needed; set PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (a few GB the first time)"
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/installed
	@$(BIN)/python -m jobs.demo

test: .venv/installed
	@tests/install-system
	@$(BIN)/python -m pytest -m 'not slow and not gpu and not faults' --jaxtyping-packages=arspm.model,arspm.training,arspm.evaluation,beartype.beartype

check: .venv/installed
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

faults: .venv/installed
	@tests/install-system
	@$(BIN)/python -m pytest -m faults tests/faults

bench: .venv/installed
	@$(BIN)/python -m benchmarks.paper_size

clean:
	rm -rf .venv runs
