PYTHON ?= python3
PRESET ?= laptop
DEVICE ?= auto
BIN := .venv/bin

.PHONY: env figures beyond reference summary site test lab clean

env: .venv/.made

.venv/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e ".[dev]"
	touch $@

figures: env
	$(BIN)/ankle run --preset $(PRESET) --device $(DEVICE) --part 1

beyond: env
	$(BIN)/ankle run --preset $(PRESET) --device $(DEVICE) --part 2

reference: figures beyond
	rm -rf reference/$(PRESET) && mkdir -p reference/$(PRESET)
	cd results/$(PRESET) && find . -path "./*/tables/*.csv" \
		-exec cp --parents {} ../../reference/$(PRESET) ";"

summary: env
	$(BIN)/ankle summary --preset $(PRESET)

site: env
	$(BIN)/ankle course site --preset $(PRESET)

test: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --maxschedchunk 32

lab: env
	$(BIN)/jupyter lab --notebook-dir . notebooks/00_start_here.ipynb

clean:
	rm -rf results results-tests .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
