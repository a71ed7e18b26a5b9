# make demo   train three replicas on embedded digits, in a virtual environment of its own
# make test   every test
# make lint   style
# make docs   the pages of docs/algorithms, from the classes
# make bench  every benchmark, beside its peers; QUICK=1 for a quick look, else the table goes into docs/performance.md

PY ?= python3
VENV := .venv
PEERS := .venv-bench
BIN := $(VENV)/bin
comma := ,
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test lint docs bench clean

demo: $(VENV)/.installed
	$(BIN)/parle train --name demo --overwrite --baseline

test: $(VENV)/.tests
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py

# $(1): extras to install with the package, $(2): options; a demo starts sooner without compiling, many processes start sooner with it
define install
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "parle needs Python 3.11 or newer, but $(PY) is $$($(PY) --version 2>&1). Try: make PY=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PY) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(2) -c constraints.txt -e ".[$(1)]"
	touch $@
endef

# The peers are no dependency of ours: they have an environment of their own, and one that cannot be installed is left out.
bench: $(PEERS)/.peers
	$(PEERS)/bin/python benchmarks/run.py $(if $(QUICK),--quick,--page docs/performance.md)

$(PEERS)/.peers: pyproject.toml constraints.txt
	$(MAKE) --no-print-directory VENV=$(PEERS) $(PEERS)/.tests
	for peer in accelerate torchft-nightly; do $(PEERS)/bin/python -m pip install --quiet -c constraints.txt $$peer || echo "$$peer is left out"; done
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt
	$(call install,data$(comma)plots,--no-compile)

$(VENV)/.tests: pyproject.toml constraints.txt
	$(call install,test)

$(VENV)/.dev: pyproject.toml constraints.txt
	$(call install,dev)

clean:
	rm -rf $(VENV) $(PEERS)
