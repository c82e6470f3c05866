/* SPDX-License-Identifier: MIT */
/* Snapshots within an image: the only caller of the drivers' functions for them. */
#include "format/snapshots.h"

#include <string.h>

#include "format/driver.h"

static int info_at(struct vd_format *format, size_t index, struct vdisk_snapshot_info *info,
                   struct vdisk_error *err)
{
    if (!format->driver->snapshots)
        return -ENOENT;
    *info = (struct vdisk_snapshot_info){.struct_bytes = sizeof(*info)};
    return format->driver->snapshots->info(format, index, info, err);
}

int vd_format_snapshot_info(struct vd_format *format, size_t index,
                            struct vdisk_snapshot_info *info, struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    int ret = info_at(format, index, info, &inner);
    if (ret == -ENOENT && !inner.code)
        return vd_err_set(err, ENOENT, "%s: there is no snapshot number %zu",
                          vd_storage_name(format->file), index);
    if (ret < 0)
        vd_err_prefix(&inner, ret, "%s: ", vd_storage_name(format->file));
    return ret < 0 ? vd_err_copy(err, &inner) : 0;
}

int vd_snapshot_check_key(const struct vdisk_snapshot_key *key, struct vdisk_error *err)
{
    if (key->struct_bytes != sizeof(*key))
        return vd_err_set(err, EINVAL, "snapshot: struct_bytes is %zu: this library wants %zu",
                          key->struct_bytes, sizeof(*key));
    if (key->id_or_name ? key->id || key->name : !key->id && !key->name)
        return vd_err_set(err, EINVAL,
                          "snapshot: either an id, a name or both of one snapshot, or "
                          "what may be either");
    return 0;
}

/* The first one that has @id and @name, as far as they are not NULL; SIZE_MAX in *index: none. */
static int find_first(struct vd_format *format, const char *id, const char *name, size_t *index,
                      struct vdisk_error *err)
{
    struct vdisk_snapshot_info info;
    struct vdisk_error inner = {0};
    for (size_t i = 0;; i++) {
        int ret = info_at(format, i, &info, &inner);
        if (ret < 0) {
            *index = SIZE_MAX;
            return ret == -ENOENT && !inner.code ? 0 : vd_err_copy(err, &inner);
        }
        if ((!id || strcmp(info.id, id) == 0) && (!name || strcmp(info.name, name) == 0)) {
            *index = i;
            return 0;
        }
    }
}

int vd_snapshot_find(struct vd_format *format, const struct vdisk_snapshot_key *key, size_t *index,
                     struct vdisk_error *err)
{
    const char *any = key->id_or_name;
    int ret = vd_snapshot_check_key(key, err);
    if (ret == 0)
        ret = find_first(format, any ? any : key->id, any ? NULL : key->name, index, err);
    if (ret == 0 && *index == SIZE_MAX && any)
        ret = find_first(format, NULL, any, index, err);
    if (ret < 0 || *index != SIZE_MAX)
        return ret;
    if (any)
        return vd_err_set(err, ENOENT, "there is no snapshot with the id or name '%s'", any);
    return vd_err_set(err, ENOENT, "there is no snapshot with%s%s%s%s%s%s%s",
                      key->id ? " the id '" : "", key->id ? key->id : "", key->id ? "'" : "",
                      key->id && key->name ? " and" : "", key->name ? " the name '" : "",
                      key->name ? key->name : "", key->name ? "'" : "");
}

int vd_format_snapshot_find(struct vd_format *format, const struct vdisk_snapshot_key *key,
                            size_t *index, struct vdisk_error *err)
{
    int ret = vd_snapshot_find(format, key, index, err);
    return ret < 0 ? vd_err_prefix(err, ret, "%s: ", vd_storage_name(format->file)) : 0;
}

/* Has the format snapshots, and may the image be changed? */
static int check_change(struct vd_format *format, struct vdisk_error *err)
{
    if (!format->driver->snapshots)
        return vd_err_set(err, ENOTSUP,
                          "%s: images of format %s have no snapshots within them: 'vdisk snapshot "
                          "--external NAME' keeps the content in a file of its own",
                          vd_storage_name(format->file), format->driver->name);
    return vd_format_check_change(format, err);
}

int vd_format_snapshot_create(struct vd_format *format, const struct vd_new_snapshot *snapshot,
                              struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    int ret = check_change(format, err);
    if (ret < 0)
        return ret;
    ret = format->driver->snapshots->create(format, snapshot, &inner);
    return vd_format_settle(format, ret, &inner, err);
}

/* Is there a number @index, too? */
static int check_change_of(struct vd_format *format, size_t index, struct vdisk_error *err)
{
    struct vdisk_snapshot_info info;
    int ret = check_change(format, err);
    return ret < 0 ? ret : vd_format_snapshot_info(format, index, &info, err);
}

int vd_format_snapshot_apply(struct vd_format *format, size_t index, struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    int ret = check_change_of(format, index, err);
    if (ret < 0)
        return ret;
    ret = format->driver->snapshots->apply(format, index, &inner);
    return vd_format_settle(format, ret, &inner, err);
}

int vd_format_snapshot_remove(struct vd_format *format, size_t index, struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    int ret = check_change_of(format, index, err);
    if (ret < 0)
        return ret;
    ret = format->driver->snapshots->remove(format, index, &inner);
    return vd_format_settle(format, ret, &inner, err);
}
