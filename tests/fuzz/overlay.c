/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "overlay.h"
#include "storage/driver.h"

struct overlay *overlay_new(const uint8_t *base, uint64_t base_bytes)
{
    struct overlay *overlay = calloc(1, sizeof(*overlay));
    if (!overlay)
        abort();
    overlay->base = base;
    overlay->base_bytes = base_bytes;
    overlay->size = base_bytes;
    return overlay;
}

/* A sanitizer looks at the stack for each free(), of NULL too, and there are thousands. */
static void free_pages(struct overlay *overlay, size_t first)
{
    for (size_t i = first; i < OVERLAY_BYTES_MAX / OVERLAY_PAGE_BYTES; i++) {
        if (!overlay->pages[i])
            continue;
        free(overlay->pages[i]);
        overlay->pages[i] = NULL;
    }
}

void overlay_free(struct overlay *overlay)
{
    free_pages(overlay, 0);
    free(overlay);
}

/* The bytes of the base from @offset on, zeros behind its end. */
static void read_base(const struct overlay *overlay, uint8_t *buf, size_t length, uint64_t offset)
{
    size_t have = 0;
    if (offset < overlay->base_bytes)
        have = (size_t)vd_min(length, overlay->base_bytes - offset);
    if (have)
        memcpy(buf, overlay->base + offset, have);
    memset(buf + have, 0, length - have);
}

static size_t page_step(uint64_t offset, size_t length)
{
    return (size_t)vd_min(length, OVERLAY_PAGE_BYTES - offset % OVERLAY_PAGE_BYTES);
}

static void overlay_read(const struct overlay *overlay, uint8_t *buf, size_t length,
                         uint64_t offset)
{
    while (length) {
        size_t step = page_step(offset, length);
        const uint8_t *page = NULL;
        if (offset < OVERLAY_BYTES_MAX)
            page = overlay->pages[offset / OVERLAY_PAGE_BYTES];
        if (page)
            memcpy(buf, page + offset % OVERLAY_PAGE_BYTES, step);
        else
            read_base(overlay, buf, step, offset);
        buf += step;
        offset += step;
        length -= step;
    }
}

static uint8_t *page_at(struct overlay *overlay, uint64_t offset)
{
    uint8_t **page = &overlay->pages[offset / OVERLAY_PAGE_BYTES];
    if (!*page) {
        *page = malloc(OVERLAY_PAGE_BYTES);
        if (!*page)
            abort();
        read_base(overlay, *page, OVERLAY_PAGE_BYTES, vd_round_down(offset, OVERLAY_PAGE_BYTES));
    }
    return *page + offset % OVERLAY_PAGE_BYTES;
}

void overlay_write(struct overlay *overlay, const void *buf, size_t length, uint64_t offset)
{
    const uint8_t *from = buf;
    if (!vd_range_is_within(vd_range(offset, length), OVERLAY_BYTES_MAX))
        abort();
    overlay->size = vd_max(overlay->size, offset + length);
    while (length) {
        size_t step = page_step(offset, length);
        memcpy(page_at(overlay, offset), from, step);
        from += step;
        offset += step;
        length -= step;
    }
}

void overlay_resize(struct overlay *overlay, uint64_t size)
{
    /* What is cut off must not come back, neither from a page nor from the base. */
    overlay->base_bytes = vd_min(overlay->base_bytes, size);
    overlay->size = size;
    if (size >= OVERLAY_BYTES_MAX)
        return;
    size_t page = (size_t)(size / OVERLAY_PAGE_BYTES);
    size_t kept = (size_t)(size % OVERLAY_PAGE_BYTES);
    if (kept && overlay->pages[page])
        memset(overlay->pages[page] + kept, 0, OVERLAY_PAGE_BYTES - kept);
    free_pages(overlay, page + (kept != 0));
}

static void driver_close(struct vd_storage *storage)
{
    (void)storage;
}

void overlay_get(const struct overlay *overlay, void *buf, size_t length, uint64_t offset)
{
    if (vd_range_is_within(vd_range(offset, length), overlay->size))
        overlay_read(overlay, buf, length, offset);
    else
        memset(buf, 0, length);
}

static int driver_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    (void)err;
    *size = ((const struct overlay *)storage->state)->size;
    return 0;
}

static int driver_preadv(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                         uint64_t offset, struct vdisk_error *err)
{
    const struct overlay *overlay = storage->state;
    for (int i = 0; i < iov_entries; i++) {
        if (!vd_range_is_within(vd_range(offset, iov[i].iov_len), overlay->size))
            return vd_err_set(err, EIO, "end of the overlay");
        overlay_read(overlay, iov[i].iov_base, iov[i].iov_len, offset);
        offset += iov[i].iov_len;
    }
    return 0;
}

static int driver_pwritev(struct vd_storage *storage, const struct iovec *iov, int iov_entries,
                          uint64_t offset, struct vdisk_error *err)
{
    for (int i = 0; i < iov_entries; i++) {
        if (!vd_range_is_within(vd_range(offset, iov[i].iov_len), OVERLAY_BYTES_MAX))
            return vd_err_set(err, ENOSPC, "the overlay is full");
        overlay_write(storage->state, iov[i].iov_base, iov[i].iov_len, offset);
        offset += iov[i].iov_len;
    }
    return 0;
}

static int driver_resize(struct vd_storage *storage, uint64_t size, struct vdisk_error *err)
{
    (void)err;
    overlay_resize(storage->state, size);
    return 0;
}

static const struct vd_storage_driver overlay_driver = {
    .name = "overlay",
    .close = driver_close,
    .size = driver_size,
    .preadv = driver_preadv,
    .pwritev = driver_pwritev,
    .resize = driver_resize,
};

struct vd_storage *overlay_open(struct overlay *overlay)
{
    struct vd_storage *storage;
    if (vd_storage_new(&overlay_driver, "overlay", &storage, NULL) < 0)
        abort();
    storage->state = overlay;
    storage->flags = VD_STORAGE_WRITE;
    storage->caps = VD_STORAGE_CAN_WRITE | VD_STORAGE_CAN_RESIZE;
    return storage;
}
