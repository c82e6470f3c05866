/* SPDX-License-Identifier: MIT */
/* A backup that is not finished. */
#include "backup/partial.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backup/manifest_json.h"
#include "storage/new_file.h"
#include "util/mem.h"
#include "util/utf8.h"

#define PARTIAL_NAME      "partial.json"
#define PARTIAL_KEY       "vdisk-partial" /* of its version */
#define PARTIAL_VERSION   1
#define PARTIAL_BYTES_MAX (UINT64_C(1) << 20)
#define SOURCE_HEX        "source" VD_HEX_KEY

static const struct {
    const char *format;
    const char *name;
} images[] = {
    {"qcow2", "partial.qcow2"},
    {"qed", "partial.qed"},
};

#define IMAGES (sizeof(images) / sizeof(images[0]))

const char *vd_partial_image_name(const char *format)
{
    for (size_t i = 0; i < IMAGES; i++)
        if (strcmp(images[i].format, format) == 0)
            return images[i].name;
    return NULL;
}

void vd_partial_free(struct vd_partial *partial)
{
    free(partial->image_format);
    free(partial->source);
    *partial = (struct vd_partial){0};
}

/* What json_unpack() lends, and has ranges to be checked. */
struct fields {
    const char *repository;
    const char *uuid;
    const char *kind;
    const char *tracker;
    const char *parent_uuid;
    const char *format;
    const char *source;     /* one of these two */
    const char *source_hex; /* of a name that is no UTF-8 */
    json_int_t version;
    json_int_t parent;
    json_int_t size;
    json_int_t done;
};

static bool unpack(json_t *object, struct fields *f)
{
    *f = (struct fields){0};
    return json_unpack_ex(object, NULL, JSON_STRICT,
                          "{s:I, s:s, s:s, s:s, s:s, s:I, s:s, s:I, s:s, s:I, s?s, s?s}",
                          PARTIAL_KEY, &f->version, "repository", &f->repository, "uuid", &f->uuid,
                          "kind", &f->kind, "tracker", &f->tracker, "parent", &f->parent,
                          "parent-uuid", &f->parent_uuid, "virtual-size", &f->size, "format",
                          &f->format, "done", &f->done, "source", &f->source, SOURCE_HEX,
                          &f->source_hex) == 0;
}

static bool makes_sense(const struct vdisk_repository *repository, const struct fields *f)
{
    bool has_parent = f->parent != 0;
    return !f->source != !f->source_hex && f->version == PARTIAL_VERSION &&
           strcmp(f->repository, repository->uuid) == 0 && vd_uuid_is_text(f->uuid) &&
           vd_point_kind_of(f->kind) && vd_tracker_of(f->tracker) &&
           vd_partial_image_name(f->format) && f->parent >= 0 && f->size >= 0 && f->done >= 0 &&
           f->done <= f->size && has_parent == (strcmp(f->kind, "full") != 0) &&
           (has_parent ? vd_uuid_is_text(f->parent_uuid) : !*f->parent_uuid);
}

/* Is the point that it lies on still what it was? */
static bool has_parent(const struct vdisk_repository *repository, const struct fields *f)
{
    if (!f->parent)
        return true;
    const struct vd_point *parent = vd_repository_point_of(repository, (uint64_t)f->parent);
    return parent && !parent->is_damaged && strcmp(parent->manifest.uuid, f->parent_uuid) == 0;
}

/* To be freed; NULL: no memory, or no digits, which leaves *@is_bad true. */
static char *take_source(const struct fields *f, bool *is_bad)
{
    *is_bad = false;
    if (f->source)
        return strdup(f->source);
    size_t length = strlen(f->source_hex) / 2;
    char *source = calloc(length + 1, 1);
    *is_bad = source && !vd_hex_read(f->source_hex, (uint8_t *)source, length);
    if (*is_bad)
        free(STEAL_PTR(source));
    return source;
}

/* 1; 0: it makes no sense; or a negative errno */
static int take(struct vd_partial *partial, const struct fields *f, struct vdisk_error *err)
{
    bool is_bad;
    *partial = (struct vd_partial){
        .kind = vd_point_kind_of(f->kind),
        .tracker = vd_tracker_of(f->tracker),
        .parent = (uint64_t)f->parent,
        .virtual_bytes = (uint64_t)f->size,
        .image_format = strdup(f->format),
        .source = take_source(f, &is_bad),
        .done_bytes = (uint64_t)f->done,
    };
    snprintf(partial->uuid, sizeof(partial->uuid), "%s", f->uuid);
    snprintf(partial->parent_uuid, sizeof(partial->parent_uuid), "%s", f->parent_uuid);
    if (partial->image_format && partial->source)
        return 1;
    vd_partial_free(partial);
    return is_bad ? 0 : vd_err_nomem(err, "a backup that is not finished");
}

/* 1: there is something; 0: there is not, or nobody can go on with it. */
static int load(const struct vdisk_repository *repository, json_t **object, struct vdisk_error *err)
{
    struct vdisk_error why = {0};
    int ret = vd_repository_has_file(repository, PARTIAL_NAME, &why);
    CLEANUP_FREE char *path = ret > 0 ? vd_repository_path(repository, PARTIAL_NAME, &why) : NULL;
    if (ret > 0)
        ret = path ? vd_sealed_read(path, &repository->key, PARTIAL_BYTES_MAX, object, &why)
                   : -ENOMEM;
    else if (ret == 0)
        return 0;
    if (ret == 0)
        return 1;
    bool is_worthless = ret == -ENOENT || ret == -EBADMSG || ret == -EKEYREJECTED;
    return is_worthless ? 0 : vd_err_copy(err, &why);
}

int vd_partial_read(struct vdisk_repository *repository, struct vd_partial *partial,
                    struct vdisk_error *err)
{
    json_t *object = NULL;
    struct fields fields;
    int ret = load(repository, &object, err);
    if (ret <= 0)
        return ret;
    ret = 0;
    if (unpack(object, &fields) && makes_sense(repository, &fields) &&
        has_parent(repository, &fields) &&
        vd_repository_has_file(repository, vd_partial_image_name(fields.format), NULL) > 0)
        ret = take(partial, &fields, err);
    json_decref(object);
    return ret;
}

static bool put_source(json_t *object, const char *source)
{
    size_t length = strlen(source);
    if (vd_utf8_is_text(source, length))
        return json_object_set_new(object, "source", json_string(source)) == 0;
    CLEANUP_FREE char *hex = malloc(2 * length + 1);
    if (!hex)
        return false;
    vd_hex_write((const uint8_t *)source, length, hex);
    return json_object_set_new(object, SOURCE_HEX, json_string(hex)) == 0;
}

int vd_partial_write(struct vdisk_repository *repository, const struct vd_partial *partial,
                     struct vdisk_error *err)
{
    CLEANUP_FREE char *path = vd_repository_path(repository, PARTIAL_NAME, err);
    if (!path)
        return -ENOMEM;
    json_t *object =
        json_pack("{s:i, s:s, s:s, s:s, s:s, s:I, s:s, s:I, s:s, s:I}", PARTIAL_KEY,
                  PARTIAL_VERSION, "repository", repository->uuid, "uuid", partial->uuid, "kind",
                  vd_point_kind_name(partial->kind), "tracker", vd_tracker_name(partial->tracker),
                  "parent", (json_int_t)partial->parent, "parent-uuid", partial->parent_uuid,
                  "virtual-size", (json_int_t)partial->virtual_bytes, "format",
                  partial->image_format, "done", (json_int_t)partial->done_bytes);
    int ret = object && put_source(object, partial->source)
                  ? vd_sealed_replace(path, object, &repository->key, err)
                  : vd_err_nomem(err, "a backup that is not finished");
    json_decref(object);
    return ret;
}

static int remove_file(const struct vdisk_repository *repository, const char *name,
                       struct vdisk_error *err)
{
    CLEANUP_FREE char *path = vd_repository_path(repository, name, err);
    if (!path)
        return -ENOMEM;
    if (unlink(path) < 0 && errno != ENOENT)
        return vd_err_errno(err, errno, "%s: can not remove it", path);
    return 0;
}

/* What tells of it goes first: never does partial.json speak of the bytes of another image. */
int vd_partial_remove(struct vdisk_repository *repository, struct vdisk_error *err)
{
    CLEANUP_FREE char *path = vd_repository_path(repository, PARTIAL_NAME, err);
    int ret = path ? remove_file(repository, PARTIAL_NAME, err) : -ENOMEM;
    if (ret == 0)
        ret = vd_new_file_sync_directory(path, err);
    for (size_t i = 0; ret == 0 && i < IMAGES; i++)
        ret = remove_file(repository, images[i].name, err);
    if (ret == 0)
        ret = remove_file(repository, VD_PARTIAL_VERSIONS_NAME, err);
    if (ret == 0)
        ret = remove_file(repository, PARTIAL_NAME ".part", err);
    return ret;
}
