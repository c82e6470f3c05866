/* SPDX-License-Identifier: MIT */
/*
 * "/map.json": coarse maps of disks.
 *
 * A map is made by walking through the disk, some milliseconds for each time it is asked for, so
 * the map of a large or slow disk fills in while somebody watches it.  When the walk has come to
 * the end it begins again, and what it finds replaces what was there.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "serve/status.h"
#include "util/mem.h"

#define CELLS_MAX       1024u
#define CELL_UNIT       (UINT64_C(64) << 10) /* cells are a multiple of it */
#define MAPS_MAX        32u                  /* that are kept */
#define WALK_MS         40u                  /* for one context, */
#define REQUEST_MS      120u                 /* and for all of them */
#define EXTENTS_AT_ONCE 64u

struct cell {
    uint64_t marked_bytes; /* data, in the image itself, dirty, or with a version */
    uint64_t highest;      /* depth or version */
    bool is_known;
};

/* One context of one export. */
struct map {
    struct map *next; /* used less lately */
    char *export;     /* owned */
    char *context;    /* owned */
    const struct vdisk_image *image;
    uint64_t size;
    uint64_t cell_bytes;
    size_t cell_entries;
    struct cell cells[CELLS_MAX];

    uint64_t position;   /* of the walk */
    struct cell current; /* what it has found of the cell there */
    bool is_complete;    /* it has been at the end */
    char trouble[256];   /* what it last met since it began; "" */
};

struct vd_status_maps {
    struct map *first;
    unsigned entries;
    unsigned turn;
};

struct vd_status_maps *vd_status_maps_create(void)
{
    return calloc(1, sizeof(struct vd_status_maps));
}

static void map_free(struct map *map)
{
    free(map->export);
    free(map->context);
    free(map);
}

void vd_status_maps_free(struct vd_status_maps *maps)
{
    while (maps && maps->first) {
        struct map *map = maps->first;
        maps->first = map->next;
        map_free(map);
    }
    free(maps);
}

/* Drops the one that was used least lately, if there are enough. */
static void make_room(struct vd_status_maps *maps)
{
    struct map **last = &maps->first;
    if (maps->entries < MAPS_MAX)
        return;
    while ((*last)->next)
        last = &(*last)->next;
    map_free(*last);
    *last = NULL;
    maps->entries--;
}

static struct map *make_map(const struct vd_export *export, const struct vd_context *context,
                            uint64_t size)
{
    struct map *map = calloc(1, sizeof(*map));
    if (!map)
        return NULL;
    map->export = strdup(export->name);
    map->context = strdup(context->name);
    if (!map->export || !map->context) {
        map_free(map);
        return NULL;
    }
    map->image = export->image;
    map->size = size;
    uint64_t units = vd_div_up(vd_div_up(size, CELLS_MAX), CELL_UNIT);
    map->cell_bytes = (units ? units : 1) * CELL_UNIT;
    map->cell_entries = (size_t)vd_div_up(size, map->cell_bytes);
    return map;
}

/* The map of @context, first in the list now; NULL: no memory. */
static struct map *find_map(struct vd_status_maps *maps, const struct vd_export *export,
                            const struct vd_context *context)
{
    uint64_t size = vd_format_size(vd_image_format(export->image));
    struct map **link = &maps->first;
    while (*link && (strcmp((*link)->export, export->name) != 0 ||
                     strcmp((*link)->context, context->name) != 0))
        link = &(*link)->next;
    struct map *map = *link;
    if (map) {
        *link = map->next;
        maps->entries--;
        if (map->image != export->image || map->size != size) {
            map_free(map);
            map = NULL;
        }
    }
    if (!map) {
        make_room(maps);
        map = make_map(export, context, size);
        if (!map)
            return NULL;
    }
    map->next = maps->first;
    maps->first = map;
    maps->entries++;
    return map;
}

/* Which bytes does a map show? */
static bool is_marked(enum vd_context_kind kind, uint64_t flags)
{
    switch (kind) {
    case VD_CONTEXT_ALLOCATION:
        return flags == 0;
    case VD_CONTEXT_DEPTH:
        return flags == 1;
    case VD_CONTEXT_BITMAP:
    case VD_CONTEXT_VERSION:
        break;
    }
    return flags != 0;
}

static bool has_heights(enum vd_context_kind kind)
{
    return kind == VD_CONTEXT_DEPTH || kind == VD_CONTEXT_VERSION;
}

/* The walk has come to @end; the cells before it are done. */
static void step_to(struct map *map, uint64_t end, bool is_marked, uint64_t height)
{
    while (map->position < end) {
        uint64_t index = map->position / map->cell_bytes;
        uint64_t cell_end = vd_min((index + 1) * map->cell_bytes, map->size);
        uint64_t step = vd_min(end, cell_end) - map->position;
        if (is_marked)
            map->current.marked_bytes += step;
        if (height > map->current.highest)
            map->current.highest = height;
        map->position += step;
        if (map->position < cell_end)
            continue;
        map->current.is_known = true;
        map->cells[index] = map->current;
        map->current = (struct cell){0};
    }
}

/* What is in the cell can not be known now: goes on behind it. */
static void skip_cell(struct map *map, const struct vdisk_error *err)
{
    uint64_t index = map->position / map->cell_bytes;
    map->position = vd_min((index + 1) * map->cell_bytes, map->size);
    map->cells[index] = map->current = (struct cell){0};
    size_t length = strnlen(err->message, sizeof(map->trouble) - 1);
    memcpy(map->trouble, err->message, length);
    map->trouble[length] = '\0';
}

static void walk(struct map *map, const struct vd_context *context, struct vdisk_image *image,
                 uint64_t deadline)
{
    if (map->position == map->size) {
        map->position = 0;
        map->trouble[0] = '\0';
    }
    while (map->position < map->size && vd_clock_ms() < deadline) {
        struct vd_context_extent extents[EXTENTS_AT_ONCE];
        size_t entries = EXTENTS_AT_ONCE;
        struct vdisk_error err = {0};
        struct vd_range rest = vd_range(map->position, map->size - map->position);
        if (vd_context_look(context, image, rest, extents, &entries, &err) < 0)
            skip_cell(map, &err);
        else
            for (size_t i = 0; i < entries; i++)
                step_to(map, map->position + extents[i].length,
                        is_marked(context->kind, extents[i].flags), extents[i].flags);
    }
    map->is_complete |= map->position == map->size;
}

static bool append(json_t *array, json_t *value)
{
    return json_array_append_new(array, value) == 0;
}

static json_t *map_object(const struct map *map, enum vd_context_kind kind)
{
    json_t *marked = json_array(), *highest = json_array();
    bool is_good = true;
    for (size_t i = 0; i < map->cell_entries; i++) {
        const struct cell *cell = &map->cells[i];
        is_good &= append(marked, cell->is_known ? json_integer((json_int_t)cell->marked_bytes)
                                                 : json_null());
        if (has_heights(kind))
            is_good &= append(highest, cell->is_known ? json_integer((json_int_t)cell->highest)
                                                      : json_null());
    }
    json_t *object =
        json_pack("{s:o, s:b, s:I, s:o}", "context", vd_status_json_text(map->context), "complete",
                  map->is_complete, "position", (json_int_t)map->position, "bytes", marked);
    if (has_heights(kind))
        is_good &= json_object_set_new(object, "highest", highest) == 0;
    else
        json_decref(highest);
    if (map->trouble[0])
        is_good &= json_object_set_new(object, "error", vd_status_json_text(map->trouble)) == 0;
    if (is_good)
        return object;
    json_decref(object);
    return NULL;
}

static bool is_wanted(const struct vd_context *context, const char *const *names, size_t entries)
{
    for (size_t i = 0; i < entries; i++)
        if (strcmp(names[i], context->name) == 0)
            return true;
    return entries == 0;
}

/* A context that is asked for, and what is kept of it. */
struct want {
    const struct vd_context *context;
    struct map *map;
};

/* Finds the maps wanted, at most VD_STATUS_MAP_CONTEXTS_MAX; false: no memory. */
static bool find_wanted(struct vd_status_maps *maps, const struct vd_export *export,
                        const char *const *names, size_t entries, struct want *wants, size_t *count)
{
    *count = 0;
    for (size_t i = 0; i < export->contexts.entries && *count < VD_STATUS_MAP_CONTEXTS_MAX; i++) {
        const struct vd_context *context = &export->contexts.list[i];
        if (!is_wanted(context, names, entries))
            continue;
        struct map *map = find_map(maps, export, context);
        if (!map)
            return false;
        wants[(*count)++] = (struct want){context, map};
    }
    return true;
}

/* Goes on with all of them; which is the first one changes, so that none is always too late. */
static void walk_all(struct vd_status_maps *maps, const struct vd_export *export,
                     const struct want *wants, size_t count)
{
    uint64_t end = vd_clock_ms() + REQUEST_MS;
    maps->turn++;
    for (size_t i = 0; i < count; i++) {
        const struct want *want = &wants[(maps->turn + i) % count];
        walk(want->map, want->context, export->image, vd_min(end, vd_clock_ms() + WALK_MS));
    }
}

struct vd_status_text vd_status_map(struct vd_status_maps *maps, struct vd_export *export,
                                    const char *const *names, size_t entries)
{
    struct want wants[VD_STATUS_MAP_CONTEXTS_MAX];
    size_t count;
    if (!find_wanted(maps, export, names, entries, wants, &count))
        return (struct vd_status_text){0};
    walk_all(maps, export, wants, count);

    bool is_good = true;
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        is_good &= append(list, map_object(wants[i].map, wants[i].context->kind));
    if (!is_good) {
        json_decref(list);
        list = NULL;
    }
    uint64_t size = vd_format_size(vd_image_format(export->image));
    uint64_t cell_bytes = count ? wants[0].map->cell_bytes : 0;
    return vd_status_json_dump(
        json_pack("{s:o, s:I, s:I, s:o}", "export", vd_status_json_text(export->name), "size",
                  (json_int_t)size, "cell-size", (json_int_t)cell_bytes, "maps", list));
}
