/* SPDX-License-Identifier: MIT */
/* What the writer of a qcow2 image tells its dirty bitmaps. */
#include "format/qcow2/qcow2_dirty.h"

int vd_qcow2_dirty_begin(struct vd_qcow2 *qcow2, struct vdisk_error *err)
{
    (void)err;
    /* The header is written by who asks. */
    if (!qcow2->dirty)
        qcow2->header.fields.autoclear &= ~(uint64_t)VD_QCOW2_BITMAPS;
    return 0;
}

int vd_qcow2_mark_dirty(struct vd_qcow2 *qcow2, struct vd_range guest, struct vdisk_error *err)
{
    (void)guest;
    (void)err;
    (void)qcow2;
    return 0;
}

int vd_qcow2_dirty_resize(struct vd_qcow2 *qcow2, uint64_t size, struct vdisk_error *err)
{
    (void)qcow2;
    (void)size;
    (void)err;
    return 0;
}

void vd_qcow2_dirty_resized(struct vd_qcow2 *qcow2, bool ok)
{
    (void)qcow2;
    (void)ok;
}
