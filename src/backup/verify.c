/* SPDX-License-Identifier: MIT */
/* vdisk_repository_verify(): every byte of a repository is compared with what was written. */
#include "backup/verify.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "backup/digests.h"
#include "backup/point.h"
#include "backup/repository_points.h"
#include "util/mem.h"

/* ---- Telling ---- */

VD_PRINTF(2, 0)
static void tell(struct vd_verify *verify, const char *fmt, va_list args)
{
    char *text = NULL;
    if (!verify->options->report)
        return;
    if (vasprintf(&text, fmt, args) < 0)
        text = NULL;
    verify->options->report(verify->options->opaque,
                            text ? text : "a damage that there is no memory to tell of");
    free(text);
}

void vd_verify_damage(struct vd_verify *verify, const char *fmt, ...)
{
    va_list args;
    verify->result->damages++;
    va_start(args, fmt);
    tell(verify, fmt, args);
    va_end(args);
}

void vd_verify_note(struct vd_verify *verify, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    tell(verify, fmt, args);
    va_end(args);
}

bool vd_verify_is_ours(int ret)
{
    return ret == -ENOMEM || ret == -EMFILE || ret == -ENFILE || ret == -ECANCELED ||
           ret == -ENOTSUP;
}

/* ---- Which points ---- */

/* Those below a point lie on it no more if the chain is cut off: that is told of later. */
static void want_chain(struct vd_verify *verify, const struct vd_point *point)
{
    const struct vdisk_repository *repository = verify->repository;
    for (; point; point = vd_point_parent(repository, point))
        verify->points[point - repository->points].is_wanted = true;
}

static int choose_points(struct vd_verify *verify, struct vdisk_error *err)
{
    const struct vdisk_repository *repository = verify->repository;
    size_t index;
    if (verify->options->point) {
        int ret = vdisk_repository_find(repository, verify->options->point, &index, err);
        if (ret < 0)
            return ret;
        want_chain(verify, &repository->points[index]);
    }
    for (size_t i = 0; i < repository->point_entries; i++) {
        const struct vd_point *point = &repository->points[i];
        if (!verify->options->point)
            verify->points[i].is_wanted = true;
        const struct vd_point *parent = vd_point_parent(repository, point);
        if (verify->points[i].is_wanted && parent)
            verify->points[parent - repository->points].is_parent = true;
    }
    return 0;
}

static uint64_t wanted_bytes(const struct vd_verify *verify)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < verify->repository->point_entries; i++)
        if (verify->points[i].is_wanted)
            bytes += vd_manifest_stored_bytes(&verify->repository->points[i].manifest);
    return bytes;
}

/* ---- JSON files ---- */

static void count_file(struct vd_verify *verify, const char *path)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return;
    verify->result->files++;
    verify->result->bytes += (uint64_t)st.st_size;
}

static int verify_identity(struct vd_verify *verify, struct vdisk_error *err)
{
    const struct vdisk_repository *repository = verify->repository;
    struct vdisk_error why = {0};
    json_t *object = NULL;
    CLEANUP_FREE char *path = vd_repository_path(repository, VD_REPOSITORY_IDENTITY, err);
    if (!path)
        return -ENOMEM;
    count_file(verify, path);
    int ret =
        vd_sealed_read(path, &repository->key, VD_REPOSITORY_IDENTITY_BYTES_MAX, &object, &why);
    if (vd_verify_is_ours(ret))
        return vd_err_copy(err, &why);
    const char *uuid = json_string_value(json_object_get(object, "uuid"));
    if (ret < 0)
        vd_verify_damage(verify, "%s", why.message);
    else if (!uuid || strcmp(uuid, repository->uuid) != 0)
        vd_verify_damage(verify, "%s: it is of another repository than a moment ago", path);
    json_decref(object);
    return 0;
}

/* Once more from the file: it may have been damaged since it was read. */
static int verify_manifest(struct vd_verify *verify, const struct vd_point *point, bool *is_good,
                           struct vdisk_error *err)
{
    const struct vdisk_repository *repository = verify->repository;
    struct vdisk_error why = {0};
    struct vd_manifest again;
    CLEANUP_FREE char *path = vd_repository_path(repository, point->file, err);
    if (!path)
        return -ENOMEM;
    count_file(verify, path);
    *is_good = false;
    if (point->is_damaged) {
        vd_verify_damage(verify, "%s", point->damage.message);
        return 0;
    }
    int ret = vd_repository_has_file(repository, point->file, &why);
    if (ret == 0)
        ret = vd_err_set(&why, ENOENT, "%s: is missing", path);
    if (ret > 0) {
        ret = vd_manifest_read(&again, repository->uuid, path, &repository->key, &why);
        *is_good = ret == 0 && strcmp(again.uuid, point->manifest.uuid) == 0;
        vd_manifest_free(&again);
    }
    if (vd_verify_is_ours(ret))
        return vd_err_copy(err, &why);
    if (ret < 0)
        vd_verify_damage(verify, "%s", why.message);
    else if (!*is_good)
        vd_verify_damage(verify, "%s: it is of another point than a moment ago", path);
    return 0;
}

/* ---- Images, and versions ---- */

static void damaged(void *opaque, struct vd_range range, const char *why)
{
    struct vd_verify *verify = opaque;
    verify->file_damages++;
    vd_verify_damage(verify, "%s: bytes %" PRIu64 " to %" PRIu64 ": %s", verify->file, range.offset,
                     vd_range_end(range) - 1, why);
}

static int open_plainly(struct vd_verify *verify, const char *name, const char *path,
                        struct vd_storage **storage, struct vdisk_error *err)
{
    struct vd_storage_options options = {.flags = VD_STORAGE_SEQUENTIAL};
    int ret = vd_repository_has_file(verify->repository, name, err);
    if (ret == 0)
        return vd_err_set(err, ENOENT, "%s: is missing", path);
    return ret < 0 ? ret : vd_storage_open(path, &options, storage, err);
}

/* @is_good: false if it is damaged, or can not be read */
static int verify_file(struct vd_verify *verify, const struct vd_manifest_file *file, bool *is_good,
                       struct vdisk_error *err)
{
    struct vdisk_error why = {0};
    struct vd_storage *storage = NULL;
    CLEANUP_FREE char *path = vd_repository_path(verify->repository, file->name, err);
    if (!path)
        return -ENOMEM;
    count_file(verify, path);
    verify->file = path;
    verify->file_damages = 0;
    int ret = open_plainly(verify, file->name, path, &storage, &why);
    if (ret == 0)
        ret = vd_digests_compare(storage, &file->table, &verify->job, verify->options->workers,
                                 damaged, verify, &why);
    vd_storage_close(storage);
    if (vd_verify_is_ours(ret))
        return vd_err_copy(err, &why);
    if (ret < 0) {
        vd_verify_damage(verify, "%s", why.message);
        verify->file_damages++;
        /* so that the work comes to its end all the same */
        ret = vd_job_advance(&verify->job,
                             (struct vd_job_step){.done_bytes = file->table.file_bytes}, err);
    }
    *is_good = verify->file_damages == 0;
    return ret;
}

/* ---- What an image says of itself ---- */

/* NULL: it says what its manifest does.  @parent: NULL: there is none */
static const char *find_lie(const struct vd_manifest *manifest, const struct vd_manifest *parent,
                            const struct vdisk_image_info *info)
{
    if (strcmp(info->format, manifest->image_format) != 0)
        return "its format is another one than its manifest says";
    if (info->virtual_bytes != manifest->virtual_bytes)
        return "its disk is not as long as its manifest says";
    if (info->data_name)
        return "it keeps its data in another file";
    if (!parent)
        return info->backing_name ? "it names a backing file, and lies on no point" : NULL;
    if (!info->backing_name || strcmp(info->backing_name, parent->image.name) != 0)
        return "its backing file is not the image of the point that it lies on";
    if (info->backing_format && strcmp(info->backing_format, parent->image_format) != 0)
        return "it names another format of its backing file than that has";
    return NULL;
}

/* By itself: what it lies on is looked at by itself as well. */
static int verify_header(struct vd_verify *verify, const struct vd_point *point,
                         const struct vd_point *parent, bool *is_good, struct vdisk_error *err)
{
    const struct vd_manifest *manifest = &point->manifest;
    struct vdisk_open_options options = {
        .struct_bytes = sizeof(options),
        .flags = VDISK_OPEN_NO_BACKING,
        .format = manifest->image_format,
    };
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    struct vdisk_image *image = NULL;
    struct vdisk_error why = {0};
    const char *lie = NULL;
    CLEANUP_FREE char *path = vd_repository_path(verify->repository, manifest->image.name, err);
    if (!path)
        return -ENOMEM;
    int ret = vdisk_image_open(path, &options, &image, &why);
    if (ret == 0)
        ret = vdisk_image_info(image, &info, &why);
    if (ret == 0)
        lie = find_lie(manifest, parent ? &parent->manifest : NULL, &info);
    if (lie)
        ret = vd_err_set(&why, EBADMSG, "%s: %s", path, lie);
    if (image)
        vdisk_image_close(image, NULL);
    if (ret == -ENOMEM || ret == -EMFILE || ret == -ENFILE)
        return vd_err_copy(err, &why);
    if (ret < 0)
        vd_verify_damage(verify, "%s", why.message);
    *is_good = ret == 0;
    return 0;
}

/* ---- Points ---- */

/* Why is there no vd_point_parent()?  A damage unless it is told of where the parent is. */
static void tell_no_parent(struct vd_verify *verify, const struct vd_point *point)
{
    const struct vdisk_repository *repository = verify->repository;
    uint64_t number = point->manifest.parent;
    const struct vd_point *parent = vd_repository_point_of(repository, number);
    if (!parent)
        vd_verify_damage(verify,
                         "%s/%s: point %" PRIu64 " lies on point %" PRIu64 ", which is missing",
                         repository->name, point->file, point->number, number);
    else if (!parent->is_damaged)
        vd_verify_damage(verify,
                         "%s/%s: point %" PRIu64 " lies on a point %" PRIu64
                         " of UUID %s, and the one that is there has %s",
                         repository->name, point->file, point->number, number,
                         point->manifest.parent_uuid, parent->manifest.uuid);
    else if (verify->options->point) /* else it is one of those that are looked at */
        vd_verify_damage(verify, "%s", parent->damage.message);
}

static int verify_point(struct vd_verify *verify, size_t index, struct vdisk_error *err)
{
    const struct vdisk_repository *repository = verify->repository;
    const struct vd_point *point = &repository->points[index];
    const struct vd_manifest *manifest = &point->manifest;
    const struct vd_point *parent = vd_point_parent(repository, point);
    bool is_good = false;
    bool is_image_good;
    bool is_versions_good;
    int ret = verify_manifest(verify, point, &is_good, err);
    if (ret < 0 || point->is_damaged)
        goto out;
    if (manifest->parent && !parent)
        tell_no_parent(verify, point);
    if (manifest->parent && (!parent || verify->points[parent - repository->points].is_bad))
        is_good = false;
    ret = verify_file(verify, &manifest->image, &is_image_good, err);
    if (ret == 0 && is_image_good && (parent || !manifest->parent))
        ret = verify_header(verify, point, parent, &is_image_good, err);
    is_good = is_good && ret == 0 && is_image_good;
    if (ret == 0 && manifest->versions.name) /* no restore needs them: only the next backup */
        ret = verify_file(verify, &manifest->versions, &is_versions_good, err);
out:
    verify->points[index].is_bad = !is_good;
    return ret;
}

/* Do they open as a disk?  Only the last of each chain is asked: it opens all of the others. */
static int verify_chain(struct vd_verify *verify, size_t index, struct vdisk_error *err)
{
    const struct vdisk_repository *repository = verify->repository;
    struct vdisk_image *image = NULL;
    struct vdisk_error why = {0};
    int ret = vd_point_open(verify->repository, &repository->points[index], &image, &why);
    if (ret == 0) {
        vdisk_image_close(image, NULL);
    } else if (ret == -ENOMEM) {
        return vd_err_copy(err, &why);
    } else if (ret == -EMFILE || ret == -ENFILE) {
        vd_verify_note(verify, "%s: not opened as a whole: no damage", why.message);
    } else {
        vd_verify_damage(verify, "%s", why.message);
        verify->points[index].is_bad = true;
    }
    return 0;
}

static int verify_all(struct vd_verify *verify, struct vdisk_error *err)
{
    const struct vdisk_repository *repository = verify->repository;
    struct vd_verify_point *points = verify->points;
    int ret = choose_points(verify, err);
    if (ret == 0)
        ret = vd_job_phase(&verify->job, "verify", wanted_bytes(verify), 0, err);
    if (ret == 0)
        ret = verify_identity(verify, err);
    for (size_t i = 0; ret == 0 && i < repository->point_entries; i++)
        if (points[i].is_wanted)
            ret = verify_point(verify, i, err);
    for (size_t i = 0; ret == 0 && i < repository->point_entries; i++)
        if (points[i].is_wanted && !points[i].is_bad && !points[i].is_parent)
            ret = verify_chain(verify, i, err);
    if (ret == 0 && !verify->options->point)
        ret = vd_verify_strangers(verify, err);
    if (ret < 0)
        return ret;
    for (size_t i = 0; i < repository->point_entries; i++) {
        verify->result->points += points[i].is_wanted;
        verify->result->damaged_points += points[i].is_wanted && points[i].is_bad;
    }
    return vd_job_finish(&verify->job, err);
}

static int check_structs(const struct vdisk_verify_options *options,
                         const struct vdisk_verify_result *result, struct vdisk_error *err)
{
    if (result->struct_bytes != sizeof(*result))
        return vd_err_set(err, EINVAL, "verify result: struct_bytes is %zu, this library wants %zu",
                          result->struct_bytes, sizeof(*result));
    if (options->struct_bytes != sizeof(*options) || options->reserved)
        return vd_err_set(err, EINVAL,
                          "verify options: struct_bytes is %zu and reserved %" PRIu32
                          ": this library wants %zu and 0",
                          options->struct_bytes, options->reserved, sizeof(*options));
    return 0;
}

int vdisk_repository_verify(struct vdisk_repository *repository,
                            const struct vdisk_verify_options *options,
                            struct vdisk_verify_result *result, struct vdisk_error *err)
{
    static const struct vdisk_verify_options defaults = {.struct_bytes = sizeof(defaults)};
    struct vd_verify verify = {
        .repository = repository, .options = options ? options : &defaults, .result = result};
    int ret = check_structs(verify.options, result, err);
    if (ret < 0)
        return ret;
    *result = (struct vdisk_verify_result){.struct_bytes = sizeof(*result)};
    verify.points = vd_alloc_array(repository->point_entries, sizeof(*verify.points));
    if (!verify.points)
        return vd_err_nomem(err, "the points of a repository");
    vd_job_init(&verify.job, verify.options->progress, verify.options->opaque,
                verify.options->rate_bytes);
    ret = verify_all(&verify, err);
    vd_job_destroy(&verify.job);
    free(verify.points);
    return ret;
}
