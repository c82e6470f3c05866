/* SPDX-License-Identifier: MIT */
/* L2 entries of qcow2: decode and encode. */
#include "format/qcow2/qcow2_entry.h"

#define SECTOR_BYTES 512u

/* The low bits of a compressed cluster's descriptor: its offset. */
static unsigned encoded_offset_bits(const struct vd_qcow2_geometry *geometry)
{
    return 62 - (geometry->cluster_bits - 8);
}

static vd_qcow2_wrong decode_encoded(const struct vd_qcow2_entry_rules *rules, uint64_t value,
                                     uint64_t subclusters, struct vd_qcow2_entry *entry)
{
    const struct vd_qcow2_geometry *geometry = rules->geometry;
    unsigned bits = encoded_offset_bits(geometry);
    uint64_t descriptor = value & (VD_QCOW2_ENTRY_COMPRESSED - 1);
    entry->is_encoded = true;
    entry->host = descriptor & ((UINT64_C(1) << bits) - 1);
    uint64_t sectors = (descriptor >> bits) + 1;
    entry->encoded_bytes = (uint32_t)(sectors * SECTOR_BYTES - entry->host % SECTOR_BYTES);
    entry->data = vd_qcow2_all_subclusters(geometry);
    if (rules->has_data_file)
        return "is compressed, which an image with a data file has no clusters for";
    if (entry->host >> VD_QCOW2_OFFSET_BITS)
        return "lies beyond the largest offset, 2^56";
    if (entry->host < geometry->cluster_bytes)
        return "lies in the header";
    if (subclusters)
        return "is compressed, but has subclusters";
    return NULL;
}

static vd_qcow2_wrong decode_subclusters(uint64_t subclusters, struct vd_qcow2_entry *entry)
{
    uint32_t data = (uint32_t)subclusters;
    uint32_t zero = (uint32_t)(subclusters >> 32);
    entry->zero = zero;
    entry->data = data & ~zero;
    if (data & zero)
        return "has subclusters that are both data and zero";
    if (data && !entry->has_host)
        return "has subclusters with data, but no place for them";
    return NULL;
}

vd_qcow2_wrong vd_qcow2_entry_decode(const struct vd_qcow2_entry_rules *rules, const void *bytes,
                                     struct vd_qcow2_entry *entry)
{
    const struct vd_qcow2_geometry *geometry = rules->geometry;
    const struct be64 *words = bytes;
    bool is_extended = geometry->entry_bytes > sizeof(*words);
    uint64_t value = be64_get(words[0]);
    uint64_t subclusters = is_extended ? be64_get(words[1]) : 0;

    *entry = (struct vd_qcow2_entry){0};
    if (value & VD_QCOW2_ENTRY_COMPRESSED)
        return decode_encoded(rules, value, subclusters, entry);
    bool is_copied = (value & VD_QCOW2_ENTRY_COPIED) != 0;
    entry->host = value & VD_QCOW2_ENTRY_OFFSET;
    entry->has_host = entry->host != 0 || (rules->has_data_file && is_copied);
    entry->is_copied = entry->has_host && is_copied;

    vd_qcow2_wrong wrong = NULL;
    if (is_extended)
        wrong = decode_subclusters(subclusters, entry);
    else if (value & VD_QCOW2_ENTRY_ZERO)
        entry->zero = 1;
    else
        entry->data = entry->has_host;
    if (wrong)
        return wrong;
    if (value & VD_QCOW2_L2_RESERVED)
        return "has reserved bits set";
    /* QEMU reads extended entries with this bit, and ones with COPIED but no place: so do we. */
    if ((value & VD_QCOW2_ENTRY_ZERO) && !is_extended && !rules->has_zero)
        return "has the bit of zero clusters, which version 2 has not";
    if (!vd_is_aligned(entry->host, geometry->cluster_bytes))
        return "is not aligned to clusters";
    return NULL;
}

void vd_qcow2_entry_encode(const struct vd_qcow2_entry_rules *rules,
                           const struct vd_qcow2_entry *entry, void *bytes)
{
    const struct vd_qcow2_geometry *geometry = rules->geometry;
    struct be64 *words = bytes;
    bool is_extended = geometry->entry_bytes > sizeof(*words);
    uint64_t value;

    if (entry->is_encoded) {
        uint64_t last = entry->host + entry->encoded_bytes - 1;
        uint64_t sectors = last / SECTOR_BYTES - entry->host / SECTOR_BYTES;
        assert(entry->encoded_bytes > 0 && !rules->has_data_file);
        assert(entry->host >> encoded_offset_bits(geometry) == 0);
        assert(sectors < UINT64_C(1) << (62 - encoded_offset_bits(geometry)));
        value =
            VD_QCOW2_ENTRY_COMPRESSED | (sectors << encoded_offset_bits(geometry)) | entry->host;
    } else {
        assert(!entry->has_host || vd_is_aligned(entry->host, geometry->cluster_bytes));
        assert(entry->has_host || (entry->data == 0 && !entry->is_copied && entry->host == 0));
        assert((entry->data & entry->zero) == 0);
        value = entry->host | (entry->is_copied ? VD_QCOW2_ENTRY_COPIED : 0);
        if (!is_extended && entry->zero) {
            assert(rules->has_zero);
            value |= VD_QCOW2_ENTRY_ZERO;
        }
    }
    words[0] = be64_of(value);
    if (is_extended)
        words[1] =
            be64_of(entry->is_encoded ? 0 : (uint64_t)entry->zero << 32 | (uint64_t)entry->data);
}
