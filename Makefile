# Everything a fresh machine needs is Python 3.11 or newer and make: each target sets itself up.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test slow notebooks lint clean

demo: .venv/ready
	$(BIN)/hashnet demo

test: .venv/ready
	$(BIN)/python -m pytest -q

slow: .venv/ready
	$(BIN)/python -m pytest -q -m slow

notebooks: .venv/ready
	$(BIN)/python -m tests.notebooks build/notebooks

lint: .venv/ready
	$(BIN)/ruff check hashnet train retrieval tests notebooks
	$(BIN)/ruff format --check hashnet train retrieval tests notebooks

.venv/ready: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
