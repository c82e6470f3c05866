/* SPDX-License-Identifier: MIT */
/*
 * The directory of backups of one disk:
 *
 *   vdisk-repository.json   what it is (sealed)
 *   lock                    empty; locked by those who have it open
 *   000003.qcow2            the image of point 3, on that of its parent by the plain name
 *   000003.json             its manifest (sealed): the point is there if this file is
 *   000003.versions         of GOW3 sources: versions of blocks
 *   journal.json            a change that has begun (backup/journal.h)
 *   partial.json, partial.* a backup that is not finished (backup/partial.h)
 *
 * P1  A point is there from the instant on at which its manifest gets its name, and its files are
 *     durable before.
 * P2  Files of points do not change but by a journal.
 * P3  Many may read; one at a time makes a backup, beside them; a merge or prune is alone.
 */
#ifndef VD_BACKUP_REPOSITORY_H
#define VD_BACKUP_REPOSITORY_H

#include "backup/manifest.h"

#define VD_REPOSITORY_IDENTITY           "vdisk-repository.json"
#define VD_REPOSITORY_IDENTITY_BYTES_MAX (UINT64_C(64) << 10)

/* How it is locked: P3. */
enum vd_repository_access {
    VD_REPOSITORY_READ = 1, /* points do not change */
    VD_REPOSITORY_ADD,      /* and nobody else adds one */
    VD_REPOSITORY_CHANGE    /* and nobody else is there */
};

struct vd_point {
    uint64_t number;
    char file[32];               /* name of the manifest */
    bool is_damaged;             /* the manifest: only the number is known */
    struct vdisk_error damage;   /* why */
    struct vd_manifest manifest; /* owned */
};

struct vdisk_repository {
    char *name; /* owned: as given */
    enum vd_repository_access access;
    char uuid[VD_UUID_TEXT_BYTES];
    struct vd_seal_key key;  /* owned */
    int lock_fd;             /* -1: it is read without a lock, as none can be had */
    struct vd_point *points; /* owned; by number */
    size_t point_entries;
    bool is_new;           /* it has been made when it was opened, */
    bool is_new_directory; /* and so has been the directory */
};

/*
 * Makes an empty one if there is no repository yet, for VD_REPOSITORY_ADD; the directory may be
 * there if it is empty.  Otherwise as vdisk_repository_open().  With VD_REPOSITORY_ADD or _CHANGE,
 * files NUMBER.*.part that somebody has left are removed.
 */
int vd_repository_open(const char *name, enum vd_repository_access access,
                       const struct vd_seal_key *key, struct vdisk_repository **repository,
                       struct vdisk_error *err);

/* Takes away again what is new about it; it is closed next.  Nothing has come into it. */
void vd_repository_take_away(struct vdisk_repository *repository);

/* Reads the list of points again. */
int vd_repository_reload(struct vdisk_repository *repository, struct vdisk_error *err);

/* Is there a regular file of this name?  1 or 0; -EBADMSG: there is something else, which nobody
 * should open; or another negative errno. */
int vd_repository_has_file(const struct vdisk_repository *repository, const char *file,
                           struct vdisk_error *err);

/* NAME/FILE, to be freed; NULL with @err set: no memory. */
char *vd_repository_path(const struct vdisk_repository *repository, const char *file,
                         struct vdisk_error *err);

/* NULL: there is none. */
struct vd_point *vd_repository_point_of(const struct vdisk_repository *repository, uint64_t number);

/* The kind of digests that its files have: sha256 with a key. */
enum vd_digest_kind vd_repository_digest_kind(const struct vdisk_repository *repository);

/* "000003" and @suffix, such as ".qcow2"; to be freed; NULL with @err set: no memory. */
char *vd_point_file_name(uint64_t number, const char *suffix, struct vdisk_error *err);

#endif
