/* SPDX-License-Identifier: MIT */
/*
 * Digests of bytes: xxh128 finds accidents, fast; sha256 also what somebody has thought up. Without
 * the library that has one, using it answers -ENOTSUP.  Any thread.
 */
#ifndef VD_UTIL_DIGEST_H
#define VD_UTIL_DIGEST_H

#include <stdbool.h>

#include "util/err.h"

enum vd_digest_kind {
    VD_DIGEST_XXH128 = 1, /* 16 bytes, in the canonical (big-endian) form of xxHash */
    VD_DIGEST_SHA256      /* 32 bytes */
};

#define VD_DIGEST_BYTES_MAX 32u
#define VD_SHA256_BYTES     32u

/* Length of a digest. */
size_t vd_digest_bytes(enum vd_digest_kind kind);

/* "xxh128", "sha256" */
const char *vd_digest_name(enum vd_digest_kind kind);

/* 0: there is none of this name. */
enum vd_digest_kind vd_digest_find(const char *name);

/* @digest: vd_digest_bytes() */
int vd_digest(enum vd_digest_kind kind, const void *data, size_t length, uint8_t *digest,
              struct vdisk_error *err);

/* A digest of data that comes in pieces. */
struct vd_digest_run {
    enum vd_digest_kind kind;
    void *state;
};

/* Goes to vd_digest_end() or vd_digest_cancel(), unless this fails. */
int vd_digest_begin(struct vd_digest_run *run, enum vd_digest_kind kind, struct vdisk_error *err);
int vd_digest_add(struct vd_digest_run *run, const void *data, size_t length,
                  struct vdisk_error *err);
void vd_digest_end(struct vd_digest_run *run, uint8_t *digest); /* vd_digest_bytes() */
void vd_digest_cancel(struct vd_digest_run *run);

int vd_sha256(const void *data, size_t length, uint8_t digest[VD_SHA256_BYTES],
              struct vdisk_error *err);

/* HMAC of RFC 2104 with SHA-256. */
int vd_hmac_sha256(const void *key, size_t key_bytes, const void *data, size_t length,
                   uint8_t digest[VD_SHA256_BYTES], struct vdisk_error *err);

/* Lower-case hexadecimal digits and a NUL: 2 * @length + 1 characters. */
void vd_hex_write(const uint8_t *bytes, size_t length, char *text);

/* Exactly 2 * @length hexadecimal digits, and nothing behind. */
bool vd_hex_read(const char *text, uint8_t *bytes, size_t length);

/* The digests of a file, one for each of its extents. */
struct vd_digest_table {
    enum vd_digest_kind kind;
    uint32_t extent_bytes; /* power of two, 64 KiB to 1 GiB */
    uint64_t file_bytes;
    uint64_t entries; /* file_bytes / extent_bytes, rounded up */
    uint8_t *digests; /* owned: entries * vd_digest_bytes(kind) */
};

#define VD_DIGEST_EXTENT_BYTES_MIN (64u << 10)
#define VD_DIGEST_EXTENT_BYTES_MAX (1u << 30)

/* Room for a file of @file_bytes: all zeros. */
int vd_digest_table_init(struct vd_digest_table *table, enum vd_digest_kind kind,
                         uint32_t extent_bytes, uint64_t file_bytes, struct vdisk_error *err);
void vd_digest_table_free(struct vd_digest_table *table); /* of a zeroed one, too */

static inline uint8_t *vd_digest_at(const struct vd_digest_table *table, uint64_t index)
{
    return table->digests + index * vd_digest_bytes(table->kind);
}

#endif
