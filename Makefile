# The face of xtask: the few verbs that everyone needs. `make` alone lists them.
SHELL := /bin/sh
TARGET := $(or $(CARGO_TARGET_DIR),target)
XTASK := cargo run --quiet --locked --package xtask --

.DEFAULT_GOAL := help
.PHONY: help up test check gen bench faults

help: ## This list
	@echo 'astrfleet: one AstrBot for every tenant. Verbs:'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ARGS ?= --demo
up: ## Build and start everything on this machine, with a first tenant and a question (ARGS="": without)
	@tools/need cargo cc python
	@echo 'building astrfleet (the first time takes some minutes, an edit some seconds)'
	@cargo build --release --locked --package astrfleet
	@exec $(TARGET)/release/astrfleet up $(ARGS)

test: ## Install what the tests need, run them all (ARGS="-p astrfleet-core next": only those)
	@tools/need cargo cc python
	@$(XTASK) test $(ARGS)

check: ## Judge format, lints, docs, walls, licences, generated files (WHAT="arrows lints": only those)
	@tools/need cargo cc
	@$(XTASK) check $(WHAT)

gen: ## Write the generated files anew
	@tools/need cargo cc
	@$(XTASK) gen

bench: ## Measure beside the peers (WHAT=gateway, remote, accept, bridge, llm, idle or history: only that)
	@tools/need cargo cc
	@cargo run --quiet --locked --release --package xtask -- bench $(WHAT)

faults: ## Break one thing after the other in a fleet under load, and count its messages (WHAT=Redis: only those)
	@tools/need cargo cc python
	@$(XTASK) faults $(WHAT)
