/* SPDX-License-Identifier: MIT */
/* Points with images, in the repository of repository-fixture.h. */
#ifndef POINTS_FIXTURE_H
#define POINTS_FIXTURE_H

#include "repository-fixture.h"

#include "backup/point.h"
#include "drivers/random.h"

#define DISK_BYTES  (UINT64_C(1) << 20)
#define POINT_BYTES 65536u /* of data that a point has, at most */

/* What a new point is to be, beside what there is by default. */
struct point_plan {
    uint64_t number;
    uint64_t parent;
    const char *format;   /* default: qcow2 */
    uint64_t disk_bytes;  /* default: DISK_BYTES */
    const char *backing;  /* what the image names; default: the parent's image */
    uint64_t parent_seed; /* of the uuid; default: the parent */
    bool has_no_backing;
};

static inline void seed_uuid(uint64_t seed, char text[VD_UUID_TEXT_BYTES])
{
    uint8_t uuid[VD_UUID_BYTES] = {0};
    memcpy(uuid, &seed, sizeof(seed));
    vd_uuid_text(uuid, text);
}

/* "repo/000003.SUFFIX" in @path. */
static inline char *point_path(uint64_t number, const char *suffix, char path[64])
{
    snprintf(path, 64, REPO "/%06llu.%s", (unsigned long long)number, suffix);
    return path;
}

static inline const char *plan_format(const struct point_plan *plan)
{
    return plan->format ? plan->format : "qcow2";
}

static inline void make_image(const struct point_plan *plan)
{
    char path[64], backing[64];
    struct vdisk_create_options create = {
        .struct_bytes = sizeof(create),
        .size = plan->disk_bytes ? plan->disk_bytes : DISK_BYTES,
        .flags = VDISK_CREATE_NO_CHECK,
    };
    if (plan->parent && !plan->has_no_backing) {
        snprintf(backing, sizeof(backing), "%06llu.qcow2", (unsigned long long)plan->parent);
        create.backing = plan->backing ? plan->backing : backing;
        create.backing_format = "qcow2";
    }
    VT_OK(vdisk_image_create(point_path(plan->number, "qcow2", path), plan_format(plan), &create,
                             &vt_err));
}

/* The digests of the file as it is. */
static inline void make_table(const char *path, struct vd_digest_table *table)
{
    static uint8_t buf[POINT_BYTES];
    struct vd_storage *file;
    uint64_t size;
    VT_OK(vd_storage_open(path, NULL, &file, &vt_err));
    VT_OK(vd_storage_size(file, &size, &vt_err));
    VT_OK(vd_digest_table_init(table, VD_DIGEST_XXH128, sizeof(buf), size, &vt_err));
    for (uint64_t i = 0; i < table->entries; i++) {
        size_t length = (size_t)vd_min(sizeof(buf), size - i * sizeof(buf));
        VT_OK(vd_storage_pread(file, buf, length, i * sizeof(buf), &vt_err));
        VT_OK(vd_digest(VD_DIGEST_XXH128, buf, length, vd_digest_at(table, i), &vt_err));
    }
    vd_storage_close(file);
}

/* Makes a point of the image that is there. */
static inline void make_manifest(const struct vdisk_repository *repository,
                                 const struct point_plan *plan)
{
    char path[64];
    struct vd_manifest manifest = {
        .number = plan->number,
        .kind = plan->parent ? VDISK_POINT_INCREMENTAL : VDISK_POINT_FULL,
        .tracker = plan->parent ? VDISK_TRACKER_COMPARE : VDISK_TRACKER_NONE,
        .parent = plan->parent,
        .created = (int64_t)plan->number,
        .virtual_bytes = plan->disk_bytes ? plan->disk_bytes : DISK_BYTES,
        .image.name = vd_point_file_name(plan->number, ".qcow2", NULL),
        .image_format = strdup(plan_format(plan)),
        .source = strdup("/disk.raw"),
        .source_format = strdup("raw"),
    };
    seed_uuid(plan->number, manifest.uuid);
    if (plan->parent)
        seed_uuid(plan->parent_seed ? plan->parent_seed : plan->parent, manifest.parent_uuid);
    make_table(point_path(plan->number, "qcow2", path), &manifest.image.table);
    VT_OK(vd_manifest_write(&manifest, repository->uuid, point_path(plan->number, "json", path),
                            &repository->key, &vt_err));
    vd_manifest_free(&manifest);
}

/* Writes at random, to the image and to @disk, DISK_BYTES. */
static inline void scribble(uint64_t number, struct vt_random *random, uint8_t *disk)
{
    char path[64];
    struct vdisk_gate gate = {
        .struct_bytes = sizeof(gate), .flags = VDISK_GATE_BESIDE, .images_max = 256};
    struct vdisk_open_options options = {.struct_bytes = sizeof(options),
                                         .flags = VDISK_OPEN_WRITE,
                                         .format = "qcow2",
                                         .gate = &gate};
    struct vdisk_image *image;
    VT_OK(vdisk_image_open(point_path(number, "qcow2", path), &options, &image, &vt_err));
    for (int i = 0; i < 3; i++) {
        size_t length = (size_t)(512 * (1 + vt_random_below(random, 100)));
        uint64_t offset = 512 * vt_random_below(random, (DISK_BYTES - length) / 512);
        vt_random_fill(random, disk + offset, length);
        VT_OK(vdisk_image_pwrite(image, disk + offset, length, offset, &vt_err));
    }
    VT_OK(vdisk_image_close(image, &vt_err));
}

/* One point on another, the first a full one: @disks gets what each shows, DISK_BYTES a point. */
static inline struct vdisk_repository *make_points(unsigned points, uint8_t *disks)
{
    struct vt_random random = {.state = 1};
    struct vdisk_repository *repository = open_repo(VD_REPOSITORY_ADD);
    for (unsigned i = 0; i < points; i++) {
        struct point_plan plan = {.number = i + 1, .parent = i};
        uint8_t *disk = disks + i * DISK_BYTES;
        memset(disk, 0, DISK_BYTES);
        if (i)
            memcpy(disk, disk - DISK_BYTES, DISK_BYTES);
        make_image(&plan);
        scribble(plan.number, &random, disk);
        make_manifest(repository, &plan);
    }
    VT_OK(vd_repository_reload(repository, &vt_err));
    return repository;
}

/* Inverts a byte of the image of a point. */
static inline void alter(uint64_t number, uint64_t offset)
{
    char path[64];
    uint8_t byte;
    int fd = open(point_path(number, "qcow2", path), O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte = (uint8_t)~byte;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    assert_int_equal(close(fd), 0);
}

static inline uint64_t file_bytes(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_size;
}

#endif
