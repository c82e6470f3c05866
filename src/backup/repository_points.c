/* SPDX-License-Identifier: MIT */
/* The list of points of a repository. */
#include "backup/repository_points.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "util/mem.h"

#define MANIFEST_SUFFIX ".json"
#define POINTS_MAX      1000000u

struct numbers {
    uint64_t *at;
    size_t entries;
    size_t room;
};

void vd_points_free(struct vd_point *points, size_t entries)
{
    for (size_t i = 0; i < entries; i++)
        vd_manifest_free(&points[i].manifest);
    free(points);
}

/* "000003.json", exactly as it would be written, is 3; 0: it is no manifest's name. */
static uint64_t number_of_name(const char *name)
{
    size_t digits = strspn(name, "0123456789");
    if (digits < VD_POINT_DIGITS_MIN || strcmp(name + digits, MANIFEST_SUFFIX) != 0)
        return 0;
    if (digits > VD_POINT_DIGITS_MIN && name[0] == '0')
        return 0;
    errno = 0;
    uint64_t number = strtoull(name, NULL, 10);
    return errno || number > INT64_MAX ? 0 : number;
}

static int add_number(struct numbers *numbers, uint64_t number, const char *name,
                      struct vdisk_error *err)
{
    if (numbers->entries == numbers->room) {
        if (numbers->room >= POINTS_MAX)
            return vd_err_set(err, EFBIG, "%s: more than %u points", name, POINTS_MAX);
        size_t room = numbers->room ? numbers->room * 2 : 64;
        uint64_t *at = realloc(numbers->at, room * sizeof(*at));
        if (!at)
            return vd_err_nomem(err, "the points of a repository");
        numbers->at = at;
        numbers->room = room;
    }
    numbers->at[numbers->entries++] = number;
    return 0;
}

static int find_numbers(const char *name, struct numbers *numbers, struct vdisk_error *err)
{
    DIR *directory = opendir(name);
    if (!directory)
        return vd_err_errno(err, errno, "%s: can not read the directory", name);
    int ret = 0;
    const struct dirent *entry;
    while (errno = 0, ret == 0 && (entry = readdir(directory))) {
        uint64_t number = number_of_name(entry->d_name);
        if (number)
            ret = add_number(numbers, number, name, err);
    }
    if (ret == 0 && errno)
        ret = vd_err_errno(err, errno, "%s: can not read the directory", name);
    closedir(directory);
    return ret;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int read_manifest(const struct vdisk_repository *repository, struct vd_point *point,
                         struct vdisk_error *err)
{
    int ret = vd_repository_has_file(repository, point->file, err);
    if (ret <= 0)
        return ret == 0 ? -ENOENT : ret;
    CLEANUP_FREE char *path = vd_repository_path(repository, point->file, err);
    if (!path)
        return -ENOMEM;
    struct vd_manifest manifest = {0};
    ret = vd_manifest_read(&manifest, repository->uuid, path, &repository->key, err);
    if (ret == 0 && manifest.number != point->number) {
        ret =
            vd_err_set(err, EBADMSG, "%s: holds the manifest of point %" PRIu64 ": was it renamed?",
                       path, manifest.number);
        vd_manifest_free(&manifest);
    }
    if (ret == 0)
        point->manifest = manifest;
    return ret;
}

/* 1: read, or damaged; 0: it is not there any more. */
static int load(const struct vdisk_repository *repository, uint64_t number, struct vd_point *point,
                struct vdisk_error *err)
{
    *point = (struct vd_point){.number = number};
    snprintf(point->file, sizeof(point->file), "%06" PRIu64 MANIFEST_SUFFIX, number);
    int ret = read_manifest(repository, point, &point->damage);
    switch (-ret) {
    case 0:
        return 1;
    case ENOENT: /* somebody who reads without a lock is overtaken by a prune */
        return 0;
    case ENOMEM:
    case EMFILE:
    case ENFILE:
        return vd_err_copy(err, &point->damage); /* which tells nothing of the point */
    default:
        point->is_damaged = true;
        return 1;
    }
}

static int load_all(struct vdisk_repository *repository, const struct numbers *numbers,
                    struct vdisk_error *err)
{
    struct vd_point *points = vd_alloc_array(numbers->entries, sizeof(*points));
    if (!points)
        return vd_err_nomem(err, "the points of a repository");
    size_t entries = 0;
    int ret = 0;
    for (size_t i = 0; ret >= 0 && i < numbers->entries; i++) {
        ret = load(repository, numbers->at[i], &points[entries], err);
        if (ret > 0)
            entries++;
    }
    if (ret < 0) {
        vd_points_free(points, entries);
        return ret;
    }
    vd_points_free(repository->points, repository->point_entries);
    repository->points = points;
    repository->point_entries = entries;
    return 0;
}

int vd_repository_reload(struct vdisk_repository *repository, struct vdisk_error *err)
{
    struct numbers numbers = {0};
    int ret = find_numbers(repository->name, &numbers, err);
    if (ret == 0) {
        if (numbers.entries)
            qsort(numbers.at, numbers.entries, sizeof(*numbers.at), by_number);
        ret = load_all(repository, &numbers, err);
    }
    free(numbers.at);
    return ret;
}

struct vd_point *vd_repository_point_of(const struct vdisk_repository *repository, uint64_t number)
{
    size_t low = 0, high = repository->point_entries;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (repository->points[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == repository->point_entries || repository->points[low].number != number)
        return NULL;
    return &repository->points[low];
}

const struct vd_point *vd_point_parent(const struct vdisk_repository *repository,
                                       const struct vd_point *point)
{
    const struct vd_manifest *manifest = &point->manifest;
    if (point->is_damaged || !manifest->parent || manifest->parent >= point->number)
        return NULL;
    const struct vd_point *parent = vd_repository_point_of(repository, manifest->parent);
    if (!parent || parent->is_damaged || strcmp(parent->manifest.uuid, manifest->parent_uuid) != 0)
        return NULL;
    return parent;
}
