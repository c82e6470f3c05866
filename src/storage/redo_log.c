/* SPDX-License-Identifier: MIT */
/* A log as it is finished, and what is in it done to the file. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storage/redo.h"
#include "storage/redo_priv.h"
#include "util/iov.h"
#include "util/mem.h"

#define BATCH_SLOTS 16u /* read at once */

/* ---- Finish ---- */

/* Digests of slots [@first, @first + @slots) into the index. */
static int index_slots(struct vd_redo *redo, size_t first, size_t slots, uint8_t *buf,
                       uint8_t *index, struct vdisk_error *err) VD_REQUIRES(redo->change_lock)
{
    int ret = vd_storage_pread(redo->log, buf, slots * VD_REDO_BLOCK_BYTES,
                               vd_redo_slot_offset(first), err);
    for (size_t i = 0; i < slots && ret == 0; i++) {
        uint8_t *entry = index + (first + i) * vd_redo_entry_bytes(redo->kind);
        uint64_t block = redo->slot_blocks[first + i];
        vd_mutex_lock(&redo->lock);
        bool is_dead = (vd_redo_map_get(&redo->map, block) & VD_REDO_ZERO) != 0;
        vd_mutex_unlock(&redo->lock);
        struct le64 number = le64_of(is_dead ? VD_REDO_DEAD_SLOT : block);
        memcpy(entry, &number, sizeof(number));
        ret = vd_digest(redo->kind, buf + i * VD_REDO_BLOCK_BYTES, VD_REDO_BLOCK_BYTES,
                        entry + sizeof(number), err);
    }
    return ret;
}

/* The run of zero blocks at @block or behind: false if there is none.  What is cut off is zero
 * anyway. */
static bool next_zeros(const struct vd_redo *redo, uint64_t block, uint64_t *first, uint64_t *end)
    VD_REQUIRES(redo->lock)
{
    uint64_t limit =
        vd_min(vd_div_up(redo->below_bytes, VD_REDO_BLOCK_BYTES), vd_redo_map_end(&redo->map));
    while (block < limit && !(vd_redo_map_get(&redo->map, block) & VD_REDO_ZERO))
        block++;
    *first = block;
    while (block < limit && (vd_redo_map_get(&redo->map, block) & VD_REDO_ZERO))
        block++;
    *end = block;
    return *end > *first;
}

/* Writes them to @runs, which has room, or only counts them if it is NULL. */
static uint64_t list_zeros(struct vd_redo *redo, struct vd_redo_zero_run *runs)
{
    uint64_t entries = 0;
    uint64_t first, end = 0;
    vd_mutex_lock(&redo->lock);
    while (next_zeros(redo, end, &first, &end)) {
        if (runs)
            runs[entries] =
                (struct vd_redo_zero_run){.block = le64_of(first), .blocks = le64_of(end - first)};
        entries++;
    }
    vd_mutex_unlock(&redo->lock);
    return entries;
}

/* @index: owned by the caller. */
static int make_index(struct vd_redo *redo, uint8_t **index, uint64_t *index_bytes,
                      uint64_t *zero_runs, struct vdisk_error *err) VD_REQUIRES(redo->change_lock)
{
    *zero_runs = list_zeros(redo, NULL);
    uint64_t slots_bytes = redo->slots * (uint64_t)vd_redo_entry_bytes(redo->kind);
    *index_bytes = slots_bytes + *zero_runs * sizeof(struct vd_redo_zero_run);
    *index = vd_alloc_array((size_t)*index_bytes, 1);
    CLEANUP_FREE uint8_t *buf = vd_alloc_io((size_t)BATCH_SLOTS * VD_REDO_BLOCK_BYTES);
    if (!*index || !buf)
        return vd_err_nomem(err, "the index of a log");
    int ret = 0;
    for (size_t first = 0; first < redo->slots && ret == 0; first += BATCH_SLOTS)
        ret = index_slots(redo, first, (size_t)vd_min(redo->slots - first, BATCH_SLOTS), buf,
                          *index, err);
    if (ret == 0)
        list_zeros(redo, (struct vd_redo_zero_run *)(void *)(*index + slots_bytes));
    return ret;
}

static int write_all(struct vd_storage *log, const uint8_t *bytes, uint64_t length, uint64_t offset,
                     struct vdisk_error *err)
{
    int ret = 0;
    while (length && ret == 0) {
        size_t step = (size_t)vd_min(length, VDISK_REQUEST_BYTES_MAX / 2);
        ret = vd_storage_pwrite(log, bytes, step, offset, err);
        bytes += step;
        offset += step;
        length -= step;
    }
    return ret;
}

static int read_all(struct vd_storage *log, uint8_t *bytes, uint64_t length, uint64_t offset,
                    struct vdisk_error *err)
{
    int ret = 0;
    while (length && ret == 0) {
        size_t step = (size_t)vd_min(length, VDISK_REQUEST_BYTES_MAX / 2);
        ret = vd_storage_pread(log, bytes, step, offset, err);
        bytes += step;
        offset += step;
        length -= step;
    }
    return ret;
}

static int write_index(struct vd_redo *redo, uint8_t *digest, struct vdisk_error *err)
    VD_REQUIRES(redo->change_lock)
{
    CLEANUP_FREE uint8_t *index = NULL;
    CLEANUP_FREE uint8_t *block = vd_alloc_array(1, VD_REDO_BLOCK_BYTES);
    uint64_t index_bytes = 0, zero_runs = 0;
    int ret = block ? make_index(redo, &index, &index_bytes, &zero_runs, err)
                    : vd_err_nomem(err, "the header of a log");
    if (ret < 0)
        return ret;
    vd_mutex_lock(&redo->lock);
    struct vd_redo_header header = {
        .version = le32_of(VD_REDO_VERSION),
        .kind = le32_of((uint32_t)redo->kind),
        .slots = le64_of(redo->slots),
        .zero_runs = le64_of(zero_runs),
        .old_bytes = le64_of(redo->old_bytes),
        .least_bytes = le64_of(redo->below_bytes),
        .new_bytes = le64_of(redo->size),
    };
    vd_mutex_unlock(&redo->lock);
    memcpy(header.magic, VD_REDO_MAGIC, sizeof(header.magic));
    ret = vd_digest(redo->kind, index, (size_t)index_bytes, header.index_digest, err);
    if (ret < 0)
        return ret;
    memcpy(block, &header, sizeof(header));
    memset(digest, 0, VD_DIGEST_BYTES_MAX);
    ret = vd_digest(redo->kind, block, VD_REDO_BLOCK_BYTES, digest, err);
    /* What is behind the index, if somebody has written there, is no part of it. */
    uint64_t index_offset = vd_redo_slot_offset(redo->slots);
    if (ret == 0)
        ret = vd_storage_resize(redo->log, index_offset, err);
    if (ret == 0)
        ret = write_all(redo->log, index, index_bytes, index_offset, err);
    if (ret == 0)
        ret = vd_storage_pwrite(redo->log, block, VD_REDO_BLOCK_BYTES, 0, err);
    return ret < 0 ? ret : vd_storage_flush(redo->log, err);
}

int vd_redo_finish(struct vd_storage *storage, uint8_t *digest, struct vdisk_error *err)
{
    struct vd_redo *redo = vd_redo_of(storage);
    vd_mutex_lock(&redo->change_lock);
    redo->is_finished = true;
    int ret = write_index(redo, digest, err);
    vd_mutex_unlock(&redo->change_lock);
    return ret < 0 ? vd_err_prefix(err, ret, "%s: log of changes: ", vd_storage_name(redo->below))
                   : 0;
}

/* ---- Apply ---- */

/* A log that is read. */
struct reader {
    struct vd_storage *log;
    enum vd_digest_kind kind;
    uint64_t slots;
    uint64_t zero_runs;
    uint64_t old_bytes;
    uint64_t least_bytes;
    uint64_t new_bytes;
    uint8_t *index; /* owned */
    uint8_t *buf;   /* owned: BATCH_SLOTS blocks */
};

static int refuse(const struct reader *reader, const char *what, struct vdisk_error *err)
{
    return vd_err_set(err, EBADMSG, "%s: the log of changes is damaged: %s",
                      vd_storage_name(reader->log), what);
}

static int compare(const struct reader *reader, const void *bytes, size_t length,
                   const uint8_t *wanted, const char *what, struct vdisk_error *err)
{
    uint8_t digest[VD_DIGEST_BYTES_MAX];
    int ret = vd_digest(reader->kind, bytes, length, digest, err);
    if (ret == 0 && memcmp(digest, wanted, vd_digest_bytes(reader->kind)) != 0)
        ret = refuse(reader, what, err);
    return ret;
}

static int parse_header(struct reader *reader, const struct vd_redo_header *header, uint64_t size,
                        struct vdisk_error *err)
{
    reader->slots = le64_get(header->slots);
    reader->zero_runs = le64_get(header->zero_runs);
    reader->old_bytes = le64_get(header->old_bytes);
    reader->least_bytes = le64_get(header->least_bytes);
    reader->new_bytes = le64_get(header->new_bytes);
    if (memcmp(header->magic, VD_REDO_MAGIC, sizeof(header->magic)) != 0 ||
        le32_get(header->version) != VD_REDO_VERSION ||
        le32_get(header->kind) != (uint32_t)reader->kind)
        return refuse(reader, "the header is of something else", err);
    if (reader->least_bytes > reader->old_bytes || reader->least_bytes > reader->new_bytes ||
        reader->old_bytes > INT64_MAX || reader->new_bytes > INT64_MAX)
        return refuse(reader, "sizes in the header", err);
    /* Neither product wraps: both counts are less than the size, or it is refused before. */
    uint64_t entry_bytes = vd_redo_entry_bytes(reader->kind);
    if (reader->slots > size / VD_REDO_BLOCK_BYTES ||
        reader->zero_runs > size / sizeof(struct vd_redo_zero_run) ||
        vd_redo_slot_offset(reader->slots) + reader->slots * entry_bytes +
                reader->zero_runs * sizeof(struct vd_redo_zero_run) !=
            size)
        return refuse(reader, "it has another length", err);
    return 0;
}

static uint64_t index_bytes_of(const struct reader *reader)
{
    return reader->slots * vd_redo_entry_bytes(reader->kind) +
           reader->zero_runs * sizeof(struct vd_redo_zero_run);
}

/* Header and index. */
static int read_index(struct reader *reader, const uint8_t *digest, struct vdisk_error *err)
{
    uint64_t size;
    int ret = vd_storage_size(reader->log, &size, err);
    if (ret < 0)
        return ret;
    if (size < VD_REDO_BLOCK_BYTES)
        return refuse(reader, "it has no header", err);
    reader->buf = vd_alloc_io((size_t)BATCH_SLOTS * VD_REDO_BLOCK_BYTES);
    if (!reader->buf)
        return vd_err_nomem(err, "a copy buffer");
    ret = vd_storage_pread(reader->log, reader->buf, VD_REDO_BLOCK_BYTES, 0, err);
    if (ret == 0)
        ret = compare(reader, reader->buf, VD_REDO_BLOCK_BYTES, digest, "its header", err);
    struct vd_redo_header header;
    memcpy(&header, reader->buf, sizeof(header));
    if (ret == 0)
        ret = parse_header(reader, &header, size, err);
    if (ret < 0)
        return ret;
    uint64_t index_bytes = index_bytes_of(reader);
    reader->index = vd_alloc_array((size_t)index_bytes, 1);
    if (!reader->index)
        return vd_err_nomem(err, "the index of a log");
    ret =
        read_all(reader->log, reader->index, index_bytes, vd_redo_slot_offset(reader->slots), err);
    return ret < 0 ? ret
                   : compare(reader, reader->index, (size_t)index_bytes, header.index_digest,
                             "its index", err);
}

static const uint8_t *entry_of(const struct reader *reader, uint64_t slot)
{
    return reader->index + slot * vd_redo_entry_bytes(reader->kind);
}

static uint64_t block_of_slot(const struct reader *reader, uint64_t slot)
{
    struct le64 number;
    memcpy(&number, entry_of(reader, slot), sizeof(number));
    return le64_get(number);
}

/* Is what the index says within the file? */
static int check_index(const struct reader *reader, struct vdisk_error *err)
{
    uint64_t blocks = vd_div_up(reader->new_bytes, VD_REDO_BLOCK_BYTES);
    for (uint64_t slot = 0; slot < reader->slots; slot++) {
        uint64_t block = block_of_slot(reader, slot);
        if (block != VD_REDO_DEAD_SLOT && block >= blocks)
            return refuse(reader, "a block behind the end of the file", err);
    }
    const uint8_t *at = entry_of(reader, reader->slots);
    for (uint64_t i = 0; i < reader->zero_runs; i++, at += sizeof(struct vd_redo_zero_run)) {
        struct vd_redo_zero_run run;
        memcpy(&run, at, sizeof(run));
        if (!vd_range_is_within(vd_range(le64_get(run.block), le64_get(run.blocks)), blocks))
            return refuse(reader, "zeros behind the end of the file", err);
    }
    return 0;
}

/* Reads and compares slots into the buffer. */
static int read_slots(const struct reader *reader, uint64_t first, size_t slots,
                      struct vdisk_error *err)
{
    int ret = vd_storage_pread(reader->log, reader->buf, slots * VD_REDO_BLOCK_BYTES,
                               vd_redo_slot_offset(first), err);
    for (size_t i = 0; i < slots && ret == 0; i++)
        ret = compare(reader, reader->buf + i * VD_REDO_BLOCK_BYTES, VD_REDO_BLOCK_BYTES,
                      entry_of(reader, first + i) + sizeof(struct le64), "a block", err);
    return ret;
}

/* Writes what is in the buffer, neighbours at once. */
static int write_slots(const struct reader *reader, uint64_t first, size_t slots,
                       struct vd_storage *file, struct vdisk_error *err)
{
    int ret = 0;
    for (size_t i = 0, run; i < slots && ret == 0; i += run) {
        uint64_t block = block_of_slot(reader, first + i);
        run = 1;
        if (block == VD_REDO_DEAD_SLOT)
            continue;
        while (i + run < slots && block_of_slot(reader, first + i + run) == block + run)
            run++;
        uint64_t offset = block * VD_REDO_BLOCK_BYTES;
        uint64_t length = vd_min(run * VD_REDO_BLOCK_BYTES, reader->new_bytes - offset);
        ret = vd_storage_pwrite(file, reader->buf + i * VD_REDO_BLOCK_BYTES, (size_t)length, offset,
                                err);
    }
    return ret;
}

/* All slots; @file: NULL: they are only compared. */
static int do_slots(const struct reader *reader, struct vd_storage *file, struct vdisk_error *err)
{
    int ret = 0;
    for (uint64_t first = 0; first < reader->slots && ret == 0; first += BATCH_SLOTS) {
        size_t slots = (size_t)vd_min(reader->slots - first, BATCH_SLOTS);
        ret = read_slots(reader, first, slots, err);
        if (ret == 0 && file)
            ret = write_slots(reader, first, slots, file, err);
    }
    return ret;
}

static int do_zeros(const struct reader *reader, struct vd_storage *file, struct vdisk_error *err)
{
    const uint8_t *at = entry_of(reader, reader->slots);
    int ret = 0;
    for (uint64_t i = 0; i < reader->zero_runs && ret == 0; i++) {
        struct vd_redo_zero_run run;
        memcpy(&run, at + i * sizeof(run), sizeof(run));
        uint64_t start = le64_get(run.block) * VD_REDO_BLOCK_BYTES;
        uint64_t length =
            vd_min(le64_get(run.blocks) * VD_REDO_BLOCK_BYTES, reader->new_bytes - start);
        ret =
            vd_storage_write_zeroes(file, vd_range(start, length), VD_STORAGE_ZERO_MAY_PUNCH, err);
    }
    return ret;
}

/* Any length that the file can have on the way is good: it may have been begun before. */
static int check_file(const struct reader *reader, struct vd_storage *file, struct vdisk_error *err)
{
    uint64_t size;
    int ret = vd_storage_size(file, &size, err);
    if (ret == 0 &&
        (size < reader->least_bytes || size > vd_max(reader->old_bytes, reader->new_bytes)))
        ret = vd_err_set(
            err, EBADMSG,
            "%s: has %" PRIu64 " bytes: the log of changes '%s' is for a file of %" PRIu64 " bytes",
            vd_storage_name(file), size, vd_storage_name(reader->log), reader->old_bytes);
    return ret;
}

static int set_size(struct vd_storage *file, uint64_t size, struct vdisk_error *err)
{
    uint64_t now;
    int ret = vd_storage_size(file, &now, err);
    return ret < 0 || now == size ? ret : vd_storage_resize(file, size, err);
}

/* R3: whatever has been done of it before, this does all of it. */
static int do_all(const struct reader *reader, struct vd_storage *file, struct vdisk_error *err)
{
    int ret = 0;
    if (reader->least_bytes < reader->old_bytes)
        ret = set_size(file, reader->least_bytes, err);
    if (ret == 0)
        ret = set_size(file, reader->new_bytes, err);
    if (ret == 0)
        ret = do_zeros(reader, file, err);
    if (ret == 0)
        ret = do_slots(reader, file, err);
    return ret < 0 ? ret : vd_storage_flush(file, err);
}

int vd_redo_apply(struct vd_storage *log, enum vd_digest_kind kind, const uint8_t *digest,
                  struct vd_storage *file, struct vdisk_error *err)
{
    struct reader reader = {.log = log, .kind = kind};
    int ret = read_index(&reader, digest, err);
    if (ret == 0)
        ret = check_index(&reader, err);
    if (ret == 0)
        ret = do_slots(&reader, NULL, err); /* R2 */
    if (ret == 0)
        ret = check_file(&reader, file, err);
    if (ret == 0)
        ret = do_all(&reader, file, err);
    free(reader.index);
    free(reader.buf);
    return ret;
}
