/* SPDX-License-Identifier: MIT */
/*
 * What a format driver must do.  format.c is the only caller: ranges are within the size and not
 * empty, and answers are checked.  map, map_for_write, map_encoded, write_done, map_zero and flush
 * are called from any thread at once; the others alone.
 */
#ifndef VD_FORMAT_DRIVER_H
#define VD_FORMAT_DRIVER_H

#include <stdatomic.h>

#include "format/bitmaps.h"
#include "format/format.h"
#include "format/snapshots.h"
#include "util/mutex.h"

struct vd_format_driver {
    const char *name;            /* as in `-f gow3` and in JSON */
    uint32_t cluster_bytes;      /* of a new image; 0: none */
    uint32_t variant;            /* the driver's own: for tables that share functions */
    bool has_backing;            /* images may be overlays */
    bool encrypts;               /* images may be encrypted */
    enum vd_data_file data_file; /* guest data lies in a file of its own, which the image names */

    /* Is this the start of such an image?  @head_bytes at most 4096.  NULL: never by looking. */
    bool (*probe)(const struct vd_format_driver *driver, const uint8_t *head, size_t head_bytes);
    /* @data: as vd_format_create() has it.  Backing files are recorded, not looked at. */
    int (*create)(const struct vd_format_driver *driver, struct vd_storage *file,
                  struct vd_storage *data, const struct vdisk_create_options *options,
                  struct vdisk_error *err);
    int (*measure)(const struct vd_format_driver *driver,
                   const struct vdisk_create_options *options, uint64_t data_bytes,
                   struct vdisk_measure_result *result, struct vdisk_error *err);
    /*
     * Fills format->state and ->size.  format->flags tells whether it may write.  A data file that
     * can not be opened is no failure with VD_FORMAT_FACTS: then ->size is 0, and info() says
     * VDISK_INFO_NO_DATA_FILE.
     */
    int (*open)(struct vd_format *format, const struct vd_format_options *options,
                struct vdisk_error *err);
    /* Flushes if writable and not failed; frees state in any case. */
    int (*close)(struct vd_format *format, struct vdisk_error *err);
    int (*info)(struct vd_format *format, struct vd_format_info *info, struct vdisk_error *err);
    int (*map)(struct vd_format *format, struct vd_range guest, struct vd_mapping *mapping,
               struct vdisk_error *err);
    /* NULL, with the three below: read-only format */
    int (*map_for_write)(struct vd_format *format, struct vd_range guest, bool allocate,
                         struct vd_mapping *mapping, struct vdisk_error *err);
    /*
     * As map(), or as map_for_write() without allocating, from memory alone: no I/O, no waiting for
     * others.  Anything but 0 means that the other function has to be asked.  For writing DATA is
     * the only answer.  NULL: always to be asked.
     */
    int (*try_map)(struct vd_format *format, struct vd_range guest, bool for_write,
                   struct vd_mapping *mapping);
    /* NULL: -ENOTSUP */
    int (*map_encoded)(struct vd_format *format, struct vd_range guest, enum vd_codec codec,
                       uint32_t encoded_bytes, struct vd_mapping *mapping, struct vdisk_error *err);
    /* NULL if no mapping is ever fresh */
    void (*write_done)(struct vd_format *format, const struct vd_mapping *mapping, bool ok);
    int (*map_zero)(struct vd_format *format, struct vd_range guest, unsigned flags,
                    struct vd_mapping *mapping, struct vdisk_error *err);
    int (*flush)(struct vd_format *format, struct vdisk_error *err);
    /* NULL: its blocks have no versions.  As vd_format_version(); any thread. */
    int (*version)(struct vd_format *format, struct vd_range guest, uint32_t *version,
                   uint64_t *length, struct vdisk_error *err);
    int (*resize)(struct vd_format *format, const struct vd_resize *resize,
                  struct vdisk_error *err);
    /* NULL: !has_backing */
    int (*set_backing)(struct vd_format *format, const struct vd_backing *backing,
                       struct vdisk_error *err);
    /* NULL: -ENOTSUP */
    int (*empty)(struct vd_format *format, struct vdisk_error *err);
    /* NULL: -ENOTSUP */
    int (*amend)(const struct vd_format_driver *driver, struct vd_storage *file,
                 const struct vdisk_amend_options *options, struct vdisk_error *err);
    /* NULL: -ENOTSUP */
    int (*compact)(struct vd_format *format, const struct vd_compact *compact,
                   struct vdisk_error *err);
    /* NULL: nothing to check */
    int (*check)(struct vd_format *format, const struct vd_check *check, struct vdisk_error *err);
    const struct vd_snapshot_driver *snapshots; /* NULL: it has none within its images */
    const struct vd_bitmap_driver *bitmaps;     /* NULL: its images have no dirty bitmaps */
};

struct vd_format {
    const struct vd_format_driver *driver;
    struct vd_storage *file;
    void *state;    /* the driver's own */
    uint64_t size;  /* bytes of the disk; changes only in open and resize */
    uint32_t flags; /* of enum vd_format_open_flag */
    bool is_locked; /* set by open: guest data is encrypted, and there is no key: mappings of DATA
                       are refused, and what asks for them for writing is not called */

    /* Sticky failure: every later change answers with it. */
    atomic_bool has_failed;
    struct vd_mutex failure_lock;
    struct vdisk_error failure; /* under failure_lock */

    /* Requests between enter and leave, by phase; see format.c. */
    atomic_uint phase;
    atomic_ulong requests[2];
};

/*
 * Makes every later change of the image fail with @err, for a failed write or flush of metadata,
 * or metadata that contradicts the format.  Returns -err->code.  (format.c does it by itself when
 * flush() fails, or anything returns -EBADMSG.)
 */
int vd_format_fail(struct vd_format *format, const struct vdisk_error *err);

/* For the callers of drivers.  May it be changed? */
int vd_format_check_change(struct vd_format *format, struct vdisk_error *err);

/* What the driver answered, with @inner: metadata that contradicts the format ends all changes. */
int vd_format_settle(struct vd_format *format, int ret, const struct vdisk_error *inner,
                     struct vdisk_error *err);

/*
 * A point in time: once vd_format_point_is_past(), every request that was under way at the point
 * has left, so what was freed before it may be used again.  The driver holds one lock around both.
 */
unsigned vd_format_point(struct vd_format *format);
bool vd_format_point_is_past(struct vd_format *format, unsigned point);

/* The table, NULL-terminated; raw is the last: drivers.c. */
extern const struct vd_format_driver *const vd_format_drivers[];

#endif
