# Two commands are all of the set-up: `make study` and `make test`. ARGS goes to the command behind them.
PYTHON ?= python3
RUN := .venv/bin/python
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: study test lint
study: .venv/lab
	$(RUN) -m optlab study decay $(ARGS)

test: .venv/dev
	$(RUN) -m pytest $(ARGS)

lint: .venv/dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright

.venv/lab: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) '.[lab]'
	touch .venv/lab

.venv/dev: .venv/lab
	$(INSTALL) '.[dev]'
	touch .venv/dev
