/* SPDX-License-Identifier: MIT */
/*
 * JSON files of which no byte can change unnoticed: their last member is "seal", "xxh128:HEX" or,
 * with a key, "hmac-sha256:HEX", over all bytes before the line that it is in.
 */
#ifndef VD_BACKUP_SEALED_H
#define VD_BACKUP_SEALED_H

#include <jansson.h>

#include "util/digest.h"

/* A secret, or none if bytes is NULL. */
struct vd_seal_key {
    const void *bytes;
    size_t length;
};

/*
 * Writes @object, which has no member "seal", to the file @name, new or emptied, and makes it
 * durable; its name in the directory is not.
 */
int vd_sealed_write(const char *name, const json_t *object, const struct vd_seal_key *key,
                    struct vdisk_error *err);

/*
 * The same by way of NAME.part, which is renamed: either the old file or the new one is there,
 * durable with its name when this returns 0.
 */
int vd_sealed_replace(const char *name, const json_t *object, const struct vd_seal_key *key,
                      struct vdisk_error *err);

/*
 * @object: without the seal; goes to json_decref().  -ENOENT; -EKEYREJECTED: sealed with another
 * key, with one where there is none here, or with none where there is one; -EBADMSG: it is not what
 * was written, or longer than @bytes_max.
 */
int vd_sealed_read(const char *name, const struct vd_seal_key *key, uint64_t bytes_max,
                   json_t **object, struct vdisk_error *err);

/* The same for the content of a file, with a NUL behind its @length bytes; @name: for messages. */
int vd_sealed_parse(const char *name, const char *text, size_t length,
                    const struct vd_seal_key *key, json_t **object, struct vdisk_error *err);

#endif
