PYTHON ?= .venv/bin/python

.PHONY: install test check format torture bench

install:  ## everything for working on the studio, in .venv
	python3 -m venv .venv
	.venv/bin/pip install -q -c constraints.txt -e '.[test,check]'

test:  ## the suite
	$(PYTHON) -m pytest

check:  ## format, lint, types: what the continuous integration asks for beside the tests
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

torture:  ## the long hostile tests
	$(PYTHON) -m pytest -m torture -s -n 0

bench:  ## speed and cost on this machine
	$(PYTHON) -m app bench
