# Everything a person runs is here; `make help` lists it.
SHELL := /bin/bash
GO ?= go
BIN := bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME ?= 10s
ROUNDS ?= 1
BENCHED := ./spec/... ./signer ./agent ./reconciler ./controller/verify ./controller/serve ./controller/enrol ./internal/protocol
# What has to compile beyond Linux, and for the small boards that agents run on.
SYSTEMS := darwin windows freebsd
BOARDS := arm arm64 mips riscv64
PORTABLE := ./spec/... ./signer/... ./reconciler/... ./agent/... ./internal/protocol

.PHONY: help build demo test providers test-kernel lint generate check-generated fuzz bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build apex, apex-controller and apex-agent into bin/
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

demo: build ## run the main job on a small internet inside this machine
	@$(BIN)/apex demo

test: build providers test-kernel ## run every test that runs on this machine, with the race detector
	$(GO) test -race -timeout 20m ./...

providers: ## build the OpenID providers that tests run against, unless the cache has them (2 minutes of CPU)
	$(GO) run ./internal/idp/prepare

test-kernel: ## run the reconciler against the kernel's WireGuard, in an emulated machine
	$(GO) run ./reconciler/kerneltest

lint: ## gofmt, vet, staticcheck, and compile for other systems
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo 'run: gofmt -w .' >&2; exit 1; }
	$(GO) vet ./...
	for os in $(SYSTEMS); do GOOS=$$os $(GO) build $(PORTABLE) || exit 1; done
	for arch in $(BOARDS); do GOARCH=$$arch CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/apex-agent || exit 1; done
	$(GO) run $(STATICCHECK) ./...
	cd internal/idp/zitadel && $(GO) vet ./... && $(GO) run $(STATICCHECK) ./...

generate: ## write the schemas and the reference pages again
	$(GO) generate ./...

check-generated: generate ## fail when a generated file is out of date
	@git diff --exit-code --stat -- schemas docs spec || { echo 'generated files are out of date: run make generate and commit' >&2; exit 1; }

fuzz: ## fuzz every target for FUZZTIME each
	@set -e; for file in $$(grep -rl --include='*_test.go' '^func Fuzz' . | sort); do \
	  for f in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$file); do \
	    echo "fuzz $$(dirname $$file) $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$(dirname $$file); done; done

bench: ## measure; docs/performance.md says how to read it
	$(GO) test -run '^$$' -bench . -benchtime $(ROUNDS)x -p 1 -timeout 30m ./test/bench/...
	$(GO) test -run '^$$' -bench . -benchtime 3x -benchmem -p 1 $(BENCHED)

clean: ## remove what the build made
	rm -rf $(BIN)
