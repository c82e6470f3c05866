/* SPDX-License-Identifier: MIT */
/* Sessions: what the header says while an image is being changed.  gow §5. */
#include <inttypes.h>
#include <stdlib.h>

#include "format/gow/gow_priv.h"
#include "util/iov.h"
#include "util/mem.h"
#include "util/uuid.h"

/* Where the marks of @block are: without an intent bitmap there is one for all. */
static uint32_t mark_of(const struct vd_gow *gow, uint32_t block)
{
    return gow->layout.version == 3 ? vd_gow_region_of(block) : 0;
}

bool vd_gow_is_marked(struct vd_gow *gow, uint32_t first, uint32_t count)
{
    uint32_t last = mark_of(gow, first + count - 1);
    for (uint32_t mark = mark_of(gow, first); mark <= last; mark++)
        if (!atomic_load_explicit(&gow->marked[mark], memory_order_acquire))
            return false;
    return true;
}

/* gow §5.1: what the first change of a session does to the header. */
static int begin(struct vd_gow_header *header, struct vdisk_error *err)
{
    if (header->generation == UINT64_MAX)
        return vd_err_set(err, EOVERFLOW, "header: generation has reached its limit");
    header->generation++;
    header->flags |= VD_GOW_FLAG_DIRTY;
    if (!(header->flags & VD_GOW_FLAG_REPLICA))
        return 0;
    /* From here on it is a lineage of its own.  gow §5.4 */
    header->flags &= ~(uint32_t)VD_GOW_FLAG_REPLICA;
    return vd_uuid_new(header->uuid, err);
}

static int write_durably(struct vd_storage *file, const struct vd_gow_header *header,
                         struct vdisk_error *err)
{
    int ret = vd_gow_header_write(file, header, err);
    return ret < 0 ? ret : vd_storage_flush(file, err);
}

/* Makes @next the header.  What the file has after a failure is unknown, so that ends all changes.
 */
static int replace(struct vd_gow *gow, const struct vd_gow_header *next, struct vdisk_error *err)
    VD_REQUIRES(gow->session_lock)
{
    struct vdisk_error inner = {0};
    int ret = write_durably(gow->file, next, &inner);
    if (ret < 0) {
        vd_err_prefix(&inner, ret, "header: ");
        vd_format_fail(gow->format, &inner);
        return vd_err_copy(err, &inner);
    }
    gow->header = *next;
    return 0;
}

/* Versions that go up are remembered from the begin of the session on. */
static int make_bumped(struct vd_gow *gow, struct vdisk_error *err) VD_REQUIRES(gow->session_lock)
{
    if (gow->layout.version != 3 || gow->bumped)
        return 0;
    gow->bumped = vd_alloc_array(VD_GOW_REGIONS, sizeof(*gow->bumped));
    return gow->bumped ? 0 : vd_err_nomem(err, "the list of changed blocks");
}

static int mark_locked(struct vd_gow *gow, uint32_t first, uint32_t count, struct vdisk_error *err)
    VD_REQUIRES(gow->session_lock)
{
    struct vd_gow_header next = gow->header;
    int ret = make_bumped(gow, err);
    if (ret == 0 && !gow->session_has_begun)
        ret = begin(&next, err);
    if (ret < 0)
        return ret;
    uint32_t end = count ? vd_gow_region_of(first + count - 1) + 1 : 0;
    for (uint32_t region = vd_gow_region_of(first); gow->layout.version == 3 && region < end;
         region++)
        vd_gow_intent_set(&next, region);
    ret = replace(gow, &next, err);
    if (ret < 0)
        return ret;

    gow->session_has_begun = true;
    end = count ? mark_of(gow, first + count - 1) + 1 : 0;
    for (uint32_t mark = mark_of(gow, first); mark < end; mark++)
        atomic_store_explicit(&gow->marked[mark], true, memory_order_release);
    return 0;
}

int vd_gow_mark(struct vd_gow *gow, uint32_t first, uint32_t count, struct vdisk_error *err)
{
    int ret = 0;
    vd_mutex_lock(&gow->session_lock);
    bool is_done = gow->session_has_begun && (count == 0 || vd_gow_is_marked(gow, first, count));
    if (!is_done) /* it may be another thread's work meanwhile */
        ret = mark_locked(gow, first, count, err);
    vd_mutex_unlock(&gow->session_lock);
    return ret;
}

int vd_gow_set_size(struct vd_gow *gow, uint64_t size, struct vdisk_error *err)
{
    vd_mutex_lock(&gow->session_lock);
    assert(gow->session_has_begun);
    struct vd_gow_header next = gow->header;
    next.size = size;
    int ret = replace(gow, &next, err);
    vd_mutex_unlock(&gow->session_lock);
    return ret;
}

static void clean(struct vd_gow_header *header)
{
    header->flags &= ~(uint32_t)VD_GOW_FLAG_DIRTY;
    memset(header->intent, 0, sizeof(header->intent));
}

int vd_gow_unmark(struct vd_gow *gow, struct vdisk_error *err)
{
    vd_mutex_lock(&gow->session_lock);
    struct vd_gow_header next = gow->header;
    clean(&next);
    int ret = replace(gow, &next, err);
    if (ret == 0)
        gow->session_has_begun = false;
    for (uint32_t mark = 0; ret == 0 && mark < VD_GOW_REGIONS; mark++)
        atomic_store_explicit(&gow->marked[mark], false, memory_order_relaxed);
    vd_mutex_unlock(&gow->session_lock);
    return ret;
}

/* gow §5.5: what may have changed gets a version that no consumer has seen. */
static int recover_region(struct vd_storage *file, uint32_t region, struct vdisk_error *err)
{
    struct vd_gow_layout layout = vd_gow_layout_of(3);
    struct le32 map[VD_GOW_REGION_BLOCKS];
    struct le32 versions[VD_GOW_REGION_BLOCKS];
    uint32_t first = region * VD_GOW_REGION_BLOCKS;
    uint64_t versions_offset = vd_gow_version_entry_offset(&layout, first);

    int ret =
        vd_storage_pread(file, map, sizeof(map), vd_gow_map_entry_offset(&layout, first), err);
    if (ret == 0)
        ret = vd_storage_pread(file, versions, sizeof(versions), versions_offset, err);
    if (ret < 0)
        return ret;
    for (uint32_t i = 0; i < VD_GOW_REGION_BLOCKS; i++) {
        uint32_t version = le32_get(versions[i]);
        /* A discard may have become durable without its version, so an unallocated block counts
         * too, unless it has never been anything else. */
        if (le32_get(map[i]) == VD_GOW_UNALLOCATED && version == 0)
            continue;
        if (version == VD_GOW_VERSION_MAX)
            return vd_err_set(err, EOVERFLOW,
                              "recovery: version of block %" PRIu32
                              " has reached its limit of %u: convert the image to a new one",
                              first + i, VD_GOW_VERSION_MAX);
        versions[i] = le32_of(version + 1);
    }
    return vd_storage_pwrite(file, versions, sizeof(versions), versions_offset, err);
}

static int recover_marked(struct vd_storage *file, struct vd_gow_header *header,
                          struct vdisk_error *err)
{
    /* A session of its own.  The marks stay, so that this begins anew if it is cut short. */
    int ret = begin(header, err);
    if (ret == 0)
        ret = write_durably(file, header, err);
    for (uint32_t region = 0; region < VD_GOW_REGIONS && ret == 0; region++)
        if (vd_gow_intent_is_set(header, region))
            ret = recover_region(file, region, err);
    return ret < 0 ? ret : vd_storage_flush(file, err);
}

int vd_gow_recover(struct vd_storage *file, struct vd_gow_header *header, struct vdisk_error *err)
{
    int ret = 0;
    if (!vd_buffer_is_zero(header->intent, sizeof(header->intent)))
        ret = recover_marked(file, header, err);
    clean(header);
    return ret < 0 ? ret : write_durably(file, header, err);
}
