/* SPDX-License-Identifier: MIT */
/*
 * An image and the images behind it.
 *
 * H1  Every file that an image names is opened by way of the gate (or of the caller's own
 *     struct vd_image_files), whatever the kind.
 * H2  No file is in a chain twice, by device and inode, so no chain loops; and a chain has no more
 *     images than the gate says.
 * H3  A recorded format is never guessed; one that is not recorded is never taken for raw.
 */
#ifndef VD_IMAGE_CHAIN_H
#define VD_IMAGE_CHAIN_H

#include "image/image.h"

/*
 * Who opens the files that images name.  @name as it is written in the image that was opened as
 * @bearer.
 */
struct vd_image_files {
    int (*open)(void *opaque, const char *bearer, const char *name,
                const struct vd_storage_options *options, struct vd_storage **storage,
                struct vdisk_error *err);
    void *opaque;
};

struct vd_chain_options {
    const struct vdisk_open_options *open;
    const struct vd_image_files *files; /* NULL: by the gate, from where they are */
    bool trusts_names; /* the caller gave the names in the top image: no gate is asked about them,
                          and images behind may name files in the directory of the backing file */
    const struct vd_backing *backing; /* of the top image, in place of the one it names; the caller
                          gave the name, as above.  NULL: as the image says */
    const struct vdisk_passphrases *top_passphrases; /* of the top image alone; NULL: as of those
                          behind it */
    unsigned write_level; /* the image at this depth is opened for writing too; 0: none */
    unsigned images_max;  /* with files: in place of what the gate says; 0: as that says.  A read
                             takes up to 1 KiB of stack for each image */
};

/*
 * Opens an image on a storage that is open already, and what is behind it.  The image owns @file
 * from here on, and closes it also if this fails.
 */
int vd_image_open_chain_on(struct vd_storage *file, const struct vd_chain_options *options,
                           struct vdisk_image **image, struct vdisk_error *err);

/* The same for a name, as vdisk_image_open(). */
int vd_image_open_chain(const char *name, const struct vd_chain_options *options,
                        struct vdisk_image **image, struct vdisk_error *err);

#endif
