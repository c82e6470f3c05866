/* SPDX-License-Identifier: MIT */
/*
 * The only caller of the storage drivers' functions.
 *
 * S1  A driver sees only ranges that do not wrap, and never an empty one.
 * S2  Every request of a driver with an alignment goes through align.c, changes without a buffer
 *     too.
 * S3  Buffers are all zero after a failed read.
 * S4  Messages begin with the name of the storage, once.
 * S5  The name shown has no user and password: only the driver sees those of a URL.
 */
#include "storage/storage.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "storage/align.h"
#include "storage/driver.h"
#include "util/iov.h"
#include "util/mem.h"
#include "util/url.h"

#define ZERO_BUFFER_BYTES (1u << 20)

int vd_storage_new(const struct vd_storage_driver *driver, const char *name,
                   struct vd_storage **storage, struct vdisk_error *err)
{
    struct vd_storage *st = calloc(1, sizeof(*st));
    if (st)
        st->name = strdup(name);
    if (!st || !st->name) {
        free(st);
        return vd_err_nomem(err, "a storage");
    }
    st->driver = driver;
    st->align_bytes = 1;
    vd_align_init(&st->align);
    *storage = st;
    return 0;
}

static void storage_free(struct vd_storage *storage)
{
    vd_align_destroy(&storage->align);
    free(storage->name);
    free(storage);
}

static bool has_scheme(const struct vd_storage_driver *driver, const char *name)
{
    for (const char *const *scheme = driver->schemes; scheme && *scheme; scheme++) {
        size_t length = strlen(*scheme);
        if (strncasecmp(name, *scheme, length) == 0 && strncmp(name + length, "://", 3) == 0)
            return true;
    }
    return false;
}

static const struct vd_storage_driver *find_driver(const char *name)
{
    const struct vd_storage_driver *local = NULL;
    for (size_t i = 0; vd_storage_drivers[i]; i++) {
        if (has_scheme(vd_storage_drivers[i], name))
            return vd_storage_drivers[i];
        if (!vd_storage_drivers[i]->schemes)
            local = vd_storage_drivers[i];
    }
    return local;
}

bool vd_storage_name_is_local(const char *name)
{
    return !find_driver(name)->schemes;
}

int vd_storage_open(const char *name, const struct vd_storage_options *options,
                    struct vd_storage **storage, struct vdisk_error *err)
{
    static const struct vd_storage_options defaults = {0};
    if (!options)
        options = &defaults;

    const struct vd_storage_driver *driver = find_driver(name);
    struct vd_storage *st = NULL;
    int ret = vd_storage_new(driver, name, &st, err);
    if (ret < 0)
        return ret;
    st->flags = options->flags;
    if (driver->schemes)
        vd_url_strip_secrets(st->name, ""); /* S5 */
    if ((options->flags & VD_STORAGE_WRITE) && !driver->pwritev)
        ret = vd_err_set(err, EROFS, "%s storage can only be read", driver->name);
    else
        ret = driver->open(st, name, options, err);
    if (ret < 0) {
        vd_err_prefix(err, ret, "%s: ", st->name);
        storage_free(st);
        return ret;
    }
    assert(st->align_bytes && vd_is_aligned(st->align_bytes, st->align_bytes));
    *storage = st;
    return 0;
}

void vd_storage_close(struct vd_storage *storage)
{
    if (!storage)
        return;
    storage->driver->close(storage);
    storage_free(storage);
}

const char *vd_storage_name(const struct vd_storage *storage)
{
    return storage->name;
}

uint32_t vd_storage_caps(const struct vd_storage *storage)
{
    return storage->caps;
}

bool vd_storage_is_writable(const struct vd_storage *storage)
{
    return (storage->flags & VD_STORAGE_WRITE) != 0;
}

struct vd_storage_identity vd_storage_identity(const struct vd_storage *storage)
{
    return storage->identity;
}

struct vd_storage_identity vd_storage_identify(const char *name)
{
    const struct vd_storage_driver *driver = find_driver(name);
    return driver->identify ? driver->identify(name) : (struct vd_storage_identity){0};
}

bool vd_storage_identity_equals(struct vd_storage_identity a, struct vd_storage_identity b)
{
    return a.known && b.known && a.device == b.device && a.inode == b.inode;
}

/* S4 */
static int named(const struct vd_storage *storage, int ret, struct vdisk_error *err)
{
    return ret < 0 ? vd_err_prefix(err, ret, "%s: ", storage->name) : ret;
}

int vd_storage_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    return named(storage, vd_align_size(storage, size, err), err);
}

int vd_storage_allocated(struct vd_storage *storage, uint64_t *bytes, struct vdisk_error *err)
{
    if (!storage->driver->allocated)
        return -EOPNOTSUPP;
    return named(storage, storage->driver->allocated(storage, bytes, err), err);
}

/* S1: the total of @iov in *length, or -EINVAL. */
static int check_request(const struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                         uint64_t offset, size_t *length, struct vdisk_error *err)
{
    size_t total = vd_iov_length(iov, iov_entries);
    if (total > VDISK_REQUEST_BYTES_MAX || offset > (uint64_t)INT64_MAX - total)
        return vd_err_set(err, EINVAL,
                          "%s: request of %zu bytes at offset %" PRIu64
                          ": at most %u bytes at once, and offsets end at %" PRId64,
                          storage->name, total, offset, VDISK_REQUEST_BYTES_MAX, INT64_MAX);
    *length = total;
    return 0;
}

int vd_storage_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                      uint64_t offset, struct vdisk_error *err)
{
    size_t length = 0;
    int ret = check_request(storage, iov, iov_entries, offset, &length, err);
    if (ret == 0 && length == 0)
        return 0;
    if (ret == 0)
        ret = named(storage, vd_align_preadv(storage, iov, iov_entries, offset, err), err);
    if (ret < 0)
        vd_iov_zero(iov, iov_entries); /* S3 */
    return ret;
}

int vd_storage_pread(struct vd_storage *storage, void *buf, size_t length, uint64_t offset,
                     struct vdisk_error *err)
{
    struct iovec iov = {.iov_base = buf, .iov_len = length};
    return vd_storage_preadv(storage, &iov, 1, offset, err);
}

/* S1, S2 */
static bool can_try(const struct vd_storage *storage, size_t length, uint64_t offset)
{
    return storage->align_bytes == 1 && length > 0 && length <= VDISK_REQUEST_BYTES_MAX &&
           offset <= (uint64_t)INT64_MAX - length;
}

int vd_storage_try_pread(struct vd_storage *storage, void *buf, size_t length, uint64_t offset)
{
    if (!storage->driver->try_pread || !can_try(storage, length, offset))
        return -EAGAIN;
    return storage->driver->try_pread(storage, buf, length, offset);
}

int vd_storage_try_pwrite(struct vd_storage *storage, const void *buf, size_t length,
                          uint64_t offset)
{
    if (!storage->driver->try_pwrite || !vd_storage_is_writable(storage) ||
        !can_try(storage, length, offset))
        return -EAGAIN;
    return storage->driver->try_pwrite(storage, buf, length, offset);
}

static int check_writable(const struct vd_storage *storage, struct vdisk_error *err)
{
    if (!vd_storage_is_writable(storage))
        return vd_err_set(err, EROFS, "%s: opened read-only", storage->name);
    return 0;
}

int vd_storage_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                       uint64_t offset, struct vdisk_error *err)
{
    size_t length = 0;
    int ret = check_writable(storage, err);
    if (ret == 0)
        ret = check_request(storage, iov, iov_entries, offset, &length, err);
    if (ret < 0 || length == 0)
        return ret;
    return named(storage, vd_align_pwritev(storage, iov, iov_entries, offset, err), err);
}

int vd_storage_pwrite(struct vd_storage *storage, const void *buf, size_t length, uint64_t offset,
                      struct vdisk_error *err)
{
    struct iovec iov = vd_iov_const(buf, length);
    return vd_storage_pwritev(storage, &iov, 1, offset, err);
}

static int check_range(const struct vd_storage *storage, struct vd_range range,
                       struct vdisk_error *err)
{
    if (!vd_range_is_within(range, INT64_MAX))
        return vd_err_set(err, EINVAL,
                          "%s: range of %" PRIu64 " bytes at offset %" PRIu64
                          ": offsets end at %" PRId64,
                          storage->name, range.length, range.offset, INT64_MAX);
    return 0;
}

/* As check_range(), and writable. */
static int check_change(const struct vd_storage *storage, struct vd_range range,
                        struct vdisk_error *err)
{
    int ret = check_writable(storage, err);
    return ret < 0 ? ret : check_range(storage, range, err);
}

static int write_zero_buffers(struct vd_storage *storage, struct vd_range range,
                              struct vdisk_error *err)
{
    size_t buffer_bytes = (size_t)vd_min(range.length, ZERO_BUFFER_BYTES);
    CLEANUP_FREE void *zeros = vd_alloc_io(buffer_bytes);
    if (!zeros)
        return vd_err_nomem(err, "a buffer of zeros");
    memset(zeros, 0, buffer_bytes);

    while (range.length) {
        size_t step = (size_t)vd_min(range.length, buffer_bytes);
        struct iovec iov = {.iov_base = zeros, .iov_len = step};
        int ret = vd_align_pwritev(storage, &iov, 1, range.offset, err);
        if (ret < 0)
            return ret;
        range = vd_range(range.offset + step, range.length - step);
    }
    return 0;
}

int vd_storage_write_zeroes(struct vd_storage *storage, struct vd_range range, unsigned flags,
                            struct vdisk_error *err)
{
    int ret = check_change(storage, range, err);
    if (ret < 0 || range.length == 0)
        return ret;
    ret = -EOPNOTSUPP;
    if (storage->driver->write_zeroes && !(flags & VD_STORAGE_ZERO_AS_DATA)) {
        struct vd_align_hold hold;
        ret = vd_align_begin(storage, range, &hold, err);
        if (ret < 0)
            return named(storage, ret, err);
        ret = storage->driver->write_zeroes(storage, range, flags, err);
        vd_align_end(storage, &hold);
    }
    if (ret == -EOPNOTSUPP)
        ret = write_zero_buffers(storage, range, err);
    return named(storage, ret, err);
}

int vd_storage_discard(struct vd_storage *storage, struct vd_range range, struct vdisk_error *err)
{
    int ret = check_change(storage, range, err);
    if (ret < 0 || range.length == 0 || !storage->driver->discard)
        return ret;
    struct vd_align_hold hold;
    ret = vd_align_begin(storage, range, &hold, err);
    if (ret < 0)
        return named(storage, ret, err);
    ret = storage->driver->discard(storage, range, err);
    vd_align_end(storage, &hold);
    if (ret == -EOPNOTSUPP) /* what was promised holds, at least as to what is read */
        ret = storage->caps & VD_STORAGE_CAN_DISCARD ? write_zero_buffers(storage, range, err) : 0;
    return named(storage, ret, err);
}

int vd_storage_flush(struct vd_storage *storage, struct vdisk_error *err)
{
    if (!storage->driver->flush || !vd_storage_is_writable(storage) ||
        (storage->flags & VD_STORAGE_UNSAFE))
        return 0;
    return named(storage, storage->driver->flush(storage, err), err);
}

int vd_storage_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err)
{
    int ret = check_change(storage, vd_range(0, size), err);
    if (ret < 0)
        return ret;
    if (!storage->driver->resize)
        return vd_err_set(err, EOPNOTSUPP, "%s: %s storage has a fixed size", storage->name,
                          storage->driver->name);
    return named(storage, vd_align_resize(storage, size, err), err);
}

int vd_storage_preallocate(struct vd_storage *storage, struct vd_range range,
                           struct vdisk_error *err)
{
    uint64_t size;
    int ret = check_change(storage, range, err);
    if (ret < 0 || range.length == 0)
        return ret;
    ret = -EOPNOTSUPP;
    if (storage->driver->preallocate) {
        struct vd_align_hold hold;
        ret = vd_align_begin(storage, range, &hold, err);
        if (ret < 0)
            return named(storage, ret, err);
        ret = storage->driver->preallocate(storage, range, err);
        vd_align_end(storage, &hold);
    }
    if (ret != -EOPNOTSUPP)
        return named(storage, ret, err);
    ret = vd_storage_size(storage, &size, err);
    if (ret < 0 || vd_range_end(range) <= size)
        return ret;
    uint64_t start = vd_max(range.offset, size);
    ret = write_zero_buffers(storage, vd_range(start, vd_range_end(range) - start), err);
    return named(storage, ret, err);
}

int vd_storage_extent(struct vd_storage *storage, struct vd_range range,
                      struct vd_storage_extent *extent, struct vdisk_error *err)
{
    int ret = check_range(storage, range, err);
    if (ret < 0)
        return ret;
    assert(range.length > 0);
    *extent = (struct vd_storage_extent){.kind = VD_STORAGE_DATA, .length = range.length};
    if (!storage->driver->extent)
        return 0;
    ret = storage->driver->extent(storage, range, extent, err);
    if (ret == 0)
        assert(extent->length > 0 && extent->length <= range.length);
    return named(storage, ret, err);
}

int vd_storage_copy(struct vd_storage *from, uint64_t from_offset, struct vd_storage *to,
                    uint64_t to_offset, uint64_t length, unsigned flags, struct vdisk_error *err)
{
    int ret = check_range(from, vd_range(from_offset, length), err);
    if (ret == 0)
        ret = check_change(to, vd_range(to_offset, length), err);
    if (ret < 0 || length == 0)
        return ret;
    if (from->driver != to->driver || !from->driver->copy)
        return -EOPNOTSUPP;
    struct vd_align_hold hold;
    ret = vd_align_begin(to, vd_range(to_offset, length), &hold, err);
    if (ret == 0) {
        ret = from->driver->copy(from, from_offset, to, to_offset, length, flags, err);
        vd_align_end(to, &hold);
    }
    return named(to, ret, err);
}

bool vd_storage_can_copy(struct vd_storage *from, struct vd_storage *to, unsigned flags)
{
    if (from->driver != to->driver || !from->driver->copy)
        return false;
    return !from->driver->can_copy || from->driver->can_copy(from, to, flags);
}

void vd_storage_write_behind(struct vd_storage *storage, struct vd_range range)
{
    if (storage->driver->write_behind && range.length && vd_range_is_within(range, INT64_MAX))
        storage->driver->write_behind(storage, range);
}

void vd_storage_stats(struct vd_storage *storage, struct vd_storage_stats *stats)
{
    *stats = (struct vd_storage_stats){0};
    if (storage->driver->stats)
        storage->driver->stats(storage, stats);
}
