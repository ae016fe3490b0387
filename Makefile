# Two commands are all of the set-up: `make study` and `make test`. ARGS goes to the command behind them.
#   make test         the tests; what needs torch is skipped, by name
#   make test-torch   all of them, torch installed
#   make test-newest  the core's, on the newest Python that is here, with the newest JAX, optax and Flax;
#                     ARGS='--every 8' takes every eighth case of each test
#   make test-oldest  the core's, with the lowest versions that pyproject.toml allows
#   make lint         ruff and pyright
#   make docs         the documentation, in build/docs
# PYTHON=python3.13 takes another Python, and an environment of its own.
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
ifeq ($(VERSION),)
$(error $(PYTHON) is no Python; say which with PYTHON=python3.11)
endif
PINNED := 3.11
# The environment's folder is named after its Python, but for the one that constraints.txt is of.
VENV := .venv$(if $(filter-out $(PINNED),$(VERSION)),-$(VERSION))
RUN = $(VENV)/bin/python
INSTALL = $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SAY_VERSIONS = @$(RUN) .ci/versions.py

# The rooms that import jax and optax alone.
CORE := $(addprefix tests/,outside algebra atoms decay memory optimizers training testing bench/test_cost.py test_imports.py)

.PHONY: study test test-torch test-newest test-oldest newest-of-core lint docs
study: $(VENV)/lab
	$(RUN) -m optlab study decay $(ARGS)

test: $(VENV)/dev
	$(SAY_VERSIONS)
	$(RUN) -m pytest $(ARGS)

test-torch: $(VENV)/torch
	$(SAY_VERSIONS)
	$(RUN) -m pytest --require-torch $(ARGS)

test-newest:
	@newer=$$(.ci/newer-python) || { echo 'test-newest: no Python from 3.12 on is installed here' >&2; exit 1; }; \
	$(MAKE) --no-print-directory PYTHON=$$newer newest-of-core

newest-of-core: $(VENV)/dev
	$(INSTALL) --upgrade jax jaxlib optax flax
	$(SAY_VERSIONS)
	$(RUN) -m pytest $(CORE) $(ARGS)

test-oldest: VENV := .venv-oldest
test-oldest: .venv-oldest/dev
	$(SAY_VERSIONS)
	$(RUN) -m pytest $(CORE) $(ARGS)

lint: $(VENV)/dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright --pythonpath $(RUN)

docs: $(VENV)/docs
	$(RUN) -m sphinx -W --keep-going -q docs build/docs $(ARGS)

$(VENV)/lab: pyproject.toml constraints.txt
	@if [ -e $(RUN) ] && [ "$$($(RUN) -c 'import sys; print("%d.%d" % sys.version_info[:2])')" != $(VERSION) ]; then \
	  echo "$(VENV) is not of Python $(VERSION): remove it" >&2; exit 1; fi
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[lab]'
	touch $@

$(VENV)/dev: $(VENV)/lab
	$(INSTALL) --editable '.[dev]'
	touch $@

$(VENV)/torch: $(VENV)/dev
	$(INSTALL) --editable '.[torch]'
	touch $@

$(VENV)/docs: $(VENV)/lab
	$(INSTALL) --editable '.[docs]'
	touch $@

.venv-oldest/dev: pyproject.toml
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' $$($(PYTHON) .ci/lowest.py)
	touch $@
