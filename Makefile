# Every target does its own set-up in .venv on a fresh machine: Python 3.11 or newer with venv, and make.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# the demo and the tests start many processes: Python keeps what it compiled, also where the surroundings say otherwise
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test lint labs labs-page bench soak cuda clean
help:
	@echo "make demo   train a network on real handwritten digits and look at it (a minute)"
	@echo "make test   run the tests"
	@echo "make lint   style and types"
	@echo "make labs   check the field's claims in their full forms (long; fetches fashion-mnist)"
	@echo "make labs-page  write what the labs print, and their figures, into docs/ (half an hour)"
	@echo "make bench  time Layerwise beside its peers (long)"
	@echo "make cuda   run the tests that need an NVIDIA GPU, and the contract of every model on it"
	@echo "make soak   kill and resume, and fuzz the readers, an hour for each fuzzer (long)"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(READY)

demo: $(READY)
	$(BIN)/layerwise train lenet5 --data digits --epochs 15
	@run=$$(ls -dt runs/lenet5-digits-* | head -n 1); \
	$(BIN)/layerwise eval $$run && \
	$(BIN)/layerwise inspect $$run --view mistakes --out $$run-mistakes && \
	echo "open $$run/report.html in a browser"

test: $(READY)
	$(BIN)/python -m pytest -m "not soak and not cuda" -n 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check src tests tools
	$(BIN)/ruff format --check src tests tools
	$(BIN)/mypy

labs: $(READY)
	$(BIN)/layerwise data fashion-mnist --download
	$(BIN)/layerwise lab --all --full

labs-page: $(READY)
	$(BIN)/python tools/labs_page.py

bench: $(READY)
	$(BIN)/layerwise bench --all --out bench-results/results.jsonl

soak: $(READY)
	$(BIN)/python -m pytest -m soak --timeout 7200

cuda: $(READY)
	$(BIN)/python -m pytest tests/test_cuda.py -m cuda -W default
	$(BIN)/python -m pytest tests/test_contract.py --device cuda -W default

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
