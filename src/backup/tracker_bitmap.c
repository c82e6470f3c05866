/* SPDX-License-Identifier: MIT */
/*
 * Dirty bitmaps of a qcow2 source: one begins with each point, and tells what has changed since.
 * Their names, which of them are kept, and why an older one will do: tracker.h.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backup/point.h"
#include "backup/tracker_own.h"
#include "backup/tracker_priv.h"
#include "format/bitmaps.h"
#include "util/mem.h"

#define NAME_DEFAULT      "vdisk"
#define GRANULARITY_BYTES 65536u

/* Bits of a bitmap are 64 MiB at most: larger disks have larger granules. */
#define BITS_MAX     (UINT64_C(1) << 29)

#define UUID_DIGITS  8u
#define SUFFIX_BYTES (2u * (1u + UUID_DIGITS) + 1u) /* "-REPO8-POINT8" */

struct bitmap_tracker {
    struct vd_tracker base;
    char *name;                      /* owned: of the new bitmap */
    char *begun;                     /* owned: that of the call that began an unfinished backup, if
                                        it has recorded ever since; or NULL */
    bool is_added;                   /* the new one */
    const struct vd_manifest *since; /* whose bitmap tells what has changed; NULL: not asked for */
};

static struct bitmap_tracker *of(struct vd_tracker *tracker)
{
    return (struct bitmap_tracker *)tracker;
}

/* --- names -------------------------------------------------------------------------------------
 */

/* @point: eight digits at least */
static void suffix_of(const struct vd_tracker *tracker, const char *point,
                      char suffix[SUFFIX_BYTES])
{
    snprintf(suffix, SUFFIX_BYTES, "-%.*s-%.*s", (int)UUID_DIGITS,
             tracker->context.repository->uuid, (int)UUID_DIGITS, point);
}

/* Who goes on with a backup needs another name. */
static char *new_name(const struct vd_tracker *tracker, struct vdisk_error *err)
{
    const char *given = tracker->context.options->bitmap;
    uint8_t uuid[VD_UUID_BYTES];
    char text[VD_UUID_TEXT_BYTES];
    char suffix[SUFFIX_BYTES];
    if (vd_uuid_new(uuid, err) < 0)
        return NULL;
    suffix_of(tracker,
              tracker->context.resumed_uuid ? vd_uuid_text(uuid, text)
                                            : tracker->context.point_uuid,
              suffix);
    if (!given)
        given = NAME_DEFAULT;
    size_t bytes = strlen(given) + SUFFIX_BYTES;
    char *name = malloc(bytes);
    if (name)
        snprintf(name, bytes, "%s%s", given, suffix);
    else
        vd_err_nomem(err, "the name of a bitmap");
    return name;
}

static bool ends_with(const char *name, const char *suffix)
{
    size_t length = strlen(name);
    size_t suffix_length = strlen(suffix);
    return length >= suffix_length && strcmp(name + length - suffix_length, suffix) == 0;
}

/* Is it one that backups to this repository have made? */
static bool is_ours(const struct vd_tracker *tracker, const char *name)
{
    const char *repository = tracker->context.repository->uuid;
    size_t length = strlen(name);
    if (length < SUFFIX_BYTES - 1)
        return false;
    const char *at = name + length - (SUFFIX_BYTES - 1);
    return at[0] == '-' && strncmp(at + 1, repository, UUID_DIGITS) == 0 &&
           at[1 + UUID_DIGITS] == '-' &&
           strspn(at + 2 + UUID_DIGITS, "0123456789abcdef") == UUID_DIGITS;
}

/* --- what the image has ------------------------------------------------------------------------
 */

typedef bool (*name_test)(const char *name, const char *other);

static bool is_equal(const char *name, const char *other)
{
    return strcmp(name, other) == 0;
}

/* The first bitmap whose name fits.  1: there is one; 0: there is none; or a negative errno. */
static int find_bitmap(const struct vd_tracker *tracker, name_test test, const char *other,
                       struct vdisk_bitmap_info *info, struct vdisk_error *err)
{
    struct vdisk_image *source = tracker->context.source;
    size_t count = 0;
    int ret = vdisk_bitmap_count(source, &count, err);
    for (size_t i = 0; i < count && ret == 0; i++) {
        *info = (struct vdisk_bitmap_info){.struct_bytes = sizeof(*info)};
        ret = vdisk_bitmap_info(source, i, info, err);
        if (ret == 0 && test(info->name, other))
            return 1;
    }
    return ret;
}

/* Does the image have a bitmap that a point names?  Then it is the disk of this repository. */
static int is_known(const struct vd_tracker *tracker, struct vdisk_error *err)
{
    const struct vdisk_repository *repository = tracker->context.repository;
    struct vdisk_bitmap_info info;
    int ret = 0;
    for (size_t i = 0; i < repository->point_entries && ret == 0; i++) {
        const struct vd_point *point = &repository->points[i];
        if (!point->is_damaged && point->manifest.bitmap)
            ret = find_bitmap(tracker, is_equal, point->manifest.bitmap, &info, err);
    }
    return ret;
}

/* The point that @manifest's lies on, if it is there. */
static const struct vd_manifest *below(const struct vd_tracker *tracker,
                                       const struct vd_manifest *manifest)
{
    const struct vd_point *point =
        manifest->parent ? vd_repository_point_of(tracker->context.repository, manifest->parent)
                         : NULL;
    bool is_it = point && !point->is_damaged && point->number < manifest->number &&
                 strcmp(point->manifest.uuid, manifest->parent_uuid) == 0;
    return is_it ? &point->manifest : NULL;
}

static int check_usable(const struct vd_manifest *manifest, const struct vdisk_bitmap_info *info,
                        struct vdisk_error *err)
{
    if (info->flags & VDISK_BITMAP_INCONSISTENT)
        return vd_err_set(err, EUCLEAN,
                          "bitmap '%s', which recorded what has changed since point %" PRIu64
                          ", is inconsistent: it lacks some of what was written: recover it "
                          "(vdisk bitmap --recover), or --compare, or make a full backup",
                          info->name, manifest->number);
    if (!(info->flags & VDISK_BITMAP_ENABLED))
        return vd_err_set(err, EUCLEAN,
                          "bitmap '%s', which was to record what changes since point %" PRIu64
                          ", is disabled: it may lack some of what was written: --compare, or "
                          "make a full backup",
                          info->name, manifest->number);
    return 0;
}

/* Finds the bitmap of the parent, or of the nearest point below it that has one. */
static int find_since(struct bitmap_tracker *bitmap, struct vdisk_error *err)
{
    struct vd_tracker *tracker = &bitmap->base;
    const struct vd_manifest *manifest = tracker->context.parent;
    struct vdisk_bitmap_info info;
    int ret = vd_tracker_check_behind(tracker, manifest, err);
    for (; ret == 0 && manifest; manifest = below(tracker, manifest)) {
        int found =
            manifest->bitmap ? find_bitmap(tracker, is_equal, manifest->bitmap, &info, err) : 0;
        if (found < 0)
            return found;
        if (!found)
            continue;
        bitmap->since = manifest;
        ret = check_usable(manifest, &info, err);
        return ret < 0 ? ret : vd_tracker_check_behind(tracker, manifest, err);
    }
    return ret < 0 ? ret : vd_tracker_no_record(tracker, NULL, err);
}

/* --- begin -------------------------------------------------------------------------------------
 */

/*
 * A granule is no less than a cluster: where a disk was made shorter and longer again, the first
 * write makes a whole cluster, of which the rest is zeros that no table tells of any more.
 */
static int choose_granularity(struct vdisk_image *source, uint64_t *granularity,
                              struct vdisk_error *err)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    int ret = vdisk_image_info(source, &info, err);
    *granularity = vd_max(GRANULARITY_BYTES, info.cluster_bytes);
    while (info.virtual_bytes / *granularity >= BITS_MAX)
        *granularity *= 2;
    return ret;
}

static bool is_usable(const struct vdisk_bitmap_info *info)
{
    return (info->flags & VDISK_BITMAP_ENABLED) && !(info->flags & VDISK_BITMAP_INCONSISTENT);
}

/*
 * Finds the bitmap that the call has made which began the unfinished backup.  The last call that
 * went on with it has left a note of its own bitmap: if that is not there, this is an older copy of
 * the source, and the unfinished backup may have something that is newer.
 */
static int find_begun(struct bitmap_tracker *bitmap, struct vdisk_error *err)
{
    struct vd_tracker *tracker = &bitmap->base;
    struct vdisk_bitmap_info info = {0};
    char note[VD_TRACKER_NOTE_BYTES];
    char suffix[SUFFIX_BYTES];
    int ret = vd_tracker_note_read(tracker, note, err);
    if (ret < 0 || !note[0])
        return ret;
    ret = find_bitmap(tracker, is_equal, note, &info, err);
    if (ret != 1 || !is_usable(&info))
        return ret < 0 ? ret : 0;
    suffix_of(tracker, tracker->context.point_uuid, suffix);
    ret = find_bitmap(tracker, ends_with, suffix, &info, err);
    if (ret != 1 || !is_usable(&info))
        return ret < 0 ? ret : 0;
    bitmap->begun = strdup(info.name);
    return bitmap->begun ? 0 : vd_err_nomem(err, "the name of a bitmap");
}

static void drop_new(struct bitmap_tracker *bitmap)
{
    struct vdisk_bitmap_action drop = {.kind = VDISK_BITMAP_REMOVE, .name = bitmap->name};
    if (bitmap->is_added)
        bitmap->is_added = vdisk_bitmap_change(bitmap->base.context.source, &drop, 1, NULL) < 0;
}

static int add_new(struct bitmap_tracker *bitmap, struct vdisk_error *err)
{
    struct vd_tracker *tracker = &bitmap->base;
    struct vdisk_image *source = tracker->context.source;
    bool is_resumed = tracker->context.resumed_uuid != NULL;
    uint64_t granularity = 0;
    int ret = choose_granularity(source, &granularity, err);
    if (ret == 0 && is_resumed)
        ret = find_begun(bitmap, err);
    if (ret < 0)
        return ret;
    struct vdisk_bitmap_action add = {
        .kind = VDISK_BITMAP_ADD, .name = bitmap->name, .granularity = granularity};
    ret = vdisk_bitmap_change(source, &add, 1, err);
    if (ret < 0)
        return ret;
    bitmap->is_added = true;
    ret = vd_tracker_note_write(tracker, is_resumed && !bitmap->begun ? "" : bitmap->name, err);
    if (ret < 0)
        drop_new(bitmap);
    return ret;
}

static int bitmap_begin(struct vd_tracker *tracker, struct vdisk_error *err)
{
    struct bitmap_tracker *bitmap = of(tracker);
    int ret = tracker->context.latest ? is_known(tracker, err) : 1;
    if (ret == 0)
        ret = vd_tracker_check_name(tracker, err);
    if (ret >= 0)
        ret = vd_tracker_look_behind(tracker, err);
    if (ret == 0 && vd_tracker_wants_changes(tracker))
        ret = find_since(bitmap, err);
    if (ret == 0)
        bitmap->name = new_name(tracker, err);
    if (ret == 0 && !bitmap->name)
        ret = -ENOMEM;
    return ret < 0 ? ret : add_new(bitmap, err);
}

/* --- what has changed --------------------------------------------------------------------------
 */

static int merge_bits(const struct vd_tracker *tracker, const char *name, struct vd_bitmap *to,
                      struct vdisk_error *err)
{
    const struct vd_bitmap *bits;
    int ret = vd_format_bitmap_bits(vd_image_format(tracker->context.source), name, &bits, err);
    return ret < 0 ? ret : vd_bitmap_merge(to, bits, err);
}

/* What the point itself holds, which is how it differs from the one below; and what it is too short
 * to hold. */
static int add_point(const struct vd_tracker *tracker, const struct vd_manifest *manifest,
                     struct vd_bitmap *wanted, struct vdisk_error *err)
{
    struct vdisk_repository *repository = tracker->context.repository;
    const struct vd_point *point = vd_repository_point_of(repository, manifest->number);
    struct vdisk_image *image;
    if (!point)
        return vd_err_set(err, EBADMSG, "%s: point %" PRIu64 " is not there any more",
                          repository->name, manifest->number);
    int ret = vd_point_open(repository, point, &image, err);
    if (ret < 0)
        return ret;
    ret = vd_tracker_add_own(image, wanted, err);
    vdisk_image_close(image, NULL);
    uint64_t size = vd_bitmap_disk_bytes(wanted);
    if (ret == 0 && manifest->virtual_bytes < size)
        ret = vd_bitmap_set(wanted,
                            vd_range(manifest->virtual_bytes, size - manifest->virtual_bytes), err);
    return ret;
}

/* The rest of the cluster that the disk ended in at the parent's time: tracker_cut.c. */
static int add_edge(const struct vd_tracker *tracker, struct vd_bitmap *wanted,
                    struct vdisk_error *err)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    uint64_t old = tracker->context.parent->virtual_bytes;
    int ret = vdisk_image_info(tracker->context.source, &info, err);
    if (ret < 0 || old >= info.virtual_bytes)
        return ret;
    uint64_t end = vd_min(info.virtual_bytes, vd_round_up(old, vd_max(1, info.cluster_bytes)));
    return end > old ? vd_bitmap_set(wanted, vd_range(old, end - old), err) : 0;
}

static int bitmap_changes(struct vd_tracker *tracker, struct vd_bitmap *wanted,
                          struct vdisk_error *err)
{
    struct bitmap_tracker *bitmap = of(tracker);
    const struct vd_manifest *manifest = tracker->context.parent;
    int ret = merge_bits(tracker, bitmap->since->bitmap, wanted, err);
    while (ret == 0 && manifest != bitmap->since) {
        ret = add_point(tracker, manifest, wanted, err);
        manifest = below(tracker, manifest);
    }
    if (ret == 0)
        ret = add_edge(tracker, wanted, err);
    if (ret == 0 && vdisk_image_backing(tracker->context.source))
        ret = vd_tracker_add_cut(tracker->context.source, wanted, err);
    return ret;
}

/* Nothing tells of what is behind. */
static int bitmap_changes_since_begin(struct vd_tracker *tracker, struct vd_bitmap *stale,
                                      struct vdisk_error *err)
{
    struct bitmap_tracker *bitmap = of(tracker);
    if (!bitmap->begun || vdisk_image_backing(tracker->context.source))
        return -ENOTSUP;
    return merge_bits(tracker, bitmap->begun, stale, err);
}

/* --- the end -----------------------------------------------------------------------------------
 */

static int bitmap_record(struct vd_tracker *tracker, struct vd_manifest *manifest,
                         struct vdisk_error *err)
{
    manifest->bitmap = strdup(of(tracker)->name);
    if (!manifest->bitmap)
        return vd_err_nomem(err, "the name of a bitmap");
    return vd_tracker_record_behind(tracker, manifest, err);
}

/* The bitmap of the last full point, which the new one is not; or NULL. */
static const char *full_bitmap(const struct vd_tracker *tracker)
{
    const struct vdisk_repository *repository = tracker->context.repository;
    if (!tracker->context.parent)
        return NULL;
    for (size_t i = repository->point_entries; i > 0; i--) {
        const struct vd_point *point = &repository->points[i - 1];
        if (!point->is_damaged && point->manifest.kind == VDISK_POINT_FULL)
            return point->manifest.bitmap;
    }
    return NULL;
}

static bool is_stale(struct vd_tracker *tracker, const char *name)
{
    const char *full = full_bitmap(tracker);
    return is_ours(tracker, name) && strcmp(name, of(tracker)->name) != 0 &&
           !(full && strcmp(name, full) == 0);
}

static void free_actions(struct vdisk_bitmap_action *actions, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free((char *)actions[i].name);
    free(actions);
}

/* Names are good only until the bitmaps change. */
static int list_stale(struct vd_tracker *tracker, struct vdisk_bitmap_action **actions,
                      size_t *stale, struct vdisk_error *err)
{
    struct vdisk_image *source = tracker->context.source;
    size_t count = 0;
    int ret = vdisk_bitmap_count(source, &count, err);
    *actions = vd_alloc_array(count, sizeof(**actions));
    if (ret == 0 && !*actions)
        ret = vd_err_nomem(err, "a change of bitmaps");
    for (size_t i = 0; i < count && ret == 0; i++) {
        struct vdisk_bitmap_info info = {.struct_bytes = sizeof(info)};
        ret = vdisk_bitmap_info(source, i, &info, err);
        if (ret < 0 || !is_stale(tracker, info.name))
            continue;
        char *name = strdup(info.name);
        if (!name)
            return vd_err_nomem(err, "the name of a bitmap");
        (*actions)[(*stale)++] =
            (struct vdisk_bitmap_action){.kind = VDISK_BITMAP_REMOVE, .name = name};
    }
    return ret;
}

static int bitmap_settle(struct vd_tracker *tracker, struct vdisk_error *err)
{
    struct vdisk_bitmap_action *actions = NULL;
    size_t stale = 0;
    int ret = list_stale(tracker, &actions, &stale, err);
    if (ret == 0 && stale)
        ret = vdisk_bitmap_change(tracker->context.source, actions, stale, err);
    free_actions(actions, stale);
    return ret;
}

/* That of the call which began it, too.  What is left is removed by the next backup that ends well.
 */
static void bitmap_cancel(struct vd_tracker *tracker)
{
    struct vdisk_bitmap_info info = {0};
    char suffix[SUFFIX_BYTES];
    drop_new(of(tracker));
    suffix_of(tracker, tracker->context.point_uuid, suffix);
    if (find_bitmap(tracker, ends_with, suffix, &info, NULL) != 1)
        return;
    char *name = strdup(info.name);
    struct vdisk_bitmap_action drop = {.kind = VDISK_BITMAP_REMOVE, .name = name};
    if (name && vdisk_bitmap_change(tracker->context.source, &drop, 1, NULL) == 0) {
        free(of(tracker)->begun);
        of(tracker)->begun = NULL;
    }
    free(name);
}

static void bitmap_free(struct vd_tracker *tracker)
{
    free(of(tracker)->name);
    free(of(tracker)->begun);
    free(tracker);
}

static const struct vd_tracker_driver bitmap_driver = {
    .kind = VDISK_TRACKER_BITMAP,
    .begin = bitmap_begin,
    .changes = bitmap_changes,
    .changes_since_begin = bitmap_changes_since_begin,
    .record = bitmap_record,
    .settle = bitmap_settle,
    .cancel = bitmap_cancel,
    .free = bitmap_free,
};

int vd_tracker_bitmap_new(const struct vd_tracker_context *context, struct vd_tracker **tracker,
                          struct vdisk_error *err)
{
    struct bitmap_tracker *bitmap = calloc(1, sizeof(*bitmap));
    *tracker = bitmap ? &bitmap->base : NULL;
    if (!bitmap)
        return vd_err_nomem(err, "a tracker");
    bitmap->base.driver = &bitmap_driver;
    bitmap->base.context = *context;
    return 0;
}
