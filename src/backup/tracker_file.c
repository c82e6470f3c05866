/* SPDX-License-Identifier: MIT */
/* Files with a number for each block of the disk; zeros take no space. */
#include <stdio.h>
#include <stdlib.h>

#include "backup/digests.h"
#include "backup/tracker_priv.h"
#include "storage/verified.h"
#include "util/iov.h"
#include "util/mem.h"

#define CHUNK_ENTRIES 16384u
#define PART_SUFFIX   ".versions.part"

static uint64_t blocks_of(uint64_t disk_bytes)
{
    return vd_div_up(disk_bytes, VD_TRACKER_BLOCK_BYTES);
}

/* --- writing -----------------------------------------------------------------------------------
 */

struct writing {
    struct vd_storage *storage;
    struct le32 *numbers; /* of a chunk */
    uint64_t start;       /* first block of it */
};

static int write_chunk(struct writing *to, size_t entries, struct vdisk_error *err)
{
    size_t bytes = entries * sizeof(*to->numbers);
    if (vd_buffer_is_zero(to->numbers, bytes))
        return 0;
    return vd_storage_pwrite(to->storage, to->numbers, bytes, to->start * sizeof(*to->numbers),
                             err);
}

static int write_numbers(struct writing *to, uint64_t size, const struct vd_tracker_numbers *from,
                         struct vdisk_error *err)
{
    uint64_t blocks = blocks_of(size);
    int ret = 0;
    for (uint64_t block = 0; block < blocks && ret == 0;) {
        uint64_t offset = block * VD_TRACKER_BLOCK_BYTES;
        struct vd_range run = vd_range(offset, size - offset);
        uint32_t value = 0;
        ret = from->get(from->opaque, &run, &value, err);
        for (uint64_t end = blocks_of(vd_range_end(run)); block < end && ret == 0; block++) {
            if (block == to->start + CHUNK_ENTRIES) {
                ret = write_chunk(to, CHUNK_ENTRIES, err);
                to->start = block;
            }
            to->numbers[block - to->start] = le32_of(value);
        }
    }
    return ret < 0 ? ret : write_chunk(to, (size_t)(blocks - to->start), err);
}

int vd_tracker_file_write(const struct vd_tracker *tracker, const char *name,
                          const struct vd_tracker_numbers *from, struct vdisk_error *err)
{
    uint64_t size = vdisk_image_size(tracker->context.source);
    struct vd_storage_options options = {.flags = VD_STORAGE_WRITE | VD_STORAGE_CREATE};
    CLEANUP_FREE char *path = vd_repository_path(tracker->context.repository, name, err);
    CLEANUP_FREE struct le32 *numbers = vd_alloc_array(CHUNK_ENTRIES, sizeof(*numbers));
    struct writing to = {.numbers = numbers};
    if (!path)
        return -ENOMEM;
    if (!numbers)
        return vd_err_nomem(err, "the versions of blocks");
    int ret = vd_storage_open(path, &options, &to.storage, err);
    if (ret < 0)
        return ret;
    ret = vd_storage_resize(to.storage, blocks_of(size) * sizeof(*numbers), err);
    if (ret == 0)
        ret = write_numbers(&to, size, from, err);
    if (ret == 0)
        ret = vd_storage_flush(to.storage, err);
    vd_storage_close(to.storage);
    return ret;
}

static int make_digests(const struct vd_tracker *tracker, const char *name,
                        struct vd_digest_table *table, struct vdisk_error *err)
{
    struct vd_storage *storage;
    struct vd_job job;
    uint64_t bytes = 0;
    CLEANUP_FREE char *path = vd_repository_path(tracker->context.repository, name, err);
    int ret = path ? vd_storage_open(path, NULL, &storage, err) : -ENOMEM;
    if (ret < 0)
        return ret;
    vd_job_init(&job, NULL, NULL, 0);
    ret = vd_storage_size(storage, &bytes, err);
    if (ret == 0)
        ret = vd_digest_table_init(table, vd_repository_digest_kind(tracker->context.repository),
                                   vd_digests_extent_bytes(bytes), bytes, err);
    if (ret == 0)
        ret = vd_job_phase(&job, "digest", bytes, 0, err);
    if (ret == 0)
        ret = vd_digests_make(storage, table, &job, 1, err);
    vd_job_destroy(&job);
    vd_storage_close(storage);
    return ret;
}

int vd_tracker_file_rename(const struct vd_tracker *tracker, const char *from, const char *to,
                           struct vdisk_error *err)
{
    struct vdisk_repository *repository = tracker->context.repository;
    CLEANUP_FREE char *old = vd_repository_path(repository, from, err);
    CLEANUP_FREE char *new = old ? vd_repository_path(repository, to, err) : NULL;
    if (!new)
        return -ENOMEM;
    return rename(old, new) < 0 ? vd_err_errno(err, errno, "%s: renaming it", old) : 0;
}

int vd_tracker_file_record(const struct vd_tracker *tracker, const char *name,
                           struct vd_manifest *manifest, struct vdisk_error *err)
{
    CLEANUP_FREE char *part = vd_point_file_name(manifest->number, PART_SUFFIX, err);
    int ret = part ? vd_tracker_file_rename(tracker, name, part, err) : -ENOMEM;
    if (ret == 0)
        ret = make_digests(tracker, part, &manifest->versions.table, err);
    if (ret == 0)
        manifest->versions.name = vd_point_file_name(manifest->number, ".versions", err);
    return ret == 0 && !manifest->versions.name ? -ENOMEM : ret;
}

/* --- reading -----------------------------------------------------------------------------------
 */

static int begin_reading(struct vd_tracker_file *file, struct vdisk_error *err)
{
    uint64_t bytes = 0;
    int ret = vd_storage_size(file->storage, &bytes, err);
    file->blocks = bytes / sizeof(*file->numbers);
    file->numbers = vd_alloc_array(CHUNK_ENTRIES, sizeof(*file->numbers));
    if (ret == 0 && !file->numbers)
        ret = vd_err_nomem(err, "the versions of blocks");
    return ret;
}

int vd_tracker_file_open_part(const struct vd_tracker *tracker, const char *name,
                              struct vd_tracker_file *file, struct vdisk_error *err)
{
    CLEANUP_FREE char *path = vd_repository_path(tracker->context.repository, name, err);
    int ret = path ? vd_storage_open(path, NULL, &file->storage, err) : -ENOMEM;
    return ret < 0 ? ret : begin_reading(file, err);
}

int vd_tracker_file_open(const struct vd_tracker *tracker, const struct vd_manifest *manifest,
                         struct vd_tracker_file *file, struct vdisk_error *err)
{
    struct vd_storage *below;
    CLEANUP_FREE char *path =
        vd_repository_path(tracker->context.repository, manifest->versions.name, err);
    int ret = path ? vd_storage_open(path, NULL, &below, err) : -ENOMEM;
    if (ret == 0)
        ret = vd_storage_verified_open(below, &manifest->versions.table, &file->storage, err);
    return ret < 0 ? ret : begin_reading(file, err);
}

void vd_tracker_file_close(struct vd_tracker_file *file)
{
    vd_storage_close(file->storage);
    free(file->numbers);
    *file = (struct vd_tracker_file){0};
}

int vd_tracker_file_get(struct vd_tracker_file *file, uint64_t block, uint32_t *number,
                        struct vdisk_error *err)
{
    *number = 0;
    if (block >= file->blocks)
        return 0;
    if (!file->entries || block < file->start || block >= file->start + file->entries) {
        uint64_t start = block - block % CHUNK_ENTRIES;
        size_t entries = (size_t)vd_min(CHUNK_ENTRIES, file->blocks - start);
        file->entries = 0;
        int ret = vd_storage_pread(file->storage, file->numbers, entries * sizeof(*file->numbers),
                                   start * sizeof(*file->numbers), err);
        if (ret < 0)
            return ret;
        file->start = start;
        file->entries = entries;
    }
    *number = le32_get(file->numbers[block - file->start]);
    return 0;
}
