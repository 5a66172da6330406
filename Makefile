# The everyday commands. `make help` lists them.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run test bench micro lint ci clean

DATA_DIR := .local

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

run: ## the whole product with a simulated Twitch; Ctrl-C ends all of it
	@sh config/dev/install.sh run
	@cargo build --locked
	@exec cargo run --locked --quiet -- demo --data-dir $(DATA_DIR)

test: ## the whole test suite, on private servers
	@sh config/dev/install.sh test
	@cargo test --locked

bench: ## what it can do on this machine, beside the machine's limit; SCENARIO=votes for one alone
	@sh config/dev/install.sh run
	@cargo bench --locked --quiet --bench bench -- $(SCENARIO)

micro: ## times of the functions that every message of chat goes through
	@cargo bench --locked --bench micro

lint: ## format, clippy, Lua, SQL and shell checks
	@sh config/dev/install.sh lint
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	@# What the tests need is built here once: a build without them has other features.
	@cargo test --locked --no-run
	sh config/dev/lint-scripts.sh

ci: lint test ## what CI runs

clean: ## deletes what was built and the data of `make run`
	@cargo clean
	@sh config/dev/clean.sh $(DATA_DIR)
