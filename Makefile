# Everything a fresh machine needs is Python 3.11 or newer and make: each target sets itself up.
PYTHON ?= python3
BIN = .venv/bin

# Each process that tests would otherwise compile all their files, and what they test, anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test thorough lowest slow notebooks docs lint types coverage mutants fuzz dist installed trainings faults clean

demo: .venv/ready
	$(BIN)/hashnet demo

# What a process may take at most, in MB: half of it is code of libraries, of which a machine that has
# just installed them keeps more in memory.
MOST_MEMORY ?= 2000

test: .venv/ready
	$(BIN)/python -m pytest -q --numprocesses 4 --dist loadfile --most-memory $(MOST_MEMORY)

# Every case of what the fast tests take some of.
thorough: .venv/ready
	$(BIN)/python -m pytest -q -m "thorough and not slow" --numprocesses 3 --dist loadfile

# The fast tests again, or those files that LOWEST names, on the lowest versions that setup.cfg allows.
lowest: .venv-lowest/ready
	.venv-lowest/bin/python -m pytest -q --numprocesses 3 --dist loadfile $(LOWEST)

.venv-lowest/ready: setup.cfg tests/lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --upgrade pip
	.venv-lowest/bin/python -m pip install --quiet --constraint tests/lowest.txt --editable ".[test]"
	touch $@

slow: .venv/ready
	$(BIN)/python -m pytest -q -m slow

# Those of the slow tests that train networks and build the large ones; they need no data.
trainings: .venv/ready
	$(BIN)/python -m pytest -q -m slow tests/test_train_hash.py tests/test_backbones.py \
		tests/test_model.py tests/test_export.py tests/test_cli.py tests/test_onnx_writer.py \
		tests/test_unsupervised.py tests/test_unsupervised_codes.py tests/test_pretrained.py

# Those that kill and damage at every place, where the fast tests take some.
faults: .venv/ready
	$(BIN)/python -m pytest -q -m slow tests/test_store_faults.py tests/test_clickhouse.py \
		tests/test_lookups.py

notebooks: .venv/ready
	$(BIN)/python -m tests.notebooks build/notebooks

docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lint: .venv/ready
	$(BIN)/ruff check hashnet tests notebooks
	$(BIN)/ruff format --check hashnet tests notebooks

types: .venv/ready
	$(BIN)/mypy

# Each test file in a process of its own, since all together take 4 GB. Status 5: all tests are slow.
coverage: .venv/ready
	$(BIN)/coverage erase
	for file in tests/test_*.py; do $(BIN)/coverage run -m pytest -q -m "not slow" $$file || test $$? = 5 || exit 1; done
	$(BIN)/coverage run -m pytest -q hashnet
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Hours: every mutant is a run of the tests that are to hold it. What is done is kept in mutants/.
mutants: .venv/ready
	$(BIN)/python -m pip install --quiet --editable ".[mutants]"
	$(BIN)/python -P tests/mutants.py run
	$(BIN)/python -P tests/mutants.py results

# An hour: what strangers may send, taken at random; where atheris can be had, by what reaches new lines.
fuzz: .venv/ready
	$(BIN)/python -m pip install --quiet atheris && guided=--guided; \
		$(BIN)/python -m tests.fuzz $$guided --seconds 3600

dist: .venv/ready
	rm -rf build dist
	$(BIN)/python -m build

# Wheel, source archive, editable install and container, built from a copy of the checkout and used
# elsewhere.
installed: .venv/ready
	$(BIN)/python -m pytest -q -m slow tests/test_release.py tests/test_container.py

.venv/ready: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf .venv .venv-lowest build dist mutants *.egg-info
