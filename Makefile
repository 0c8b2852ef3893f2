# Every target sets up .venv in this folder by itself and reuses it; nothing is installed anywhere else.
#   make demo    train, compress, distil and run a small model on this machine (about ten minutes)
#   make test    the test suite        make lint   style, types, layers
#   make soak    the long tests        make docs   the documentation as a site, in build/site/html
#   make clean   delete the environment and the caches

CANDIDATES = python3.11 python3.12 python3.13 python3.14 python3
USABLE     = import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON    ?= $(shell for name in $(CANDIDATES); do $$name -c '$(USABLE)' 2>/dev/null && { echo $$name; break; }; done)

BIN     = .venv/bin
INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: demo test soak lint docs clean

demo: .venv/demo-is-installed
	$(BIN)/amaru demo

test: .venv/dev-is-installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2

soak: .venv/dev-is-installed
	$(BIN)/pytest -q -m soak

lint: .venv/dev-is-installed
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# Strict: a link that leads nowhere, or out to another server for a script or a font, is an error.
docs: .venv/docs-is-installed
	$(BIN)/python -m website

clean:
	rm -rf .venv build src/*.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# ensurepip writes pip last, so this file means that the environment is whole.
$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "amaru needs Python 3.11 or newer with its venv module, and none of" \
	  "$(CANDIDATES) is one; install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv .venv

.venv/demo-is-installed: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing amaru into .venv, once (torch is large; this can take minutes) ..." >&2
	@$(INSTALL) -e .
	@touch $@

.venv/dev-is-installed: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing amaru and its development tools into .venv, once (torch is large; this can take minutes) ..." >&2
	@$(INSTALL) -e '.[dev]'
	@touch .venv/demo-is-installed $@

.venv/docs-is-installed: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing what builds the documentation into .venv, once ..." >&2
	@$(INSTALL) -e '.[docs]'
	@touch $@
