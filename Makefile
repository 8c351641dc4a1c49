# Everything runs in .venv; PYTHON names the interpreter that makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONWARNINGS ?= ignore

# For commands that read the settings and neither database nor sessions.
UNUSED_SETTINGS := TASKPULSE_MODE=local SECRET_KEY=lint DATABASE_URL=postgresql://lint@localhost/lint

.PHONY: run test test-kafka test-load kafka-away tamper-test chaos bench bench-outbox bench-reading bench-stream bench-verify plans test-lists lint settings-table openapi messages problem-types requirements sbom audit-packages licences arm64-packages image image-test compose-test

run: $(VENV)/.run
	@exec $(BIN)/python manage.py up

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 3 --dist loadfile --max-worker-restart 0 $(ARGS)

test-kafka: $(VENV)/.dev
	@test -n "$$KAFKA_BOOTSTRAP_SERVERS" || { echo "KAFKA_BOOTSTRAP_SERVERS is not set: name a running Apache Kafka, as in KAFKA_BOOTSTRAP_SERVERS=localhost:9092 make test-kafka" >&2; exit 2; }
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 $(ARGS)

# Overload, slow clients, roll-overs and outages under load: some minutes.
test-load: $(VENV)/.dev
	$(BIN)/python -m pytest -n 0 --durations=5 tests/load $(ARGS)

# Kafka is away for so many changes: an hour at 200 a second.
CHANGES ?= 720000
kafka-away: $(VENV)/.dev
	KAFKA_AWAY_CHANGES=$(CHANGES) $(BIN)/python -m pytest -n 0 -s tests/load/test_kafka_away.py $(ARGS)

# Of each of two seeds: tamperings, and untouched logs; `make test` runs a share of it.
tamper-test: export TAMPERINGS ?= 1000
tamper-test: export UNTOUCHED_LOGS ?= 1000
tamper-test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -rP tests/test_tampering.py $(ARGS)

chaos: $(VENV)/.dev
	$(BIN)/python -m tests.chaos $(ARGS)

bench: $(VENV)/.bench $(VENV)/.express
	$(BIN)/python -m tests.benchmarks $(ARGS)

# A million changes twice, the second time beside an open snapshot: size, dead rows, the relay's poll. Some 10 minutes.
bench-outbox: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.outbox $(ARGS)

# What searches of the audit log take, and its indexes; ENTRIES=10000000 ARGS=--plans fills a partition: some 15 GB.
bench-reading: $(VENV)/.bench
	$(BIN)/python -m tests.benchmarks.reading $(if $(ENTRIES),--entries $(ENTRIES)) $(ARGS)

# The whole list as JSON Lines and CSV, of short tasks and of long ones, up to a million: some 10 minutes.
bench-stream: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.stream $(ARGS)

# `verify_audit` of a signed log with a tenth, two fifths and all of ENTRIES: 5000000 shows its memory, in an hour or so.
bench-verify: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.verification $(if $(ENTRIES),--entries $(ENTRIES)) $(ARGS)

# Each list of the API at a million tasks and at a thousand: some minutes.
plans: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks.million $(ARGS)

# Lists against a naive model, and cursors while others write; `make test` tries 20 of each.
test-lists: export LIST_EXAMPLES ?= 2000
test-lists: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 tests/test_api_list_model.py tests/test_api_list_cursors.py $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=. $(BIN)/lint-imports
	$(UNUSED_SETTINGS) $(BIN)/python manage.py makemigrations --check --dry-run

# README's table, from taskpulse/declarations.py.
settings-table: $(VENV)/.dev
	$(UNUSED_SETTINGS) $(BIN)/python manage.py settings_table

# The catalogues of translations, from the code; then translate what is new in taskpulse/locale/*/LC_MESSAGES/django.po and make it again.
LANGUAGES := de fr
messages: $(VENV)/.dev
	$(BIN)/pybabel -q extract --no-default-keywords -k _ -k Problem:2 -k Wrong:1 -k PermissionDenied:1 -k NotAcceptable:1 --no-location --sort-output --no-wrap -o $(VENV)/messages.pot taskpulse tasks audit
	for language in $(LANGUAGES); do \
		$(BIN)/pybabel -q update -i $(VENV)/messages.pot -d taskpulse/locale -D django -l $$language \
			--no-fuzzy-matching --ignore-obsolete --ignore-pot-creation-date --no-wrap || exit 1; done
	$(BIN)/pybabel -q compile -d taskpulse/locale -D django

# docs/api/problems.md, from taskpulse/problem_types.py.
problem-types: $(VENV)/.dev
	$(UNUSED_SETTINGS) $(BIN)/python manage.py problem_types

# The other documents of docs/api, from the views and models. It is sorted: after a merge, make it anew instead of mending it.
openapi: $(VENV)/.dev
	@RECORD_EXAMPLES=1 $(BIN)/python -m pytest -n 0 -q tests/test_api_examples.py -k answered
	$(UNUSED_SETTINGS) $(BIN)/python manage.py api_documents

# A whole service against its OpenAPI document: CASES requests at least (10,000). With 3000 some 4 minutes.
schemathesis: $(VENV)/.schemathesis
	$(BIN)/python -m tests.schemathesis

# ---- the image; DOCKER names the engine's client

DOCKER ?= docker
IMAGE ?= taskpulse:$(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
export DOCKER IMAGE

image:
	$(DOCKER) build --tag $(IMAGE) --build-arg VERSION=$(lastword $(subst :, ,$(IMAGE))) \
		--build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) $(BUILD_ARGS) .

image-test: $(VENV)/.dev image
	$(BIN)/python -m pytest tests/container $(ARGS)

# docker-compose.yml on a real engine, from nothing to nothing.
compose-test: $(VENV)/.dev image
	$(BIN)/python -m tests.compose

# ---- what is installed: NAME.in holds the direct packages with their reasons, NAME.txt all of them with their hashes

# ARGS="--upgrade-package NAME" takes a newer release of an indirect package, ARGS=--upgrade of all of them.
COMPILE = $(BIN)/uv pip compile --quiet --no-config --system-certs --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make requirements" $(ARGS)

# It needs no whole .dev, so that it also mends files that cannot be installed (after a merge, say).
requirements: $(VENV)/.made
	@[ -x $(BIN)/uv ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep -o '^uv==[^ ]*' requirements-dev.in)
	$(COMPILE) requirements.in -o requirements.txt
	$(COMPILE) requirements-embedded.in -c requirements.txt -o requirements-embedded.txt
	$(COMPILE) requirements-dev.in -c requirements.txt -c requirements-embedded.txt -o requirements-dev.txt
	$(COMPILE) tests/benchmarks/requirements.in -c requirements.txt -c requirements-embedded.txt -c requirements-dev.txt -o tests/benchmarks/requirements.txt
	$(COMPILE) tests/schemathesis/requirements.in -c requirements.txt -c requirements-embedded.txt -c requirements-dev.txt -c tests/benchmarks/requirements.txt -o tests/schemathesis/requirements.txt

LISTS := requirements.txt requirements-embedded.txt requirements-dev.txt tests/benchmarks/requirements.txt tests/schemathesis/requirements.txt

sbom: $(VENV)/.dev $(VENV)/.image
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible -o sbom.cdx.json $(VENV)/image/bin/python

audit-packages: $(VENV)/.dev
	$(BIN)/pip-audit --strict --disable-pip --require-hashes $(LISTS:%=-r %)

# Of the image, and of what `make run` installs beside.
licences: $(VENV)/.dev $(VENV)/.product
	$(BIN)/pip-licenses --python $(VENV)/product/bin/python $(ARGS)

# Whether every package of the image has a wheel for arm64, of the hash that is written down.
arm64-packages: $(VENV)/.made
	@rm -rf $(VENV)/arm64
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --dest $(VENV)/arm64 --no-deps --require-hashes \
		--only-binary=:all: --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 --implementation cp \
		--python-version $$(sed -n 's/^ARG PYTHON_IMAGE=python:\([0-9.]*\)-.*/\1/p' Dockerfile) -r requirements.txt

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "TaskPulse needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 run" >&2; exit 2; }
	@$(PYTHON) -m venv --clear $(VENV) && touch $@

# Each stamp holds the checksum of what was installed: a changed file is installed again, a touched one is not.
$(VENV)/.run: REQUIREMENTS := requirements.txt requirements-embedded.txt
$(VENV)/.dev: REQUIREMENTS := requirements.txt requirements-embedded.txt requirements-dev.txt
$(VENV)/.bench: REQUIREMENTS := requirements.txt requirements-embedded.txt requirements-dev.txt tests/benchmarks/requirements.txt
$(VENV)/.schemathesis: REQUIREMENTS := requirements.txt requirements-embedded.txt requirements-dev.txt tests/schemathesis/requirements.txt
# What the image holds and nothing else, and what the product does, for the inventories.
$(VENV)/.image: REQUIREMENTS := requirements.txt
$(VENV)/.image: INTO := $(VENV)/image
$(VENV)/.product: REQUIREMENTS := requirements.txt requirements-embedded.txt
$(VENV)/.product: INTO := $(VENV)/product
$(VENV)/.run $(VENV)/.dev $(VENV)/.bench $(VENV)/.schemathesis $(VENV)/.image $(VENV)/.product: $(VENV)/.made FORCE
	@sum=$$(cat $(REQUIREMENTS) | cksum); if [ "$$sum" != "$$(cat $@ 2>/dev/null)" ]; then \
		echo "installing $(lastword $(REQUIREMENTS)) …"; \
		if [ -n "$(INTO)" ]; then $(BIN)/python -m venv --clear --without-pip $(INTO); fi && \
		$(BIN)/python -m pip $(INTO:%=--python %) install --quiet --disable-pip-version-check --require-hashes $(REQUIREMENTS:%=-r %) && echo "$$sum" > $@; fi

# The peer that runs on Node.js, where npm is there; elsewhere the benchmarks leave it out.
EXPRESS := tests/benchmarks/peer_express
$(VENV)/.express: $(VENV)/.made FORCE
	@command -v npm > /dev/null || { echo "npm is not there: no benchmark beside Express (it needs Node.js 20 or newer)"; exit 0; }; \
	sum=$$(cat $(EXPRESS)/package.json $(EXPRESS)/package-lock.json | cksum); \
	if [ "$$sum" != "$$(cat $@ 2>/dev/null)" ] || [ ! -d $(EXPRESS)/node_modules ]; then \
		echo "installing $(EXPRESS)/package-lock.json …"; \
		npm ci --prefix $(EXPRESS) --silent --no-audit --no-fund --ignore-scripts && echo "$$sum" > $@; fi

.PHONY: FORCE
FORCE:
