/* SPDX-License-Identifier: MIT */
/* Names of files that images name: what do they mean? */
#ifndef VD_IMAGE_NAMED_H
#define VD_IMAGE_NAMED_H

#include <stdbool.h>

#include "util/err.h"

struct vd_named {
    char *path;   /* as it is opened: a path or URL; owned */
    char *format; /* what a json: name says of the format, or NULL; owned */
    bool is_json;
    bool is_url;
};

/*
 * What @name means in an image that was opened as @bearer: relative names count from the bearer's
 * directory, or from the URL it has been opened by.  Goes to vd_named_free(), also if it fails.
 */
int vd_named_resolve(struct vd_named *named, const char *bearer, const char *name,
                     struct vdisk_error *err);
/*
 * Is there anything beside @bearer that a relative name could mean?  Not beside an export behind a
 * socket: the socket is in the query of its URI, and no directory is.
 */
bool vd_named_has_directory(const char *bearer);

void vd_named_free(struct vd_named *named);

/*
 * The file and the format that a name such as json:{"driver":"qed","file":{"filename":"a"}} means.
 * Both belong to the caller; *format may become NULL.
 */
int vd_json_name_parse(const char *name, char **file, char **format, struct vdisk_error *err);

#endif
