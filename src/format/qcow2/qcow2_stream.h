/* SPDX-License-Identifier: MIT */
/* A qcow2 image written once from start to end, into a pipe: all metadata first, then the data. */
#ifndef VD_FORMAT_QCOW2_QCOW2_STREAM_H
#define VD_FORMAT_QCOW2_QCOW2_STREAM_H

#include <stddef.h>

#include "util/err.h"
#include "util/range.h"

/* Takes the next bytes of the image. */
typedef int (*vd_qcow2_put_fn)(void *opaque, const void *bytes, size_t length,
                               struct vdisk_error *err);

/* What the image has, in guest bytes: whole clusters, ascending, apart from each other. */
struct vd_qcow2_runs {
    const struct vd_range *ranges;
    size_t entries;
};

/* Can such an image be written so?  *cluster_bytes gets its unit.  -ENOTSUP: with words. */
int vd_qcow2_stream_check(const struct vdisk_create_options *options, uint32_t *cluster_bytes,
                          struct vdisk_error *err);

/* Puts all that is before the data, which follows in the order of @runs, each in whole clusters. */
int vd_qcow2_stream_head(const struct vdisk_create_options *options,
                         const struct vd_qcow2_runs *runs, vd_qcow2_put_fn put, void *opaque,
                         struct vdisk_error *err);

#endif
