/* SPDX-License-Identifier: MIT */
/* The master of a sync. */
#include "job/sync_source.h"

#include <inttypes.h>

/* What opening a storage on a server brings along, so that it is not fetched again. */
#define HEAD_BYTES 4096u

void vd_source_init(struct vd_source *source, const char *name,
                    const struct vdisk_network_options *network)
{
    *source = (struct vd_source){.name = name, .network = network};
    atomic_init(&source->reads, 0);
    atomic_init(&source->read_bytes, 0);
}

static int open_storage(const struct vd_source *source, struct vd_storage **storage,
                        struct vdisk_error *err)
{
    struct vd_storage_options options = {.flags = source->is_glance ? VD_STORAGE_GLANCE : 0,
                                         .network = source->network};
    return vd_storage_open(source->name, &options, storage, err);
}

/* The state of the header: is it one to sync from? */
static int check_header(const struct vd_source *source, bool *can_wait, struct vdisk_error *err)
{
    const struct vd_gow_header *header = &source->header;
    if (header->version != 3)
        return vd_err_set(err, ENOTSUP,
                          "%s: a GOW image of version %" PRIu32
                          ": only version 3 has block versions; convert it with -O gow3",
                          source->name, header->version);
    bool is_remote = (vd_storage_caps(source->storage) & VD_STORAGE_IS_REMOTE) != 0;
    if (header->flags & VD_GOW_FLAG_DIRTY) {
        *can_wait = is_remote;
        return vd_err_set(err, EBUSY,
                          is_remote
                              ? "%s: the master is being changed, or its writer died: try again "
                                "when it has been closed"
                              : "%s: the master's writer died before closing it: open it once "
                                "for writing, or run 'vdisk check -r all' on it",
                          source->name);
    }
    if (header->flags & VD_GOW_FLAG_INCOMPLETE) {
        *can_wait = true;
        return vd_err_set(err, EBUSY,
                          "%s: it is a replica itself, and the sync into it has not finished",
                          source->name);
    }
    return 0;
}

static int read_header(struct vd_source *source, bool *can_wait, struct vdisk_error *err)
{
    int ret = vd_storage_size(source->storage, &source->file_bytes, err);
    if (ret < 0)
        return ret;
    struct vdisk_error inner = {0};
    ret = vd_gow_header_read(source->storage, false, &source->header, &inner);
    if (ret == -EBADMSG || ret == -ENOTSUP)
        vd_err_prefix(&inner, ret, "%s: ", source->name);
    if (ret < 0)
        return vd_err_copy(err, &inner);
    atomic_fetch_add(&source->reads, 1);
    atomic_fetch_add(&source->read_bytes, VD_GOW_HEAD_BYTES);
    ret = check_header(source, can_wait, err);
    if (ret < 0)
        return ret;
    source->layout = vd_gow_layout_of(3);
    if (source->file_bytes < source->layout.data_offset)
        return vd_err_set(err, EBADMSG,
                          "%s: the file has %" PRIu64 " bytes, a GOW v3 has at least %" PRIu64,
                          source->name, source->file_bytes, source->layout.data_offset);
    return 0;
}

int vd_source_open(struct vd_source *source, bool *can_wait, struct vdisk_error *err)
{
    *can_wait = false;
    vd_source_close(source);
    int ret = open_storage(source, &source->storage, err);
    if (ret == -EAGAIN) {
        *can_wait = true;
        if (err)
            vdisk_error_clear(err);
        return vd_err_set(err, EBUSY, "%s: the master is being changed by another process",
                          source->name);
    }
    if (ret == 0)
        ret = read_header(source, can_wait, err);
    if (ret < 0)
        vd_source_close(source);
    return ret;
}

struct vd_traffic vd_source_traffic(struct vd_source *source)
{
    struct vd_storage_stats stats = {
        .requests = atomic_load(&source->reads),
        .bytes = atomic_load(&source->read_bytes),
    };
    if (source->storage && (vd_storage_caps(source->storage) & VD_STORAGE_IS_REMOTE))
        vd_storage_stats(source->storage, &stats);
    return (struct vd_traffic){
        .requests = source->past_requests + stats.requests,
        .bytes = source->past_bytes + stats.bytes,
    };
}

void vd_source_close(struct vd_source *source)
{
    if (!source->storage)
        return;
    struct vd_traffic traffic = vd_source_traffic(source);
    source->past_requests = traffic.requests;
    source->past_bytes = traffic.bytes;
    atomic_store(&source->reads, 0);
    atomic_store(&source->read_bytes, 0);
    vd_storage_close(source->storage);
    source->storage = NULL;
}

int vd_source_read(struct vd_source *source, void *buf, size_t length, uint64_t offset,
                   struct vdisk_error *err)
{
    size_t in_head = offset < HEAD_BYTES ? (size_t)vd_min(length, HEAD_BYTES - offset) : 0;
    atomic_fetch_add(&source->reads, 1);
    atomic_fetch_add(&source->read_bytes, length);
    int ret = vd_storage_pread(source->storage, buf, in_head, offset, err);
    if (ret == 0)
        ret = vd_storage_pread(source->storage, (uint8_t *)buf + in_head, length - in_head,
                               offset + in_head, err);
    return ret;
}

int vd_source_recheck(struct vd_source *source, struct vdisk_error *err)
{
    /* A validator in the head of an answer says nothing about a change while its body was sent; a
     * local file is locked against writers. */
    if (!(vd_storage_caps(source->storage) & VD_STORAGE_IS_REMOTE))
        return 0;
    struct vd_source again;
    bool can_wait;
    vd_source_init(&again, source->name, source->network);
    again.is_glance = true;
    int ret = vd_source_open(&again, &can_wait, err);
    if (ret == 0 && memcmp(&again.header, &source->header, sizeof(again.header)) != 0)
        ret = vd_err_set(err, ESTALE, "%s: the master was changed meanwhile", source->name);
    vd_source_close(&again);
    source->past_requests += again.past_requests;
    source->past_bytes += again.past_bytes;
    return ret;
}

struct vd_traffic vd_source_recheck_cost(const struct vd_source *source)
{
    if (!(vd_storage_caps(source->storage) & VD_STORAGE_IS_REMOTE))
        return (struct vd_traffic){0};
    return (struct vd_traffic){.requests = 1, .bytes = VD_GOW_HEAD_BYTES};
}

uint32_t vd_source_block_count(const struct vd_source *source)
{
    return vd_gow_block_count(source->header.size);
}
