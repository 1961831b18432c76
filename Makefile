# `make` or `make help` lists the targets. demo, test and bench set up all they need.

GOLANGCI_LINT := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# Empty when the tree is not a git checkout, for example a source archive: then the binary calls itself "dev".
VERSION = $(or $(shell git describe --always --dirty 2>/dev/null),dev)

# Packages tested at the same time, beside deploy/check. On 2 cores, more of them end no sooner and time out.
TEST_P ?= 3

# The packages in the order in which go test begins them and prints what came of them: those that need
# little compilation first, the one that needs all and takes longest last.
PACKAGES := ./broker/event ./httpapi/body ./httpapi/contain ./httpapi/problem ./httpapi/router ./httpapi/console ./wsgateway/access \
  ./wsgateway/websocket ./wsgateway/client ./cmd/internal/... ./broker ./deploy/... ./httpapi ./listener ./sql ./wsgateway ./cmd/telemetra ./...

# The race detector needs cgo, and go turns cgo off when there is no C compiler.
RACE = $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)

# Options of the command that demo and bench run: make demo ARGS='--help'
ARGS ?=

# The benches that bench-report measures; the others say what they said last. Empty: all.
BENCHES ?=

.DEFAULT_GOAL := help
# The prerequisites below are steps in an order, also under -j.
.NOTPARALLEL:
.PHONY: help demo test test-faults test-front build bench bench-report bench-peer bench-compare soak soak-report compose-check console-picture lint fmt clean bootstrap bootstrap-tests bootstrap-front

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: bootstrap build ## See it: the whole pipeline on this machine, with simulated traffic
	bin/telemetra demo $(ARGS)

# Benchmarks run once, so that they cannot rot: by arguments of the test binary, because go test compiles and
# runs one package at a time when it is asked for benchmarks. The tests of documents compile while the others wait.
test: bootstrap-tests ## Prove it: every test, against real Postgres and Redis servers
	@$(if $(RACE),,echo 'make: cgo is off (no C compiler?), testing without the race detector' >&2)
	@( cd deploy/check && go test -count=1 -timeout 40m ./... ) & documents=$$!; \
	  go test $(RACE) -count=1 -p $(TEST_P) -parallel 4 -timeout 40m $(PACKAGES) -args -test.bench=. -test.benchtime=1x; product=$$?; \
	  wait $$documents && exit $$product

test-faults: bootstrap-tests ## Each fault three times, and that the soak finds what it should
	go test $(RACE) -tags faults -count=1 -parallel 4 -timeout 15m -run '^TestFaults' ./cmd/telemetra

test-front: bootstrap-front ## Clients of other makers, and how the console looks, in a real browser
	go test $(RACE) -tags front -count=1 -timeout 15m -run '^TestFront' ./cmd/telemetra

build: ## Build bin/telemetra
	go build -trimpath -buildvcs=false -ldflags '-X main.version=$(VERSION)' -o bin/telemetra ./cmd/telemetra

bench: bootstrap build ## Measure it on this machine
	bin/telemetra bench $(ARGS)

bench-report: bootstrap build bin/centrifugo ## The same and more, and keep what it says in deploy/BENCH.md
	ARGS='$(ARGS)' deploy/bench-report.sh $(BENCHES)

bench-peer: bootstrap build bin/centrifugo ## Measure the gateway beside a Centrifugo (installs it into bin/)
	bin/telemetra bench peer --centrifugo=bin/centrifugo $(ARGS)

# Centrifugo is a program of its own, under the Apache License; nothing of it is linked into ours.
bin/centrifugo:
	GOBIN=$(CURDIR)/bin go install github.com/centrifugal/centrifugo/v6@v6.9.1

bench-compare: bootstrap ## Compare Go benchmarks: BASE=HEAD~1 HEAD=<the working tree> BENCH=. COUNT=10
	deploy/bench-compare.sh

# What make soak does, unless ARGS says otherwise.
SOAK := --duration 10m --rate 300 --clients 200 --faults all

soak: bootstrap build ## Break it for ten minutes: is anything lost?
	bin/telemetra soak $(or $(ARGS),$(SOAK))

soak-report: bootstrap build ## The same, and keep what it says in deploy/SOAK.md
	bin/telemetra soak $(SOAK) >bin/soak.out
	{ echo '# What a soak says'; echo; \
	  echo 'Made by `make soak-report` at $(VERSION), everything on one machine of $(shell nproc) cores. What the faults are: `telemetra soak --help`'; \
	  echo 'and [DESIGN.md](DESIGN.md#8-faults); what the lines mean: the [README](../README.md#break-it).'; echo; \
	  echo '```'; echo '$$ telemetra soak $(SOAK)'; cat bin/soak.out; echo '```'; } >deploy/SOAK.md

# All pictures of the test, of phone, wall and more, are in bin/console.
console-picture: bootstrap-tests ## Take the README's picture of the console, deploy/console.png
	go test -count=1 -timeout 5m -tags front -run '^TestFrontConsoleLooks$$/^desktop$$' ./cmd/telemetra
	cp bin/console/desktop.png deploy/console.png

# The block of deploy/COMPOSE.md is what the check printed; the text around it stays.
compose-check: build ## Run docker-compose.yml, break it, and keep what came of it in deploy/COMPOSE.md
	VERSION=$(VERSION) deploy/compose-check.sh >bin/compose-check.out || { cat bin/compose-check.out; exit 1; }
	awk '/^```$$/ { print; inside = !inside; if (inside) { print "$$ make compose-check    # at $(VERSION), $(shell nproc) cores"; \
	  while ((getline line <"bin/compose-check.out") > 0) print line } next } !inside' deploy/COMPOSE.md >bin/COMPOSE.md
	mv bin/COMPOSE.md deploy/COMPOSE.md

lint: ## Check go.mod, go vet and golangci-lint (the first run compiles the linter)
	for module in . deploy/check; do ( cd $$module && go mod tidy -diff && go vet ./... && $(GOLANGCI_LINT) run ./... ) || exit 1; done

fmt: ## Format the Go code
	$(GOLANGCI_LINT) fmt ./...
	cd deploy/check && $(GOLANGCI_LINT) fmt ./...

clean: ## Remove what the other targets built
	rm -rf bin coverage.out

bootstrap:
	./deploy/bootstrap.sh

# The tests need promtool, HAProxy and Chromium, too; who only wants to see the demo does not.
bootstrap-tests:
	./deploy/bootstrap.sh tests

# Clients that run in node, too.
bootstrap-front:
	./deploy/bootstrap.sh front
