# Start with `make quickstart` or `make test`. Both make the environment first, once.
PYTHON ?= python3
BIN := .venv/bin
RUNS := lightning_logs/world
TALKS := data/world/conversations
JOBS ?= 2
# Deprecations in other packages are errors only with the locked versions.
DEPRECATIONS := -W default::DeprecationWarning -W default::PendingDeprecationWarning -W default::FutureWarning
SENTENCE := The small red star is above the large blue circle.

.PHONY: quickstart serve smoke gpu test test-pages test-slow test-install test-latest test-lowest lint docs check install lock clean

# The seventh of the world's held-out conversations is a spoken question about a picture.
quickstart: data/world/world.json  ## the world, all stages; a written and spoken answer to a question about a picture; a sentence, synthesised and transcribed
	$(BIN)/omni train configs/world/chain.yaml --jobs $(JOBS)
	$(BIN)/omni generate --checkpoint $(RUNS)/omni/best.ckpt --voice $(RUNS)/talker/best.ckpt \
	    --speak $(RUNS)/answer.wav \
	    --image $(TALKS)/$$(sed -n '7s/.*"image": "\([^"]*\)".*/\1/p' $(TALKS)/val.jsonl) \
	    --audio $(TALKS)/$$(sed -n '7s/.*"audio": "\([^"]*\)".*/\1/p' $(TALKS)/val.jsonl)
	@echo "reference:  $$(sed -n '7s/.*"assistant", "content": "\([^"]*\)".*/\1/p' $(TALKS)/val.jsonl)"
	@echo "text:       $(SENTENCE)"
	$(BIN)/omni speak "$(SENTENCE)" --out $(RUNS)/spoken.wav --checkpoint $(RUNS)/talker/best.ckpt
	$(BIN)/omni transcribe $(RUNS)/spoken.wav --checkpoint $(RUNS)/audio/best.ckpt --out $(RUNS)/spoken.txt
	@echo "transcript: $$(cat $(RUNS)/spoken.txt)"

serve: .venv/installed  ## serves the quickstart's models through OpenAI's API, at http://127.0.0.1:8000/v1
	$(BIN)/omni serve --checkpoint $(RUNS)/omni/best.ckpt --voice $(RUNS)/talker/best.ckpt \
	    --recognizer $(RUNS)/audio/best.ckpt \
	    $(if $(wildcard $(RUNS)/vocoder/best.ckpt),--vocoder $(RUNS)/vocoder/best.ckpt)

smoke: .venv/installed  ## the same chain at a few steps, on a few rows, in build/smoke
	rm -rf build/smoke/lightning_logs && mkdir -p build/smoke
	cd build/smoke && ../../$(BIN)/omni data world --documents 300 --val_documents 20 --utterances 80 \
	    --val_utterances 12 --narrations 40 --val_narrations 8 --pictures 300 --val_pictures 40 \
	    --conversations 200 --val_conversations 24
	cd build/smoke && ../../$(BIN)/omni train ../../configs/world/smoke.yaml --jobs 2
	cd build/smoke && ../../$(BIN)/omni train ../../configs/world/smoke.yaml | tee again.txt
	test $$(grep --count "done before" build/smoke/again.txt) = 6

test-pages: .venv/installed  ## the notebooks, and the Python of the documentation's pages, on the chain of `make smoke`
	test -f build/smoke/lightning_logs/world/report.json || $(MAKE) smoke
	$(BIN)/python -m pytest -n 0 -m slow tests/test_notebooks.py tests/test_docs_run.py

test: .venv/installed  ## the tests
	$(BIN)/python -m pytest

test-slow: .venv/installed  ## the tests that take minutes, except the notebooks' and pages' (see `make test-pages`)
	$(BIN)/python -m pytest -m slow --ignore tests/test_notebooks.py --ignore tests/test_docs_run.py

test-latest: pyproject.toml  ## the tests with the newest versions in the ranges; deprecations are reported, not fatal
	$(PYTHON) -m venv --clear build/latest
	build/latest/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	build/latest/bin/python -m pytest $(DEPRECATIONS)

test-lowest: pyproject.toml  ## the tests with the lowest versions in the ranges
	$(PYTHON) -m venv --clear build/lowest
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	build/lowest/bin/uv pip compile --quiet --resolution lowest-direct --all-extras --python build/lowest/bin/python \
	    --output-file build/lowest/requirements.txt pyproject.toml
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check --editable . \
	    --requirement build/lowest/requirements.txt
	build/lowest/bin/python -m pytest $(DEPRECATIONS)

test-install: .venv/installed  ## wheel and sdist; the wheel in an environment of its own, its verbs from an empty folder
	.ci/installed $(BIN)/python

gpu: .venv/installed  ## every stage on this machine's GPU, resuming, memory, MFU, decoding; build/gpu.json, build/gpu.md (has not run on a GPU yet)
	$(BIN)/omni bench gpu --minutes 8

lint: .venv/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

docs: .venv/installed  ## the documentation, in build/docs; a broken link or anchor is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: lint test  ## what CI runs

install: .venv/installed  ## the environment alone

lock: build/uv/bin/uv  ## writes constraints.txt: the newest versions in the ranges, for every system; run the tests with them
	build/uv/bin/uv pip compile --quiet --upgrade --universal --all-extras --python-version 3.11 --no-annotate \
	    --custom-compile-command "make lock" --output-file constraints.txt pyproject.toml

build/uv/bin/uv:
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install --quiet --disable-pip-version-check uv

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "omni needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

data/world/world.json: .venv/installed $(wildcard omni/data/world/*.py)
	$(BIN)/omni data world --out data/world
	@touch $@

clean:  ## removes everything that was made, the environment too
	rm -rf .venv build data lightning_logs/world
