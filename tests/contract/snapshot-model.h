/* SPDX-License-Identifier: MIT */
/*
 * A qcow2 image with snapshots within it, and what it and each of them has to hold.
 *
 * What is written lies in windows around the borders of tables; elsewhere the disk reads as zero.
 */
#ifndef SNAPSHOT_MODEL_H
#define SNAPSHOT_MODEL_H

#include "drivers/random.h"
#include "image/image.h"
#include "storage/storage.h"

#define SM_SNAPSHOTS_MAX 6u
#define SM_WINDOWS       3u

struct sm_shape {
    const char *name;
    const char *compat;
    uint32_t cluster_bytes;
    uint32_t refcount_bits;
    uint32_t flags; /* of enum vdisk_create_flag */
    bool has_backing;
};

struct sm_disk {
    uint64_t size;
    uint8_t *bytes; /* of all windows, one behind the other */
};

struct sm_model {
    const struct sm_shape *shape;
    struct vd_range windows[SM_WINDOWS];
    uint64_t window_bytes; /* of all */
    uint64_t size_max;
    struct vd_storage *base; /* the backing file, or NULL */
    struct sm_disk now;
    struct sm_disk snapshots[SM_SNAPSHOTS_MAX];
    unsigned serials[SM_SNAPSHOTS_MAX]; /* the snapshot is called "s%u" */
    unsigned snapshot_entries;
    unsigned next_serial;
};

/* Makes the image in *file, a storage of drivers/snap.h; its disk reads as model->now. */
void sm_init(struct sm_model *model, const struct sm_shape *shape, struct vd_storage **file);
void sm_free(struct sm_model *model);

/* Opens it on @file, which the image owns then.  @snapshot: UINT_MAX: the disk of now. */
struct vdisk_image *sm_open_on(const struct sm_model *model, struct vd_storage *file,
                               uint32_t flags, unsigned snapshot);

/* On a clone of @file. */
struct vdisk_image *sm_open_clone(const struct sm_model *model, struct vd_storage *file,
                                  uint32_t flags, unsigned snapshot);

/* The bytes of @disk at @offset, which is in a window. */
uint8_t *sm_at(const struct sm_model *model, const struct sm_disk *disk, uint64_t offset);

/* Fails the test if the open disk is another one; false instead if @may_differ. */
bool sm_same(const struct sm_model *model, struct vdisk_image *image, const struct sm_disk *disk,
             bool may_differ);

/* What is in @file now: the disk, all snapshots, and `check` without a finding, or only leaks. */
void sm_verify(const struct sm_model *model, struct vd_storage *file, bool may_leak);
void sm_check(const struct sm_model *model, struct vd_storage *file, bool may_leak);

/* Repairs it; nothing wrong is left. */
void sm_repair(const struct sm_model *model, struct vd_storage *file);

/* Copies a disk of the model. */
void sm_copy(const struct sm_model *model, struct sm_disk *to, const struct sm_disk *from);

/* A snapshot of the disk of now, and one less, of the model alone. */
void sm_add(struct sm_model *model);
void sm_remove(struct sm_model *model, unsigned index);

/* A random write, zero or discard, on the image and the model. */
void sm_change(struct sm_model *model, struct vdisk_image *image, struct vt_random *random);

#endif
