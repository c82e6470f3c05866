/* SPDX-License-Identifier: MIT */
/* Manifests as JSON: docs/formats/backup.md, "Manifest". */
#ifndef VD_BACKUP_MANIFEST_JSON_H
#define VD_BACKUP_MANIFEST_JSON_H

#include "backup/manifest.h"

/* A time as 2026-11-22T01:30:00Z, of the years 1 to 9999; false: it is none. */
#define VD_TIME_TEXT_BYTES sizeof("2026-11-22T01:30:00Z")
bool vd_time_write(int64_t seconds, char text[VD_TIME_TEXT_BYTES]);
bool vd_time_read(const char *text, int64_t *seconds);

/* Behind the key of a text that is not UTF-8, and so is written as the hexadecimal digits of its
 * bytes. */
#define VD_HEX_KEY "-hex"

/* What is sealed and written; NULL: a value is out of range, or no memory. */
json_t *vd_manifest_to_json(const struct vd_manifest *manifest, const char *repository);

/* The other way, as vd_manifest_read(): @name for messages.  Goes to vd_manifest_free() also if
 * this fails. */
int vd_manifest_from_json(struct vd_manifest *manifest, const json_t *object,
                          const char *repository, const char *name, const struct vd_seal_key *key,
                          struct vdisk_error *err);

#endif
