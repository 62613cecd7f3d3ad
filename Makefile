# Run `make` for the list of targets.
GO      = test/setup/go
VERSION ?= $(shell git -c safe.directory='*' describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS = -s -w -extldflags=-Wl,-z,relro,-z,now -X github.com/lxcboot/lxcboot/cmd.Version=$(VERSION)
# Static and at any address: it is executed in roots of whichever libc.
STATIC  = -linkmode=external "-extldflags=-static-pie -Wl,-z,relro,-z,now"
PREFIX  ?= /usr/local
DESTDIR ?=
OCF     = /usr/lib/ocf/resource.d/lxcboot
HOOK    = /etc/libvirt/hooks/lxc.d/lxcboot
CONFIG  = /etc/lxcboot/config.yaml
LXCFS   = lib/systemd/system/lxcfs.service.d/lxcboot.conf
DOC     = $(PREFIX)/share/doc/lxcboot
HELPERS = lxcboot-console lxcboot-copy lxcboot-init
# Debian's zsh looks into vendor-completions, others' and that below /usr/local into site-functions.
ZSH    ?= zsh/site-functions
COMPLETIONS = bash-completion/completions/lxcboot $(ZSH)/_lxcboot fish/vendor_completions.d/lxcboot.fish
FUZZTIME ?= 60s

# Two of libvirt's libraries hold nothing that lxcboot calls, and loading them takes a
# command some milliseconds.
TAGS = libvirt_without_lxc,libvirt_without_qemu

# The tree may belong to another user than the one who builds, which git refuses.
export GOFLAGS := -buildvcs=false -tags=$(TAGS) $(GOFLAGS)

.DEFAULT_GOAL := help
.PHONY: help run build test unit e2e guests test-cluster test-openstack test-stockvm torture lint fuzz bench docs install uninstall deb vendor-tarball host-packages clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: host-packages build ## Install what is missing, build, and boot a small container from a volume
	@test/setup/demo

build: ## Build bin/lxcboot, and what it starts: lxcboot-console, lxcboot-copy and lxcboot-init
	@mkdir -p bin
	$(GO) build -trimpath -buildmode=pie -ldflags '$(LDFLAGS)' -o bin/lxcboot .
	CGO_ENABLED=0 $(GO) build -trimpath -buildmode=pie -ldflags '-s -w' -o bin/lxcboot-console ./cmd/lxcboot-console
	CGO_ENABLED=1 $(GO) build -tags netgo,osusergo -trimpath -buildmode=pie -ldflags '-s -w $(STATIC)' -o bin/lxcboot-copy ./cmd/lxcboot-copy
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
	$(GO) run -trimpath -buildmode=pie ./docs/reference bin/docs docs
	rm -rf docs/cli
	cp -r bin/docs/cli docs/cli

install: build ## Install below DESTDIR and PREFIX (/usr/local): programs, units, libvirt's hook, man pages, completions, docs
	rm -rf bin/docs
	$(GO) run -trimpath -buildmode=pie ./docs/reference bin/docs '$(DOC)'
	rm -f $(addprefix '$(DESTDIR)$(PREFIX)/bin/,$(addsuffix ',$(HELPERS)))
	install -D -m 755 -t '$(DESTDIR)$(PREFIX)/bin' bin/lxcboot
	install -D -m 755 -t '$(DESTDIR)$(PREFIX)/libexec/lxcboot' $(addprefix bin/,$(HELPERS))
	install -d '$(DESTDIR)$(PREFIX)/share/man/man1' '$(DESTDIR)$(DOC)'
	install -m 644 bin/docs/man/*.1 '$(DESTDIR)$(PREFIX)/share/man/man1/'
	install -m 644 docs/*.md '$(DESTDIR)$(DOC)/'
	sed 's#](docs/#](#g; s#](LICENSE)#](copyright)#' README.md >'$(DESTDIR)$(DOC)/README.md'
	install -d $(addprefix '$(DESTDIR)$(PREFIX)/share/,$(addsuffix ',$(dir $(COMPLETIONS))))
	bin/lxcboot completion bash >'$(DESTDIR)$(PREFIX)/share/$(word 1,$(COMPLETIONS))'
	bin/lxcboot completion zsh >'$(DESTDIR)$(PREFIX)/share/$(word 2,$(COMPLETIONS))'
	bin/lxcboot completion fish >'$(DESTDIR)$(PREFIX)/share/$(word 3,$(COMPLETIONS))'
	install -D -m 644 -t '$(DESTDIR)$(PREFIX)/share/lxcboot/pacemaker' share/lxcboot/pacemaker/*
	install -D -m 755 -t '$(DESTDIR)$(PREFIX)/share/lxcboot/slurm' $(addprefix share/lxcboot/slurm/,smoke.sh prolog epilog)
	install -m 644 -t '$(DESTDIR)$(PREFIX)/share/lxcboot/slurm' share/lxcboot/slurm/*.conf
	sed -i 's#/usr/local#$(PREFIX)#g' '$(DESTDIR)$(PREFIX)'/share/lxcboot/slurm/*
	install -d '$(DESTDIR)$(OCF)'
	sed 's#@BIN@#$(PREFIX)/bin#' share/ocf/instance >'$(DESTDIR)$(OCF)/instance'
	chmod 755 '$(DESTDIR)$(OCF)/instance'
	install -D -m 644 -t '$(DESTDIR)$(PREFIX)/lib/systemd/system' share/systemd/lxcboot*
	install -D -m 644 share/systemd/lxcfs.conf '$(DESTDIR)$(PREFIX)/$(LXCFS)'
	install -D -m 644 -t '$(DESTDIR)$(PREFIX)/lib/systemd/network' share/systemd/*.link
	install -D -m 644 share/sysctl.conf '$(DESTDIR)$(PREFIX)/lib/sysctl.d/98-lxcboot.conf'
	install -D -m 755 share/libvirt/hook '$(DESTDIR)$(HOOK)'
	sed -i 's#@LXCBOOT@#$(PREFIX)/bin/lxcboot#' '$(DESTDIR)$(PREFIX)'/lib/systemd/system/lxcboot* '$(DESTDIR)$(PREFIX)/$(LXCFS)' '$(DESTDIR)$(HOOK)'
	if [ ! -e '$(DESTDIR)$(CONFIG)' ]; then install -D -m 644 share/config.yaml '$(DESTDIR)$(CONFIG)'; fi
	@echo "'lxcboot setup' says how libvirt, systemd and the kernel come to heed what was installed."

uninstall: ## Remove what make install made, but a configuration that was changed; 'lxcboot setup --remove' before it
	rm -f '$(DESTDIR)$(PREFIX)/bin/lxcboot' $(addprefix '$(DESTDIR)$(PREFIX)/share/,$(addsuffix ',$(COMPLETIONS)))
	rm -f '$(DESTDIR)$(PREFIX)'/share/man/man1/lxcboot.1 '$(DESTDIR)$(PREFIX)'/share/man/man1/lxcboot-*.1
	rm -f '$(DESTDIR)$(PREFIX)'/lib/systemd/system/lxcboot.service '$(DESTDIR)$(PREFIX)'/lib/systemd/system/lxcboot-trim.* '$(DESTDIR)$(PREFIX)/$(LXCFS)'
	rm -f '$(DESTDIR)$(PREFIX)/lib/systemd/network/98-lxcboot.link' '$(DESTDIR)$(PREFIX)/lib/sysctl.d/98-lxcboot.conf'
	rm -f '$(DESTDIR)$(OCF)/instance' '$(DESTDIR)$(HOOK)'
	rm -rf '$(DESTDIR)$(PREFIX)/share/lxcboot' '$(DESTDIR)$(PREFIX)/libexec/lxcboot' '$(DESTDIR)$(DOC)'
	if cmp -s share/config.yaml '$(DESTDIR)$(CONFIG)'; then rm '$(DESTDIR)$(CONFIG)'; fi
	for d in '$(DESTDIR)$(OCF)' '$(DESTDIR)$(dir $(CONFIG))' '$(DESTDIR)$(PREFIX)/$(dir $(LXCFS))'; do if [ -d "$$d" ]; then rmdir --ignore-fail-on-non-empty "$$d"; fi; done

deb: ## Build bin/lxcboot_VERSION_ARCH.deb
	@share/deb/build '$(VERSION)' bin

vendor-tarball: ## Build bin/lxcboot-VERSION.tar.gz with all modules in it, for a host that reaches no Go proxy
	@share/vendor-tarball '$(VERSION)' bin

host-packages:
	@test/setup/install host

clean: ## Remove what make build made
	rm -rf bin
