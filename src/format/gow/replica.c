/* SPDX-License-Identifier: MIT */
/* The receiving side of a sync: R1 to R3 of replica.h. */
#include "format/gow/replica.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/bits.h"
#include "util/mem.h"
#include "util/mutex.h"
#include "util/uuid.h"

/* Changed entries closer than this are written together, with the unchanged ones between them. */
#define MERGE_ENTRIES 1024u

struct vd_replica {
    struct vd_storage *file;
    struct vd_gow_header header; /* as on disk */
    struct vd_gow_layout layout;
    uint32_t block_count;  /* entries of the two tables below */
    struct le32 *map;      /* as on disk, but for what a running commit is about to write */
    struct le32 *versions; /* likewise */
    int failed;            /* 0, or the negative errno of the change that failed */

    struct vd_mutex lock; /* after: none; before: none.  For the field below */
    struct vd_bits used;  /* host blocks that must not be overwritten */
};

/* ---- host blocks ---- */

int vd_replica_place(struct vd_replica *replica, uint32_t block, uint32_t *host,
                     struct vdisk_error *err)
{
    uint32_t own = vd_replica_host(replica, block);
    if (own != VD_GOW_UNALLOCATED) {
        *host = own;
        return 0;
    }
    vd_mutex_lock(&replica->lock);
    *host = vd_bits_first_missing(&replica->used);
    int ret = vd_bits_reserve(&replica->used, *host + 1, err);
    if (ret == 0)
        vd_bits_add(&replica->used, *host);
    vd_mutex_unlock(&replica->lock);
    return ret;
}

/* ---- opening ---- */

/* Entries [replica->block_count, @block_count) of both tables, from the file. */
static int load_tables(struct vd_replica *replica, uint32_t block_count, struct vdisk_error *err)
{
    uint32_t first = replica->block_count;
    size_t length = (size_t)(block_count - first) * VD_GOW_ENTRY_BYTES;
    struct le32 *map = realloc(replica->map, (block_count + (size_t)1) * sizeof(*map));
    if (map)
        replica->map = map;
    struct le32 *versions =
        realloc(replica->versions, (block_count + (size_t)1) * sizeof(*versions));
    if (versions)
        replica->versions = versions;
    if (!map || !versions)
        return vd_err_nomem(err, "map and versions of the replica");

    int ret = vd_storage_pread(replica->file, map + first, length,
                               vd_gow_map_entry_offset(&replica->layout, first), err);
    if (ret == 0)
        ret = vd_storage_pread(replica->file, versions + first, length,
                               vd_gow_version_entry_offset(&replica->layout, first), err);
    if (ret == 0)
        replica->block_count = block_count;
    return ret;
}

/* Marks the host blocks of the entries from @first on as used. */
static int use_hosts(struct vd_replica *replica, uint32_t first, struct vdisk_error *err)
{
    uint64_t file_bytes;
    int ret = vd_storage_size(replica->file, &file_bytes, err);
    if (ret < 0)
        return ret;
    uint32_t hosts = vd_gow_host_count(&replica->layout, file_bytes);
    ret = vd_bits_reserve(&replica->used, hosts, err);
    if (ret < 0)
        return ret;
    for (uint32_t block = first; block < replica->block_count; block++) {
        uint32_t host = vd_replica_host(replica, block);
        if (host == VD_GOW_UNALLOCATED)
            continue;
        if (host >= hosts)
            return vd_err_set(err, EBADMSG,
                              "%s: map entry %" PRIu32 " names host block %" PRIu32
                              ", the file has %" PRIu32 ": run 'vdisk check' on it, or remove it",
                              vd_storage_name(replica->file), block, host, hosts);
        if (vd_bits_has(&replica->used, host))
            return vd_err_set(err, EBADMSG,
                              "%s: map entry %" PRIu32 " names host block %" PRIu32
                              ", as another entry does: run 'vdisk check' on it, or remove it",
                              vd_storage_name(replica->file), block, host);
        vd_bits_add(&replica->used, host);
    }
    return 0;
}

static int open_replica(struct vd_replica *replica, struct vdisk_error *err)
{
    struct vd_gow_header *header = &replica->header;
    struct vdisk_error inner = {0};
    int ret = vd_gow_header_read(replica->file, false, header, &inner);
    if (ret == 0 && header->version != 3)
        ret = vd_err_set(&inner, ENOTSUP,
                         "a GOW image of version %" PRIu32 ": only version 3 can be a replica",
                         header->version);
    if (ret < 0) {
        const char *name = vd_storage_name(replica->file);
        if (strncmp(inner.message, name, strlen(name)) != 0)
            vd_err_prefix(&inner, ret, "%s: ", name);
        return vd_err_copy(err, &inner);
    }
    replica->layout = vd_gow_layout_of(3);
    ret = load_tables(replica, vd_gow_block_count(header->size), err);
    return ret < 0 ? ret : use_hosts(replica, 0, err);
}

int vd_replica_open(struct vd_storage *file, struct vd_replica **replica, struct vdisk_error *err)
{
    struct vd_replica *r = calloc(1, sizeof(*r));
    if (!r)
        return vd_err_nomem(err, "a replica");
    r->file = file;
    vd_mutex_init(&r->lock);
    int ret = open_replica(r, err);
    if (ret < 0) {
        vd_replica_close(r);
        return ret;
    }
    *replica = r;
    return 0;
}

void vd_replica_close(struct vd_replica *replica)
{
    if (!replica)
        return;
    vd_mutex_destroy(&replica->lock);
    free(replica->map);
    free(replica->versions);
    vd_bits_free(&replica->used);
    free(replica);
}

const struct vd_gow_header *vd_replica_header(const struct vd_replica *replica)
{
    return &replica->header;
}

uint32_t vd_replica_block_count(const struct vd_replica *replica)
{
    return replica->block_count;
}

uint32_t vd_replica_version(const struct vd_replica *replica, uint32_t block)
{
    return block < replica->block_count ? le32_get(replica->versions[block]) : 0;
}

uint32_t vd_replica_host(const struct vd_replica *replica, uint32_t block)
{
    return block < replica->block_count ? le32_get(replica->map[block]) : VD_GOW_UNALLOCATED;
}

/* ---- changing ---- */

/* Remembers the first failure. */
static int failing(struct vd_replica *replica, int ret)
{
    if (ret < 0 && !replica->failed)
        replica->failed = ret;
    return ret;
}

static int check_failed(const struct vd_replica *replica, struct vdisk_error *err)
{
    if (replica->failed)
        return vd_err_errno(err, -replica->failed, "%s: an earlier change of the replica failed",
                            vd_storage_name(replica->file));
    return 0;
}

static int write_header(struct vd_replica *replica, struct vdisk_error *err)
{
    int ret = vd_gow_header_write(replica->file, &replica->header, err);
    return ret < 0 ? ret : vd_storage_flush(replica->file, err);
}

/*
 * Makes all versions 0, so that every block counts as older than the master's.  Until that is
 * durable the file is of a lineage of its own: whatever interrupts this, the next sync can not
 * take the versions that are left for the master's.
 */
static int forget_versions(struct vd_replica *replica, struct vdisk_error *err)
{
    int ret = vd_uuid_new(replica->header.uuid, err);
    if (ret == 0)
        ret = write_header(replica, err);
    if (ret == 0)
        ret = vd_storage_write_zeroes(
            replica->file,
            vd_range(replica->layout.versions_offset, vd_gow_table_bytes(&replica->layout)),
            VD_STORAGE_ZERO_MAY_PUNCH, err);
    if (ret == 0)
        ret = vd_storage_flush(replica->file, err);
    if (ret == 0 && replica->block_count)
        memset(replica->versions, 0, replica->block_count * sizeof(*replica->versions));
    return ret;
}

static int begin(struct vd_replica *replica, const struct vd_gow_header *master, bool forget,
                 struct vdisk_error *err)
{
    struct vd_gow_header *header = &replica->header;
    uint32_t first = replica->block_count;
    uint32_t block_count = vd_gow_block_count(vd_max(header->size, master->size));
    int ret = load_tables(replica, block_count, err);
    if (ret == 0)
        ret = use_hosts(replica, first, err);

    header->flags = VD_GOW_FLAG_INCOMPLETE | VD_GOW_FLAG_REPLICA;
    memset(header->intent, 0, sizeof(header->intent));
    if (ret == 0 && forget)
        ret = forget_versions(replica, err);
    if (ret < 0)
        return ret;
    /*
     * The generation is the newest that blocks may come from: should the master be put back to an
     * older state before the next try, that one can tell.
     */
    header->generation = master->generation;
    header->size = vd_max(header->size, master->size);
    memcpy(header->uuid, master->uuid, sizeof(header->uuid));
    return write_header(replica, err); /* R1 */
}

int vd_replica_begin(struct vd_replica *replica, const struct vd_gow_header *master, bool forget,
                     struct vdisk_error *err)
{
    int ret = check_failed(replica, err);
    return ret < 0 ? ret : failing(replica, begin(replica, master, forget, err));
}

/* Writes the entries of @table, which lies at @offset of the file, that @changes are about. */
static int write_entries(struct vd_replica *replica, const struct le32 *table, uint64_t offset,
                         const struct vd_replica_change *changes, size_t count,
                         struct vdisk_error *err)
{
    for (size_t i = 0; i < count;) {
        uint32_t first = changes[i].block;
        uint32_t last = first;
        for (i++; i < count && changes[i].block - last <= MERGE_ENTRIES; i++)
            last = changes[i].block;
        int ret = vd_storage_pwrite(replica->file, table + first,
                                    (size_t)(last - first + 1) * VD_GOW_ENTRY_BYTES,
                                    offset + (uint64_t)first * VD_GOW_ENTRY_BYTES, err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

/* Puts the new host blocks into the map and the old ones into @changes. */
static bool swap_hosts(struct vd_replica *replica, struct vd_replica_change *changes, size_t count)
{
    bool is_changed = false;
    for (size_t i = 0; i < count; i++) {
        uint32_t old = vd_replica_host(replica, changes[i].block);
        if (old == changes[i].host) {
            changes[i].host = VD_GOW_UNALLOCATED;
            continue;
        }
        replica->map[changes[i].block] = le32_of(changes[i].host);
        changes[i].host = old;
        is_changed = true;
    }
    return is_changed;
}

static int compare_changes(const void *a, const void *b)
{
    const struct vd_replica_change *x = a, *y = b;
    return x->block < y->block ? -1 : x->block > y->block;
}

static int commit(struct vd_replica *replica, struct vd_replica_change *changes, size_t count,
                  struct vdisk_error *err)
{
    const struct vd_gow_layout *layout = &replica->layout;
    qsort(changes, count, sizeof(*changes), compare_changes);
    int ret = vd_storage_flush(replica->file, err); /* R2: the data */
    if (ret == 0 && swap_hosts(replica, changes, count)) {
        ret = write_entries(replica, replica->map, layout->map_offset, changes, count, err);
        if (ret == 0)
            ret = vd_storage_flush(replica->file, err); /* R2: the map; R3 */
        vd_mutex_lock(&replica->lock);
        for (size_t i = 0; ret == 0 && i < count; i++)
            if (changes[i].host != VD_GOW_UNALLOCATED)
                vd_bits_remove(&replica->used, changes[i].host);
        vd_mutex_unlock(&replica->lock);
    }
    if (ret < 0)
        return ret;
    for (size_t i = 0; i < count; i++)
        replica->versions[changes[i].block] = le32_of(changes[i].version);
    return write_entries(replica, replica->versions, layout->versions_offset, changes, count, err);
}

int vd_replica_commit(struct vd_replica *replica, struct vd_replica_change *changes, size_t count,
                      struct vdisk_error *err)
{
    int ret = check_failed(replica, err);
    if (ret < 0 || count == 0)
        return ret;
    return failing(replica, commit(replica, changes, count, err));
}

/* Gives the space of host blocks back that nothing leads to any more: R3 holds for all of them. */
static int give_back(struct vd_replica *replica, struct vdisk_error *err)
{
    uint32_t from = 0;
    for (;;) {
        uint32_t start = 0;
        uint32_t length = vd_bits_next_run(&replica->used, from, &start);
        if (length == 0)
            return vd_storage_resize(replica->file, vd_gow_file_bytes(&replica->layout, from), err);
        struct vd_range gap = vd_range(vd_gow_host_offset(&replica->layout, from),
                                       (uint64_t)(start - from) * VD_GOW_BLOCK_BYTES);
        int ret = vd_storage_discard(replica->file, gap, err);
        if (ret < 0)
            return ret;
        from = start + length;
    }
}

static int finish(struct vd_replica *replica, const struct vd_gow_header *master,
                  struct vdisk_error *err)
{
    struct vd_gow_header *header = &replica->header;
    int ret = vd_storage_flush(replica->file, err);
    if (ret == 0)
        ret = give_back(replica, err);
    if (ret == 0)
        ret = vd_storage_flush(replica->file, err);
    if (ret < 0)
        return ret;
    header->size = master->size;
    header->generation = master->generation;
    memcpy(header->uuid, master->uuid, sizeof(header->uuid));
    header->flags = VD_GOW_FLAG_REPLICA;
    return write_header(replica, err);
}

int vd_replica_finish(struct vd_replica *replica, const struct vd_gow_header *master,
                      struct vdisk_error *err)
{
    assert(replica->header.flags & VD_GOW_FLAG_INCOMPLETE);
    int ret = check_failed(replica, err);
    return ret < 0 ? ret : failing(replica, finish(replica, master, err));
}
