PYTHON ?= python3
BIN := .venv/bin
# modules are compiled when they are first imported, not all 26,000 at once
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
# tasks without an adapter in the shipped encoder, and the tasks whose adapters they borrow
LENT := trex=zsre aidayago2=wned cweb=wned '*=none'

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

search: .venv/installed ## install, search the sample collection and print its scores
	$(BIN)/python -m taco_ir.search --topics all-dev

test: .venv/developed ## run the tests, on all processors
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

check: lint types test ## all that must be green before a change is merged

lint: .venv/developed ## style and layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/developed ## static types
	$(BIN)/mypy

house: ## measure the layout of the code; fails if a target is missed
	@$(PYTHON) tests/house.py

faults: .venv/developed ## kill, double and starve every verb that writes, and damage every file that is read (as root: on full disks too)
	$(BIN)/python tests/faults/trials.py kills
	$(BIN)/python tests/faults/trials.py workers
	$(BIN)/python tests/faults/trials.py pairs
	$(BIN)/python tests/faults/trials.py disks
	$(BIN)/python tests/faults/fuzz.py 10000

bench: .venv/developed ## compare speed with other tools, on a quiet machine: make bench [COLLECTION=path] [MODEL=paths]
	$(PIP) --editable '.[bench]'
	$(BIN)/python benchmarks $(if $(COLLECTION),--collection $(COLLECTION)) $(if $(MODEL),--model $(MODEL))

readme: .venv/installed ## generate the tables in documents, the picture, and the card of the shipped encoder
	$(BIN)/python docs/generate.py

docs: .venv/developed ## build the documents as a site, in build/site
	$(BIN)/python -m mkdocs build --quiet --strict

encoder: .venv/installed ## make the encoder that ships: make encoder MODEL=path COLLECTION=path TRAINING="runs" RESULT=record BESIDE="records"
	$(BIN)/python -m taco_ir.export --model $(MODEL) --collection $(COLLECTION) --what compact --weights int8 --megabytes 29.9 --prompt-of $(LENT) \
		--output build/encoder --overwrite
	rm -rf taco_ir/encoder_mini
	mv build/encoder/compact taco_ir/encoder_mini
	$(BIN)/python -m taco_ir.card taco_ir/encoder_mini --training $(TRAINING) --result $(RESULT) $(if $(BESIDE),--beside $(BESIDE))

weights: ## ship the weights of its hybrid by task, as search --choose-weights wrote them: make weights FILE=path
	cp $(FILE) taco_ir/encoder_mini/hybrid.json

clean: ## remove what was installed and built here
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing taco_ir and its dependencies into .venv (minutes, once)"
	$(PIP) --editable .
	@touch $@

.venv/developed: .venv/installed
	@echo "installing the developers' tools into .venv (once)"
	$(PIP) --editable '.[dev]'
	@touch $@

.PHONY: help search test check lint types house faults bench readme docs encoder weights clean
