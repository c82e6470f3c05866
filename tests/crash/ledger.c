/* SPDX-License-Identifier: MIT */
#include "ledger.h"

#include <assert.h>
#include <string.h>

#include "drivers/alloc.h"

static struct vd_range intersect(struct vd_range a, struct vd_range b)
{
    uint64_t start = vd_max(a.offset, b.offset);
    uint64_t end = vd_min(vd_range_end(a), vd_range_end(b));
    return start < end ? vd_range(start, end - start) : vd_range(start, 0);
}

void vt_ledger_init(struct vt_ledger *ledger, uint64_t size)
{
    static const struct {
        uint64_t block, blocks;
    } places[VT_LEDGER_WINDOWS - 1] = {{0, 5}, {2046, 4}, {4095, 3}}; /* borders of regions */
    uint64_t last = vd_round_down(size - VT_LEDGER_BLOCK_BYTES - 1, VT_LEDGER_BLOCK_BYTES);
    assert(size % VT_SECTOR_BYTES == 0 && last >= 4100u * VT_LEDGER_BLOCK_BYTES);

    *ledger = (struct vt_ledger){.sizes = {size, size}};
    for (size_t i = 0; i < VT_LEDGER_WINDOWS - 1; i++)
        ledger->windows[i].guest = vd_range(places[i].block * VT_LEDGER_BLOCK_BYTES,
                                            places[i].blocks * VT_LEDGER_BLOCK_BYTES);
    ledger->windows[VT_LEDGER_WINDOWS - 1].guest = vd_range(last, size - last);

    for (size_t i = 0; i < VT_LEDGER_WINDOWS; i++) {
        struct vt_ledger_window *window = &ledger->windows[i];
        size_t cells = (size_t)(window->guest.length / VT_SECTOR_BYTES);
        window->cells = vt_calloc(cells, sizeof(*window->cells));
        for (size_t j = 0; j < cells; j++)
            window->cells[j] = (struct vt_cell){vt_calloc(1, VT_SECTOR_BYTES), 1, 1};
        ledger->bytes += window->guest.length;
    }
}

void vt_ledger_free(struct vt_ledger *ledger)
{
    for (size_t i = 0; i < VT_LEDGER_WINDOWS; i++) {
        struct vt_ledger_window *window = &ledger->windows[i];
        for (size_t j = 0; j < window->guest.length / VT_SECTOR_BYTES; j++)
            free(window->cells[j].values);
        free(window->cells);
    }
}

static uint8_t *newest(const struct vt_cell *cell)
{
    return cell->values + (cell->entries - 1) * VT_SECTOR_BYTES;
}

/* Another value: the newest, with @length bytes of @data (NULL: zeros) at @start. */
static void cell_change(struct vt_cell *cell, size_t start, size_t length, const uint8_t *data)
{
    cell->values = vt_reserve(cell->values, &cell->capacity, cell->entries + 1, VT_SECTOR_BYTES);
    uint8_t *next = newest(cell) + VT_SECTOR_BYTES;
    memcpy(next, newest(cell), VT_SECTOR_BYTES);
    if (data)
        memcpy(next + start, data, length);
    else
        memset(next + start, 0, length);
    if (memcmp(next, newest(cell), VT_SECTOR_BYTES) != 0)
        cell->entries++;
}

static void cell_flushed(struct vt_cell *cell)
{
    memmove(cell->values, newest(cell), VT_SECTOR_BYTES);
    cell->entries = 1;
}

void vt_ledger_change(struct vt_ledger *ledger, struct vd_range guest, const uint8_t *data)
{
    for (size_t i = 0; i < VT_LEDGER_WINDOWS; i++) {
        struct vt_ledger_window *window = &ledger->windows[i];
        struct vd_range rest = intersect(window->guest, guest);
        while (rest.length) {
            uint64_t start = rest.offset % VT_SECTOR_BYTES;
            uint64_t step = vd_min(rest.length, VT_SECTOR_BYTES - start);
            cell_change(&window->cells[(rest.offset - window->guest.offset) / VT_SECTOR_BYTES],
                        start, step, data ? data + (rest.offset - guest.offset) : NULL);
            rest = vd_range(rest.offset + step, rest.length - step);
        }
    }
}

void vt_ledger_adopt(struct vt_ledger *ledger, const uint8_t *image)
{
    for (size_t i = 0; i < VT_LEDGER_WINDOWS; i++) {
        vt_ledger_change(ledger, ledger->windows[i].guest, image);
        image += ledger->windows[i].guest.length;
    }
}

void vt_ledger_flushed_range(struct vt_ledger *ledger, struct vd_range guest)
{
    for (size_t i = 0; i < VT_LEDGER_WINDOWS; i++) {
        struct vt_ledger_window *window = &ledger->windows[i];
        struct vd_range part = intersect(window->guest, guest);
        size_t first = (size_t)((part.offset - window->guest.offset) / VT_SECTOR_BYTES);
        for (size_t j = 0; j < part.length / VT_SECTOR_BYTES; j++)
            cell_flushed(&window->cells[first + j]);
    }
}

void vt_ledger_flushed(struct vt_ledger *ledger)
{
    vt_ledger_flushed_range(ledger, vd_range(0, UINT64_MAX / 2));
    ledger->sizes[0] = ledger->sizes[1];
}

static bool byte_is_allowed(const struct vt_cell *cell, size_t index, uint8_t byte)
{
    for (size_t i = cell->entries; i > 0; i--)
        if (cell->values[(i - 1) * VT_SECTOR_BYTES + index] == byte)
            return true;
    return false;
}

/* VT_SECTOR_BYTES if all of @bytes is allowed, else the index of a byte that is not. */
static size_t cell_allows(const struct vt_cell *cell, const uint8_t *bytes)
{
    for (size_t i = cell->entries; i > 0; i--)
        if (memcmp(cell->values + (i - 1) * VT_SECTOR_BYTES, bytes, VT_SECTOR_BYTES) == 0)
            return VT_SECTOR_BYTES;
    size_t index = 0;
    while (index < VT_SECTOR_BYTES && byte_is_allowed(cell, index, bytes[index]))
        index++;
    return index;
}

bool vt_ledger_allows(const struct vt_ledger *ledger, const uint8_t *image, uint64_t size,
                      uint64_t *bad)
{
    for (size_t i = 0; i < VT_LEDGER_WINDOWS; i++) {
        const struct vt_ledger_window *window = &ledger->windows[i];
        struct vd_range visible = intersect(window->guest, vd_range(0, size));
        for (size_t j = 0; j < visible.length / VT_SECTOR_BYTES; j++) {
            size_t index = cell_allows(&window->cells[j], image + j * VT_SECTOR_BYTES);
            *bad = window->guest.offset + j * VT_SECTOR_BYTES + index;
            if (index < VT_SECTOR_BYTES)
                return false;
        }
        image += window->guest.length;
    }
    return true;
}

bool vt_ledger_is_newest(const struct vt_ledger *ledger, const uint8_t *image, uint64_t size)
{
    for (size_t i = 0; i < VT_LEDGER_WINDOWS; i++) {
        const struct vt_ledger_window *window = &ledger->windows[i];
        struct vd_range visible = intersect(window->guest, vd_range(0, size));
        for (size_t j = 0; j < visible.length / VT_SECTOR_BYTES; j++)
            if (memcmp(newest(&window->cells[j]), image + j * VT_SECTOR_BYTES, VT_SECTOR_BYTES))
                return false;
        image += window->guest.length;
    }
    return true;
}
