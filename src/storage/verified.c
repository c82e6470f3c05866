/* SPDX-License-Identifier: MIT */
/*
 * A storage whose bytes are compared with digests.
 *
 * A bit for each extent tells that it has been compared; it is set and never cleared.  What a
 * request has of an extent is compared in its own buffers, and the rest of the extent is read for
 * that alone, through a small one: by LOADS_MAX at a time, and no two for the same extent.
 */
#include "storage/verified.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "storage/align.h"
#include "util/iov.h"
#include "util/mem.h"

#define LOADS_MAX      8u
#define LOAD_BYTES_MAX (64u << 10) /* read at once, to be compared only */
#define HOLE_BYTES_MAX (16u << 20) /* compared in answer to one question about extents */
#define WORD_BITS      64u

/* An extent that somebody reads to compare it: on the stack of who does. */
struct load {
    struct load *next;
    uint64_t index;
};

struct verified {
    struct vd_storage *below; /* owned */
    const struct vd_digest_table *table;
    atomic_uint_least64_t *good; /* a bit for each extent */

    struct vd_mutex lock;
    struct vd_cond changed;
    struct load *loads; /* under lock */
    unsigned load_entries;
};

static bool is_good(const struct verified *verified, uint64_t index)
{
    uint64_t word = atomic_load_explicit(&verified->good[index / WORD_BITS], memory_order_acquire);
    return (word >> (index % WORD_BITS)) & 1;
}

static void set_good(struct verified *verified, uint64_t index)
{
    atomic_fetch_or_explicit(&verified->good[index / WORD_BITS], UINT64_C(1) << (index % WORD_BITS),
                             memory_order_release);
}

static uint64_t index_of(const struct verified *verified, uint64_t offset)
{
    return offset / verified->table->extent_bytes;
}

static struct vd_range extent_range(const struct verified *verified, uint64_t index)
{
    uint64_t start = index * verified->table->extent_bytes;
    return vd_range(start,
                    vd_min(verified->table->extent_bytes, verified->table->file_bytes - start));
}

/* V2: is this the digest of extent @index? */
static int compare(struct verified *verified, uint64_t index, const uint8_t *digest,
                   struct vdisk_error *err)
{
    const struct vd_digest_table *table = verified->table;
    struct vd_range range = extent_range(verified, index);
    if (memcmp(digest, vd_digest_at(table, index), vd_digest_bytes(table->kind)) != 0)
        return vd_err_set(err, EBADMSG,
                          "damaged: the %" PRIu64 " bytes at offset %" PRIu64
                          " are not what was written (%s)",
                          range.length, range.offset, vd_digest_name(table->kind));
    set_good(verified, index);
    return 0;
}

/* Reads what nobody has asked for. */
static int add_unread(struct verified *verified, struct vd_digest_run *run, struct vd_range range,
                      struct vdisk_error *err)
{
    if (!range.length)
        return 0;
    size_t buf_bytes = (size_t)vd_min(range.length, LOAD_BYTES_MAX);
    CLEANUP_FREE uint8_t *buf = vd_alloc_io(buf_bytes);
    int ret = buf ? 0 : vd_err_nomem(err, "a buffer to compare an extent in");
    while (range.length && ret == 0) {
        struct iovec iov = {.iov_base = buf, .iov_len = (size_t)vd_min(range.length, buf_bytes)};
        ret = vd_align_preadv(verified->below, &iov, 1, range.offset, err);
        if (ret == 0)
            ret = vd_digest_add(run, buf, iov.iov_len, err);
        range = vd_range(range.offset + iov.iov_len, range.length - iov.iov_len);
    }
    return ret;
}

/* What has been read by a request. */
struct had {
    const struct iovec *iov;
    struct vd_range range;
};

/* @part of it */
static int add_had(const struct had *had, struct vd_digest_run *run, struct vd_range part,
                   struct vdisk_error *err)
{
    size_t skip = (size_t)(part.offset - had->range.offset);
    size_t rest = (size_t)part.length;
    int ret = 0;
    for (const struct iovec *iov = had->iov; rest && ret == 0; iov++) {
        size_t passed = (size_t)vd_min(skip, iov->iov_len);
        size_t step = (size_t)vd_min(rest, iov->iov_len - passed);
        if (step)
            ret = vd_digest_add(run, (const uint8_t *)iov->iov_base + passed, step, err);
        skip -= passed;
        rest -= step;
    }
    return ret;
}

/* The part of @extent that @had has; empty, at its end, if that is none. */
static struct vd_range part_had(const struct had *had, struct vd_range extent)
{
    uint64_t end = vd_range_end(extent);
    if (!had || !vd_ranges_overlap(had->range, extent))
        return vd_range(end, 0);
    uint64_t start = vd_max(had->range.offset, extent.offset);
    return vd_range(start, vd_min(vd_range_end(had->range), end) - start);
}

static int digest_extent(struct verified *verified, struct vd_range extent, const struct had *had,
                         uint8_t *digest, struct vdisk_error *err)
{
    struct vd_digest_run run;
    struct vd_range part = part_had(had, extent);
    uint64_t end = vd_range_end(part);
    int ret = vd_digest_begin(&run, verified->table->kind, err);
    if (ret < 0)
        return ret;
    ret = add_unread(verified, &run, vd_range(extent.offset, part.offset - extent.offset), err);
    if (ret == 0 && part.length)
        ret = add_had(had, &run, part, err);
    if (ret == 0)
        ret = add_unread(verified, &run, vd_range(end, vd_range_end(extent) - end), err);
    if (ret < 0) {
        vd_digest_cancel(&run);
        return ret;
    }
    vd_digest_end(&run, digest);
    return 0;
}

static bool is_loading(const struct verified *verified, uint64_t index) VD_REQUIRES(verified->lock)
{
    for (const struct load *load = verified->loads; load; load = load->next)
        if (load->index == index)
            return true;
    return false;
}

/* Waits for its turn to read extent @load->index.  false: somebody else has, and it is good. */
static bool begin_load(struct verified *verified, struct load *load)
{
    vd_mutex_lock(&verified->lock);
    while (!is_good(verified, load->index) &&
           (is_loading(verified, load->index) || verified->load_entries >= LOADS_MAX))
        vd_cond_wait(&verified->changed, &verified->lock);
    bool is_wanted = !is_good(verified, load->index);
    if (is_wanted) {
        load->next = verified->loads;
        verified->loads = load;
        verified->load_entries++;
    }
    vd_mutex_unlock(&verified->lock);
    return is_wanted;
}

static void end_load(struct verified *verified, struct load *load)
{
    vd_mutex_lock(&verified->lock);
    struct load **link = &verified->loads;
    while (*link != load)
        link = &(*link)->next;
    *link = load->next;
    verified->load_entries--;
    vd_cond_broadcast(&verified->changed);
    vd_mutex_unlock(&verified->lock);
}

/* Compares extent @index, if that has not been done.  @had: what has been read, or NULL. */
static int check_extent(struct verified *verified, uint64_t index, const struct had *had,
                        struct vdisk_error *err)
{
    struct load load = {.index = index};
    struct vd_range extent = extent_range(verified, index);
    uint8_t digest[VD_DIGEST_BYTES_MAX];
    bool loads = part_had(had, extent).length < extent.length;
    if (is_good(verified, index) || (loads && !begin_load(verified, &load)))
        return 0;
    int ret = digest_extent(verified, extent, had, digest, err);
    if (ret == 0)
        ret = compare(verified, index, digest, err);
    if (loads)
        end_load(verified, &load);
    return ret;
}

static int verified_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                           uint64_t offset, struct vdisk_error *err)
{
    struct verified *verified = storage->state;
    struct vd_range range = vd_range(offset, vd_iov_length(iov, iov_entries));
    if (!vd_range_is_within(range, verified->table->file_bytes))
        return vd_err_set(
            err, EIO, "reading %" PRIu64 " bytes at offset %" PRIu64 ": it ends at offset %" PRIu64,
            range.length, offset, verified->table->file_bytes);

    struct had had = {.iov = iov, .range = range};
    uint64_t last = index_of(verified, vd_range_end(range) - 1);
    int ret = vd_align_preadv(verified->below, iov, iov_entries, offset, err);
    for (uint64_t index = index_of(verified, offset); index <= last && ret == 0; index++)
        ret = check_extent(verified, index, &had, err);
    return ret;
}

static int verified_try_pread(struct vd_storage *storage, void *buf, size_t length, uint64_t offset)
{
    struct verified *verified = storage->state;
    if (!vd_range_is_within(vd_range(offset, length), verified->table->file_bytes))
        return -EAGAIN;
    uint64_t last = index_of(verified, offset + length - 1);
    for (uint64_t index = index_of(verified, offset); index <= last; index++)
        if (!is_good(verified, index))
            return -EAGAIN;
    return vd_storage_try_pread(verified->below, buf, length, offset);
}

/* V1: who is told of a hole reads nothing, so it is compared before; some of it at a time. */
static int verified_extent(struct vd_storage *storage, struct vd_range range,
                           struct vd_storage_extent *extent, struct vdisk_error *err)
{
    struct verified *verified = storage->state;
    if (!vd_range_is_within(range, verified->table->file_bytes))
        return vd_err_set(err, EIO, "it ends at offset %" PRIu64, verified->table->file_bytes);
    const struct vd_storage_driver *below = verified->below->driver;
    int ret = below->extent ? below->extent(verified->below, range, extent, err) : 0;
    if (ret < 0 || extent->kind != VD_STORAGE_HOLE)
        return ret;
    uint64_t end = range.offset + extent->length;
    uint64_t at = range.offset, read_bytes = 0;
    while (at < end && ret == 0) {
        uint64_t index = index_of(verified, at);
        bool costs = !is_good(verified, index);
        if (costs && read_bytes >= HOLE_BYTES_MAX)
            break;
        ret = check_extent(verified, index, NULL, err);
        read_bytes += costs ? verified->table->extent_bytes : 0;
        at = vd_min(end, vd_range_end(extent_range(verified, index)));
    }
    extent->length = at - range.offset;
    return ret;
}

static int verified_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    (void)err;
    const struct verified *verified = storage->state;
    *size = verified->table->file_bytes;
    return 0;
}

static int verified_allocated(struct vd_storage *storage, uint64_t *bytes, struct vdisk_error *err)
{
    struct verified *verified = storage->state;
    const struct vd_storage_driver *below = verified->below->driver;
    return below->allocated ? below->allocated(verified->below, bytes, err) : -EOPNOTSUPP;
}

static void verified_stats(struct vd_storage *storage, struct vd_storage_stats *stats)
{
    struct verified *verified = storage->state;
    vd_storage_stats(verified->below, stats);
}

static void free_verified(struct verified *verified)
{
    vd_storage_close(verified->below);
    vd_cond_destroy(&verified->changed);
    vd_mutex_destroy(&verified->lock);
    free(verified->good);
    free(verified);
}

static void verified_close(struct vd_storage *storage)
{
    free_verified(storage->state);
}

static const struct vd_storage_driver verified_driver = {
    .name = "verified",
    .close = verified_close,
    .size = verified_size,
    .allocated = verified_allocated,
    .preadv = verified_preadv,
    .try_pread = verified_try_pread,
    .extent = verified_extent,
    .stats = verified_stats,
};

/* V3 */
static int check_size(struct vd_storage *below, const struct vd_digest_table *table,
                      struct vdisk_error *err)
{
    uint64_t size;
    int ret = vd_storage_size(below, &size, err);
    if (ret == 0 && size != table->file_bytes)
        ret = vd_err_set(err, EBADMSG,
                         "%s: damaged: it has %" PRIu64 " bytes, and had %" PRIu64
                         " when it was written",
                         vd_storage_name(below), size, table->file_bytes);
    return ret;
}

/* Takes @below, also if it fails. */
static int new_verified(struct vd_storage *below, const struct vd_digest_table *table,
                        struct verified **verified, struct vdisk_error *err)
{
    struct verified *made = calloc(1, sizeof(*made));
    if (!made) {
        vd_storage_close(below);
        return vd_err_nomem(err, "a storage that is verified");
    }
    made->below = below;
    made->table = table;
    vd_mutex_init(&made->lock);
    vd_cond_init(&made->changed);
    made->good = vd_alloc_array((size_t)vd_div_up(table->entries, WORD_BITS), sizeof(*made->good));
    if (!made->good) {
        free_verified(made);
        return vd_err_nomem(err, "a storage that is verified");
    }
    *verified = made;
    return 0;
}

int vd_storage_verified_open(struct vd_storage *below, const struct vd_digest_table *table,
                             struct vd_storage **storage, struct vdisk_error *err)
{
    struct verified *verified;
    int ret = new_verified(below, table, &verified, err);
    if (ret < 0)
        return ret;
    ret = check_size(below, table, err);
    if (ret == 0)
        ret = vd_storage_new(&verified_driver, vd_storage_name(below), storage, err);
    if (ret < 0) {
        free_verified(verified);
        return ret;
    }
    (*storage)->state = verified;
    (*storage)->caps = below->caps & (VD_STORAGE_CAN_EXTENTS | VD_STORAGE_IS_REMOTE);
    (*storage)->identity = below->identity;
    return 0;
}
