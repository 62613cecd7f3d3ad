# Run `make` for the list of targets.
GO      = test/setup/go
VERSION ?= $(shell git -c safe.directory='*' describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS = -s -w -X github.com/lxcboot/lxcboot/cmd.Version=$(VERSION)
PREFIX  ?= /usr/local
DESTDIR ?=
OCF     = /usr/lib/ocf/resource.d/lxcboot
COMPLETIONS = bash-completion/completions zsh/site-functions fish/vendor_completions.d
FUZZTIME ?= 60s

# Two of libvirt's libraries hold nothing that lxcboot calls, and loading them takes a
# command some milliseconds.
TAGS = libvirt_without_lxc,libvirt_without_qemu

# The tree may belong to another user than the one who builds, which git refuses.
export GOFLAGS := -buildvcs=false -tags=$(TAGS) $(GOFLAGS)

.DEFAULT_GOAL := help
.PHONY: help run build test unit e2e guests test-cluster test-openstack test-stockvm torture lint fuzz bench docs install uninstall host-packages clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: host-packages build ## Install what is missing, build, and boot a small container from a volume
	@test/setup/demo

build: ## Build bin/lxcboot, and what it starts: lxcboot-console, lxcboot-copy and lxcboot-init
	@mkdir -p bin
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/lxcboot .
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/lxcboot-console ./cmd/lxcboot-console
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/lxcboot-copy ./cmd/lxcboot-copy
	cmd/lxcboot-init/build "$(CURDIR)/bin/lxcboot-init"

test: ## Install what is missing; unit tests with the race detector, end to end, some real systems, a cluster
	@test/run unit e2e guests cluster

unit: ## The first part of make test: `make unit ARGS='./pkg/bdm -run Spec'`
	@test/run unit $(ARGS)

e2e: ## The second part: `make e2e ARGS='-run TestScripts/mainjob'`
	@test/run e2e $(ARGS)

guests: ## Real operating systems, all: `make guests ARGS='-run TestGuests/debian13'`
	@test/run guests $(ARGS)

test-cluster: ## Hosts made of namespaces, with real Slurm and Pacemaker; without what takes long
	@test/run cluster -short $(ARGS)

test-openstack: ## Boot from a real Keystone, Glance and Cinder, installed and started for it
	@test/setup/install test
	@test/setup/libvirtd start
	@PATH="$$($(GO) env GOROOT)/bin:$$PATH" test/openstack/run

test-stockvm: ## A stock Debian host in a virtual machine: systemd, udev, reboots, power cuts
	@test/stockvm/run -short -skip '^TestPowerCuts$$' $(ARGS)

torture: ## The long tests: kills, races, hostile input (hours)
	@test/setup/install test
	@test/setup/libvirtd start
	@PATH="$$($(GO) env GOROOT)/bin:$$PATH" test/torture/run

lint: ## gofmt, go vet, staticcheck, what nothing uses, shellcheck
	@test/setup/lint

fuzz: ## Each fuzz target for FUZZTIME (60s)
	@test/setup/fuzz $(FUZZTIME)

bench: host-packages build ## Boot from an existing volume, in turns with losetup, mount, virsh create, umount
	@test/setup/libvirtd start
	$(GO) run ./test/bench $(ARGS)

docs: build ## Make the reference in docs/cli from the commands themselves
	rm -rf bin/docs
	$(GO) run ./docs/reference bin/docs
	rm -rf docs/cli
	cp -r bin/docs/cli docs/cli

install: build ## Install below DESTDIR and PREFIX (/usr/local): the programs, man pages, completions
	rm -rf bin/docs
	$(GO) run ./docs/reference bin/docs
	install -D -m 755 -t '$(DESTDIR)$(PREFIX)/bin' bin/lxcboot bin/lxcboot-console bin/lxcboot-copy bin/lxcboot-init
	install -d '$(DESTDIR)$(PREFIX)/share/man/man1'
	install -m 644 bin/docs/man/*.1 '$(DESTDIR)$(PREFIX)/share/man/man1/'
	install -d $(addprefix '$(DESTDIR)$(PREFIX)/share/,$(addsuffix ',$(COMPLETIONS)))
	bin/lxcboot completion bash >'$(DESTDIR)$(PREFIX)/share/bash-completion/completions/lxcboot'
	bin/lxcboot completion zsh >'$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_lxcboot'
	bin/lxcboot completion fish >'$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/lxcboot.fish'
	install -D -m 644 -t '$(DESTDIR)$(PREFIX)/share/lxcboot/pacemaker' share/lxcboot/pacemaker/*
	install -D -m 755 -t '$(DESTDIR)$(PREFIX)/share/lxcboot/slurm' $(addprefix share/lxcboot/slurm/,smoke.sh prolog epilog)
	install -m 644 -t '$(DESTDIR)$(PREFIX)/share/lxcboot/slurm' share/lxcboot/slurm/*.conf
	sed -i 's#/usr/local#$(PREFIX)#g' '$(DESTDIR)$(PREFIX)'/share/lxcboot/slurm/*
	install -d '$(DESTDIR)$(OCF)'
	sed 's#@BIN@#$(PREFIX)/bin#' share/ocf/instance >'$(DESTDIR)$(OCF)/instance'
	chmod 755 '$(DESTDIR)$(OCF)/instance'
	@echo "As root, 'lxcboot setup' adds libvirt's hook and the systemd unit."

uninstall: ## Remove what make install made; 'lxcboot setup --remove' before it
	rm -f $(addprefix '$(DESTDIR)$(PREFIX)/bin/,$(addsuffix ',lxcboot lxcboot-console lxcboot-copy lxcboot-init))
	rm -f '$(DESTDIR)$(PREFIX)'/share/man/man1/lxcboot.1 '$(DESTDIR)$(PREFIX)'/share/man/man1/lxcboot-*.1
	rm -f '$(DESTDIR)$(PREFIX)/share/bash-completion/completions/lxcboot' '$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_lxcboot' '$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/lxcboot.fish'
	rm -rf '$(DESTDIR)$(PREFIX)/share/lxcboot'
	rm -f '$(DESTDIR)$(OCF)/instance'
	if [ -d '$(DESTDIR)$(OCF)' ]; then rmdir '$(DESTDIR)$(OCF)'; fi

host-packages:
	@test/setup/install host

clean: ## Remove what make build made
	rm -rf bin
