/* SPDX-License-Identifier: MIT */
/*
 * Storage in memory: pages of 64 KiB in a growing table, allocated when first written, so that a
 * large sparse one costs little.  One lock: this driver is for tests and small scratch images.
 */
#include <stdlib.h>
#include <string.h>

#include "storage/driver.h"
#include "util/iov.h"
#include "util/mem.h"

#define MEM_PAGE_BYTES 65536u

struct mem {
    struct vd_mutex lock;
    uint64_t size; /* all below: under lock */
    size_t page_entries;
    uint8_t **pages; /* NULL: zeros */
};

static int mem_grow_table(struct mem *mem, uint64_t size, struct vdisk_error *err)
{
    uint64_t wanted = vd_div_up(size, MEM_PAGE_BYTES);
    if (wanted <= mem->page_entries)
        return 0;
    uint64_t entries_wide = vd_max(wanted, (uint64_t)mem->page_entries * 2);
    size_t entries = (size_t)entries_wide;
    uint8_t **pages = NULL;
    if (entries == entries_wide) /* on 32 bits it may not be */
        pages = reallocarray(mem->pages, entries, sizeof(*pages));
    if (!pages)
        return vd_err_nomem(err, "storage in memory");
    memset(pages + mem->page_entries, 0, (entries - mem->page_entries) * sizeof(*pages));
    mem->pages = pages;
    mem->page_entries = entries;
    return 0;
}

/* The part of @range that lies in one page. */
static size_t mem_step(struct vd_range range)
{
    uint64_t in_page = range.offset % MEM_PAGE_BYTES;
    return (size_t)vd_min(range.length, MEM_PAGE_BYTES - in_page);
}

static void mem_zero_locked(struct mem *mem, struct vd_range range)
{
    while (range.length) {
        size_t step = mem_step(range);
        uint8_t **page = &mem->pages[range.offset / MEM_PAGE_BYTES];
        if (*page && step == MEM_PAGE_BYTES) {
            free(*page);
            *page = NULL;
        } else if (*page) {
            memset(*page + range.offset % MEM_PAGE_BYTES, 0, step);
        }
        range = vd_range(range.offset + step, range.length - step);
    }
}

static int mem_set_size_locked(struct mem *mem, uint64_t size, struct vdisk_error *err)
{
    int ret = mem_grow_table(mem, size, err);
    if (ret < 0)
        return ret;
    if (size < mem->size)
        mem_zero_locked(mem, vd_range(size, mem->size - size));
    mem->size = size;
    return 0;
}

static void mem_read_locked(const struct mem *mem, uint8_t *buf, struct vd_range range)
{
    while (range.length) {
        size_t step = mem_step(range);
        const uint8_t *page = mem->pages[range.offset / MEM_PAGE_BYTES];
        if (page)
            memcpy(buf, page + range.offset % MEM_PAGE_BYTES, step);
        else
            memset(buf, 0, step);
        buf += step;
        range = vd_range(range.offset + step, range.length - step);
    }
}

static int mem_write_locked(struct mem *mem, const uint8_t *buf, struct vd_range range,
                            struct vdisk_error *err)
{
    while (range.length) {
        size_t step = mem_step(range);
        uint8_t **page = &mem->pages[range.offset / MEM_PAGE_BYTES];
        if (!*page)
            *page = calloc(1, MEM_PAGE_BYTES);
        if (!*page)
            return vd_err_nomem(err, "storage in memory");
        memcpy(*page + range.offset % MEM_PAGE_BYTES, buf, step);
        buf += step;
        range = vd_range(range.offset + step, range.length - step);
    }
    return 0;
}

static void mem_close(struct vd_storage *storage)
{
    struct mem *mem = storage->state;
    for (size_t i = 0; i < mem->page_entries; i++)
        free(mem->pages[i]);
    free(mem->pages);
    vd_mutex_destroy(&mem->lock);
    free(mem);
}

static int mem_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    (void)err;
    struct mem *mem = storage->state;
    vd_mutex_lock(&mem->lock);
    *size = mem->size;
    vd_mutex_unlock(&mem->lock);
    return 0;
}

static int mem_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                      uint64_t offset, struct vdisk_error *err)
{
    struct mem *mem = storage->state;
    int ret = 0;

    vd_mutex_lock(&mem->lock);
    for (int i = 0; i < iov_entries && ret == 0; i++) {
        struct vd_range range = vd_range(offset, iov[i].iov_len);
        if (vd_range_is_within(range, mem->size))
            mem_read_locked(mem, iov[i].iov_base, range);
        else
            ret = vd_err_set(err, EIO, "end of storage at offset %llu",
                             (unsigned long long)mem->size);
        offset += iov[i].iov_len;
    }
    vd_mutex_unlock(&mem->lock);
    return ret;
}

static int mem_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                       uint64_t offset, struct vdisk_error *err)
{
    struct mem *mem = storage->state;
    int ret = 0;

    vd_mutex_lock(&mem->lock);
    for (int i = 0; i < iov_entries && ret == 0; i++) {
        struct vd_range range = vd_range(offset, iov[i].iov_len);
        if (vd_range_end(range) > mem->size)
            ret = mem_set_size_locked(mem, vd_range_end(range), err);
        if (ret == 0)
            ret = mem_write_locked(mem, iov[i].iov_base, range, err);
        offset += iov[i].iov_len;
    }
    vd_mutex_unlock(&mem->lock);
    return ret;
}

static int mem_zero(struct vd_storage *storage, struct vd_range range, struct vdisk_error *err)
{
    struct mem *mem = storage->state;
    int ret = 0;

    vd_mutex_lock(&mem->lock);
    if (vd_range_end(range) > mem->size)
        ret = mem_set_size_locked(mem, vd_range_end(range), err);
    if (ret == 0)
        mem_zero_locked(mem, range);
    vd_mutex_unlock(&mem->lock);
    return ret;
}

static int mem_write_zeroes(struct vd_storage *storage, struct vd_range range, unsigned flags,
                            struct vdisk_error *err)
{
    (void)flags;
    return mem_zero(storage, range, err);
}

static int mem_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err)
{
    struct mem *mem = storage->state;
    vd_mutex_lock(&mem->lock);
    int ret = mem_set_size_locked(mem, size, err);
    vd_mutex_unlock(&mem->lock);
    return ret;
}

static int mem_extent(struct vd_storage *storage, struct vd_range range,
                      struct vd_storage_extent *extent, struct vdisk_error *err)
{
    (void)err;
    struct mem *mem = storage->state;

    vd_mutex_lock(&mem->lock);
    bool data = mem->pages[range.offset / MEM_PAGE_BYTES] != NULL;
    uint64_t length = 0;
    while (length < range.length &&
           (mem->pages[(range.offset + length) / MEM_PAGE_BYTES] != NULL) == data)
        length += mem_step(vd_range(range.offset + length, range.length - length));
    vd_mutex_unlock(&mem->lock);

    extent->kind = data ? VD_STORAGE_DATA : VD_STORAGE_HOLE;
    extent->length = length;
    return 0;
}

static int mem_allocated(struct vd_storage *storage, uint64_t *bytes, struct vdisk_error *err)
{
    (void)err;
    struct mem *mem = storage->state;
    *bytes = 0;
    vd_mutex_lock(&mem->lock);
    for (size_t i = 0; i < mem->page_entries; i++)
        if (mem->pages[i])
            *bytes += MEM_PAGE_BYTES;
    vd_mutex_unlock(&mem->lock);
    return 0;
}

static int mem_try_pread(struct vd_storage *storage, void *buf, size_t length, uint64_t offset)
{
    struct iovec iov = {.iov_base = buf, .iov_len = length};
    return mem_preadv(storage, &iov, 1, offset, NULL) == 0 ? 0 : -EAGAIN;
}

static int mem_try_pwrite(struct vd_storage *storage, const void *buf, size_t length,
                          uint64_t offset)
{
    struct iovec iov = vd_iov_const(buf, length);
    return mem_pwritev(storage, &iov, 1, offset, NULL) == 0 ? 0 : -EAGAIN;
}

static const struct vd_storage_driver mem_driver = {
    .name = "mem",
    .close = mem_close,
    .size = mem_size,
    .allocated = mem_allocated,
    .preadv = mem_preadv,
    .pwritev = mem_pwritev,
    .try_pread = mem_try_pread,
    .try_pwrite = mem_try_pwrite,
    .write_zeroes = mem_write_zeroes,
    .discard = mem_zero,
    .resize = mem_resize,
    .extent = mem_extent,
};

int vd_storage_mem_open(uint64_t size, struct vd_storage **storage, struct vdisk_error *err)
{
    struct mem *mem = calloc(1, sizeof(*mem));
    if (!mem)
        return vd_err_nomem(err, "storage in memory");
    vd_mutex_init(&mem->lock);

    struct vd_storage *st = NULL;
    int ret = mem_set_size_locked(mem, size, err);
    if (ret == 0)
        ret = vd_storage_new(&mem_driver, "mem", &st, err);
    if (ret < 0) {
        free(mem->pages);
        vd_mutex_destroy(&mem->lock);
        free(mem);
        return ret;
    }
    st->state = mem;
    st->flags = VD_STORAGE_WRITE;
    st->caps = VD_STORAGE_CAN_WRITE | VD_STORAGE_CAN_RESIZE | VD_STORAGE_CAN_DISCARD |
               VD_STORAGE_CAN_EXTENTS | VD_STORAGE_FAST_ZEROES;
    *storage = st;
    return 0;
}
