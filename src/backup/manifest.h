/* SPDX-License-Identifier: MIT */
/* What is known of a point, and its file NUMBER.json (docs/formats/backup.md). */
#ifndef VD_BACKUP_MANIFEST_H
#define VD_BACKUP_MANIFEST_H

#include "backup/sealed.h"
#include "util/range.h"
#include "util/uuid.h"

#define VD_MANIFEST_VERSION      1u
#define VD_MANIFEST_BYTES_MAX    (UINT64_C(64) << 20)

#define VD_MANIFEST_BACKINGS_MAX 256u /* VDISK_CHAIN_IMAGES_MAX */

/* A file of a point. */
struct vd_manifest_file {
    char *name; /* owned; within the directory; NULL: there is none */
    struct vd_digest_table table;
};

/* A file behind the source, as far as it has been: it has to stay as it is. */
struct vd_manifest_backing {
    char *name; /* owned */
    uint64_t bytes;
    int64_t modified_ns; /* since 1970 */
};

struct vd_manifest {
    uint64_t number;
    char uuid[VD_UUID_TEXT_BYTES];
    enum vdisk_point_kind kind;
    enum vdisk_tracker tracker;
    uint64_t parent;                      /* 0: none */
    char parent_uuid[VD_UUID_TEXT_BYTES]; /* "" if there is none */
    int64_t created;                      /* seconds since 1970 */
    uint64_t virtual_bytes;
    uint64_t changed_bytes;
    uint64_t read_bytes;
    bool is_compressed;
    uint32_t compression_level; /* 0: the default */

    struct vd_manifest_file image;
    char *image_format; /* owned: "qcow2", "qed" */

    char *source;        /* owned: its name, for local files absolute */
    char *source_format; /* owned */

    /* What the next backup needs of the source, as far as there is something: whatever the
     * @tracker, which is how this one was made. */
    char *bitmap;                         /* owned: has recorded what changes since this point */
    char source_uuid[VD_UUID_TEXT_BYTES]; /* of a GOW image with @versions; "": there is none */
    /* le32 for each 64 KiB block of the disk: its version; or, without a @source_uuid, 1 for each
     * of which an overlay has something of its own, and else 0. */
    struct vd_manifest_file versions;
    struct vd_manifest_backing *backings; /* owned: what is behind the source, from the top down */
    size_t backing_entries;               /* VD_MANIFEST_BACKINGS_MAX at most */
};

/* Also of a zeroed one. */
void vd_manifest_free(struct vd_manifest *manifest);

/* Writes it, durable, to @name; the name is not durable.  @repository: uuid of the repository. */
int vd_manifest_write(const struct vd_manifest *manifest, const char *repository, const char *name,
                      const struct vd_seal_key *key, struct vdisk_error *err);

/*
 * Reads what is in the file @name.  Whatever the file holds, what comes back is in range and makes
 * sense: names are of this directory, tables are as long as their files say, and so on.
 * -EBADMSG: it does not, or is of another repository; and as vd_sealed_read().
 */
int vd_manifest_read(struct vd_manifest *manifest, const char *repository, const char *name,
                     const struct vd_seal_key *key, struct vdisk_error *err);

/* "full", "incremental", "differential"; and back: 0: there is none of this name. */
const char *vd_point_kind_name(enum vdisk_point_kind kind);
enum vdisk_point_kind vd_point_kind_of(const char *name);

/* "none", "compare", "bitmap", "versions", "overlay", "nbd"; and back. */
const char *vd_tracker_name(enum vdisk_tracker kind);
enum vdisk_tracker vd_tracker_of(const char *name);

/* Bytes of its files as the manifest tells. */
uint64_t vd_manifest_stored_bytes(const struct vd_manifest *manifest);

#endif
