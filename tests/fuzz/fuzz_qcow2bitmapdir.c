/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as a bitmap directory of qcow2: what is read is within the limits, and comes out of the
 * encoder as it went in.
 *
 *     byte 0     cluster bits; byte 1 and 2: count of entries; the rest: the directory
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_bitmap_dir.h"
#include "input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

static void check_entry(const struct vd_qcow2_bitmap_entry *entry, uint32_t cluster_bits)
{
    size_t name_bytes = strlen(entry->name);
    assert(name_bytes >= 1 && name_bytes <= VD_QCOW2_BITMAP_NAME_BYTES_MAX);
    assert(entry->table_offset && vd_is_aligned(entry->table_offset, UINT64_C(1) << cluster_bits));
    assert(entry->table_entries);
    assert((uint64_t)entry->table_entries << cluster_bits <= VD_QCOW2_BITMAP_DATA_BYTES_MAX);
    assert(entry->granularity_bits >= 9 && entry->granularity_bits <= 31);
    assert(entry->flags < 4);
}

/* Decoded again, what was encoded says the same. */
static void check_again(const struct vd_qcow2_bitmaps_extension *extension, uint32_t cluster_bits,
                        const struct vd_qcow2_bitmap_dir *dir)
{
    assert(vd_qcow2_bitmap_dir_bytes(dir) == extension->directory_bytes);
    uint8_t *bytes = malloc((size_t)extension->directory_bytes);
    assert(bytes);
    vd_qcow2_bitmap_dir_encode(dir, bytes);
    struct vd_qcow2_bitmap_dir again;
    assert(vd_qcow2_bitmap_dir_decode(extension, bytes, cluster_bits, &again, NULL) == 0);
    assert(again.count == dir->count);
    for (size_t i = 0; i < dir->count; i++) {
        assert(strcmp(again.entries[i].name, dir->entries[i].name) == 0);
        assert(again.entries[i].table_offset == dir->entries[i].table_offset);
        assert(again.entries[i].flags == dir->entries[i].flags);
    }
    vd_qcow2_bitmap_dir_free(&again);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct input in = {.data = data, .left = length};
    uint32_t cluster_bits = 9 + (uint32_t)input_take(&in, 1) % 13;
    struct vd_qcow2_bitmaps_extension extension = {
        .is_present = true,
        .entries = (uint32_t)input_take(&in, 2),
        .directory_bytes = in.left,
        .directory_offset = UINT64_C(1) << cluster_bits,
    };
    if (vd_qcow2_bitmap_dir_check_place(&extension, cluster_bits, NULL) < 0)
        return 0;
    struct vd_qcow2_bitmap_dir dir;
    struct vdisk_error err = {0};
    int ret = vd_qcow2_bitmap_dir_decode(&extension, in.data, cluster_bits, &dir, &err);
    if (ret < 0) {
        assert(ret == -err.code && err.message[0]);
        assert(!dir.entries);
        return 0;
    }
    for (size_t i = 0; i < dir.count; i++)
        check_entry(&dir.entries[i], cluster_bits);
    check_again(&extension, cluster_bits, &dir);
    vd_qcow2_bitmap_dir_free(&dir);
    return 0;
}
