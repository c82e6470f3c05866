/* SPDX-License-Identifier: MIT */
/* What has to hold for a state after a power cut: the durability contract of docs/crash-safety.md.
 */
#include <inttypes.h>
#include <string.h>

#include "crash-run.h"
#include "drivers/alloc.h"
#include "drivers/check.h"
#include "drivers/fault.h"
#include "drivers/snap.h"
#include "util/iov.h"

#define SHOWN_VIOLATIONS 20u

#define MENDED_EVERY     6u /* of so many states one is mended */

/* Counts it; the first few are told. */
__attribute__((format(printf, 3, 4))) static bool violation(struct vt_crash_run *run,
                                                            const struct vt_crash_site *site,
                                                            const char *fmt, ...)
{
    char text[1200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    /* Those that a test provokes are not worth a word. */
    if (run->tally->violations++ < SHOWN_VIOLATIONS && !run->plan->ignore_period)
        print_message("# VIOLATION in %s, seed %" PRIu64 ", operation %" PRIu64
                      " (%s), before a %s, %s and %s, seed %" PRIu64 ": %s\n",
                      run->plan->stack, run->plan->seed, run->op_number, run->op,
                      vt_call_name(site->call), vt_cut_name(site->cuts[0]),
                      vt_cut_name(site->cuts[1]), site->seed, text);
    return false;
}

/* The storage leaves its file open when it is closed. */
static int open_file(void *opaque, unsigned file, bool writable, struct vd_storage **storage,
                     struct vdisk_error *err)
{
    const struct vt_crash_files *files = opaque;
    int ret = vt_fault_open(files->all[file], VT_BORROW, storage, err);
    if (ret == 0 && !writable)
        (*storage)->flags &= ~(uint32_t)VD_STORAGE_WRITE;
    return ret;
}

int vt_crash_open_image(const struct vt_crash_run *run, struct vt_crash_files *files,
                        uint32_t flags, struct vdisk_image **image, struct vdisk_error *err)
{
    struct vt_stack_files opener = {.open = open_file, .opaque = files};
    return vt_stack_open_on(&run->stack, &opener, flags, image, err);
}

int vt_crash_read_windows(const struct vt_crash_run *run, struct vdisk_image *image, uint8_t *bytes,
                          struct vdisk_error *err)
{
    uint64_t size = vdisk_image_size(image);
    int ret = 0;
    for (size_t i = 0; i < VT_LEDGER_WINDOWS && ret == 0; i++) {
        struct vd_range guest = run->ledger.windows[i].guest;
        uint64_t end = vd_min(vd_range_end(guest), size);
        uint64_t length = end > guest.offset ? end - guest.offset : 0;
        if (length)
            ret = vdisk_image_pread(image, bytes, length, guest.offset, err);
        memset(bytes + length, 0, guest.length - length);
        bytes += guest.length;
    }
    return ret;
}

static bool reads_as_zero(struct vt_crash_run *run, struct vdisk_image *image, struct vd_range rest)
{
    while (rest.length) {
        uint64_t step = vd_min(rest.length, run->ledger.bytes);
        if (vdisk_image_pread(image, run->after, step, rest.offset, NULL) < 0 ||
            !vd_buffer_is_zero(run->after, step))
            return false;
        rest = vd_range(rest.offset + step, rest.length - step);
    }
    return true;
}

/* Outside of the windows there is nothing but zeros. */
static bool rest_is_zero(struct vt_crash_run *run, struct vdisk_image *image, uint64_t *bad)
{
    uint64_t size = vdisk_image_size(image);
    for (size_t i = 0; i < VT_LEDGER_WINDOWS; i++) {
        uint64_t at = vd_range_end(run->ledger.windows[i].guest);
        uint64_t end = i + 1 < VT_LEDGER_WINDOWS ? run->ledger.windows[i + 1].guest.offset : size;
        while (at < vd_min(end, size)) {
            struct vdisk_extent extent;
            *bad = at;
            if (vdisk_image_extent(image, at, vd_min(end, size) - at, &extent, NULL) < 0)
                return false;
            if (!(extent.flags & VDISK_EXTENT_ZERO) &&
                !reads_as_zero(run, image, vd_range(at, extent.length)))
                return false;
            at += extent.length;
        }
    }
    return true;
}

/* Opens read-only; every byte is one that it may be. */
static bool check_reading(struct vt_crash_run *run, struct vt_crash_files *state,
                          const struct vt_crash_site *site)
{
    struct vdisk_error err = {0};
    struct vdisk_image *image;
    uint64_t bad;
    if (vt_crash_open_image(run, state, 0, &image, &err) < 0)
        return violation(run, site, "does not open: %s", err.message);

    bool ok = true;
    uint64_t size = vdisk_image_size(image);
    if (size != run->ledger.sizes[0] && size != run->ledger.sizes[1])
        ok = violation(run, site, "size %" PRIu64, size);
    else if (vt_crash_read_windows(run, image, run->before, &err) < 0)
        ok = violation(run, site, "can not be read: %s", err.message);
    else if (!vt_ledger_allows(&run->ledger, run->before, size, &bad))
        ok = violation(run, site, "byte %" PRIu64 " was never that", bad);
    else if (!rest_is_zero(run, image, &bad))
        ok = violation(run, site, "something at %" PRIu64 ", where nothing was written", bad);
    vdisk_image_close(image, NULL);
    return ok;
}

static bool has_metadata(const struct vt_crash_run *run)
{
    return strcmp(run->stack.levels[0].format, "raw") != 0;
}

struct findings {
    char first[300];
};

static void keep_first(void *opaque, const char *message)
{
    struct findings *findings = opaque;
    if (!findings->first[0])
        snprintf(findings->first, sizeof(findings->first), "%s", message);
}

/* The check finds no contradiction; leaks are allowed. */
static bool check_metadata(struct vt_crash_run *run, struct vt_crash_files *state,
                           const struct vt_crash_site *site, const char *when)
{
    struct vdisk_error err = {0};
    struct vdisk_image *image;
    struct findings findings = {""};
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    if (!has_metadata(run))
        return true;
    if (vt_crash_open_image(run, state, VDISK_OPEN_CHECK, &image, &err) < 0)
        return violation(run, site, "%s: does not open for a check: %s", when, err.message);
    bool ok = true;
    if (vdisk_image_check(image, VDISK_REPAIR_NONE, keep_first, &findings, &result, &err) < 0)
        ok = violation(run, site, "%s: can not be checked: %s", when, err.message);
    else if (result.corruptions || result.check_errors)
        ok = violation(run, site, "%s: %" PRIu64 " corruptions: %s", when, result.corruptions,
                       findings.first);
    vdisk_image_close(image, NULL);
    return ok;
}

/* A repair of all there is to repair leaves nothing, leaks neither, and changes nothing that can be
 * read. */
static bool check_mending(struct vt_crash_run *run, struct vt_crash_files *state,
                          const struct vt_crash_site *site)
{
    struct vdisk_error err = {0};
    struct vdisk_image *image;
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    struct vt_crash_files mended = {0};
    if (!has_metadata(run) || run->tally->states % MENDED_EVERY != 0)
        return true;
    run->tally->mended++;
    for (unsigned i = 0; i < run->stack.file_entries; i++)
        VT_OK(vt_snap_clone(state->all[i], &mended.all[i], &vt_err));
    bool ok = true;
    if (vt_crash_open_image(run, &mended, VDISK_OPEN_CHECK | VDISK_OPEN_WRITE, &image, &err) < 0) {
        ok = violation(run, site, "does not open to be mended: %s", err.message);
        vt_crash_files_close(&mended);
        return ok;
    }
    if (vdisk_image_check(image, VDISK_REPAIR_ALL, NULL, NULL, &result, &err) < 0)
        ok = violation(run, site, "can not be mended: %s", err.message);
    else if (result.corruptions || result.check_errors || result.corruptions_fixed || result.leaks)
        ok = violation(run, site,
                       "mended: %" PRIu64 " corruptions, and %" PRIu64 " more, %" PRIu64
                       " leaks are left",
                       result.corruptions_fixed, result.corruptions, result.leaks);
    if (vdisk_image_close(image, &err) < 0 && ok)
        ok = violation(run, site, "does not close when mended: %s", err.message);
    if (ok && vt_crash_open_image(run, &mended, 0, &image, &err) < 0)
        ok = violation(run, site, "does not open when mended: %s", err.message);
    else if (ok) {
        if (vt_crash_read_windows(run, image, run->after, &err) < 0)
            ok = violation(run, site, "can not be read when mended: %s", err.message);
        else if (memcmp(run->before, run->after, run->ledger.bytes) != 0)
            ok = violation(run, site, "mending changed what the disk reads as");
        vdisk_image_close(image, NULL);
    }
    vt_crash_files_close(&mended);
    return ok;
}

/* A writable open mends what there is to mend, and changes nothing that can be read. */
static bool check_recovery(struct vt_crash_run *run, struct vt_crash_files *state,
                           const struct vt_crash_site *site)
{
    struct vdisk_error err = {0};
    struct vdisk_image *image;
    if (vt_crash_open_image(run, state, VDISK_OPEN_WRITE, &image, &err) < 0)
        return violation(run, site, "does not open for writing: %s", err.message);
    bool ok = true;
    if (vt_crash_read_windows(run, image, run->after, &err) < 0)
        ok = violation(run, site, "can not be read after recovery: %s", err.message);
    else if (memcmp(run->before, run->after, run->ledger.bytes) != 0)
        ok = violation(run, site, "recovery changed what the disk reads as");
    if (vdisk_image_close(image, &err) < 0 && ok)
        ok = violation(run, site, "does not close after recovery: %s", err.message);
    return ok;
}

static bool check_consumers(struct vt_crash_run *run, struct vt_crash_files *state,
                            const struct vt_crash_site *site)
{
    for (unsigned i = 0; i < run->consumers.entries; i++) {
        uint64_t offset = 0;
        const char *wrong = vt_consumer_misses(&run->consumers.all[i], &run->ledger, state->all[0],
                                               run->before, &offset);
        run->tally->consumers++;
        if (wrong)
            return violation(run, site, "consumer %u: %s, near %" PRIu64, i, wrong, offset);
    }
    return true;
}

/* The same by vdisk_sync(), between files. */
static bool check_real_sync(struct vt_crash_run *run, struct vt_crash_files *state,
                            const struct vt_crash_site *site)
{
    struct vdisk_error err = {0};
    struct vdisk_image *replica;
    if (!run->real.folder[0] || run->tally->states % run->plan->sync_every != 0)
        return true;
    run->tally->syncs++;
    if (vt_real_sync_again(&run->real, state->all[0], &replica, &err) < 0)
        return violation(run, site, "does not sync: %s", err.message);
    bool ok = true;
    if (vt_crash_read_windows(run, replica, run->after, &err) < 0)
        ok = violation(run, site, "the replica can not be read: %s", err.message);
    else if (memcmp(run->before, run->after, run->ledger.bytes) != 0)
        ok = violation(run, site, "the replica is not what the master is");
    vdisk_image_close(replica, NULL);
    return ok;
}

/* It can be written to, closed, and read: the write is there, and nothing else has changed. */
static bool check_use(struct vt_crash_run *run, struct vt_crash_files *state,
                      const struct vt_crash_site *site)
{
    struct vdisk_error err = {0};
    struct vdisk_image *image;
    struct vt_random random = {site->seed};
    uint8_t data[3 * VT_SECTOR_BYTES];
    vt_random_fill(&random, data, sizeof(data));
    /* Windows 0 and 1 are there whatever the size is. */
    unsigned chosen = (unsigned)vt_random_below(&random, 2);
    uint64_t in_window =
        vt_random_below(&random, run->ledger.windows[chosen].guest.length - sizeof(data));
    uint64_t in_bytes = in_window + (chosen ? run->ledger.windows[0].guest.length : 0);

    if (vt_crash_open_image(run, state, VDISK_OPEN_WRITE, &image, &err) < 0)
        return violation(run, site, "does not open for writing again: %s", err.message);
    int ret = vdisk_image_pwrite(image, data, sizeof(data),
                                 run->ledger.windows[chosen].guest.offset + in_window, &err);
    int closed = vdisk_image_close(image, ret < 0 ? NULL : &err);
    if (ret < 0 || closed < 0)
        return violation(run, site, "can not be used: %s", err.message);

    memcpy(run->before + in_bytes, data, sizeof(data));
    if (vt_crash_open_image(run, state, 0, &image, &err) < 0)
        return violation(run, site, "does not open after use: %s", err.message);
    bool ok = true;
    if (vt_crash_read_windows(run, image, run->after, &err) < 0)
        ok = violation(run, site, "can not be read after use: %s", err.message);
    else if (memcmp(run->before, run->after, run->ledger.bytes) != 0)
        ok = violation(run, site, "using it changed something else");
    vdisk_image_close(image, NULL);
    return ok;
}

void vt_crash_check_state(struct vt_crash_run *run, struct vt_crash_files *state,
                          const struct vt_crash_site *site)
{
    run->tally->states++;
    run->tally->by_cut[site->cuts[0]]++;
    bool ok = check_reading(run, state, site) && check_metadata(run, state, site, "as found") &&
              check_mending(run, state, site) && check_recovery(run, state, site) &&
              check_consumers(run, state, site) && check_real_sync(run, state, site) &&
              check_use(run, state, site) && check_metadata(run, state, site, "after use");
    (void)ok;
    vt_crash_files_close(state);
}
