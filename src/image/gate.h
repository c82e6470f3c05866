/* SPDX-License-Identifier: MIT */
/*
 * The gate: which of the files that images name may be opened.
 *
 * An image is hostile until proven otherwise.  Whoever could write to it could make it name any
 * file of the user who opens it, and read that through the disk.  So the caller's policy decides,
 * on the file that a name leads to in the end, not on how the name looks.
 */
#ifndef VD_IMAGE_GATE_H
#define VD_IMAGE_GATE_H

#include "image/named.h"
#include "storage/storage.h"

struct vd_gate {
    const struct vdisk_gate *policy; /* or NULL: nothing */
    char *beside;                    /* directory with all links followed, or URL; or NULL */
};

/* Is the policy one that this library knows? */
int vd_gate_check_policy(const struct vdisk_gate *policy, struct vdisk_error *err);

/* Most images in a chain. */
unsigned vd_gate_images_max(const struct vdisk_gate *policy);

/* Permits nothing yet.  @policy is kept.  Goes to vd_gate_destroy(). */
void vd_gate_init(struct vd_gate *gate, const struct vdisk_gate *policy);
void vd_gate_destroy(struct vd_gate *gate);

/*
 * Names a file or URL that the caller trusts: with VDISK_GATE_BESIDE, and with @always in any case,
 * what lies in its directory is permitted from now on.
 */
int vd_gate_trust_beside(struct vd_gate *gate, const char *path, bool always,
                         struct vdisk_error *err);

/* Which file a permitted name leads to. */
struct vd_gate_pass {
    bool is_path; /* else nothing is known */
    struct vd_storage_identity identity;
};

/* May @named, which an image has written as @name, be opened?  -EPERM; -ENOENT, ...: not there. */
int vd_gate_ask(const struct vd_gate *gate, const char *name, const struct vd_named *named,
                struct vd_gate_pass *pass, struct vdisk_error *err);

/* Is it that file which has been opened? */
int vd_gate_confirm(const struct vd_gate_pass *pass, const struct vd_storage *storage,
                    struct vdisk_error *err);

#endif
