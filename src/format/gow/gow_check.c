/* SPDX-License-Identifier: MIT */
/*
 * Is the metadata of a GOW image sound?  The tables are read in parts, so memory is bounded by the
 * bitmap of host blocks whatever the size of the disk.  gow §8.
 */
#include "format/gow/gow_check.h"

#include <inttypes.h>
#include <stdlib.h>

#include "util/iov.h"
#include "util/mem.h"

int vd_gow_part_alloc(struct vd_gow_part *part, struct vdisk_error *err)
{
    part->map = vd_alloc_io(VD_GOW_PART_ENTRIES * sizeof(*part->map));
    part->versions = vd_alloc_io(VD_GOW_PART_ENTRIES * sizeof(*part->versions));
    if (part->map && part->versions)
        return 0;
    vd_gow_part_free(part);
    return vd_err_nomem(err, "a part of the map");
}

void vd_gow_part_free(struct vd_gow_part *part)
{
    free(part->map);
    free(part->versions);
    *part = (struct vd_gow_part){0};
}

/* Most parts of most images: worth knowing at the speed of memory.  Each entry equals the next. */
static bool is_unallocated(const struct le32 *map)
{
    return le32_get(map[0]) == VD_GOW_UNALLOCATED &&
           memcmp(map, map + 1, (VD_GOW_PART_ENTRIES - 1) * sizeof(*map)) == 0;
}

int vd_gow_part_read(const struct vd_gow_check_run *run, uint32_t first, struct vd_gow_part *part,
                     struct vdisk_error *err)
{
    const struct vd_gow_layout *layout = &run->gow->layout;
    const size_t length = VD_GOW_PART_ENTRIES * VD_GOW_ENTRY_BYTES;
    int ret = vd_storage_pread(run->gow->file, part->map, length,
                               vd_gow_map_entry_offset(layout, first), err);
    part->is_empty = ret == 0 && is_unallocated(part->map);
    if (ret < 0 || part->is_empty)
        return ret;
    if (layout->versions_offset)
        return vd_storage_pread(run->gow->file, part->versions, length,
                                vd_gow_version_entry_offset(layout, first), err);
    for (uint32_t i = 0; i < VD_GOW_PART_ENTRIES; i++)
        part->versions[i] = le32_of(1);
    return ret;
}

/* While a sync or a writer is at it, an entry may be ahead of its version.  gow §5.2 */
static bool may_lack_version(const struct vd_gow_check_run *run, uint32_t block)
{
    return (run->header.flags & VD_GOW_FLAG_INCOMPLETE) ||
           vd_gow_intent_is_set(&run->header, vd_gow_region_of(block));
}

enum vd_gow_finding vd_gow_check_entry(const struct vd_gow_check_run *run,
                                       const struct vd_bits *seen, uint32_t block, uint32_t host,
                                       uint32_t version)
{
    if (host == VD_GOW_UNALLOCATED)
        return VD_GOW_SOUND;
    if (block >= run->blocks)
        return VD_GOW_PAST_END;
    bool is_cut_off = host == run->hosts && host < VD_GOW_HOSTS_MAX &&
                      vd_gow_tail_bytes(&run->gow->layout, run->file_bytes) > 0;
    if (host >= run->hosts && !is_cut_off)
        return VD_GOW_NOT_THERE;
    if (vd_bits_has(seen, host))
        return VD_GOW_DUPLICATE;
    if (is_cut_off)
        return VD_GOW_CUT_OFF;
    if (version == 0 && !may_lack_version(run, block))
        return VD_GOW_UNVERSIONED;
    return VD_GOW_SOUND;
}

static void report_entry(const struct vd_gow_check_run *run, enum vd_gow_finding finding,
                         uint32_t block, uint32_t host)
{
    static const char *const words[] = {
        [VD_GOW_SOUND] = "is sound",
        [VD_GOW_PAST_END] = "is set, but the disk ends before it",
        [VD_GOW_NOT_THERE] = "is not in the file",
        [VD_GOW_CUT_OFF] = "is cut off by the end of the file",
        [VD_GOW_DUPLICATE] = "belongs to another block too",
        [VD_GOW_UNVERSIONED] = "is in use, but the version of the block is 0",
    };
    vd_check_report(run->check,
                    "block %" PRIu32 " (disk offset %" PRIu64 "): host block %" PRIu32
                    " at offset %" PRIu64 " %s",
                    block, vd_gow_guest_offset(block), host,
                    vd_gow_host_offset(&run->gow->layout, host), words[finding]);
}

static int add_seen(struct vd_gow_check_run *run, uint32_t host, struct vdisk_error *err)
{
    int ret = vd_bits_reserve(&run->seen, host + 1, err);
    if (ret == 0)
        vd_bits_add(&run->seen, host);
    return ret;
}

/* Counts a host block that belongs to a block of the disk. */
static int count_entry(struct vd_gow_check_run *run, uint32_t host, struct vdisk_error *err)
{
    struct vdisk_check_result *result = run->check->result;
    int ret = add_seen(run, host, err);
    if (ret < 0)
        return ret;
    result->allocated_clusters++;
    if (run->last_host != VD_GOW_UNALLOCATED && host != run->last_host + 1)
        result->fragmented_clusters++;
    run->last_host = host;
    return 0;
}

static int check_one(struct vd_gow_check_run *run, uint32_t block, uint32_t host, uint32_t version,
                     struct vdisk_error *err)
{
    struct vdisk_check_result *result = run->check->result;
    enum vd_gow_finding finding = vd_gow_check_entry(run, &run->seen, block, host, version);
    if (finding != VD_GOW_SOUND) {
        report_entry(run, finding, block, host);
        result->corruptions++;
    }
    switch (finding) {
    case VD_GOW_CUT_OFF:
        run->tail_is_used = true;
        run->tail_block = block;
        return count_entry(run, host, err);
    case VD_GOW_SOUND:
    case VD_GOW_UNVERSIONED:
        return host == VD_GOW_UNALLOCATED ? 0 : count_entry(run, host, err);
    case VD_GOW_PAST_END:
        /* While the entry is there its host block is no leak: somebody may want it back. */
        if (run->check->repair == VDISK_REPAIR_ALL || host >= run->hosts ||
            vd_bits_has(&run->seen, host))
            return 0;
        return add_seen(run, host, err);
    case VD_GOW_NOT_THERE:
    case VD_GOW_DUPLICATE:
        return 0;
    }
    return 0;
}

static int check_map(struct vd_gow_check_run *run, struct vdisk_error *err)
{
    struct vd_gow_part part;
    int ret = vd_gow_part_alloc(&part, err);
    if (ret < 0)
        return ret;
    for (uint32_t first = 0; first < run->gow->layout.map_entries && ret == 0;
         first += VD_GOW_PART_ENTRIES) {
        struct vdisk_error inner = {0};
        if (vd_gow_part_read(run, first, &part, &inner) < 0) {
            vd_check_report(run->check, "blocks %" PRIu32 " to %" PRIu32 ": %s", first,
                            first + VD_GOW_PART_ENTRIES - 1, inner.message);
            run->check->result->check_errors++;
            continue;
        }
        for (uint32_t i = 0; !part.is_empty && i < VD_GOW_PART_ENTRIES && ret == 0; i++)
            ret = check_one(run, first + i, le32_get(part.map[i]), le32_get(part.versions[i]), err);
    }
    vd_gow_part_free(&part);
    return ret;
}

static void bad_header(struct vd_gow_check_run *run, const char *what)
{
    vd_check_report(run->check, "header: %s", what);
    run->check->result->corruptions++;
    run->header_findings++;
}

static void check_header(struct vd_gow_check_run *run)
{
    const struct vd_gow_header *header = &run->header;
    if (header->reserved0)
        bad_header(run, "the reserved field at offset 20 is not zero");
    if (!vd_buffer_is_zero(header->reserved1, sizeof(header->reserved1)))
        bad_header(run, "the reserved bytes at offset 48 to 63 are not zero");
    if (header->flags & VD_GOW_FLAG_DIRTY)
        vd_check_report(run->check, "the image was not closed by its last writer, or is being "
                                    "written to");
    else if (!vd_buffer_is_zero(header->intent, sizeof(header->intent)))
        bad_header(run, "regions are marked as being changed, though there is no writer");
    if (header->flags & VD_GOW_FLAG_INCOMPLETE)
        vd_check_report(run->check, "an incomplete replica: run its vdisk sync again");
}

static int check_all(struct vd_gow_check_run *run, struct vdisk_error *err)
{
    struct vdisk_check_result *result = run->check->result;
    enum vdisk_repair repair = run->check->repair;
    result->total_clusters = run->blocks;

    check_header(run);
    int ret = check_map(run, err);
    if (ret < 0)
        return ret;
    if (result->check_errors && repair != VDISK_REPAIR_NONE) {
        vd_check_report(run->check, "nothing is mended, as not everything could be looked at");
        repair = VDISK_REPAIR_NONE;
    }
    bool is_dirty = (run->header.flags & VD_GOW_FLAG_DIRTY) != 0;
    if (repair == VDISK_REPAIR_ALL && (result->corruptions || is_dirty))
        ret = vd_gow_repair(run, err);
    return ret < 0 ? ret : vd_gow_check_leaks(run, repair != VDISK_REPAIR_NONE, err);
}

int vd_gow_check(struct vd_format *format, const struct vd_check *check, struct vdisk_error *err)
{
    struct vd_gow *gow = format->state;
    struct vd_gow_check_run run = {
        .gow = gow,
        .check = check,
        .blocks = vd_gow_block_count(format->size),
        .last_host = VD_GOW_UNALLOCATED,
    };
    vd_mutex_lock(&gow->session_lock);
    run.header = gow->header;
    vd_mutex_unlock(&gow->session_lock);
    int ret = vd_storage_size(gow->file, &run.file_bytes, err);
    if (ret < 0)
        return ret;
    run.hosts = vd_gow_host_count(&gow->layout, run.file_bytes);
    ret = check_all(&run, err);
    vd_bits_free(&run.seen);
    return ret;
}
