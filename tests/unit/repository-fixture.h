/* SPDX-License-Identifier: MIT */
/*
 * A directory of its own for each test, and in it "repo": a repository whose points are manifests
 * A repository of backups that is made by hand, with a plain array for what each point should show.
 * of small files.
 */
#ifndef REPOSITORY_FIXTURE_H
#define REPOSITORY_FIXTURE_H


                                              uint64_t parent, int64_t hours)
                                          .cluster_bytes = 4096u << below(depot, 5)};
                                          .size = depot->size,
                                         .flags = VDISK_GATE_BESIDE};
                                      .flags = VDISK_OPEN_CHECK | VDISK_OPEN_NO_BACKING,
                                      .flags = VDISK_OPEN_WRITE,
                                      .format = manifest->image_format};
                                      .format = recipe->format,
                                      .gate = &beside};
                                   .changed_bytes = depot->size,
                                   .created = depot->created,
                                   .is_compressed = recipe->is_compressed};
                                   .kind = recipe->kind,
                                   .parent = recipe->parent,
                                   .tracker = VDISK_TRACKER_COMPARE,
                                   .virtual_bytes = depot->size,
                                   const char *path)
                                  const char *image)
                               1000 + number % 1000, &vt_err));
                               VD_DIGEST_EXTENT_BYTES_MIN, bytes, &vt_err));
                            &vt_err));
                           .compares = recipe->parent != 0 && below(depot, 8) > 0,
                           .compresses = recipe->is_compressed,
                           .job = &job};
                           .range = vd_range(0, depot->size),
                           .target = target,
                           .workers = 2,
                     shown->size, read[i], shown->bytes[i]);
               sizeof(manifest.parent_uuid));
               vd_repository_point_of(depot->repository, recipe->parent)->manifest.uuid,
             folder && strlen(folder) < 40 ? folder : "/tmp");
            assert_int_equal(unlinkat(dirfd(folder), entry->d_name, 0), 0);
            continue;
            fail_msg("point %" PRIu64 ": byte %zu of %zu is %u and should be %u", shown->number, i,
            return i;
            uuid[i] = (uint8_t)(parent >> (8 * i));
            vd_repository_point_of(depot->repository, depot->points[i].number) != NULL;
        .bitmap = (char[]){"vdisk-0-0"},
        .created = hours * 3600,
        .image_format = (char[]){"qcow2"},
        .kind = parent ? VDISK_POINT_INCREMENTAL : VDISK_POINT_FULL,
        .number = number,
        .parent = parent,
        .source = (char[]){"/disks/a.qcow2"},
        .source_format = (char[]){"qcow2"},
        .tracker = parent ? VDISK_TRACKER_BITMAP : VDISK_TRACKER_NONE,
        .virtual_bytes = UINT64_C(1) << 20,
        const struct vd_point *parent = vd_repository_point_of(depot->repository, recipe->parent);
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
        create.backing = parent->manifest.image.name;
        create.backing_format = parent->manifest.image_format;
        create.compression = "zstd";
        depot->points[i].is_there =
        disk_resize(depot, 512 * (1 + (size_t)below(depot, DISK_BYTES_MAX / 512 - 1)));
        disk_resize(depot, 512 * (1 + (size_t)below(depot, size / 512)));
        disk_resize(depot, size);
        disk_write(depot, (size_t)1 << (6 + below(depot, 12)));
        fail_msg("%s is not there", name);
        for (int i = 0; i < 8; i++)
        free(depot->points[i].bytes);
        if (!depot->points[i].is_there)
        if (depot->repository->points[i].number == number)
        if (read[i] != shown->bytes[i])
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
        memcpy(manifest.parent_uuid,
        memset(depot->bytes + offset, (int)below(depot, 256), length);
        memset(depot->bytes + offset, 0, length);
        memset(depot->bytes + size, 0, depot->size - size);
        point_check(depot, &depot->points[i]);
        size_t size = depot->size;
        there++;
        uuid[i] = (uint8_t)(number >> (8 * i));
        vd_uuid_text(uuid, manifest.parent_uuid);
        vt_random_fill(&depot->random, depot->bytes + offset, length);
    (void)ftw;
    (void)kind;
    (void)st;
    (void)state;
    *depot = (struct depot){.random = {.state = seed}, .created = 1790000000};
    *shown = (struct shown){.size = depot->size, .is_there = true};
    /* Small extents, so that there are several. */
    DIR *folder = opendir(path);
    FILE *file = fopen(name, "r");
    FILE *file = fopen(name, "w");
    VT_OK(vd_copy_run(&copy, &vt_err));
    VT_OK(vd_digest_table_init(&manifest->image.table, vd_repository_digest_kind(depot->repository),
    VT_OK(vd_digest_table_init(&manifest.image.table, vd_repository_digest_kind(repository), 65536,
    VT_OK(vd_digests_make(file, &manifest->image.table, &job, 1, &vt_err));
    VT_OK(vd_image_open_on(file, &open, &image, &vt_err));
    VT_OK(vd_manifest_write(&manifest, depot->repository->uuid, json, &depot->repository->key,
    VT_OK(vd_manifest_write(&manifest, repository->uuid, path, &repository->key, &vt_err));
    VT_OK(vd_repository_open(REPO, access, NULL, &repository, &vt_err));
    VT_OK(vd_repository_open(depot->path, access, NULL, &depot->repository, &vt_err));
    VT_OK(vd_repository_reload(depot->repository, &vt_err));
    VT_OK(vd_storage_mem_open(depot->size, &file, &vt_err));
    VT_OK(vd_storage_open(path, NULL, &file, &vt_err));
    VT_OK(vd_storage_pwrite(file, depot->bytes, depot->size, 0, &vt_err));
    VT_OK(vd_storage_size(file, &bytes, &vt_err));
    VT_OK(vd_uuid_new(uuid, &vt_err));
    VT_OK(vdisk_image_check(image, VDISK_REPAIR_NONE, NULL, NULL, &result, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));
    VT_OK(vdisk_image_close(source, &vt_err));
    VT_OK(vdisk_image_close(target, &vt_err));
    VT_OK(vdisk_image_create(path, recipe->format, &create, &vt_err));
    VT_OK(vdisk_image_open(path, &open, &image, &vt_err));
    VT_OK(vdisk_image_open(path, &open, &target, &vt_err));
    VT_OK(vdisk_image_pread(image, read, shown->size, 0, &vt_err));
    VT_OK(vdisk_repository_open_point(depot->repository, index, &image, &vt_err));
    assert_int_equal(count_files(depot->path), 2 * there + 2); /* with the lock and its own file */
    assert_int_equal(depot->repository->point_entries, there);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(got, strlen(text));
    assert_int_equal(result.check_errors, 0);
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.leaks, 0);
    assert_int_equal(rmdir(depot->directory), 0);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(vdisk_image_size(image), shown->size);
    assert_non_null(file);
    assert_non_null(folder);
    assert_non_null(manifest.image.name);
    assert_non_null(mkdtemp(depot->directory));
    assert_non_null(name);
    assert_non_null(path);
    assert_string_equal(buf, text);
    assert_true(depot->point_entries < POINTS_MAX);
    assert_true(fputs(text, file) >= 0);
    bool is_compressed;
    bool is_there;
    char *name = vd_point_file_name(number, ".json", NULL);
    char *path = vd_repository_path(repository, name, NULL);
    char buf[64] = "";
    char directory[64]; /* of the test */
    char image[32], path[PATH_BYTES];
    char path[96];      /* of the repository */
    char path[PATH_BYTES], json[PATH_BYTES];
    char path[PATH_BYTES];
    closedir(folder);
    const char *folder = getenv("TMPDIR");
    const char *format; /* "qcow2", "qed" */
    const char *tmp = getenv("TMPDIR");
    const struct vd_manifest *manifest = &depot->repository->points[index].manifest;
    depot->bytes = vt_calloc(DISK_BYTES_MAX, 1);
    depot->created += 3600 * (int64_t)(1 + below(depot, 40));
    depot->repository = NULL;
    depot->size = DISK_BYTES_MAX / 2;
    depot->size = size;
    depot_close(depot);
    depot_open(depot, VD_REPOSITORY_ADD);
    else
    else if (vt_random_chance(&depot->random, 50))
    enum vdisk_point_kind kind;
    fail_msg("point %" PRIu64 " is not there", number);
    fclose(file);
    for (int i = 0; i < 8; i++)
    for (size_t i = 0; i < depot->point_entries; i++)
    for (size_t i = 0; i < depot->point_entries; i++) {
    for (size_t i = 0; i < depot->repository->point_entries; i++)
    for (size_t i = 0; i < shown->size && memcmp(read, shown->bytes, shown->size) != 0; i++)
    for (struct dirent *entry; (entry = readdir(folder));)
    for (uint64_t i = below(depot, 5); i; i--)
    free(depot->bytes);
    free(manifest.image.name);
    free(name);
    free(path);
    free(read);
    if (!file)
    if (below(depot, 4) == 0)
    if (below(depot, 4) == 0) { /* what nobody is told of */
    if (parent) {
    if (recipe->is_compressed)
    if (recipe->parent)
    if (recipe->parent) {
    if (size < depot->size)
    if (vt_random_chance(&depot->random, 20))
    image_fill(depot, path, recipe);
    image_is_sound(depot, manifest);
    image_shows(image, shown);
    int64_t created; /* of the last point */
    length = length < depot->size - offset ? length : depot->size - offset;
    manifest.image.name = strdup(image);
    manifest.image.name = vd_point_file_name(number, ".qcow2", NULL);
    manifest.image_format = strdup(recipe->format);
    manifest.source = strdup("/disks/disk");
    manifest.source_format = strdup("raw");
    manifest_digest(depot, &manifest, path);
    manifest_write(depot, recipe, shown->number, image);
    memcpy(shown->bytes, depot->bytes, depot->size);
    remove_directory(depot->path);
    return 0;
    return chdir("/") == 0 && nftw(work_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0 ? 0 : -1;
    return count;
    return image;
    return lstat(name, &st) == 0;
    return mkdtemp(work_dir) && chdir(work_dir) == 0 ? 0 : -1;
    return remove(path);
    return repository;
    return shown->number;
    return vt_random_below(&depot->random, limit);
    shown->bytes = vt_calloc(depot->size, 1);
    shown->number = entries ? depot->repository->points[entries - 1].number + 1 : 1;
    size_t count = 0;
    size_t entries = depot->repository->point_entries;
    size_t got = fread(buf, 1, sizeof(buf) - 1, file);
    size_t index = index_of(depot, shown->number);
    size_t length = 1 + (size_t)below(depot, bytes_max);
    size_t offset = (size_t)below(depot, depot->size);
    size_t point_entries;
    size_t size;
    size_t size;     /* of the disk as it is now */
    size_t there = 0;
    snprintf(depot->directory, sizeof(depot->directory), "%s/vdisk-depot-XXXXXX",
    snprintf(depot->path, sizeof(depot->path), "%s/repo", depot->directory);
    snprintf(image, sizeof(image), "%06" PRIu64 ".%s", shown->number, recipe->format);
    snprintf(json, sizeof(json), "%s/%06" PRIu64 ".json", depot->path, number);
    snprintf(path, sizeof(path), "%s/%s", depot->path, image);
    snprintf(path, sizeof(path), "%s/%s", depot->path, manifest->image.name);
    snprintf(work_dir, sizeof(work_dir), "%s/test-repository-XXXXXX", tmp ? tmp : "/tmp");
    struct shown *shown = &depot->points[depot->point_entries++];
    struct shown points[POINTS_MAX];
    struct stat st;
    struct vd_copy copy = {.source = source,
    struct vd_job job;
    struct vd_manifest manifest = {
    struct vd_manifest manifest = {.number = number,
    struct vd_storage *file;
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_create_options create = {.struct_bytes = sizeof(create),
    struct vdisk_image *image;
    struct vdisk_image *target, *source = disk_open(depot);
    struct vdisk_open_options open = {.struct_bytes = sizeof(open),
    struct vdisk_open_options open = {.struct_bytes = sizeof(open), .format = "raw"};
    struct vdisk_open_options open = {.struct_bytes = sizeof(open), .gate = &beside};
    struct vdisk_repository *repository = NULL;
    struct vdisk_repository *repository;
    struct vt_random random;
    uint64_t bytes;
    uint64_t number;
    uint64_t parent;    /* 0: none */
    uint8_t *bytes;  /* owned: DISK_BYTES_MAX, zeros behind the end of the disk */
    uint8_t *bytes; /* owned */
    uint8_t *read = vt_calloc(shown->size, 1);
    uint8_t uuid[VD_UUID_BYTES] = {0};
    uint8_t uuid[VD_UUID_BYTES];
    vd_digest_table_free(&manifest.image.table);
    vd_job_destroy(&job);
    vd_job_init(&job, NULL, NULL, 0);
    vd_manifest_free(&manifest);
    vd_storage_close(file);
    vd_uuid_text(uuid, manifest.uuid);
    vdisk_repository_close(depot->repository);
    }
    };
#define DISK_BYTES_MAX ((size_t)3 << 20)
#define PATH_BYTES     512u
#define POINTS_MAX     40u
#define REPO "repo"
#include "backup/copy.h"
#include "backup/digests.h"
#include "backup/point.h"
#include "backup/repository.h"
#include "drivers/alloc.h"
#include "drivers/check.h"
#include "drivers/random.h"
#include "util/mem.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
/* ---- Checks ---- */
/* ---- Points ---- */
/* ---- The disk ---- */
/* A manifest of a point, made a number of hours after 1970; a full one without a @parent. */
/* A point shows what it did when it was made, read with its digests, and as a plain image. */
/* All of the points that are there, and there is nothing else. */
/* An image in memory that shows the disk. */
/* How a point is made. */
/* Makes a point of the disk as it is now; returns its number. */
/* Names in the directory, "." and ".." left out. */
/* Something happens to it. */
/* The files of the repository, and its directory. */
/* The metadata of the image alone is sound. */
/* What a point shows: it was made, and is there or was taken away since. */
/* Which one is it in the list?  A point that is there. */
/* Who is there by the list of the repository? */
__attribute__((unused)) static bool exists(const char *name)
__attribute__((unused)) static struct vdisk_repository *open_repo(enum vd_repository_access access)
__attribute__((unused)) static void add_point(struct vdisk_repository *repository, uint64_t number,
__attribute__((unused)) static void assert_holds(const char *name, const char *text)
__attribute__((unused)) static void put(const char *name, const char *text)
static char work_dir[256];
static const struct vdisk_gate beside = {.struct_bytes = sizeof(beside),
static inline size_t count_files(const char *path)
static inline size_t index_of(const struct depot *depot, uint64_t number)
static inline struct vdisk_image *disk_open(const struct depot *depot)
static inline uint64_t below(struct depot *depot, uint64_t limit)
static inline uint64_t depot_add(struct depot *depot, const struct recipe *recipe)
static inline void depot_check(struct depot *depot)
static inline void depot_close(struct depot *depot)
static inline void depot_destroy(struct depot *depot)
static inline void depot_init(struct depot *depot, uint64_t seed)
static inline void depot_look(struct depot *depot)
static inline void depot_open(struct depot *depot, enum vd_repository_access access)
static inline void disk_change(struct depot *depot)
static inline void disk_resize(struct depot *depot, size_t size)
static inline void disk_write(struct depot *depot, size_t bytes_max)
static inline void image_fill(struct depot *depot, const char *path, const struct recipe *recipe)
static inline void image_is_sound(const struct depot *depot, const struct vd_manifest *manifest)
static inline void image_shows(struct vdisk_image *image, const struct shown *shown)
static inline void manifest_digest(struct depot *depot, struct vd_manifest *manifest,
static inline void manifest_write(struct depot *depot, const struct recipe *recipe, uint64_t number,
static inline void point_check(struct depot *depot, const struct shown *shown)
static inline void remove_directory(const char *path)
static int enter_work_dir(void **state)
static int leave_work_dir(void **state)
static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
struct depot {
struct recipe {
struct shown {
{
}
};
}

#endif
