/* SPDX-License-Identifier: MIT */
/* Which tracker a source has, and what all of them share. */
#include "backup/tracker.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backup/tracker_priv.h"
#include "storage/nbd_uri.h"
#include "util/mem.h"
#include "util/url.h"

static bool is_nbd(const char *name)
{
    return vd_nbd_identify(name).known;
}

/* Is a bitmap of the server named, for this backup or for the next one? */
static bool names_bitmap(const struct vdisk_backup_options *options,
                         const struct vd_manifest *latest)
{
    return options->bitmap || options->next_bitmap || (latest && latest->bitmap);
}

/* Can the image get a bitmap?  It is opened for writing for that. */
static bool takes_bitmap(const struct vdisk_backup_options *options,
                         const struct vdisk_image_info *info)
{
    return strcmp(info->variant ? info->variant : "", "0.10") != 0 && info->virtual_bytes > 0 &&
           !(info->flags & VDISK_INFO_CORRUPT) && !(options->source_flags & VDISK_OPEN_SHARE) &&
           (vd_storage_name_is_local(info->filename) || is_nbd(info->filename));
}

enum vdisk_tracker vd_tracker_choose(const struct vdisk_backup_options *options,
                                     const struct vd_manifest *latest, struct vdisk_image *source)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    if ((options->flags & VDISK_BACKUP_UNTRACKED) || vdisk_image_info(source, &info, NULL) < 0)
        return VDISK_TRACKER_NONE;
    if (strcmp(info.format, "qcow2") == 0)
        return takes_bitmap(options, &info) ? VDISK_TRACKER_BITMAP : VDISK_TRACKER_NONE;
    if (strcmp(info.format, "gow3") == 0)
        return VDISK_TRACKER_VERSIONS;
    if (strcmp(info.format, "add-cow") == 0)
        return VDISK_TRACKER_OVERLAY;
    if (strcmp(info.format, "raw") == 0 && is_nbd(info.filename) && names_bitmap(options, latest))
        return VDISK_TRACKER_NBD;
    return VDISK_TRACKER_NONE;
}

bool vd_tracker_wants_write(enum vdisk_tracker kind)
{
    return kind == VDISK_TRACKER_BITMAP;
}

int vd_tracker_new(enum vdisk_tracker kind, const struct vd_tracker_context *context,
                   struct vd_tracker **tracker, struct vdisk_error *err)
{
    switch (kind) {
    case VDISK_TRACKER_BITMAP:
        return vd_tracker_bitmap_new(context, tracker, err);
    case VDISK_TRACKER_VERSIONS:
        return vd_tracker_versions_new(context, tracker, err);
    case VDISK_TRACKER_OVERLAY:
        return vd_tracker_overlay_new(context, tracker, err);
    case VDISK_TRACKER_NBD:
        return vd_tracker_nbd_new(context, tracker, err);
    case VDISK_TRACKER_NONE:
    case VDISK_TRACKER_COMPARE:
        break;
    }
    return vd_tracker_none_new(context, tracker, err);
}

void vd_tracker_free(struct vd_tracker *tracker)
{
    if (!tracker)
        return;
    vd_tracker_behind_free(&tracker->behind);
    tracker->driver->free(tracker);
}

static bool compares_all(const struct vd_tracker *tracker)
{
    return (tracker->context.options->flags & VDISK_BACKUP_COMPARE) != 0;
}

bool vd_tracker_wants_changes(const struct vd_tracker *tracker)
{
    return tracker->context.parent && !compares_all(tracker);
}

enum vdisk_tracker vd_tracker_kind(const struct vd_tracker *tracker)
{
    if (!tracker->context.parent)
        return VDISK_TRACKER_NONE;
    return compares_all(tracker) ? VDISK_TRACKER_COMPARE : tracker->driver->kind;
}

bool vd_tracker_compares(const struct vd_tracker *tracker)
{
    enum vdisk_tracker kind = vd_tracker_kind(tracker);
    return kind == VDISK_TRACKER_COMPARE || kind == VDISK_TRACKER_OVERLAY;
}

int vd_tracker_begin(struct vd_tracker *tracker, struct vdisk_error *err)
{
    return tracker->driver->begin(tracker, err);
}

int vd_tracker_changes(struct vd_tracker *tracker, struct vd_bitmap *wanted,
                       struct vdisk_error *err)
{
    if (vd_tracker_wants_changes(tracker))
        return tracker->driver->changes(tracker, wanted, err);
    vd_bitmap_set_all(wanted);
    return 0;
}

int vd_tracker_changes_since_begin(struct vd_tracker *tracker, struct vd_bitmap *stale,
                                   struct vdisk_error *err)
{
    if (!tracker->context.resumed_uuid || !tracker->driver->changes_since_begin)
        return -ENOTSUP;
    return tracker->driver->changes_since_begin(tracker, stale, err);
}

int vd_tracker_record(struct vd_tracker *tracker, struct vd_manifest *manifest,
                      struct vdisk_error *err)
{
    return tracker->driver->record ? tracker->driver->record(tracker, manifest, err) : 0;
}

int vd_tracker_settle(struct vd_tracker *tracker, struct vdisk_error *err)
{
    return tracker->driver->settle ? tracker->driver->settle(tracker, err) : 0;
}

void vd_tracker_cancel(struct vd_tracker *tracker)
{
    if (tracker->driver->cancel)
        tracker->driver->cancel(tracker);
}

/* --- what the source is called -----------------------------------------------------------------
 */

/* DIRECTORY/BASE, with no link in DIRECTORY. */
static char *absolute(const char *name, struct vdisk_error *err)
{
    const char *slash = strrchr(name, '/');
    const char *base = slash ? slash + 1 : name;
    CLEANUP_FREE char *directory = slash ? strndup(name, (size_t)(base - name)) : strdup(".");
    CLEANUP_FREE char *real = directory ? realpath(directory, NULL) : NULL;
    if (!real) {
        vd_err_errno(err, errno, "%s: the directory that it is in", name);
        return NULL;
    }
    const char *end = strcmp(real, "/") == 0 ? "" : real;
    size_t bytes = strlen(end) + 1 + strlen(base) + 1;
    char *path = malloc(bytes);
    if (path)
        snprintf(path, bytes, "%s/%s", end, base);
    else
        vd_err_nomem(err, "the name of the source");
    return path;
}

char *vd_tracker_file_name(const char *filename, struct vdisk_error *err)
{
    if (vd_storage_name_is_local(filename))
        return absolute(filename, err);
    char *url = strdup(filename);
    if (url)
        vd_url_strip_secrets(url, "");
    else
        vd_err_nomem(err, "the name of the source");
    return url;
}

char *vd_tracker_source_name(struct vdisk_image *source, struct vdisk_error *err)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    if (vdisk_image_info(source, &info, err) < 0)
        return NULL;
    return vd_tracker_file_name(info.filename, err);
}

int vd_tracker_check_name(const struct vd_tracker *tracker, struct vdisk_error *err)
{
    const struct vd_tracker_context *context = &tracker->context;
    const struct vd_manifest *latest = context->latest;
    if (!latest || !latest->source || (context->options->flags & VDISK_BACKUP_MOVED))
        return 0;
    CLEANUP_FREE char *name = vd_tracker_source_name(context->source, err);
    if (!name)
        return -ENOMEM;
    if (strcmp(name, latest->source) == 0 ||
        vd_storage_identity_equals(vd_storage_identify(name), vd_storage_identify(latest->source)))
        return 0;
    return vd_err_set(err, EXDEV,
                      "%s: its last point, %" PRIu64
                      ", is of '%s', and this is '%s': if it is the same disk, which was moved, "
                      "say so: --moved",
                      context->repository->name, latest->number, latest->source, name);
}

int vd_tracker_no_record(const struct vd_tracker *tracker, const char *why, struct vdisk_error *err)
{
    CLEANUP_FREE char *name = vd_tracker_source_name(tracker->context.source, err);
    if (!name)
        return -ENOMEM;
    return vd_err_set(err, ENOTSUP,
                      "%s: there is no record of what has changed since point %" PRIu64
                      "%s%s: make a full backup, or --compare",
                      name, tracker->context.parent->number, why ? ": " : "", why ? why : "");
}
