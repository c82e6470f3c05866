/* SPDX-License-Identifier: MIT */
/*
 * A repository of backups that is made by hand, with a plain array for what each point should show.
 */
#ifndef DEPOT_FIXTURE_H
#define DEPOT_FIXTURE_H

#include "drivers/alloc.h"
#include "drivers/check.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "backup/copy.h"
#include "backup/digests.h"
#include "backup/point.h"
#include "drivers/random.h"
#include "util/mem.h"

#define DISK_BYTES_MAX ((size_t)3 << 20)
#define POINTS_MAX     40u
#define PATH_BYTES     512u

static const struct vdisk_gate beside = {.struct_bytes = sizeof(beside),
                                         .flags = VDISK_GATE_BESIDE};

/* What a point shows: it was made, and is there or was taken away since. */
struct shown {
    uint64_t number;
    size_t size;
    uint8_t *bytes; /* owned */
    bool is_there;
};

struct depot {
    struct vt_random random;
    char directory[64]; /* of the test */
    char path[96];      /* of the repository */
    struct vdisk_repository *repository;
    struct vd_seal_key key; /* or none */
    uint32_t cluster_bytes; /* of images; 0: of any size */
    int64_t created;        /* of the last point */
    size_t size;            /* of the disk as it is now */
    uint8_t *bytes;         /* owned: DISK_BYTES_MAX, zeros behind the end of the disk */
    struct shown points[POINTS_MAX];
    size_t point_entries;
};

static inline uint64_t below(struct depot *depot, uint64_t limit)
{
    return vt_random_below(&depot->random, limit);
}

static inline void depot_open(struct depot *depot, enum vd_repository_access access)
{
    VT_OK(vd_repository_open(depot->path, access, &depot->key, &depot->repository, &vt_err));
}

static inline void depot_close(struct depot *depot)
{
    vdisk_repository_close(depot->repository);
    depot->repository = NULL;
}

/* Half of them have a key. */
static inline void depot_init(struct depot *depot, uint64_t seed)
{
    *depot = (struct depot){.random = {.state = seed}, .created = 1790000000};
    const char *folder = getenv("TMPDIR");
    snprintf(depot->directory, sizeof(depot->directory), "%s/vdisk-depot-XXXXXX",
             folder && strlen(folder) < 40 ? folder : "/tmp");
    assert_non_null(mkdtemp(depot->directory));
    snprintf(depot->path, sizeof(depot->path), "%s/repo", depot->directory);
    depot->bytes = vt_calloc(DISK_BYTES_MAX, 1);
    depot->size = DISK_BYTES_MAX / 2;
    if (below(depot, 2))
        depot->key = (struct vd_seal_key){.bytes = "what nobody knows", .length = 17};
    depot_open(depot, VD_REPOSITORY_ADD);
}

/* The files of the repository, and its directory. */
static inline void remove_directory(const char *path)
{
    DIR *folder = opendir(path);
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            assert_int_equal(unlinkat(dirfd(folder), entry->d_name, 0), 0);
    closedir(folder);
    assert_int_equal(rmdir(path), 0);
}

static inline void depot_destroy(struct depot *depot)
{
    depot_close(depot);
    remove_directory(depot->path);
    assert_int_equal(rmdir(depot->directory), 0);
    for (size_t i = 0; i < depot->point_entries; i++)
        free(depot->points[i].bytes);
    free(depot->bytes);
}

/* ---- The disk ---- */

static inline void disk_resize(struct depot *depot, size_t size)
{
    if (size < depot->size)
        memset(depot->bytes + size, 0, depot->size - size);
    depot->size = size;
}

static inline void disk_write(struct depot *depot, size_t bytes_max)
{
    size_t offset = (size_t)below(depot, depot->size);
    size_t length = 1 + (size_t)below(depot, bytes_max);
    length = length < depot->size - offset ? length : depot->size - offset;
    if (vt_random_chance(&depot->random, 20))
        memset(depot->bytes + offset, 0, length);
    else if (vt_random_chance(&depot->random, 50))
        memset(depot->bytes + offset, (int)below(depot, 256), length);
    else
        vt_random_fill(&depot->random, depot->bytes + offset, length);
}

/* Something happens to it. */
static inline void disk_change(struct depot *depot)
{
    for (uint64_t i = below(depot, 5); i; i--)
        disk_write(depot, (size_t)1 << (6 + below(depot, 12)));
    if (below(depot, 4) == 0)
        disk_resize(depot, 512 * (1 + (size_t)below(depot, DISK_BYTES_MAX / 512 - 1)));
    if (below(depot, 4) == 0) { /* what nobody is told of */
        size_t size = depot->size;
        disk_resize(depot, 512 * (1 + (size_t)below(depot, size / 512)));
        disk_resize(depot, size);
    }
}

/* ---- Points ---- */

/* How a point is made. */
struct recipe {
    enum vdisk_point_kind kind;
    uint64_t parent;    /* 0: none */
    const char *format; /* "qcow2", "qed" */
    bool is_compressed;
    bool is_whole; /* has all of the disk, on a parent or not */
};

/* An image in memory that shows the disk. */
static inline struct vdisk_image *disk_open(const struct depot *depot)
{
    struct vdisk_open_options open = {.struct_bytes = sizeof(open), .format = "raw"};
    struct vd_storage *file;
    struct vdisk_image *image;
    VT_OK(vd_storage_mem_open(depot->size, &file, &vt_err));
    VT_OK(vd_storage_pwrite(file, depot->bytes, depot->size, 0, &vt_err));
    VT_OK(vd_image_open_on(file, &open, &image, &vt_err));
    return image;
}

static inline void image_fill(struct depot *depot, const char *path, const struct recipe *recipe)
{
    struct vdisk_open_options open = {.struct_bytes = sizeof(open),
                                      .flags = VDISK_OPEN_WRITE,
                                      .format = recipe->format,
                                      .gate = &beside};
    struct vdisk_image *target, *source = disk_open(depot);
    struct vd_job job;
    vd_job_init(&job, NULL, NULL, 0);
    VT_OK(vdisk_image_open(path, &open, &target, &vt_err));
    struct vd_copy copy = {.source = source,
                           .target = target,
                           .range = vd_range(0, depot->size),
                           .compares = recipe->parent != 0 && !recipe->is_whole,
                           .compresses = recipe->is_compressed,
                           .workers = 2,
                           .job = &job};
    VT_OK(vd_copy_run(&copy, &vt_err));
    VT_OK(vdisk_image_close(target, &vt_err));
    VT_OK(vdisk_image_close(source, &vt_err));
    vd_job_destroy(&job);
}

static inline void manifest_digest(struct depot *depot, struct vd_manifest *manifest,
                                   const char *path)
{
    struct vd_storage *file;
    struct vd_job job;
    uint64_t bytes;
    vd_job_init(&job, NULL, NULL, 0);
    VT_OK(vd_storage_open(path, NULL, &file, &vt_err));
    VT_OK(vd_storage_size(file, &bytes, &vt_err));
    /* Small extents, so that there are several. */
    VT_OK(vd_digest_table_init(&manifest->image.table, vd_repository_digest_kind(depot->repository),
                               VD_DIGEST_EXTENT_BYTES_MIN, bytes, &vt_err));
    VT_OK(vd_digests_make(file, &manifest->image.table, &job, 1, &vt_err));
    vd_storage_close(file);
    vd_job_destroy(&job);
}

/* Which one is it in the list?  A point that is there. */
static inline size_t index_of(const struct depot *depot, uint64_t number)
{
    for (size_t i = 0; i < depot->repository->point_entries; i++)
        if (depot->repository->points[i].number == number)
            return i;
    fail_msg("point %" PRIu64 " is not there", number);
    return 0;
}

static inline void manifest_write(struct depot *depot, const struct recipe *recipe, uint64_t number,
                                  const char *image)
{
    char path[PATH_BYTES], json[PATH_BYTES];
    uint8_t uuid[VD_UUID_BYTES];
    struct vd_manifest manifest = {.number = number,
                                   .kind = recipe->kind,
                                   .tracker = VDISK_TRACKER_COMPARE,
                                   .parent = recipe->parent,
                                   .created = depot->created,
                                   .virtual_bytes = depot->size,
                                   .changed_bytes = depot->size,
                                   .is_compressed = recipe->is_compressed};
    snprintf(path, sizeof(path), "%s/%s", depot->path, image);
    snprintf(json, sizeof(json), "%s/%06" PRIu64 ".json", depot->path, number);
    VT_OK(vd_uuid_new(uuid, &vt_err));
    vd_uuid_text(uuid, manifest.uuid);
    if (recipe->parent)
        memcpy(manifest.parent_uuid,
               vd_repository_point_of(depot->repository, recipe->parent)->manifest.uuid,
               sizeof(manifest.parent_uuid));
    manifest.image.name = strdup(image);
    manifest.image_format = strdup(recipe->format);
    manifest.source = strdup("/disks/disk");
    manifest.source_format = strdup("raw");
    manifest_digest(depot, &manifest, path);
    VT_OK(vd_manifest_write(&manifest, depot->repository->uuid, json, &depot->repository->key,
                            &vt_err));
    vd_manifest_free(&manifest);
}

/* Makes a point of the disk as it is now; returns its number. */
static inline uint64_t depot_add(struct depot *depot, const struct recipe *recipe)
{
    assert_true(depot->point_entries < POINTS_MAX);
    struct shown *shown = &depot->points[depot->point_entries++];
    *shown = (struct shown){.size = depot->size, .is_there = true};
    shown->bytes = vt_calloc(depot->size, 1);
    memcpy(shown->bytes, depot->bytes, depot->size);
    size_t entries = depot->repository->point_entries;
    shown->number = entries ? depot->repository->points[entries - 1].number + 1 : 1;

    char image[32], path[PATH_BYTES];
    snprintf(image, sizeof(image), "%06" PRIu64 ".%s", shown->number, recipe->format);
    snprintf(path, sizeof(path), "%s/%s", depot->path, image);
    struct vdisk_create_options create = {
        .struct_bytes = sizeof(create),
        .size = depot->size,
        .cluster_bytes = depot->cluster_bytes ? depot->cluster_bytes : 4096u << below(depot, 5)};
    if (recipe->is_compressed)
        create.compression = "zstd";
    if (recipe->parent) {
        const struct vd_point *parent = vd_repository_point_of(depot->repository, recipe->parent);
        create.backing = parent->manifest.image.name;
        create.backing_format = parent->manifest.image_format;
    }
    VT_OK(vdisk_image_create(path, recipe->format, &create, &vt_err));
    image_fill(depot, path, recipe);
    depot->created += 3600 * (int64_t)(1 + below(depot, 40));
    manifest_write(depot, recipe, shown->number, image);
    VT_OK(vd_repository_reload(depot->repository, &vt_err));
    return shown->number;
}

/* ---- Checks ---- */

static inline void image_shows(struct vdisk_image *image, const struct shown *shown)
{
    uint8_t *read = vt_calloc(shown->size, 1);
    assert_int_equal(vdisk_image_size(image), shown->size);
    VT_OK(vdisk_image_pread(image, read, shown->size, 0, &vt_err));
    for (size_t i = 0; i < shown->size && memcmp(read, shown->bytes, shown->size) != 0; i++)
        if (read[i] != shown->bytes[i])
            fail_msg("point %" PRIu64 ": byte %zu of %zu is %u and should be %u", shown->number, i,
                     shown->size, read[i], shown->bytes[i]);
    free(read);
}

/* The metadata of the image alone is sound. */
static inline void image_is_sound(const struct depot *depot, const struct vd_manifest *manifest)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof(path), "%s/%s", depot->path, manifest->image.name);
    struct vdisk_open_options open = {.struct_bytes = sizeof(open),
                                      .flags = VDISK_OPEN_CHECK | VDISK_OPEN_NO_BACKING,
                                      .format = manifest->image_format};
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_image *image;
    VT_OK(vdisk_image_open(path, &open, &image, &vt_err));
    VT_OK(vdisk_image_check(image, VDISK_REPAIR_NONE, NULL, NULL, &result, &vt_err));
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    assert_int_equal(result.check_errors, 0);
    VT_OK(vdisk_image_close(image, &vt_err));
}

/* Names in the directory, "." and ".." left out. */
static inline size_t count_files(const char *path)
{
    size_t count = 0;
    DIR *folder = opendir(path);
    assert_non_null(folder);
    for (struct dirent *entry; (entry = readdir(folder));)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(folder);
    return count;
}

/* A point shows what it did when it was made, read with its digests, and as a plain image. */
static inline void point_check(struct depot *depot, const struct shown *shown)
{
    size_t index = index_of(depot, shown->number);
    const struct vd_manifest *manifest = &depot->repository->points[index].manifest;
    struct vdisk_image *image;
    VT_OK(vdisk_repository_open_point(depot->repository, index, &image, &vt_err));
    image_shows(image, shown);
    VT_OK(vdisk_image_close(image, &vt_err));

    char path[PATH_BYTES];
    snprintf(path, sizeof(path), "%s/%s", depot->path, manifest->image.name);
    struct vdisk_open_options open = {.struct_bytes = sizeof(open), .gate = &beside};
    VT_OK(vdisk_image_open(path, &open, &image, &vt_err));
    image_shows(image, shown);
    VT_OK(vdisk_image_close(image, &vt_err));
    image_is_sound(depot, manifest);
}

/* All of the points that are there, and there is nothing else. */
static inline void depot_check(struct depot *depot)
{
    size_t there = 0;
    for (size_t i = 0; i < depot->point_entries; i++) {
        if (!depot->points[i].is_there)
            continue;
        point_check(depot, &depot->points[i]);
        there++;
    }
    assert_int_equal(depot->repository->point_entries, there);
    assert_int_equal(count_files(depot->path), 2 * there + 2); /* with the lock and its own file */
}

/* Who is there by the list of the repository? */
static inline void depot_look(struct depot *depot)
{
    for (size_t i = 0; i < depot->point_entries; i++)
        depot->points[i].is_there =
            vd_repository_point_of(depot->repository, depot->points[i].number) != NULL;
}

#endif
