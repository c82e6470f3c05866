/* SPDX-License-Identifier: MIT */
/* The file of SHA-256 sums beside a GOW master: docs/formats/gow-sums.md. */
#ifndef VD_JOB_SUMS_FILE_H
#define VD_JOB_SUMS_FILE_H

#include "format/gow/gow_header.h"
#include "util/digest.h"
#include "util/endian.h"

#define VD_SUMS_VERSION     1u
#define VD_SUMS_MAGIC_BYTES 8u

struct vd_sums_disk_header {                  /*              offset size  gow-sums §2 */
    uint8_t magic[VD_SUMS_MAGIC_BYTES];       /*  0  8  "GOWSUMS" 0 */
    struct le32 version;                      /*  8  4  1 */
    struct le32 reserved0;                    /* 12  4  zero */
    uint8_t uuid[16];                         /* 16 16  of the master */
    struct le64 generation;                   /* 32  8  of the master */
    struct le64 size;                         /* 40  8  of the disk, in bytes */
    struct le32 count;                        /* 48  4  of entries */
    struct le32 reserved1;                    /* 52  4  zero */
    uint8_t versions_sha256[VD_SHA256_BYTES]; /* 56 32  of the used part of the versions */
};
static_assert(sizeof(struct vd_sums_disk_header) == 88, "gow-sums §2");

struct vd_sums_disk_entry {          /* gow-sums §3, in the order of the blocks */
    struct le32 block;               /* 0  4 */
    uint8_t sha256[VD_SHA256_BYTES]; /* 4 32  of the whole host block */
};
static_assert(sizeof(struct vd_sums_disk_entry) == 36, "gow-sums §3");

/* Sums in memory: the bytes of the file, checked. */
struct vd_sums {
    uint8_t uuid[16];
    uint64_t generation;
    uint64_t size;
    uint8_t versions_sha256[VD_SHA256_BYTES];
    uint32_t count;
    const uint8_t *entries; /* within bytes */
    uint8_t *bytes;
    size_t length;
};

/* The length of a file of @count sums. */
static inline size_t vd_sums_file_bytes(uint32_t count)
{
    return sizeof(struct vd_sums_disk_header) + (size_t)count * sizeof(struct vd_sums_disk_entry) +
           VD_SHA256_BYTES;
}

/*
 * Takes over @bytes, which are freed by vd_sums_free() in any case.  -EBADMSG: they contradict
 * gow-sums, which @name shows in the message.
 */
int vd_sums_decode(const char *name, uint8_t *bytes, size_t length, struct vd_sums *sums,
                   struct vdisk_error *err);

/* Also of a zeroed one. */
void vd_sums_free(struct vd_sums *sums);

/* Is there a sum for @block? */
bool vd_sums_has(const struct vd_sums *sums, uint32_t block);

/* -EBADMSG: the VD_GOW_BLOCK_BYTES of @data are not those of @block. */
int vd_sums_verify(const struct vd_sums *sums, uint32_t block, const uint8_t *data,
                   struct vdisk_error *err);

/*
 * The bytes of a sums file for @header, with room for @count entries, which the caller fills in
 * before vd_sums_seal().  To be freed.
 */
uint8_t *vd_sums_encode(const struct vd_gow_header *header, const struct le32 *versions,
                        uint32_t count, struct vdisk_error *err);

static inline struct vd_sums_disk_entry *vd_sums_entries(uint8_t *bytes)
{
    return (struct vd_sums_disk_entry *)(void *)(bytes + sizeof(struct vd_sums_disk_header));
}

/* Sorts the entries, and puts the sum of it all at the end. */
int vd_sums_seal(uint8_t *bytes, uint32_t count, struct vdisk_error *err);

#endif
