/* SPDX-License-Identifier: MIT */
/*
 * The only caller of the format drivers' functions.
 *
 * F1  A driver sees only ranges that are not empty and lie within the disk.
 * F2  An answer covers the start of the range that was asked for, and no more than the range.
 * F3  After the first failure of metadata, every change fails with the same error.
 * F4  Requests are counted by epoch.  The epoch moves on from e only when no request of e-1 is
 *     left, so what was freed in epoch e is out of every request's sight in epoch e+2.
 */
#include "format/format.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/driver.h"
#include "util/mem.h"

#define PROBE_BYTES 4096u

const struct vd_format_driver *vd_format_at(size_t index)
{
    for (size_t i = 0; vd_format_drivers[i]; i++)
        if (i == index)
            return vd_format_drivers[i];
    return NULL;
}

const struct vd_format_driver *vd_format_find(const char *name, struct vdisk_error *err)
{
    const char *wanted = strcmp(name, "gow") == 0 ? "gow3" : name;
    for (size_t i = 0; vd_format_drivers[i]; i++)
        if (strcmp(vd_format_drivers[i]->name, wanted) == 0)
            return vd_format_drivers[i];

    char known[256] = "";
    size_t used = 0;
    for (size_t i = 0; vd_format_drivers[i] && used < sizeof(known); i++)
        used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s", i ? ", " : "",
                                 vd_format_drivers[i]->name);
    vd_err_set(err, EINVAL, "unknown format '%s': use one of %s", name, known);
    return NULL;
}

const char *vd_format_driver_name(const struct vd_format_driver *driver)
{
    return driver->name;
}

uint32_t vd_format_driver_cluster_bytes(const struct vd_format_driver *driver)
{
    return driver->cluster_bytes;
}

int vd_format_probe(struct vd_storage *storage, const struct vd_format_driver **driver,
                    struct vdisk_error *err)
{
    uint8_t head[PROBE_BYTES];
    uint64_t size;
    int ret = vd_storage_size(storage, &size, err);
    if (ret < 0)
        return ret;
    size_t head_bytes = (size_t)vd_min(size, sizeof(head));
    ret = vd_storage_pread(storage, head, head_bytes, 0, err);
    if (ret < 0)
        return ret;

    size_t i = 0;
    while (vd_format_drivers[i + 1] &&
           !(vd_format_drivers[i]->probe &&
             vd_format_drivers[i]->probe(vd_format_drivers[i], head, head_bytes)))
        i++;
    *driver = vd_format_drivers[i];
    return 0;
}

bool vd_format_driver_has_probe(const struct vd_format_driver *driver)
{
    return driver->probe != NULL;
}

enum vd_data_file vd_format_driver_data_file(const struct vd_format_driver *driver)
{
    return driver->data_file;
}

bool vd_format_driver_encrypts(const struct vd_format_driver *driver)
{
    return driver->encrypts;
}

bool vd_format_driver_has_encoded(const struct vd_format_driver *driver)
{
    return driver->map_encoded != NULL;
}

bool vd_format_driver_has_backing(const struct vd_format_driver *driver)
{
    return driver->has_backing;
}

int vd_format_create(const struct vd_format_driver *driver, struct vd_storage *file,
                     struct vd_storage *data, const struct vdisk_create_options *options,
                     struct vdisk_error *err)
{
    assert(data ? driver->data_file != VD_DATA_FILE_NEVER
                : driver->data_file != VD_DATA_FILE_ALWAYS);
    int ret = driver->create(driver, file, data, options, err);
    return ret < 0 ? vd_err_prefix(err, ret, "%s: ", driver->name) : ret;
}

int vd_format_measure(const struct vd_format_driver *driver,
                      const struct vdisk_create_options *options, uint64_t data_bytes,
                      struct vdisk_measure_result *result, struct vdisk_error *err)
{
    int ret = driver->measure(driver, options, data_bytes, result, err);
    return ret < 0 ? vd_err_prefix(err, ret, "%s: ", driver->name) : ret;
}

static void format_free(struct vd_format *format)
{
    vd_mutex_destroy(&format->failure_lock);
    free(format);
}

int vd_format_open(const struct vd_format_driver *driver, struct vd_storage *file,
                   const struct vd_format_options *options, struct vd_format **format,
                   struct vdisk_error *err)
{
    static const struct vd_format_options defaults = {0};
    if (!options)
        options = &defaults;

    struct vd_format *fmt = calloc(1, sizeof(*fmt));
    if (!fmt)
        return vd_err_nomem(err, "a format");
    fmt->driver = driver;
    fmt->file = file;
    fmt->flags = options->flags;
    vd_mutex_init(&fmt->failure_lock);

    int ret = 0;
    if ((fmt->flags & VD_FORMAT_WRITE) && !driver->map_for_write)
        ret = vd_err_set(err, EROFS, "%s images can only be read", driver->name);
    if (ret == 0 && options->snapshot && !driver->snapshots)
        ret = vd_err_set(err, ENOTSUP, "images of format %s have no snapshots within them",
                         driver->name);
    if (ret == 0)
        ret = driver->open(fmt, options, err);
    if (ret < 0) {
        vd_err_prefix(err, ret, "%s: ", vd_storage_name(file));
        format_free(fmt);
        return ret;
    }
    *format = fmt;
    return 0;
}

int vd_format_close(struct vd_format *format, struct vdisk_error *err)
{
    if (!format)
        return 0;
    int ret = format->driver->close(format, err);
    if (ret == 0 && atomic_load(&format->has_failed))
        ret = vd_err_copy(err, &format->failure);
    format_free(format);
    return ret;
}

const struct vd_format_driver *vd_format_driver_of(const struct vd_format *format)
{
    return format->driver;
}

struct vd_storage *vd_format_file(const struct vd_format *format)
{
    return format->file;
}

uint64_t vd_format_size(const struct vd_format *format)
{
    return format->size;
}

bool vd_format_is_writable(const struct vd_format *format)
{
    return (format->flags & VD_FORMAT_WRITE) != 0;
}

int vd_format_info(struct vd_format *format, struct vd_format_info *info, struct vdisk_error *err)
{
    *info = (struct vd_format_info){0};
    return format->driver->info(format, info, err);
}

/* F3 */
int vd_format_fail(struct vd_format *format, const struct vdisk_error *err)
{
    assert(err->code);
    vd_mutex_lock(&format->failure_lock);
    vd_err_copy(&format->failure, err);
    vd_mutex_unlock(&format->failure_lock);
    atomic_store(&format->has_failed, true);
    return -err->code;
}

int vd_format_check_change(struct vd_format *format, struct vdisk_error *err)
{
    if (!vd_format_is_writable(format))
        return vd_err_set(err, EROFS, "%s: opened read-only", vd_storage_name(format->file));
    if (!atomic_load(&format->has_failed))
        return 0;
    vd_mutex_lock(&format->failure_lock);
    int ret = vd_err_set(err, format->failure.code, "no more changes after an earlier failure: %s",
                         format->failure.message);
    vd_mutex_unlock(&format->failure_lock);
    return ret;
}

/* Data that is not there without a key. */
static int refuse_locked(const struct vd_format *format, struct vdisk_error *err)
{
    return vd_err_set(err, ENOKEY,
                      "%s: is encrypted: its data can not be read or written without a passphrase",
                      vd_storage_name(format->file));
}

static int check_data_change(struct vd_format *format, struct vdisk_error *err)
{
    int ret = vd_format_check_change(format, err);
    return ret == 0 && format->is_locked ? refuse_locked(format, err) : ret;
}

int vd_format_settle(struct vd_format *format, int ret, const struct vdisk_error *inner,
                     struct vdisk_error *err)
{
    if (ret == 0)
        return 0;
    assert(inner->code == -ret);
    if (ret == -EBADMSG)
        vd_format_fail(format, inner);
    return vd_err_copy(err, inner);
}

unsigned vd_format_enter(struct vd_format *format)
{
    if (!vd_format_is_writable(format))
        return 0; /* nothing is ever freed */
    for (;;) {
        unsigned epoch = atomic_load(&format->phase);
        atomic_fetch_add(&format->requests[epoch & 1], 1);
        if (atomic_load(&format->phase) == epoch)
            return epoch;
        atomic_fetch_sub(&format->requests[epoch & 1], 1);
    }
}

void vd_format_leave(struct vd_format *format, unsigned ticket)
{
    if (!vd_format_is_writable(format))
        return;
    atomic_fetch_sub(&format->requests[ticket & 1], 1);
}

unsigned vd_format_point(struct vd_format *format)
{
    return atomic_load(&format->phase);
}

/* F4 */
bool vd_format_point_is_past(struct vd_format *format, unsigned point)
{
    unsigned epoch = atomic_load(&format->phase);
    while (epoch - point < 2 && atomic_load(&format->requests[(epoch + 1) & 1]) == 0)
        atomic_store(&format->phase, ++epoch);
    return epoch - point >= 2;
}

/* F1 */
static void assert_range(const struct vd_format *format, struct vd_range guest)
{
    assert(guest.length > 0 && vd_range_is_within(guest, format->size));
}

/* F2 */
static void assert_answer(const struct vd_mapping *mapping, struct vd_range guest)
{
    assert(mapping->guest.offset == guest.offset);
    assert(mapping->guest.length > 0 && mapping->guest.length <= guest.length);
    assert(mapping->kind != VD_MAP_DATA || mapping->storage);
    assert(mapping->kind == VD_MAP_DATA || !mapping->fresh);
    assert(mapping->kind != VD_MAP_ENCODED || (mapping->storage && mapping->encoded_bytes));
    assert(!mapping->fresh || (mapping->clusters.offset <= guest.offset &&
                               vd_range_end(mapping->clusters) >= vd_range_end(mapping->guest)));
}

int vd_format_map(struct vd_format *format, struct vd_range guest, struct vd_mapping *mapping,
                  struct vdisk_error *err)
{
    struct vdisk_error inner; /* not zeroed: a map costs less than that */
    vdisk_error_clear(&inner);
    assert_range(format, guest);
    *mapping = (struct vd_mapping){0};
    int ret = format->driver->map(format, guest, mapping, &inner);
    if (ret == 0)
        assert_answer(mapping, guest);
    if (ret == 0 && format->is_locked && mapping->kind == VD_MAP_DATA)
        return refuse_locked(format, err);
    return vd_format_settle(format, ret, &inner, err);
}

int vd_format_try_map(struct vd_format *format, struct vd_range guest, bool for_write,
                      struct vd_mapping *mapping)
{
    assert_range(format, guest);
    if (!format->driver->try_map || format->is_locked ||
        (for_write && (!vd_format_is_writable(format) || atomic_load(&format->has_failed))))
        return -EAGAIN;
    *mapping = (struct vd_mapping){0};
    if (format->driver->try_map(format, guest, for_write, mapping) < 0)
        return -EAGAIN;
    assert_answer(mapping, guest);
    assert(!mapping->fresh && (!for_write || mapping->kind == VD_MAP_DATA));
    return 0;
}

int vd_format_map_for_write(struct vd_format *format, struct vd_range guest, bool allocate,
                            struct vd_mapping *mapping, struct vdisk_error *err)
{
    struct vdisk_error inner; /* not zeroed: a map costs less than that */
    vdisk_error_clear(&inner);
    assert_range(format, guest);
    int ret = check_data_change(format, err);
    if (ret < 0)
        return ret;
    *mapping = (struct vd_mapping){0};
    ret = format->driver->map_for_write(format, guest, allocate, mapping, &inner);
    if (ret == 0) {
        assert_answer(mapping, guest);
        assert(mapping->kind == VD_MAP_DATA || !allocate);
        assert(!mapping->fresh || allocate);
    }
    return vd_format_settle(format, ret, &inner, err);
}

int vd_format_map_encoded(struct vd_format *format, struct vd_range guest, enum vd_codec codec,
                          uint32_t encoded_bytes, struct vd_mapping *mapping,
                          struct vdisk_error *err)
{
    struct vdisk_error inner;
    vdisk_error_clear(&inner);
    assert_range(format, guest);
    int ret = check_data_change(format, err);
    if (ret < 0)
        return ret;
    if (!format->driver->map_encoded)
        return vd_err_set(err, ENOTSUP, "%s: images of format %s have no compressed clusters",
                          vd_storage_name(format->file), format->driver->name);
    *mapping = (struct vd_mapping){0};
    ret = format->driver->map_encoded(format, guest, codec, encoded_bytes, mapping, &inner);
    assert(ret < 0 || (mapping->kind == VD_MAP_DATA && mapping->fresh &&
                       mapping->guest.length == guest.length));
    return vd_format_settle(format, ret, &inner, err);
}

void vd_format_write_done(struct vd_format *format, const struct vd_mapping *mapping, bool ok)
{
    assert(mapping->fresh);
    format->driver->write_done(format, mapping, ok);
}

int vd_format_map_zero(struct vd_format *format, struct vd_range guest, unsigned flags,
                       struct vd_mapping *mapping, struct vdisk_error *err)
{
    struct vdisk_error inner; /* not zeroed: a map costs less than that */
    vdisk_error_clear(&inner);
    assert_range(format, guest);
    int ret = check_data_change(format, err);
    if (ret < 0)
        return ret;
    *mapping = (struct vd_mapping){0};
    ret = format->driver->map_zero(format, guest, flags, mapping, &inner);
    if (ret == 0)
        assert_answer(mapping, guest);
    return vd_format_settle(format, ret, &inner, err);
}

bool vd_format_has_versions(const struct vd_format *format)
{
    return format->driver->version != NULL;
}

int vd_format_version(struct vd_format *format, struct vd_range guest, uint32_t *version,
                      uint64_t *length, struct vdisk_error *err)
{
    assert(guest.length && vd_range_is_within(guest, format->size)); /* F1 */
    if (!format->driver->version)
        return vd_err_set(err, ENOTSUP, "%s: blocks of format %s have no versions",
                          vd_storage_name(format->file), format->driver->name);
    int ret = format->driver->version(format, guest, version, length, err);
    assert(ret < 0 || (*length && *length <= guest.length)); /* F2 */
    return ret;
}

int vd_format_flush(struct vd_format *format, struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    if (!vd_format_is_writable(format))
        return 0;
    int ret = vd_format_check_change(format, err);
    if (ret < 0)
        return ret;
    ret = format->driver->flush(format, &inner);
    if (ret == 0)
        return 0;
    vd_format_fail(format, &inner);
    return vd_err_copy(err, &inner);
}

int vd_format_resize(struct vd_format *format, const struct vd_resize *resize,
                     struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    int ret = check_data_change(format, err); /* the cluster with the end may change */
    if (ret < 0)
        return ret;
    ret = format->driver->resize(format, resize, &inner);
    return vd_format_settle(format, ret, &inner, err);
}

int vd_format_set_backing(struct vd_format *format, const struct vd_backing *backing,
                          struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    if (!format->driver->set_backing)
        return vd_err_set(err, ENOTSUP, "%s: images of format %s have no backing file",
                          vd_storage_name(format->file), format->driver->name);
    int ret = vd_format_check_change(format, err);
    if (ret < 0)
        return ret;
    ret = format->driver->set_backing(format, backing, &inner);
    return vd_format_settle(format, ret, &inner, err);
}

int vd_format_empty(struct vd_format *format, struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    if (!format->driver->empty)
        return vd_err_set(err, ENOTSUP, "%s: images of format %s can not be emptied",
                          vd_storage_name(format->file), format->driver->name);
    int ret = vd_format_check_change(format, err);
    if (ret < 0)
        return ret;
    ret = format->driver->empty(format, &inner);
    return vd_format_settle(format, ret, &inner, err);
}

bool vd_format_can_compact(const struct vd_format *format)
{
    return format->driver->compact != NULL;
}

int vd_format_compact(struct vd_format *format, const struct vd_compact *compact,
                      struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    if (!format->driver->compact)
        return vd_err_set(err, ENOTSUP, "%s: images of format %s can not be compacted",
                          vd_storage_name(format->file), format->driver->name);
    int ret = vd_format_check_change(format, err);
    if (ret < 0)
        return ret;
    ret = format->driver->compact(format, compact, &inner);
    return vd_format_settle(format, ret, &inner, err);
}

int vd_format_amend(const struct vd_format_driver *driver, struct vd_storage *file,
                    const struct vdisk_amend_options *options, struct vdisk_error *err)
{
    if (!driver->amend)
        return vd_err_set(err, ENOTSUP, "%s: format %s has nothing to amend", vd_storage_name(file),
                          driver->name);
    int ret = driver->amend(driver, file, options, err);
    return ret < 0 ? vd_err_prefix(err, ret, "%s: ", vd_storage_name(file)) : ret;
}

int vd_format_check(struct vd_format *format, const struct vd_check *check, struct vdisk_error *err)
{
    if (!format->driver->check)
        return vd_err_set(err, ENOTSUP, "%s: format %s has nothing to check",
                          vd_storage_name(format->file), format->driver->name);
    if (check->repair != VDISK_REPAIR_NONE) {
        int ret = vd_format_check_change(format, err);
        if (ret < 0)
            return ret;
    }
    return format->driver->check(format, check, err);
}

void vd_check_report(const struct vd_check *check, const char *fmt, ...)
{
    if (!check->report)
        return;
    char message[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    check->report(check->opaque, message);
}
