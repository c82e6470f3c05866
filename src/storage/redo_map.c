/* SPDX-License-Identifier: MIT */
/* Which slot has a block?  Pages of a table, in a table that grows. */
#include <stdlib.h>
#include <string.h>

#include "storage/redo_priv.h"

#define PAGE_ENTRIES 1024u

uint32_t vd_redo_map_get(const struct vd_redo_map *map, uint64_t block)
{
    uint64_t page = block / PAGE_ENTRIES;
    return page < map->page_entries && map->pages[page] ? map->pages[page][block % PAGE_ENTRIES]
                                                        : 0;
}

int vd_redo_map_reserve(struct vd_redo_map *map, uint64_t block, struct vdisk_error *err)
{
    uint64_t page = block / PAGE_ENTRIES;
    if (page >= map->page_entries) {
        uint64_t wanted = vd_max(page + 1, (uint64_t)map->page_entries * 2);
        size_t entries = (size_t)wanted;
        uint32_t **pages = NULL;
        if (entries == wanted) /* on 32 bits it may not be */
            pages = reallocarray(map->pages, entries, sizeof(*pages));
        if (!pages)
            return vd_err_nomem(err, "the map of a log");
        memset(pages + map->page_entries, 0, (entries - map->page_entries) * sizeof(*pages));
        map->pages = pages;
        map->page_entries = entries;
    }
    if (!map->pages[page])
        map->pages[page] = calloc(PAGE_ENTRIES, sizeof(**map->pages));
    return map->pages[page] ? 0 : vd_err_nomem(err, "the map of a log");
}

void vd_redo_map_set(struct vd_redo_map *map, uint64_t block, uint32_t value)
{
    map->pages[block / PAGE_ENTRIES][block % PAGE_ENTRIES] = value;
}

uint64_t vd_redo_map_end(const struct vd_redo_map *map)
{
    return (uint64_t)map->page_entries * PAGE_ENTRIES;
}

void vd_redo_map_free(struct vd_redo_map *map)
{
    for (size_t i = 0; i < map->page_entries; i++)
        free(map->pages[i]);
    free(map->pages);
}
