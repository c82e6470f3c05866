# A thin front for Meson: `make help` lists what there is.
BUILD        = build
PREFIX       = /usr/local
DESTDIR      =
FUZZ_SECONDS = 60

export BENCH_DATA_MIB BENCH_SYNC_MIB BENCH_OVERLAY_MIB BENCH_QCOW2_MIB BENCH_ROUNDS BENCH_PARTS BENCH_DIR \
    BENCH_COMPRESS_MIB BENCH_NBD_MIB BENCH_NBD_SECONDS BENCH_BACKUP_MIB

all:
	@tools/configure $(BUILD) --prefix=$(PREFIX)
	@ninja -C $(BUILD)

demo:
	@tools/install-deps demo
	@tools/configure $(BUILD) --prefix=$(PREFIX)
	@ninja -C $(BUILD) src/cli/vdisk
	@VDISK=$(CURDIR)/$(BUILD)/src/cli/vdisk tools/demo.sh

check:
	@tools/install-deps test
	@tools/check

bench:
	@tools/install-deps bench
	@tools/configure build-release -Dbuildtype=release -Dauto_features=enabled
	@ninja -C build-release
	@VDISK=$(CURDIR)/build-release/src/cli/vdisk bench/run

fuzz:
	@tools/install-deps fuzz
	@tools/fuzz $(FUZZ_SECONDS)

install: all
	DESTDIR=$(DESTDIR) meson install -C $(BUILD) --no-rebuild

format:
	git ls-files '*.c' '*.h' | xargs clang-format -i

clean:
	rm -rf $(BUILD) build-clang build-asan build-tsan build-release build-fuzz build-guest

help:
	@echo 'make            build, in $(BUILD)/'
	@echo 'make demo       install what it needs, build, and sync a real disk image over HTTP'
	@echo 'make check      install what it needs, build four times, run all tests'
	@echo 'make bench      the same work with vdisk and with its peers (BENCH_DATA_MIB=4096)'
	@echo 'make fuzz       each fuzzer for FUZZ_SECONDS=60'
	@echo 'make install    into $$(DESTDIR)$$(PREFIX); PREFIX=/usr/local'
	@echo 'make format     clang-format all sources'
	@echo 'make clean      remove the build directories'

.PHONY: all demo check bench fuzz install format clean help
