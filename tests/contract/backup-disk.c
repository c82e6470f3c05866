/* SPDX-License-Identifier: MIT */
#include "backup-disk.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backup/backup.h"
#include "drivers/alloc.h"

static const struct vdisk_gate beside = {.struct_bytes = sizeof(beside),
                                         .flags = VDISK_GATE_BESIDE};

const char *vb_path(const struct vb *vb, const char *file)
{
    static char paths[8][512];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof(paths[0]), "%s/%s", vb->folder, file);
    return path;
}

/* ---- Contents ---- */

static struct vb_content new_content(uint64_t size)
{
    return (struct vb_content){.size = size, .bytes = vt_calloc(VB_DISK_BYTES_MAX, 1)};
}

static struct vb_content copy_of(const struct vb_content *from)
{
    struct vb_content to = new_content(from->size);
    memcpy(to.bytes, from->bytes, VB_DISK_BYTES_MAX);
    return to;
}

static void compare(struct vdisk_image *image, const struct vb_content *content, const char *what)
{
    uint8_t *bytes = vt_calloc(VB_DISK_BYTES_MAX, 1);
    assert_int_equal(vdisk_image_size(image), content->size);
    if (content->size)
        VT_OK(vdisk_image_pread(image, bytes, (size_t)content->size, 0, &vt_err));
    for (uint64_t at = 0; at < content->size; at++)
        if (bytes[at] != content->bytes[at])
            fail_msg("%s: byte %" PRIu64 " of %" PRIu64 " is 0x%02x and not 0x%02x", what, at,
                     content->size, bytes[at], content->bytes[at]);
    free(bytes);
}

/* ---- The disk ---- */

static void create(const struct vb *vb, const char *file, const char *format, uint64_t size,
                   const char *backing)
{
    struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                           .size = size,
                                           .backing = backing,
                                           .backing_format = backing ? "qcow2" : NULL};
    if (strcmp(format, "add-cow") == 0)
        options.data_file = "source.data";
    VT_OK(vdisk_image_create(vb_path(vb, file), format, &options, &vt_err));
}

void vb_init(struct vb *vb, const char *format, uint64_t size, uint64_t seed)
{
    const char *temporary = getenv("TMPDIR");
    *vb = (struct vb){.random = {.state = seed},
                      .format = format,
                      .now = new_content(size),
                      .stretch_bytes = 3 * 65536};
    snprintf(vb->folder, sizeof(vb->folder), "%s/vdisk-backup-XXXXXX",
             temporary && strlen(temporary) < 80 ? temporary : "/tmp");
    assert_non_null(mkdtemp(vb->folder));
    snprintf(vb->source, sizeof(vb->source), "%s/source", vb->folder);
    snprintf(vb->repository, sizeof(vb->repository), "%s/repository", vb->folder);
    if (strcmp(format, "add-cow") != 0) {
        create(vb, "source", format, size, NULL);
        return;
    }
    struct vb base = *vb;
    base.format = "qcow2";
    snprintf(base.source, sizeof(base.source), "%s/base", vb->folder);
    create(vb, "base", "qcow2", size, NULL);
    for (unsigned i = 0; i < 3; i++)
        vb_write_once(&base, vt_random_below(&base.random, size), 150000);
    vb->random = base.random;
    create(vb, "source", format, size, "base");
}

static void remove_files(const char *folder)
{
    DIR *directory = opendir(folder);
    const struct dirent *entry;
    while (directory && (entry = readdir(directory))) {
        char path[512];
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlink(path);
    }
    if (directory)
        closedir(directory);
    rmdir(folder);
}

void vb_destroy(struct vb *vb)
{
    remove_files(vb->repository);
    remove_files(vb->folder);
    free(vb->now.bytes);
    for (unsigned i = 0; i < vb->snapshot_entries; i++)
        free(vb->snapshots[i].bytes);
    for (unsigned i = 0; i < vb->point_entries; i++)
        free(vb->points[i].content.bytes);
    assert_int_not_equal(access(vb->folder, F_OK), 0);
    *vb = (struct vb){0};
}

struct vdisk_image *vb_open(const struct vb *vb, uint32_t flags)
{
    struct vdisk_open_options open = {
        .struct_bytes = sizeof(open), .flags = flags, .format = vb->format, .gate = &beside};
    struct vdisk_image *image;
    VT_OK(vdisk_image_open(vb->source, &open, &image, &vt_err));
    return image;
}

void vb_close(struct vdisk_image *image)
{
    VT_OK(vdisk_image_close(image, &vt_err));
}

/* Cut to the disk. */
static uint64_t within(const struct vb *vb, uint64_t offset, uint64_t length)
{
    if (offset >= vb->now.size)
        return 0;
    return length < vb->now.size - offset ? length : vb->now.size - offset;
}

void vb_write(struct vb *vb, struct vdisk_image *image, uint64_t offset, uint64_t length)
{
    length = within(vb, offset, length);
    if (!length)
        return;
    vt_random_fill(&vb->random, vb->now.bytes + offset, (size_t)length);
    VT_OK(vdisk_image_pwrite(image, vb->now.bytes + offset, (size_t)length, offset, &vt_err));
}

void vb_zero(struct vb *vb, struct vdisk_image *image, uint64_t offset, uint64_t length)
{
    length = within(vb, offset, length);
    if (!length)
        return;
    memset(vb->now.bytes + offset, 0, (size_t)length);
    VT_OK(vdisk_image_write_zeroes(image, offset, length, 0, &vt_err));
}

void vb_discard(struct vb *vb, struct vdisk_image *image, uint64_t offset, uint64_t length)
{
    length = within(vb, offset, length);
    if (!length)
        return;
    VT_OK(vdisk_image_discard(image, offset, length, &vt_err));
    VT_OK(vdisk_image_pread(image, vb->now.bytes + offset, (size_t)length, offset, &vt_err));
}

void vb_resize(struct vb *vb, struct vdisk_image *image, uint64_t size)
{
    VT_OK(vdisk_image_resize(image, size, VDISK_PREALLOCATION_OFF, &vt_err));
    if (size < vb->now.size)
        memset(vb->now.bytes + size, 0, (size_t)(vb->now.size - size));
    vb->now.size = size;
}

void vb_snapshot(struct vb *vb, struct vdisk_image *image)
{
    assert_true(vb->snapshot_entries < VB_SNAPSHOTS_MAX);
    VT_OK(vdisk_image_snapshot_create(image, "snapshot", &vt_err));
    vb->snapshots[vb->snapshot_entries++] = copy_of(&vb->now);
}

void vb_apply(struct vb *vb, struct vdisk_image *image, unsigned index)
{
    VT_OK(vdisk_image_snapshot_apply(image, index, &vt_err));
    free(vb->now.bytes);
    vb->now = copy_of(&vb->snapshots[index]);
}

/* ---- At random ---- */

/* Seldom aligned to anything but 512, and sometimes to all. */
static uint64_t draw_size(struct vb *vb)
{
    uint64_t size = 512 * (1 + vt_random_below(&vb->random, VB_DISK_BYTES_MAX / 512));
    return vt_random_chance(&vb->random, 30) ? (size + 65535) / 65536 * 65536 : size;
}

static bool can_resize(const struct vb *vb)
{
    return strcmp(vb->format, "add-cow") != 0;
}

static void one_operation(struct vb *vb, struct vdisk_image *image)
{
    uint64_t offset = vt_random_below(&vb->random, vb->now.size);
    uint64_t length =
        1 + vt_random_below(&vb->random, 1u << (4 + vt_random_below(&vb->random, 15)));
    bool has_snapshots = strcmp(vb->format, "qcow2") == 0;
    unsigned what = (unsigned)vt_random_below(&vb->random, 100);
    if (what < 60)
        vb_write(vb, image, offset, length);
    else if (what < 75)
        vb_zero(vb, image, offset, length * 4);
    else if (what < 90)
        vb_discard(vb, image, offset / 65536 * 65536, (1 + length / 65536) * 65536);
    else if (what < 95 && can_resize(vb))
        vb_resize(vb, image, draw_size(vb));
    else if (what < 97 && has_snapshots && vb->snapshot_entries < VB_SNAPSHOTS_MAX)
        vb_snapshot(vb, image);
    else if (what >= 97 && vb->snapshot_entries)
        vb_apply(vb, image, (unsigned)vt_random_below(&vb->random, vb->snapshot_entries));
}

void vb_session(struct vb *vb, unsigned operations)
{
    struct vdisk_image *image = vb_open(vb, VDISK_OPEN_WRITE);
    while (operations--)
        one_operation(vb, image);
    vb_close(image);
}

void vb_write_once(struct vb *vb, uint64_t offset, uint64_t length)
{
    struct vdisk_image *image = vb_open(vb, VDISK_OPEN_WRITE);
    vb_write(vb, image, offset, length);
    vb_close(image);
}

/* ---- Backups ---- */

struct vdisk_backup_options vb_options(const struct vb *vb, uint32_t flags)
{
    return (struct vdisk_backup_options){
        .struct_bytes = sizeof(struct vdisk_backup_options),
        .flags = flags | (vb->is_compressed ? VDISK_BACKUP_COMPRESS : 0),
        .source = vb->source,
        .source_format = vb->format,
        .repository = vb->repository,
        .gate = &beside,
    };
}

void vb_record(struct vb *vb, uint64_t number)
{
    assert_true(vb->point_entries < VB_POINTS_MAX);
    vb->points[vb->point_entries++] =
        (struct vb_point){.number = number, .content = copy_of(&vb->now)};
}

int vb_run(const struct vb *vb, const struct vdisk_backup_options *options,
           struct vdisk_backup_result *result, struct vdisk_error *err)
{
    return vd_backup_make(options, vb->stretch_bytes, result, err);
}

struct vdisk_backup_result vb_backup_with(struct vb *vb, const struct vdisk_backup_options *options)
{
    struct vdisk_backup_result result = {.struct_bytes = sizeof(result)};
    VT_OK(vb_run(vb, options, &result, &vt_err));
    assert_int_equal(result.virtual_bytes, vb->now.size);
    vb_record(vb, result.point);
    return result;
}

struct vdisk_backup_result vb_backup(struct vb *vb, uint32_t flags)
{
    struct vdisk_backup_options options = vb_options(vb, flags);
    return vb_backup_with(vb, &options);
}

static struct vdisk_repository *open_repository(const struct vb *vb, const void *key,
                                                size_t key_bytes)
{
    struct vdisk_repository_options options = {
        .struct_bytes = sizeof(options), .key = key, .key_bytes = key_bytes};
    struct vdisk_repository *repository;
    VT_OK(vdisk_repository_open(vb->repository, &options, &repository, &vt_err));
    return repository;
}

/* Nothing is known of repositories here. */
static void verify_alone(const struct vb *vb, const struct vb_point *point,
                         const struct vdisk_point_info *info)
{
    char path[512];
    struct vdisk_open_options open = {.struct_bytes = sizeof(open), .gate = &beside};
    struct vdisk_image *image;
    snprintf(path, sizeof(path), "%s/%s", vb->repository, info->image);
    VT_OK(vdisk_image_open(path, &open, &image, &vt_err));
    compare(image, &point->content, path);
    vb_close(image);
}

static void check_alone(const struct vb *vb, const struct vdisk_point_info *info)
{
    char path[512];
    struct vdisk_open_options open = {
        .struct_bytes = sizeof(open), .flags = VDISK_OPEN_CHECK, .gate = &beside};
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_image *image;
    snprintf(path, sizeof(path), "%s/%s", vb->repository, info->image);
    VT_OK(vdisk_image_open(path, &open, &image, &vt_err));
    VT_OK(vdisk_image_check(image, VDISK_REPAIR_NONE, NULL, NULL, &result, &vt_err));
    assert_int_equal(result.corruptions, 0);
    assert_int_equal(result.check_errors, 0);
    vb_close(image);
}

static void verify_point(const struct vb *vb, struct vdisk_repository *repository, unsigned index)
{
    const struct vb_point *point = &vb->points[index];
    struct vdisk_point_info info = {.struct_bytes = sizeof(info)};
    struct vdisk_image *image;
    char number[24];
    size_t found;
    snprintf(number, sizeof(number), "%" PRIu64, point->number);
    VT_OK(vdisk_repository_find(repository, number, &found, &vt_err));
    VT_OK(vdisk_repository_point(repository, found, &info, &vt_err));
    assert_int_equal(info.flags & ~(uint32_t)VDISK_POINT_COMPRESSED, 0);
    assert_int_equal(info.virtual_bytes, point->content.size);
    VT_OK(vdisk_repository_open_point(repository, found, &image, &vt_err));
    compare(image, &point->content, info.image);
    vb_close(image);
    verify_alone(vb, point, &info);
    check_alone(vb, &info);
}

void vb_verify_point(const struct vb *vb, unsigned index, const void *key, size_t key_bytes)
{
    struct vdisk_repository *repository = open_repository(vb, key, key_bytes);
    verify_point(vb, repository, index);
    vdisk_repository_close(repository);
}

void vb_verify(const struct vb *vb)
{
    struct vdisk_repository *repository = open_repository(vb, NULL, 0);
    assert_int_equal(vdisk_repository_points(repository), vb->point_entries);
    for (unsigned i = 0; i < vb->point_entries; i++)
        verify_point(vb, repository, i);
    struct vdisk_verify_result result = {.struct_bytes = sizeof(result)};
    VT_OK(vdisk_repository_verify(repository, NULL, &result, &vt_err));
    assert_int_equal(result.damages, 0);
    assert_int_equal(result.points, vb->point_entries);
    vdisk_repository_close(repository);
}

size_t vb_count(const struct vb *vb)
{
    struct vdisk_repository *repository;
    int ret = vdisk_repository_open(vb->repository, NULL, &repository, NULL);
    if (ret == -ENOENT)
        return 0;
    assert_int_equal(ret, 0);
    size_t count = vdisk_repository_points(repository);
    vdisk_repository_close(repository);
    return count;
}

bool vb_has(const struct vb *vb, const char *file)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", vb->repository, file);
    return access(path, F_OK) == 0;
}
