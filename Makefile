# Two commands: `make quickstart` and `make test`. Both make the environment first, once.
PYTHON ?= python3
BIN := .venv/bin
RUNS := lightning_logs/world
SPOKEN := data/world/speech/val/world-val-000000.wav
DRAWN := data/world/images/val/world-val-000000.png
SENTENCE := The small red star is above the large blue circle.

.PHONY: quickstart test lint check install clean

quickstart: $(RUNS)/thinker/done $(RUNS)/audio/done $(RUNS)/vision/done $(RUNS)/talker/done  ## world, stages A to D: what each makes of it
	$(BIN)/omni generate --checkpoint $(RUNS)/thinker/best.ckpt --text "The picture shows" --max_tokens 80
	@echo "said:  $$(sed -n '1s/.*"text": "\([^"]*\)".*/\1/p' data/world/speech/val.jsonl)"
	@echo "heard: $$($(BIN)/omni transcribe $(SPOKEN) --checkpoint $(RUNS)/audio/best.ckpt)"
	@echo "drawn: $$(sed -n '1s/.*"captions": \["\([^"]*\)".*/\1/p' data/world/images/val.jsonl)"
	@echo "seen:  $$($(BIN)/omni classify $(DRAWN) --checkpoint $(RUNS)/vision/best.ckpt)"
	@echo "to be said: $(SENTENCE)"
	$(BIN)/omni speak "$(SENTENCE)" --out $(RUNS)/spoken.wav --checkpoint $(RUNS)/talker/best.ckpt
	$(BIN)/omni transcribe $(RUNS)/spoken.wav --checkpoint $(RUNS)/audio/best.ckpt --out $(RUNS)/spoken.txt
	@echo "heard:      $$(cat $(RUNS)/spoken.txt)"

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
.SECONDARY:
$(RUNS)/%/done: data/world/world.json configs/base.yaml configs/world/%.yaml
	$(BIN)/omni fit --config configs/world/$*.yaml $(if $(wildcard $(RUNS)/$*/done),,$(if $(wildcard $(RUNS)/$*/last.ckpt),--ckpt_path last))
	@touch $@

$(RUNS)/thinker/done: configs/models/laptop/thinker.yaml
$(RUNS)/audio/done: configs/models/laptop/audio_encoder.yaml
$(RUNS)/vision/done: configs/models/laptop/vision_encoder.yaml
$(RUNS)/codec/done: configs/models/laptop/codec.yaml $(RUNS)/audio/done
$(RUNS)/talker/done: configs/models/laptop/talker.yaml $(RUNS)/codec/done

clean:  ## all that was made, the environment too
	rm -rf .venv data lightning_logs/world
