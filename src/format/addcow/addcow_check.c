/* SPDX-License-Identifier: MIT */
/* Is the metadata of an add-cow image sound?  And mending it.  add-cow §9. */
#include <inttypes.h>

#include "format/addcow/addcow_bits.h"
#include "format/addcow/addcow_priv.h"
#include "util/mem.h"

#define PART_BYTES (UINT64_C(1) << 20)

/* A check under way. */
struct check_run {
    struct vd_addcow *cow;
    const struct vd_check *check;
    uint64_t clusters;
    uint64_t file_bytes;
    uint64_t stray_bits; /* set, and behind the end of the disk */
};

static const char *header_finding(const struct vd_addcow_header *header, unsigned index)
{
    return index ? vd_addcow_header_stray_length(header) : vd_addcow_header_contradiction(header);
}

/* The recorded name decides: somebody wrote it there.  add-cow §9. */
static int mend_header(struct check_run *run, struct vdisk_error *err)
{
    struct vd_addcow *cow = run->cow;
    struct vd_addcow_header header = cow->header;
    if (header.backing.offset) {
        header.features |= VD_ADDCOW_FEATURE_BACKING;
    } else {
        header.features = 0;
        header.backing.length = 0;
    }
    int ret = vd_addcow_write_header(cow, &header, err);
    if (ret == 0)
        ret = vd_addcow_flush_file(cow, cow->file, err);
    if (ret == 0)
        cow->header = header;
    return ret;
}

static int check_header(struct check_run *run, struct vdisk_error *err)
{
    struct vdisk_check_result *result = run->check->result;
    uint64_t findings = 0;
    for (unsigned i = 0; i < 2; i++) {
        const char *finding = header_finding(&run->cow->header, i);
        if (finding)
            vd_check_report(run->check, "header: %s", finding);
        findings += finding != NULL;
    }
    int ret = 0;
    if (findings && run->check->repair == VDISK_REPAIR_ALL) {
        ret = mend_header(run, err);
        if (ret == 0)
            result->corruptions_fixed += findings;
    } else {
        result->corruptions += findings;
    }
    return ret;
}

/* @length bytes of the bitmap, from its byte @first on. */
static void count_bits(struct check_run *run, const uint8_t *bits, uint64_t first, size_t length)
{
    uint64_t whole = run->clusters / 8; /* bytes of which all bits have a cluster */
    size_t inside = first < whole ? (size_t)vd_min(length, whole - first) : 0;
    uint64_t allocated = vd_addcow_bits_count(bits, inside);
    if (inside < length && first + inside == whole && run->clusters % 8) {
        uint8_t used = bits[inside] & vd_addcow_last_byte_mask(run->clusters);
        uint8_t stray = bits[inside] ^ used;
        allocated += vd_addcow_bits_count(&used, 1);
        run->stray_bits += vd_addcow_bits_count(&stray, 1);
        inside++;
    }
    run->check->result->allocated_clusters += allocated;
    run->stray_bits += vd_addcow_bits_count(bits + inside, length - inside);
}

/* The bitmap and all behind it; holes, which may be long, are not read. */
static int read_bits(struct check_run *run, struct vdisk_error *err)
{
    struct vd_addcow *cow = run->cow;
    CLEANUP_FREE uint8_t *buffer = vd_alloc_io(PART_BYTES);
    if (!buffer)
        return vd_err_nomem(err, "a part of the bitmap");
    int ret = 0;
    uint64_t offset = cow->header.header_bytes;
    while (ret == 0 && offset < run->file_bytes) {
        struct vd_storage_extent extent;
        ret =
            vd_storage_extent(cow->file, vd_range(offset, run->file_bytes - offset), &extent, err);
        if (ret < 0 || extent.kind == VD_STORAGE_HOLE) {
            offset += ret < 0 ? 0 : extent.length;
            continue;
        }
        size_t length = (size_t)vd_min(extent.length, PART_BYTES);
        ret = vd_storage_pread(cow->file, buffer, length, offset, err);
        if (ret == 0)
            count_bits(run, buffer, offset - cow->header.header_bytes, length);
        offset += length;
    }
    return ret;
}

/* A device is as long as it is: what is behind the bitmap there is not part of the image. */
static uint64_t end_of_bits(const struct check_run *run)
{
    const struct vd_addcow *cow = run->cow;
    const uint32_t of_files = VD_STORAGE_CAN_RESIZE | VD_STORAGE_CAN_EXTENTS;
    uint64_t end = vd_addcow_bitmap_end(cow, cow->format->size);
    return vd_storage_caps(cow->file) & of_files ? run->file_bytes : vd_min(run->file_bytes, end);
}

static int mend_bits(struct check_run *run, struct vdisk_error *err)
{
    struct vd_addcow *cow = run->cow;
    int ret = vd_addcow_trim(cow, err);
    if (ret == 0)
        ret = vd_addcow_write_bits(cow, true, err);
    if (ret == 0)
        run->check->result->leaks_fixed += run->stray_bits;
    return ret;
}

static int check_bits(struct check_run *run, struct vdisk_error *err)
{
    struct vd_addcow *cow = run->cow;
    struct vdisk_check_result *result = run->check->result;
    struct vdisk_error inner = {0};
    uint64_t end = vd_addcow_bitmap_end(cow, cow->format->size);
    result->total_clusters = run->clusters;
    result->image_end_offset = end;
    if (run->file_bytes < end)
        vd_check_report(run->check,
                        "the file ends at %" PRIu64 ", the bitmap at %" PRIu64
                        ": the bits that are missing count as clear",
                        run->file_bytes, end);
    run->file_bytes = end_of_bits(run);
    if (read_bits(run, &inner) < 0) {
        vd_check_report(run->check, "bitmap: %s", inner.message);
        result->check_errors++;
        return 0;
    }
    if (vd_addcow_header_is_all_allocated(&cow->header))
        result->allocated_clusters = run->clusters;
    if (!run->stray_bits)
        return 0;
    vd_check_report(run->check,
                    "%" PRIu64 " bits are set behind that of the last cluster, %" PRIu64,
                    run->stray_bits, run->clusters);
    if (run->check->repair != VDISK_REPAIR_NONE)
        return mend_bits(run, err);
    result->leaks += run->stray_bits;
    return 0;
}

int vd_addcow_check(struct vd_format *format, const struct vd_check *check, struct vdisk_error *err)
{
    struct vd_addcow *cow = format->state;
    struct check_run run = {.cow = cow, .check = check};
    if (cow->broken.code) {
        vd_check_report(check, "%s", cow->broken.message);
        check->result->corruptions++;
        return 0;
    }
    int ret = vd_storage_size(cow->file, &run.file_bytes, err);
    if (ret == 0)
        ret = check_header(&run, err);
    if (ret < 0)
        return ret;
    if (!cow->data) {
        vd_check_report(check, "%s: the bitmap is not looked at", cow->no_data.message);
        check->result->check_errors++;
        return 0;
    }
    run.clusters = vd_addcow_cluster_count(cow, format->size);
    return check_bits(&run, err);
}
