# Everything runs in .venv; PYTHON names the interpreter that makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONWARNINGS ?= ignore

.PHONY: run test test-kafka chaos bench lint

run: $(VENV)/.run
	@exec $(BIN)/python manage.py up

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 $(ARGS)

test-kafka: $(VENV)/.dev
	@test -n "$$KAFKA_BOOTSTRAP_SERVERS" || { echo "KAFKA_BOOTSTRAP_SERVERS is not set: name a running Apache Kafka, as in KAFKA_BOOTSTRAP_SERVERS=localhost:9092 make test-kafka" >&2; exit 2; }
	$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 $(ARGS)

chaos: $(VENV)/.dev
	$(BIN)/python -m tests.chaos $(ARGS)

bench: $(VENV)/.bench
	$(BIN)/python -m tests.benchmarks $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=. $(BIN)/lint-imports
	SECRET_KEY=lint DATABASE_URL=postgresql://lint@localhost/lint $(BIN)/python manage.py makemigrations --check --dry-run

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "TaskPulse needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 run" >&2; exit 2; }
	@$(PYTHON) -m venv --clear $(VENV) && touch $@

# Each stamp holds the checksum of what was installed: a changed file is installed again, a touched one is not.
$(VENV)/.run: REQUIREMENTS := requirements.txt
$(VENV)/.dev: REQUIREMENTS := requirements.txt requirements-dev.txt
$(VENV)/.bench: REQUIREMENTS := requirements.txt requirements-dev.txt tests/benchmarks/requirements.txt
$(VENV)/.run $(VENV)/.dev $(VENV)/.bench: $(VENV)/.made FORCE
	@sum=$$(cat $(REQUIREMENTS) | cksum); if [ "$$sum" != "$$(cat $@ 2>/dev/null)" ]; then \
		echo "installing $(lastword $(REQUIREMENTS)) …"; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check $(REQUIREMENTS:%=-r %) && echo "$$sum" > $@; fi

.PHONY: FORCE
FORCE:
