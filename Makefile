# make demo   train three replicas on embedded digits, in a virtual environment of its own
# make test   every test
# make lint   style

PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	$(BIN)/parle train --name demo --overwrite --baseline

test: $(VENV)/.tests
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# $(1): extras to install with the package, $(2): options; a demo starts sooner without compiling, many processes start sooner with it
define install
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "parle needs Python 3.11 or newer, but $(PY) is $$($(PY) --version 2>&1). Try: make PY=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PY) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(2) -c constraints.txt -e ".[$(1)]"
	touch $@
endef

$(VENV)/.installed: pyproject.toml constraints.txt
	$(call install,data,--no-compile)

$(VENV)/.tests: pyproject.toml constraints.txt
	$(call install,test)

$(VENV)/.dev: pyproject.toml constraints.txt
	$(call install,dev)

clean:
	rm -rf $(VENV)
