# Two commands are all of the set-up: `make study` and `make test`.
PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: study test lint
study: .venv/ready
	$(RUN) -m optlab study decay $(ARGS)

test: .venv/ready
	$(RUN) -m pytest $(ARGS)

lint: .venv/ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch .venv/ready
