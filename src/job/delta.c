/* SPDX-License-Identifier: MIT */
/* What a replica lacks of its master. */
#include "job/delta.h"

#include <inttypes.h>
#include <stdlib.h>

#include "util/mem.h"

/* One request for metadata. */
#define PIECE_BYTES (4u << 20)
/* Parts of the map are fetched in this unit of the file, and together when closer than the gap. */
#define STRETCH_UNIT 4096u
#define STRETCH_GAP  16384u

void vd_delta_free(struct vd_delta *delta)
{
    free(delta->versions);
    free(delta->fetch);
    free(delta->runs);
    free(delta->bare);
    *delta = (struct vd_delta){0};
}

uint64_t vd_delta_fetch_bytes(const struct vd_delta *delta)
{
    return (uint64_t)delta->fetch_count * VD_GOW_BLOCK_BYTES;
}

static int fetch_versions(struct vd_source *source, struct vd_job *job, struct vd_delta *delta,
                          struct vdisk_error *err)
{
    uint64_t length = (uint64_t)delta->block_count * VD_GOW_ENTRY_BYTES;
    delta->versions = vd_alloc_array(delta->block_count, sizeof(*delta->versions));
    if (!delta->versions)
        return vd_err_nomem(err, "the versions of the master");
    for (uint64_t done = 0; done < length;) {
        size_t step = (size_t)vd_min(length - done, PIECE_BYTES);
        int ret = vd_source_read(source, (uint8_t *)delta->versions + done, step,
                                 source->layout.versions_offset + done, err);
        if (ret == 0)
            ret = vd_job_advance(job, (struct vd_job_step){.moved_bytes = step}, err);
        if (ret < 0)
            return ret;
        done += step;
    }
    return 0;
}

static int is_ahead(const struct vd_source *source, uint32_t block, uint32_t mine, uint32_t its,
                    struct vdisk_error *err)
{
    return vd_err_set(err, EPERM,
                      "the replica is ahead of its master: block %" PRIu32 " has version %" PRIu32
                      ", in %s it has %" PRIu32
                      "; was the master put back to an older state?  --force makes the replica "
                      "identical",
                      block, mine, source->name, its);
}

/* What the versions say about a block of the master. */
enum verdict {
    SAME,
    NEWER,
    NEVER_WRITTEN,
    AHEAD
};

static enum verdict compare_block(const struct vd_delta *delta, const struct vd_replica *replica,
                                  bool forget, uint32_t block)
{
    uint32_t its = le32_get(delta->versions[block]);
    uint32_t mine = replica && !forget ? vd_replica_version(replica, block) : 0;
    if (mine > its)
        return AHEAD;
    if (its > mine)
        return NEWER;
    /*
     * What a master never wrote reads as zero there.  A replica may hold something all the same:
     * what it held before it was forced into this lineage.
     */
    if (its == 0 && replica && vd_replica_host(replica, block) != VD_GOW_UNALLOCATED)
        return NEVER_WRITTEN;
    return SAME;
}

/* Newer blocks go to @fetch, with or without data; those that the master never wrote to @bare. */
static int list_changed(struct vd_source *source, const struct vd_replica *replica, bool forget,
                        struct vd_delta *delta, struct vdisk_error *err)
{
    uint32_t replica_blocks = replica ? vd_replica_block_count(replica) : 0;
    size_t newer = 0, bare = 0;
    for (uint32_t block = 0; block < delta->block_count; block++) {
        enum verdict verdict = compare_block(delta, replica, forget, block);
        if (verdict == AHEAD)
            return is_ahead(source, block, vd_replica_version(replica, block),
                            le32_get(delta->versions[block]), err);
        newer += verdict == NEWER;
        bare += verdict == NEVER_WRITTEN;
    }
    if (replica_blocks > delta->block_count)
        bare += replica_blocks - delta->block_count;

    delta->fetch = vd_alloc_array(newer, sizeof(*delta->fetch));
    delta->bare = vd_alloc_array(newer + bare, sizeof(*delta->bare));
    if (!delta->fetch || !delta->bare)
        return vd_err_nomem(err, "the list of changed blocks");
    for (uint32_t block = 0; block < delta->block_count; block++) {
        enum verdict verdict = compare_block(delta, replica, forget, block);
        if (verdict == NEWER)
            delta->fetch[delta->fetch_count++] = (struct vd_delta_block){.block = block};
        if (verdict == NEVER_WRITTEN)
            delta->bare[delta->bare_count++] =
                (struct vd_replica_change){.block = block, .host = VD_GOW_UNALLOCATED};
    }
    for (uint32_t block = delta->block_count; block < replica_blocks; block++) {
        if (vd_replica_host(replica, block) == VD_GOW_UNALLOCATED &&
            vd_replica_version(replica, block) == 0)
            continue;
        delta->past_end_count++;
        delta->bare[delta->bare_count++] =
            (struct vd_replica_change){.block = block, .host = VD_GOW_UNALLOCATED};
    }
    return 0;
}

/* A part of the map: whole units of the file, within the used part. */
static struct vd_range stretch_of(const struct vd_source *source, uint32_t block)
{
    const struct vd_gow_layout *layout = &source->layout;
    uint64_t used_end = vd_gow_map_entry_offset(layout, vd_source_block_count(source));
    uint64_t start = vd_round_down(vd_gow_map_entry_offset(layout, block), STRETCH_UNIT);
    uint64_t end = vd_min(start + STRETCH_UNIT, used_end);
    start = vd_max(start, layout->map_offset);
    return vd_range(start, end - start);
}

/* Reads the stretch of the map that begins with delta->fetch[*next], and passes what it covers. */
static int look_up_stretch(struct vd_source *source, struct vd_delta *delta, uint8_t *buffer,
                           uint32_t *next, struct vdisk_error *err)
{
    struct vd_range stretch = stretch_of(source, delta->fetch[*next].block);
    uint32_t last = *next + 1;
    for (; last < delta->fetch_count; last++) {
        struct vd_range more = stretch_of(source, delta->fetch[last].block);
        uint64_t length = vd_range_end(more) - stretch.offset;
        if (more.offset > vd_range_end(stretch) + STRETCH_GAP || length > PIECE_BYTES)
            break;
        stretch.length = length;
    }
    int ret = vd_source_read(source, buffer, (size_t)stretch.length, stretch.offset, err);
    if (ret < 0)
        return ret;
    for (; *next < last; ++*next) {
        struct vd_delta_block *entry = &delta->fetch[*next];
        uint64_t offset = vd_gow_map_entry_offset(&source->layout, entry->block);
        struct le32 host;
        memcpy(&host, buffer + (offset - stretch.offset), sizeof(host));
        entry->host = le32_get(host);
    }
    return 0;
}

static int look_up_hosts(struct vd_source *source, struct vd_job *job, struct vd_delta *delta,
                         struct vdisk_error *err)
{
    CLEANUP_FREE uint8_t *buffer = malloc(PIECE_BYTES);
    if (!buffer)
        return vd_err_nomem(err, "a piece of the master's map");
    for (uint32_t next = 0; next < delta->fetch_count;) {
        int ret = look_up_stretch(source, delta, buffer, &next, err);
        if (ret == 0)
            ret = vd_job_advance(job, (struct vd_job_step){0}, err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

/* Moves what reads as zero in the master from @fetch to @bare, and checks the rest. */
static int split_unallocated(struct vd_source *source, struct vd_delta *delta,
                             struct vdisk_error *err)
{
    uint32_t hosts = vd_gow_host_count(&source->layout, source->file_bytes);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < delta->fetch_count; i++) {
        struct vd_delta_block entry = delta->fetch[i];
        if (entry.host == VD_GOW_UNALLOCATED) {
            delta->bare[delta->bare_count++] =
                (struct vd_replica_change){.block = entry.block,
                                           .version = le32_get(delta->versions[entry.block]),
                                           .host = VD_GOW_UNALLOCATED};
            continue;
        }
        if (entry.host >= hosts)
            return vd_err_set(err, EBADMSG,
                              "%s: map entry %" PRIu32 " names host block %" PRIu32
                              ", the file has %" PRIu32 ": the master is damaged",
                              source->name, entry.block, entry.host, hosts);
        delta->fetch[kept++] = entry;
    }
    delta->fetch_count = kept;
    return 0;
}

static int compare_hosts(const void *a, const void *b)
{
    const struct vd_delta_block *x = a, *y = b;
    return x->host < y->host ? -1 : x->host > y->host;
}

static int make_runs(struct vd_source *source, uint32_t run_blocks, struct vd_delta *delta,
                     struct vdisk_error *err)
{
    qsort(delta->fetch, delta->fetch_count, sizeof(*delta->fetch), compare_hosts);
    delta->runs = vd_alloc_array(delta->fetch_count, sizeof(*delta->runs));
    if (!delta->runs)
        return vd_err_nomem(err, "the list of requests");

    struct vd_delta_run *run = NULL;
    for (uint32_t i = 0; i < delta->fetch_count; i++) {
        uint32_t host = delta->fetch[i].host;
        uint32_t last = i ? delta->fetch[i - 1].host : 0;
        if (i && host == last)
            return vd_err_set(err, EBADMSG,
                              "%s: map entries %" PRIu32 " and %" PRIu32
                              " both name host block %" PRIu32 ": the master is damaged",
                              source->name, delta->fetch[i - 1].block, delta->fetch[i].block, host);
        if (!run || host != last + 1 || run->count == run_blocks) {
            run = &delta->runs[delta->run_count++];
            *run = (struct vd_delta_run){.first = i};
        }
        run->count++;
    }
    return 0;
}

int vd_delta_make(struct vd_source *source, const struct vd_replica *replica,
                  const struct vd_delta_options *options, struct vd_job *job,
                  struct vd_delta *delta, struct vdisk_error *err)
{
    *delta = (struct vd_delta){.block_count = vd_source_block_count(source)};
    uint64_t metadata_bytes = 2ull * delta->block_count * VD_GOW_ENTRY_BYTES;
    int ret = vd_job_phase(job, "list", metadata_bytes, 0, err);
    if (ret == 0)
        ret = fetch_versions(source, job, delta, err);
    if (ret == 0)
        ret = list_changed(source, replica, options->forget, delta, err);
    if (ret == 0)
        ret = look_up_hosts(source, job, delta, err);
    if (ret == 0)
        ret = split_unallocated(source, delta, err);
    if (ret == 0)
        ret = make_runs(source, options->run_blocks, delta, err);
    if (ret < 0)
        vd_delta_free(delta);
    return ret;
}
