/* SPDX-License-Identifier: MIT */
/*
 * The files behind a source.  What a tracker knows is what has changed in the image itself; so all
 * that is behind it has to be as it was.  A time and a length tell, of regular files.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backup/tracker_priv.h"
#include "image/named.h"
#include "util/mem.h"

void vd_tracker_behind_free(struct vd_tracker_behind *behind)
{
    for (size_t i = 0; i < behind->entries; i++)
        free(behind->files[i].name);
    free(behind->files);
    free(behind->blind_name);
    *behind = (struct vd_tracker_behind){0};
}

static int set_blind(struct vd_tracker_behind *behind, enum vd_tracker_blind blind,
                     const char *name, struct vdisk_error *err)
{
    if (behind->blind)
        return 0;
    behind->blind = blind;
    behind->blind_name = vd_tracker_file_name(name, err);
    return behind->blind_name ? 0 : -ENOMEM;
}

/* Room for one more. */
static int grow(struct vd_tracker_behind *behind, struct vdisk_error *err)
{
    struct vd_manifest_backing *files =
        realloc(behind->files, (behind->entries + 1) * sizeof(*files));
    if (!files)
        return vd_err_nomem(err, "the files behind an image");
    behind->files = files;
    return 0;
}

static int add_file(struct vd_tracker_behind *behind, const char *name, struct vdisk_error *err)
{
    struct stat st;
    if (!vd_storage_name_is_local(name))
        return set_blind(behind, VD_TRACKER_REMOTE, name, err);
    if (stat(name, &st) < 0)
        return vd_err_errno(err, errno, "%s", name);
    if (!S_ISREG(st.st_mode) || behind->entries == VD_MANIFEST_BACKINGS_MAX)
        return set_blind(behind, VD_TRACKER_DEVICE, name, err);
    int ret = grow(behind, err);
    if (ret < 0)
        return ret;
    struct vd_manifest_backing *file = &behind->files[behind->entries];
    file->name = vd_tracker_file_name(name, err);
    if (!file->name)
        return -ENOMEM;
    file->bytes = (uint64_t)st.st_size;
    file->modified_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    behind->entries++;
    return 0;
}

/* An image behind, and the file that it has its data in, if there is one. */
static int add_image(struct vd_tracker_behind *behind, struct vdisk_image *image,
                     struct vdisk_error *err)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    struct vd_named named = {0};
    int ret = vdisk_image_info(image, &info, err);
    if (ret == 0)
        ret = add_file(behind, info.filename, err);
    if (ret < 0 || !info.data_name)
        return ret;
    ret = vd_named_resolve(&named, info.filename, info.data_name, err);
    if (ret == 0)
        ret = add_file(behind, named.path, err);
    vd_named_free(&named);
    return ret;
}

int vd_tracker_look_behind(struct vd_tracker *tracker, struct vdisk_error *err)
{
    struct vd_tracker_behind *behind = &tracker->behind;
    struct vdisk_image *image = tracker->context.source;
    int ret = 0;
    vd_tracker_behind_free(behind);
    while (ret == 0 && (image = vdisk_image_backing(image)))
        ret = add_image(behind, image, err);
    return ret;
}

int vd_tracker_record_behind(const struct vd_tracker *tracker, struct vd_manifest *manifest,
                             struct vdisk_error *err)
{
    const struct vd_tracker_behind *behind = &tracker->behind;
    if (behind->blind || !behind->entries)
        return 0;
    struct vd_manifest_backing *copy = vd_alloc_array(behind->entries, sizeof(*copy));
    if (!copy)
        return vd_err_nomem(err, "the files behind an image");
    manifest->backings = copy;
    for (size_t i = 0; i < behind->entries; i++) {
        copy[i] = behind->files[i];
        copy[i].name = strdup(behind->files[i].name);
        if (!copy[i].name)
            return vd_err_nomem(err, "the files behind an image");
        manifest->backing_entries++;
    }
    return 0;
}

/* "what @name is": told as no record. */
static int tell(const struct vd_tracker *tracker, const char *name, const char *what,
                struct vdisk_error *err)
{
    size_t bytes = strlen(name) + strlen(what) + 1;
    CLEANUP_FREE char *why = malloc(bytes);
    if (!why)
        return vd_err_nomem(err, "a message");
    snprintf(why, bytes, "%s%s", name, what);
    return vd_tracker_no_record(tracker, why, err);
}

static bool is_same(const struct vd_manifest_backing *a, const struct vd_manifest_backing *b)
{
    return strcmp(a->name, b->name) == 0 && a->bytes == b->bytes &&
           a->modified_ns == b->modified_ns;
}

int vd_tracker_check_behind(const struct vd_tracker *tracker, const struct vd_manifest *manifest,
                            struct vdisk_error *err)
{
    const struct vd_tracker_behind *behind = &tracker->behind;
    if (behind->blind)
        return tell(tracker, behind->blind_name,
                    behind->blind == VD_TRACKER_REMOTE
                        ? ", which is behind it, is on a server, and may have changed"
                        : ", which is behind it, is no regular file, and may have changed",
                    err);
    for (size_t i = 0; i < vd_min(behind->entries, manifest->backing_entries); i++)
        if (!is_same(&behind->files[i], &manifest->backings[i]))
            return tell(tracker, behind->files[i].name,
                        strcmp(behind->files[i].name, manifest->backings[i].name) == 0
                            ? ", which is behind it, has changed since"
                            : " was not behind it then",
                        err);
    if (behind->entries != manifest->backing_entries)
        return vd_tracker_no_record(tracker, "other files were behind it then", err);
    return 0;
}
