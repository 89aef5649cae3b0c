# osprovider: build, test, try out. `make help` lists the targets.

PYTHON      := /usr/bin/python3
VENV        := .venv
DESTDIR     ?=
PREFIX      ?= /usr
OS_DIR      := $(PREFIX)/share/ganeti/os/osprovider
SHARE_DIR   := $(PREFIX)/share/osprovider
PYTHON_DIR  := $(PREFIX)/lib/python3/dist-packages
DOC_DIR     := $(PREFIX)/share/doc/osprovider
CONFIG_DIR  := /etc/ganeti/osprovider
JOBS        ?= $(shell nproc)
# A file's tests share what is dear to make. Files go out in their order (tests/conftest.py): what takes longest, first.
SHARED_OUT  := --dist loadfile --no-loadscope-reorder
# Where test-boot leaves what guests say.
CONSOLES    := $(CURDIR)/build/boot

# What a node needs (debian/control says the same), and what building and testing need beyond it.
NODE_PACKAGES  := bubblewrap ca-certificates debian-archive-keyring dosfstools e2fsprogs gnutls-bin gpgv grub-common \
                  grub-efi-amd64-bin grub-pc-bin mmdebstrap mount mtools openssh-client perl-base pigz python3 python3-click \
                  python3-jinja2 python3-parted python3-requests python3-yaml util-linux xz-utils zstd \
                  btrfs-progs debootstrap dump extlinux fuse2fs lbzip2 libguestfs-xfs linux-image-cloud-amd64 lz4 \
                  python3-guestfs qemu-utils xfsprogs
BUILD_PACKAGES := build-essential debhelper dh-python fakeroot
DEMO_PACKAGES  := qemu-system-x86 ovmf
TEST_PACKAGES  := acl attr db5.3-util fdisk gdisk gpg gpg-agent iproute2 iputils-ping libarchive-tools libcap2-bin lintian \
                  man-db openssl python3-jsonschema python3-venv rpm

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

# -- trying out and testing -------------------------------------------------------------------------------------------

.PHONY: demo
demo: ## build the Debian image, install an instance on a file, boot it and wait for ssh
	@tools/apt-install $(NODE_PACKAGES) $(DEMO_PACKAGES)
	@$(PYTHON) -m tools.demo

.PHONY: test
test: venv deb ## run everything: unit, system and end-to-end tests
	$(VENV)/bin/pytest -n $(JOBS) $(SHARED_OUT) tests

.PHONY: test-unit
test-unit: venv ## run the quick tests: no root, no devices
	$(VENV)/bin/pytest -n $(JOBS) tests/unit

.PHONY: test-system
test-system: venv deb ## run the tests that use real tools on files and loop devices
	$(VENV)/bin/pytest -n $(JOBS) $(SHARED_OUT) tests/system

.PHONY: test-boot
test-boot: venv ## boot each layout, file system and firmware, or one: make test-boot CELL=gpt-ext4-bios
	@echo "consoles: $(CONSOLES)/CELL-1.log, and -2 after an update-grub"
	BOOT_CONSOLES=$(CONSOLES) $(VENV)/bin/pytest tests/system/boot $(if $(CELL),-k '[$(CELL)]',-n $(JOBS) --dist worksteal)

.PHONY: test-e2e
test-e2e: venv deb ## run the tests with a real Ganeti and booted guests
	$(VENV)/bin/pytest -n $(JOBS) $(SHARED_OUT) tests/e2e

.PHONY: lint
lint: venv ## check types and style
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

.PHONY: bench
bench: venv ## compare a warm create with instance-debootstrap's, and images of each format
	@tools/apt-install $(NODE_PACKAGES) $(DEMO_PACKAGES) $(TEST_PACKAGES) ganeti-instance-debootstrap
	$(PYTHON) -m tools.bench

.PHONY: venv
venv: $(VENV)/stamp

$(VENV)/stamp: tools/requirements.txt Makefile
	@tools/apt-install $(NODE_PACKAGES) $(BUILD_PACKAGES) $(DEMO_PACKAGES) $(TEST_PACKAGES)
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(VENV)/bin/pip install --quiet --requirement tools/requirements.txt
	touch $@

# -- building and installing ------------------------------------------------------------------------------------------

.PHONY: build
build: ## make the man pages and JSON Schemas
	mkdir -p build/schema
	for kind in variant image subnet instance cache; do $(PYTHON) -m osprovider schema $$kind >build/schema/$$kind.json || exit; done
	$(PYTHON) -m tools.man_pages build/man

.PHONY: install
install: build ## install under DESTDIR, for packagers
	install -d $(DESTDIR)$(PYTHON_DIR) $(DESTDIR)$(OS_DIR) $(DESTDIR)$(SHARE_DIR)/schema $(DESTDIR)$(PREFIX)/bin
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(DOC_DIR) $(DESTDIR)/var/cache/ganeti-osprovider
	for each in variants images keys debs scripts subnets instances hooks templates; do install -d $(DESTDIR)$(CONFIG_DIR)/$$each; done
	cd osprovider && find . -name '*.py' -exec install -D -m 644 {} $(abspath $(DESTDIR)$(PYTHON_DIR))/osprovider/{} \;
	install -m 755 scripts/create scripts/import scripts/export scripts/rename scripts/verify $(DESTDIR)$(OS_DIR)
	install -m 644 scripts/ganeti_api_version scripts/parameters.list $(DESTDIR)$(OS_DIR)
	ln -sf $(CONFIG_DIR)/variants.list $(DESTDIR)$(OS_DIR)/variants.list
	cp -r --no-preserve=ownership variants images hooks templates $(DESTDIR)$(SHARE_DIR)
	install -m 644 build/schema/*.json $(DESTDIR)$(SHARE_DIR)/schema
	install -m 755 tools/osprovider $(DESTDIR)$(PREFIX)/bin/osprovider
	install -m 644 build/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 docs/*.md $(DESTDIR)$(DOC_DIR)
	install -m 644 packaging/defaults.yaml packaging/variants.list $(DESTDIR)$(CONFIG_DIR)

.PHONY: deb
deb: venv ## build the Debian package into dist/
	rm -rf build/deb && mkdir -p build/deb/osprovider dist
	git ls-files -z --cached --others --exclude-standard | \
	    while IFS= read -r -d '' file; do [ ! -e "$$file" ] || printf '%s\0' "$$file"; done | \
	    tar --null --no-recursion --files-from=- --create | tar --extract --directory build/deb/osprovider
	cd build/deb/osprovider && dpkg-buildpackage --build=binary --no-sign >../log 2>&1 || { tail -n 30 ../log; exit 1; }
	rm -f dist/*.deb && mv build/deb/*.deb dist/ && rm -rf build/deb
	@ls dist/*.deb

deb: SHELL := /bin/bash

.PHONY: clean
clean: ## remove what was built
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
