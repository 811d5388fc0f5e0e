PYTHON ?= python3
PRESET ?= laptop
BIN := .venv/bin

.PHONY: env figures summary test lab clean

env: .venv/.made

.venv/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e ".[dev]"
	touch $@

figures: env
	$(BIN)/ankle run --preset $(PRESET)

summary: env
	$(BIN)/ankle summary --preset $(PRESET)

test: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

lab: env
	$(BIN)/jupyter lab --notebook-dir . notebooks/00_start_here.ipynb

clean:
	rm -rf results results-tests .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
