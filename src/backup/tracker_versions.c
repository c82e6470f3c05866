/* SPDX-License-Identifier: MIT */
/*
 * Versions of blocks of a GOW3 source: those of which the version is not what it was have changed.
 *
 * The UUID of the image proves that the versions are of one lineage: who writes to a replica, or
 * makes a new image, begins another one.  Versions never go back; where one has, somebody has put
 * an older copy of the image in its place, and then an equal version may mean another content.
 *
 * What the versions are when a call begins is what the point will have that it makes.  Those of the
 * call that began a backup which others go on with are kept as partial.versions; where a later call
 * finds another version, it puts STALE there, since what is copied of that block may be of any of
 * these calls.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backup/tracker_priv.h"
#include "util/mem.h"
#include "util/uuid.h"

/* No version: gow §5.3. */
#define STALE        UINT32_MAX
#define PARTIAL_NEXT "000000.partial-versions.part"

struct versions_tracker {
    struct vd_tracker base;
    char uuid[VD_UUID_TEXT_BYTES];
    bool is_kept; /* partial.versions are those of the unfinished backup */
};

static struct versions_tracker *of(struct vd_tracker *tracker)
{
    return (struct versions_tracker *)tracker;
}

static int read_uuid(struct versions_tracker *versions, struct vdisk_error *err)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    int ret = vdisk_image_info(versions->base.context.source, &info, err);
    if (ret == 0)
        vd_uuid_text(info.uuid, versions->uuid);
    return ret;
}

/* Is it the disk of this repository? */
static int check_lineage(const struct versions_tracker *versions, struct vdisk_error *err)
{
    const struct vd_tracker *tracker = &versions->base;
    const struct vd_manifest *latest = tracker->context.latest;
    if (!latest || !latest->source_uuid[0])
        return vd_tracker_check_name(tracker, err);
    if (strcmp(latest->source_uuid, versions->uuid) == 0 ||
        (tracker->context.options->flags & VDISK_BACKUP_MOVED))
        return 0;
    return vd_err_set(err, EXDEV,
                      "%s: its last point, %" PRIu64 ", is of the image with UUID %s, and '%s' has "
                      "%s: a replica gets its master's UUID by a sync, and a new one when somebody "
                      "writes to it; if it is the same disk, say so: --moved, with --full or "
                      "--compare",
                      tracker->context.repository->name, latest->number, latest->source_uuid,
                      latest->source, versions->uuid);
}

/* Can the versions of the parent be compared with those of now? */
static int check_parent(const struct versions_tracker *versions, struct vdisk_error *err)
{
    const struct vd_manifest *parent = versions->base.context.parent;
    if (!parent->versions.name || !parent->source_uuid[0])
        return vd_tracker_no_record(&versions->base, NULL, err);
    if (strcmp(parent->source_uuid, versions->uuid) != 0)
        return vd_tracker_no_record(&versions->base, "the image has another UUID now", err);
    return 0;
}

static int get_version(void *opaque, struct vd_range *guest, uint32_t *number,
                       struct vdisk_error *err)
{
    struct vdisk_image *source = opaque;
    struct vdisk_version_extent extent;
    int ret = vdisk_image_version(source, guest->offset, guest->length, &extent, err);
    if (ret < 0)
        return ret;
    *number = extent.version;
    guest->length = extent.length;
    return 0;
}

/* What was kept, and what there is now. */
struct both {
    struct vd_tracker_file then;
    struct vdisk_image *source;
};

static int get_still(void *opaque, struct vd_range *guest, uint32_t *number,
                     struct vdisk_error *err)
{
    struct both *both = opaque;
    uint64_t block = guest->offset / VD_TRACKER_BLOCK_BYTES;
    uint32_t then = 0;
    guest->length = vd_min(guest->length, VD_TRACKER_BLOCK_BYTES);
    int ret = get_version(both->source, guest, number, err);
    if (ret == 0)
        ret = vd_tracker_file_get(&both->then, block, &then, err);
    if (ret == 0 && (*number != then || block >= both->then.blocks))
        *number = STALE;
    return ret;
}

/* Marks what has changed since the unfinished backup began. */
static int mark_stale(const struct vd_tracker *tracker, struct vdisk_error *err)
{
    struct both both = {.source = tracker->context.source};
    struct vd_tracker_numbers still = {.get = get_still, .opaque = &both};
    int ret = vd_tracker_file_open_part(tracker, VD_PARTIAL_VERSIONS_NAME, &both.then, err);
    if (ret == 0)
        ret = vd_tracker_file_write(tracker, PARTIAL_NEXT, &still, err);
    vd_tracker_file_close(&both.then);
    return ret < 0 ? ret
                   : vd_tracker_file_rename(tracker, PARTIAL_NEXT, VD_PARTIAL_VERSIONS_NAME, err);
}

/* If those of the unfinished backup are lost, those of now must not be taken for them. */
static int save_versions(struct versions_tracker *versions, struct vdisk_error *err)
{
    const struct vd_tracker *tracker = &versions->base;
    struct vd_tracker_numbers now = {.get = get_version, .opaque = tracker->context.source};
    CLEANUP_FREE char *path =
        vd_repository_path(tracker->context.repository, VD_PARTIAL_VERSIONS_NAME, err);
    int ret = path ? vd_tracker_file_write(tracker, VD_TRACKER_FILE_NEW, &now, err) : -ENOMEM;
    if (ret < 0)
        return ret;
    if (!tracker->context.resumed_uuid)
        return vd_tracker_file_write(tracker, VD_PARTIAL_VERSIONS_NAME, &now, err);
    versions->is_kept = access(path, R_OK) == 0;
    return versions->is_kept ? mark_stale(tracker, err) : 0;
}

static int versions_begin(struct vd_tracker *tracker, struct vdisk_error *err)
{
    struct versions_tracker *versions = of(tracker);
    int ret = read_uuid(versions, err);
    if (ret == 0)
        ret = check_lineage(versions, err);
    if (ret == 0 && vd_tracker_wants_changes(tracker))
        ret = check_parent(versions, err);
    return ret < 0 ? ret : save_versions(versions, err);
}

/* --- what has changed --------------------------------------------------------------------------
 */

static int gone_back(const struct vd_tracker *tracker, uint64_t offset, uint32_t now, uint32_t then,
                     struct vdisk_error *err)
{
    CLEANUP_FREE char *name = vd_tracker_source_name(tracker->context.source, err);
    if (!name)
        return -ENOMEM;
    return vd_err_set(err, EUCLEAN,
                      "%s: the block at offset %" PRIu64 " has version %" PRIu32
                      ", and had %" PRIu32
                      ": an older copy of the image was put in its place, so versions do not tell "
                      "what has changed: --compare, or make a full backup",
                      name, offset, now, then);
}

/* Sets what is not as @file has it. */
static int compare(const struct vd_tracker *tracker, struct vd_tracker_file *file,
                   struct vd_bitmap *changed, struct vdisk_error *err)
{
    struct vdisk_image *source = tracker->context.source;
    uint64_t size = vdisk_image_size(source);
    struct vd_range run = vd_range(0, 0);
    uint32_t now = 0;
    int ret = 0;
    for (uint64_t at = 0; at < size && ret == 0; at += VD_TRACKER_BLOCK_BYTES) {
        uint64_t block = at / VD_TRACKER_BLOCK_BYTES;
        uint32_t then = 0;
        if (at >= vd_range_end(run)) {
            run = vd_range(at, size - at);
            ret = get_version(source, &run, &now, err);
        }
        if (ret == 0)
            ret = vd_tracker_file_get(file, block, &then, err);
        if (ret == 0 && now < then && then != STALE)
            ret = gone_back(tracker, at, now, then, err);
        if (ret == 0 && (now != then || block >= file->blocks))
            ret = vd_bitmap_set(changed, vd_range(at, vd_min(VD_TRACKER_BLOCK_BYTES, size - at)),
                                err);
    }
    return ret;
}

static int versions_changes(struct vd_tracker *tracker, struct vd_bitmap *wanted,
                            struct vdisk_error *err)
{
    struct vd_tracker_file file = {0};
    int ret = vd_tracker_file_open(tracker, tracker->context.parent, &file, err);
    if (ret == 0)
        ret = compare(tracker, &file, wanted, err);
    vd_tracker_file_close(&file);
    return ret;
}

static int versions_changes_since_begin(struct vd_tracker *tracker, struct vd_bitmap *stale,
                                        struct vdisk_error *err)
{
    struct vd_tracker_file file = {0};
    if (!of(tracker)->is_kept)
        return -ENOTSUP;
    int ret = vd_tracker_file_open_part(tracker, VD_PARTIAL_VERSIONS_NAME, &file, err);
    if (ret == 0)
        ret = compare(tracker, &file, stale, err);
    vd_tracker_file_close(&file);
    return ret;
}

static int versions_record(struct vd_tracker *tracker, struct vd_manifest *manifest,
                           struct vdisk_error *err)
{
    memcpy(manifest->source_uuid, of(tracker)->uuid, sizeof(manifest->source_uuid));
    return vd_tracker_file_record(tracker, VD_TRACKER_FILE_NEW, manifest, err);
}

static void versions_free(struct vd_tracker *tracker)
{
    free(tracker);
}

static const struct vd_tracker_driver versions_driver = {
    .kind = VDISK_TRACKER_VERSIONS,
    .begin = versions_begin,
    .changes = versions_changes,
    .changes_since_begin = versions_changes_since_begin,
    .record = versions_record,
    .free = versions_free,
};

int vd_tracker_versions_new(const struct vd_tracker_context *context, struct vd_tracker **tracker,
                            struct vdisk_error *err)
{
    struct versions_tracker *versions = calloc(1, sizeof(*versions));
    *tracker = versions ? &versions->base : NULL;
    if (!versions)
        return vd_err_nomem(err, "a tracker");
    versions->base.driver = &versions_driver;
    versions->base.context = *context;
    return 0;
}
