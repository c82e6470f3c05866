/* SPDX-License-Identifier: MIT */
/* The only caller of what drivers have for dirty bitmaps. */
#include "format/bitmaps.h"

#include "format/driver.h"

bool vd_format_driver_has_bitmaps(const struct vd_format_driver *driver)
{
    return driver->bitmaps != NULL;
}

bool vd_format_has_bitmaps(const struct vd_format *format)
{
    return format->driver->bitmaps != NULL;
}

static int want_bitmaps(const struct vd_format *format, struct vdisk_error *err)
{
    if (format->driver->bitmaps)
        return 0;
    return vd_err_set(err, ENOTSUP, "images of format %s have no dirty bitmaps",
                      format->driver->name);
}

/* Their story begins with the name of the file. */
static int name_file(const struct vd_format *format, int ret, struct vdisk_error *err)
{
    return ret < 0 ? vd_err_prefix(err, ret, "%s: ", vd_storage_name(format->file)) : ret;
}

int vd_format_bitmap_count(struct vd_format *format, size_t *count, struct vdisk_error *err)
{
    int ret = want_bitmaps(format, err);
    return name_file(format, ret < 0 ? ret : format->driver->bitmaps->count(format, count, err),
                     err);
}

int vd_format_bitmap_facts(struct vd_format *format, size_t index, struct vd_bitmap_facts *facts,
                           struct vdisk_error *err)
{
    int ret = want_bitmaps(format, err);
    return name_file(
        format, ret < 0 ? ret : format->driver->bitmaps->facts(format, index, facts, err), err);
}

int vd_format_bitmap_bits(struct vd_format *format, const char *name, const struct vd_bitmap **bits,
                          struct vdisk_error *err)
{
    int ret = want_bitmaps(format, err);
    return name_file(format, ret < 0 ? ret : format->driver->bitmaps->bits(format, name, bits, err),
                     err);
}

int vd_format_bitmap_change(struct vd_format *format, const struct vd_bitmap_action *actions,
                            size_t count, struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    int ret = name_file(format, want_bitmaps(format, err), err);
    if (ret == 0)
        ret = vd_format_check_change(format, err);
    if (ret < 0)
        return ret;
    ret = format->driver->bitmaps->change(format, actions, count, &inner);
    return vd_format_settle(format, name_file(format, ret, &inner), &inner, err);
}
