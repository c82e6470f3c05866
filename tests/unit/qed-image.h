/* SPDX-License-Identifier: MIT */
/* QED images made byte by byte from the tables of qed §3 and §9, not by the code under test. */
#ifndef QED_IMAGE_H
#define QED_IMAGE_H

#include <string.h>

#include "drivers/check.h"
#include "format/qed/qed_file.h"

#define KIB UINT64_C(1024)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)

static inline void store(uint8_t *head, size_t offset, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        head[offset + i] = (uint8_t)(value >> (8 * i));
}

/* The first 16 bytes, which never changed: one cluster of header. */
static inline void put_units(uint8_t *head, uint32_t cluster_bytes, uint32_t table_clusters)
{
    memset(head, 0, VD_QED_HEADER_BYTES);
    memcpy(head, "QED", 4);
    store(head, 4, cluster_bytes, 4);
    store(head, 8, table_clusters, 4);
    store(head, 12, 1, 4);
}

/* A final header, the L1 table in the second cluster. */
static inline void put_final(uint8_t *head, uint32_t cluster_bytes, uint32_t table_clusters,
                             uint64_t size)
{
    put_units(head, cluster_bytes, table_clusters);
    store(head, 40, cluster_bytes, 8);
    store(head, 48, size, 8);
}

/* The header of any draft, the L1 table in the second cluster. */
static inline void put_draft(uint8_t *head, uint32_t cluster_bytes, uint32_t table_clusters,
                             uint64_t size)
{
    put_units(head, cluster_bytes, table_clusters);
    store(head, 32, cluster_bytes, 8);
    store(head, 40, size, 8);
}

static inline void put_bytes(struct vd_storage *file, uint64_t offset, const void *bytes,
                             size_t length)
{
    VT_OK(vd_storage_pwrite(file, bytes, length, offset, &vt_err));
}

static inline void put_u64(struct vd_storage *file, uint64_t offset, uint64_t value)
{
    uint8_t bytes[8];
    store(bytes, 0, value, sizeof(bytes));
    put_bytes(file, offset, bytes, sizeof(bytes));
}

static inline uint64_t get_u64(struct vd_storage *file, uint64_t offset)
{
    uint8_t bytes[8];
    uint64_t value = 0;
    VT_OK(vd_storage_pread(file, bytes, sizeof(bytes), offset, &vt_err));
    for (size_t i = 0; i < sizeof(bytes); i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static inline uint64_t length_of(struct vd_storage *file)
{
    uint64_t bytes = 0;
    VT_OK(vd_storage_size(file, &bytes, &vt_err));
    return bytes;
}

#endif
