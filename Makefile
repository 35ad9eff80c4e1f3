# Two commands: `make quickstart` and `make test`. Both make the environment first, once.
PYTHON ?= python3
BIN := .venv/bin
RUN := lightning_logs/world/thinker

.PHONY: quickstart test lint check install clean

quickstart: $(RUN)/done  ## world, stage A, and a text of its own
	$(BIN)/omni generate --checkpoint $(RUN)/best.ckpt --text "The picture shows" --max_tokens 80

test: .venv/installed  ## the tests
	$(BIN)/python -m pytest

lint: .venv/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

check: lint test  ## what CI runs

install: .venv/installed  ## the environment alone

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "omni needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

data/world/world.json: .venv/installed
	$(BIN)/omni data world --out data/world
	@touch $@

# A run that was cut goes on where it was; one whose configuration has changed since begins anew.
$(RUN)/done: data/world/world.json configs/base.yaml configs/world/thinker.yaml configs/models/laptop/thinker.yaml
	$(BIN)/omni fit --config configs/world/thinker.yaml $(if $(wildcard $(RUN)/done),,$(if $(wildcard $(RUN)/last.ckpt),--ckpt_path last))
	@touch $@

clean:  ## all that was made, the environment too
	rm -rf .venv data lightning_logs/world
