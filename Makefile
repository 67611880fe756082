# make run    builds vasta and runs its demonstration
# make test   installs what the tests need with apt when it is missing, then runs every test
# The rest: build, race, test-arm64, lint, fuzz, bench, soak, install, uninstall, clean. CONTRIBUTING.md says when to use which.

SHELL   := /bin/bash
GO      ?= go
PREFIX  ?= /usr/local
DESTDIR ?=

# Version control is asked here and not by the go command, which refuses to build in a tree owned by somebody else.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)

SHARE       := $(DESTDIR)$(PREFIX)/share
MANPAGE     := $(SHARE)/man/man1/vasta.1
COMPLETIONS := $(SHARE)/bash-completion/completions/vasta $(SHARE)/zsh/site-functions/_vasta $(SHARE)/fish/vendor_completions.d/vasta.fish

export CGO_ENABLED := 0
export GOFLAGS := -buildvcs=false $(filter-out -buildvcs=%,$(GOFLAGS))

# Tests make network namespaces, so they run as root; the build, and its cache, stay the caller's.
ifeq ($(shell id -u),0)
SUDO     :=
TESTEXEC :=
else
SUDO     := sudo
TESTEXEC := -exec "sudo -E env PATH=$$PATH"
endif

# 180 s for each package and 15 minutes in all are promises to whoever waits for them; a package that breaks one fails.
# One package at a time: tests of signals, terminals and transfers share two cores badly.
TESTFLAGS ?= -timeout 180s -count=1 -p 1
WHOLE     := timeout --signal=INT 15m
SOAKTIME  ?= 10m
SOAKBENCH ?= 1h
# The race detector cannot judge memory that is mapped outside the Go heap: it runs where everything is on the heap.
RACED     := ^github.com/vasta-net/vasta(/(flow|hostsock|internal/options|link/mem|packet|pagepool|ring|stats|timer|link/stream|link/virtio|virtio)(/|$$)|$$)
LINTER    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: all build run test test-arm64 explore prepare vet race lint fuzz bench soak lab lab-test FORCE install uninstall clean

all: build

build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/vasta ./cmd/vasta

run: build
	./bin/vasta demo

test: prepare vet lab explore
	$(WHOLE) $(GO) test $(TESTFLAGS) $(TESTEXEC) ./...

# The rings' notification protocol over all interleavings: the tag puts the explorer's memory in the place of the atomics.
explore:
	$(GO) test $(TESTFLAGS) -tags explore -run 'TestNoWakeUpLost|TestExplorer' ./virtio/queue

# What stands on the layout of shared memory, on another architecture. It shows layout and alignment; qemu does not reorder as arm64 does.
# Of a SIGBUS qemu 7.2 does not tell the address, by which memory that was taken away is told from a mistake of one's own: TestMemoryShrinks cannot work there.
test-arm64:
	command -v qemu-aarch64-static >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends qemu-user-static; }
	GOARCH=arm64 $(GO) test $(TESTFLAGS) -skip '^TestMemoryShrinks$$' -exec qemu-aarch64-static ./virtio/...

prepare:
	$(SUDO) .ci/prepare

vet:
	$(GO) vet ./...
	$(GO) vet -tags lab ./internal/lab ./test/e2e

race: prepare
	CGO_ENABLED=1 $(WHOLE) $(GO) test -race $(TESTFLAGS) $(TESTEXEC) $$($(GO) list ./... | grep -E '$(RACED)')

lint:
	$(GO) run $(LINTER) run ./...

# Every fuzz target of every package, one after the other; go test -fuzz takes one at a time.
fuzz: FUZZTIME ?= 30s
fuzz:
	@set -euo pipefail; \
	for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r -n1 dirname | sort -u); do \
		for target in $$(grep -rhoE '^func Fuzz[A-Za-z0-9_]+' $$dir/*_test.go | sed 's/^func //'); do \
			echo "== $$dir $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$dir; \
		done; \
	done

bench: build
	$(SUDO) ./bin/vasta bench net $(BENCHFLAGS)

# The long forms: the end-to-end tests that take long, TCP over the lossy path and every fuzz target for SOAKTIME each, the race detector; then every
# cell of every netem in the guest machine, 100 million frames in every cell of the overload bench, and a mixed load for SOAKBENCH here and for as long there.
soak: prepare
	$(GO) test -count=1 -timeout 30m -tags soak $(TESTEXEC) ./test/e2e
	$(GO) test -count=1 -timeout 0 -run 'TestLossyPath$$' ./flow/tcp -lossy.time $(SOAKTIME)
	$(GO) test -count=1 -timeout 0 ./ring -ring.cycles 100000000 -ring.deeper 1
	$(MAKE) fuzz FUZZTIME=$(SOAKTIME)
	$(MAKE) race
	$(MAKE) build
	$(SUDO) ./bin/vasta bench overload --count 100000000
	$(SUDO) ./bin/vasta bench net --lab --only netem,tbf,soak --soak $(SOAKBENCH)

# The guest machine, for what the kernel here lacks: its images, and one test in it.
# make lab-test PKG=./test/e2e RUN=TestNetem KERNEL=6.1
lab: prepare bin/lab
	$(SUDO) bin/lab image

bin/lab: FORCE
	$(GO) build -o bin/lab ./internal/lab/machine/lab

lab-test: KERNEL ?= 6.12
lab-test: PKG ?= ./test/e2e
lab-test: RUN ?= .
lab-test: lab build
	VASTA_E2E_PROGRAM=$(CURDIR)/bin/vasta $(GO) test -count=1 -v -tags lab -exec "$(if $(SUDO),sudo -E) $(CURDIR)/bin/lab run -kernel $(KERNEL)" -run '$(RUN)' $(PKG)

install: build
	install -D -m 0755 bin/vasta $(DESTDIR)$(PREFIX)/bin/vasta
	install -d $(dir $(MANPAGE) $(COMPLETIONS))
	bin/vasta man >$(MANPAGE)
	bin/vasta completion bash >$(word 1,$(COMPLETIONS))
	bin/vasta completion zsh >$(word 2,$(COMPLETIONS))
	bin/vasta completion fish >$(word 3,$(COMPLETIONS))

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/vasta $(MANPAGE) $(COMPLETIONS)

clean:
	rm -rf bin
