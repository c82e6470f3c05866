/* SPDX-License-Identifier: MIT */
/*
 * A disk that is backed up again and again, what it has to hold, and what each point of its
 * repository has to.  All is done through the public interface, as a program would; but what is
 * copied between two notes is less than there.
 */
#ifndef VT_BACKUP_DISK_H
#define VT_BACKUP_DISK_H

#include "drivers/check.h"
#include "drivers/random.h"

#define VB_DISK_BYTES_MAX (6u << 20)
#define VB_POINTS_MAX     128u
#define VB_SNAPSHOTS_MAX  3u

struct vb_content {
    uint64_t size;
    uint8_t *bytes; /* owned: VB_DISK_BYTES_MAX, zeros from size on */
};

struct vb_point {
    uint64_t number;
    struct vb_content content;
};

struct vb {
    struct vt_random random;
    char folder[128];
    char source[192];
    char repository[192];
    const char *format;
    struct vb_content now;
    struct vb_content snapshots[VB_SNAPSHOTS_MAX]; /* within the image: qcow2 only */
    unsigned snapshot_entries;
    struct vb_point points[VB_POINTS_MAX];
    unsigned point_entries;
    bool is_compressed;     /* what vb_options() asks for */
    uint64_t stretch_bytes; /* copied between two notes of what is done */
};

/* A folder, and a disk of @size bytes in it: qcow2, gow3, qed, raw; or add-cow on a qcow2 image, of
 * which it shows the content at first. */
void vb_init(struct vb *vb, const char *format, uint64_t size, uint64_t seed);
void vb_destroy(struct vb *vb); /* removes it all */

/* The path of a file of the folder; eight are good at a time. */
const char *vb_path(const struct vb *vb, const char *file);

struct vdisk_image *vb_open(const struct vb *vb, uint32_t flags);
void vb_close(struct vdisk_image *image);

/* What is there is changed, and so is what has to be. */
void vb_write(struct vb *vb, struct vdisk_image *image, uint64_t offset, uint64_t length);
void vb_zero(struct vb *vb, struct vdisk_image *image, uint64_t offset, uint64_t length);
void vb_discard(struct vb *vb, struct vdisk_image *image, uint64_t offset, uint64_t length);
void vb_resize(struct vb *vb, struct vdisk_image *image, uint64_t size);
void vb_snapshot(struct vb *vb, struct vdisk_image *image);              /* qcow2 */
void vb_apply(struct vb *vb, struct vdisk_image *image, unsigned index); /* qcow2 */

/* One session of @operations random ones of the above, as far as the format has them. */
void vb_session(struct vb *vb, unsigned operations);

/* A session with one write. */
void vb_write_once(struct vb *vb, uint64_t offset, uint64_t length);

/* Options for a backup of the disk to its repository. */
struct vdisk_backup_options vb_options(const struct vb *vb, uint32_t flags);

/* vdisk_backup() */
int vb_run(const struct vb *vb, const struct vdisk_backup_options *options,
           struct vdisk_backup_result *result, struct vdisk_error *err);

/* Makes a backup, which has to succeed, and records what the point has to hold. */
struct vdisk_backup_result vb_backup(struct vb *vb, uint32_t flags);
struct vdisk_backup_result vb_backup_with(struct vb *vb,
                                          const struct vdisk_backup_options *options);

/* A point has come to be. */
void vb_record(struct vb *vb, uint64_t number);

/* Reads point @index, as recorded, and compares: through the repository, and as any program would
 * that knows nothing of repositories. */
void vb_verify_point(const struct vb *vb, unsigned index, const void *key, size_t key_bytes);

/* All of them; and that there are no others, and no damage. */
void vb_verify(const struct vb *vb);

/* How many points has the repository?  0 too if there is none. */
size_t vb_count(const struct vb *vb);

/* Is there a file of this name in the repository? */
bool vb_has(const struct vb *vb, const char *file);

#endif
