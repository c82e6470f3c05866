/* SPDX-License-Identifier: MIT */
/*
 * Backups as far as trackers see them: a source in "repository-fixture.h"'s folder, and points with
 * images that hold what the source did.
 */
#ifndef TRACKER_FIXTURE_H
#define TRACKER_FIXTURE_H

#include "repository-fixture.h"

#include "backup/digests.h"
#include "backup/partial.h"
#include "backup/tracker.h"

#define GRANULARITY_BITS 16u

/* One backup. */
struct attempt {
    struct vdisk_backup_options options;
    struct vdisk_repository *repository;
    struct vdisk_image *source;
    struct vd_tracker *tracker;
    struct vd_manifest manifest; /* of the new point */
    struct vd_bitmap_budget budget;
};

static const struct vdisk_gate any_gate = {.struct_bytes = sizeof(any_gate),
                                           .flags = VDISK_GATE_ANY};

static inline struct vdisk_image *open_image(const char *name, uint32_t flags)
{
    struct vdisk_open_options options = {
        .struct_bytes = sizeof(options), .flags = flags, .gate = &any_gate};
    struct vdisk_image *image;
    VT_OK(vdisk_image_open(name, &options, &image, &vt_err));
    return image;
}

static inline void close_image(struct vdisk_image *image)
{
    VT_OK(vdisk_image_close(image, &vt_err));
}

__attribute__((unused)) static void make_image(const char *name, const char *format, uint64_t size,
                                               const char *backing)
{
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options), .size = size, .backing = backing, .gate = &any_gate};
    char raw[64];
    snprintf(raw, sizeof(raw), "%s.raw", name);
    if (backing)
        options.backing_format = "raw";
    if (strcmp(format, "add-cow") == 0)
        options.data_file = raw;
    VT_OK(vdisk_image_create(name, format, &options, &vt_err));
}

/* @length bytes of @byte at @offset. */
__attribute__((unused)) static void write_image(const char *name, uint8_t byte, uint64_t offset,
                                                size_t length)
{
    struct vdisk_image *image = open_image(name, VDISK_OPEN_WRITE);
    uint8_t *bytes = malloc(length);
    assert_non_null(bytes);
    memset(bytes, byte, length);
    VT_OK(vdisk_image_pwrite(image, bytes, length, offset, &vt_err));
    free(bytes);
    close_image(image);
}

/* --- a backup, step by step --------------------------------------------------------------------
 */

static inline const struct vd_manifest *last_point(const struct vdisk_repository *repository,
                                                   bool is_full)
{
    for (size_t i = repository->point_entries; i > 0; i--) {
        const struct vd_manifest *manifest = &repository->points[i - 1].manifest;
        assert_false(repository->points[i - 1].is_damaged);
        if (!is_full || manifest->kind == VDISK_POINT_FULL)
            return manifest;
    }
    return NULL;
}

/* Opens all; @resumed: UUID of an unfinished one, or NULL.  The flags tell the kind. */
static inline void attempt_open(struct attempt *attempt, const char *name, const char *resumed)
{
    struct vdisk_backup_options *options = &attempt->options;
    struct vd_manifest *manifest = &attempt->manifest;
    uint8_t uuid[VD_UUID_BYTES];
    options->struct_bytes = sizeof(*options);
    options->source = name;
    attempt->repository = open_repo(VD_REPOSITORY_ADD);
    attempt->source = open_image(name, 0);
    const struct vd_manifest *latest = last_point(attempt->repository, false);
    enum vdisk_tracker kind = vd_tracker_choose(options, latest, attempt->source);
    if (vd_tracker_wants_write(kind)) {
        close_image(attempt->source);
        attempt->source = open_image(name, VDISK_OPEN_WRITE);
    }
    const struct vd_manifest *parent =
        options->flags & VDISK_BACKUP_FULL
            ? NULL
            : last_point(attempt->repository, options->flags & VDISK_BACKUP_DIFFERENTIAL);
    VT_OK(vd_uuid_new(uuid, &vt_err));
    vd_uuid_text(uuid, manifest->uuid);
    if (resumed)
        memcpy(manifest->uuid, resumed, VD_UUID_TEXT_BYTES);
    manifest->number = latest ? latest->number + 1 : 1;
    manifest->kind = parent ? VDISK_POINT_INCREMENTAL : VDISK_POINT_FULL;
    if (parent && (options->flags & VDISK_BACKUP_DIFFERENTIAL))
        manifest->kind = VDISK_POINT_DIFFERENTIAL;
    if (parent) {
        manifest->parent = parent->number;
        memcpy(manifest->parent_uuid, parent->uuid, VD_UUID_TEXT_BYTES);
    }
    struct vd_tracker_context context = {
        .options = options,
        .repository = attempt->repository,
        .source = attempt->source,
        .latest = latest,
        .parent = parent,
        .point_uuid = manifest->uuid,
        .resumed_uuid = resumed ? manifest->uuid : NULL,
    };
    VT_OK(vd_tracker_new(kind, &context, &attempt->tracker, &vt_err));
}

static inline void attempt_close(struct attempt *attempt)
{
    vd_tracker_free(attempt->tracker);
    close_image(attempt->source);
    vdisk_repository_close(attempt->repository);
    vd_manifest_free(&attempt->manifest);
    *attempt = (struct attempt){0};
}

static inline struct vd_bitmap *new_bits(struct attempt *attempt)
{
    struct vd_bitmap *bits;
    attempt->budget.bytes_max = UINT64_C(1) << 30;
    VT_OK(vd_bitmap_new(vdisk_image_size(attempt->source), GRANULARITY_BITS, &attempt->budget,
                        &bits, &vt_err));
    return bits;
}

/* What the parent showed, as a whole image; zeros if there is none. */
static inline uint8_t *read_point(const struct attempt *attempt, uint64_t number, uint64_t size)
{
    uint8_t *bytes = calloc(1, (size_t)size + 1);
    assert_non_null(bytes);
    if (!number)
        return bytes;
    char *file = vd_point_file_name(number, ".qcow2", NULL);
    char *path = vd_repository_path(attempt->repository, file, NULL);
    struct vdisk_image *image = open_image(path, 0);
    uint64_t have = vdisk_image_size(image);
    VT_OK(vdisk_image_pread(image, bytes, (size_t)(have < size ? have : size), 0, &vt_err));
    close_image(image);
    free(path);
    free(file);
    return bytes;
}

/* The image of the point: what differs from the parent's. */
static inline void store_image(struct attempt *attempt, const char *path)
{
    struct vd_manifest *manifest = &attempt->manifest;
    uint64_t size = vdisk_image_size(attempt->source);
    uint8_t *before = read_point(attempt, manifest->parent, size);
    uint8_t *now = malloc((size_t)size + 1);
    char *backing = vd_point_file_name(manifest->parent, ".qcow2", NULL);
    struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = size};
    assert_non_null(now);
    if (manifest->parent) {
        create.backing = backing;
        create.backing_format = "qcow2";
    }
    VT_OK(vdisk_image_create(path, "qcow2", &create, &vt_err));
    VT_OK(vdisk_image_pread(attempt->source, now, (size_t)size, 0, &vt_err));
    struct vdisk_image *image = open_image(path, VDISK_OPEN_WRITE);
    for (uint64_t at = 0; at < size; at += 65536) {
        size_t length = (size_t)(size - at < 65536 ? size - at : 65536);
        if (memcmp(now + at, before + at, length) != 0)
            VT_OK(vdisk_image_pwrite(image, now + at, length, at, &vt_err));
    }
    close_image(image);
    free(backing);
    free(now);
    free(before);
}

static inline void digest_image(struct attempt *attempt, const char *path)
{
    struct vd_digest_table *table = &attempt->manifest.image.table;
    struct vd_storage *storage;
    struct vd_job job;
    uint64_t bytes = 0;
    VT_OK(vd_storage_open(path, NULL, &storage, &vt_err));
    VT_OK(vd_storage_size(storage, &bytes, &vt_err));
    VT_OK(vd_digest_table_init(table, vd_repository_digest_kind(attempt->repository),
                               vd_digests_extent_bytes(bytes), bytes, &vt_err));
    vd_job_init(&job, NULL, NULL, 0);
    VT_OK(vd_job_phase(&job, "digest", bytes, 0, &vt_err));
    VT_OK(vd_digests_make(storage, table, &job, 1, &vt_err));
    vd_job_destroy(&job);
    vd_storage_close(storage);
}

/* record(), and makes the point. */
static inline void attempt_publish(struct attempt *attempt)
{
    struct vd_manifest *manifest = &attempt->manifest;
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    char *json = vd_point_file_name(manifest->number, ".json", NULL);
    char *json_path = vd_repository_path(attempt->repository, json, NULL);
    manifest->image.name = vd_point_file_name(manifest->number, ".qcow2", NULL);
    char *path = vd_repository_path(attempt->repository, manifest->image.name, NULL);
    VT_OK(vdisk_image_info(attempt->source, &info, &vt_err));
    manifest->tracker = vd_tracker_kind(attempt->tracker);
    manifest->virtual_bytes = vdisk_image_size(attempt->source);
    manifest->image_format = strdup("qcow2");
    manifest->source = vd_tracker_source_name(attempt->source, NULL);
    manifest->source_format = strdup(info.format);
    store_image(attempt, path);
    digest_image(attempt, path);
    VT_OK(vd_tracker_record(attempt->tracker, manifest, &vt_err));
    if (manifest->versions.name) {
        char *to = vd_repository_path(attempt->repository, manifest->versions.name, NULL);
        char from[512];
        snprintf(from, sizeof(from), "%s.part", to);
        assert_int_equal(rename(from, to), 0);
        free(to);
    }
    VT_OK(vd_manifest_write(manifest, attempt->repository->uuid, json_path,
                            &attempt->repository->key, &vt_err));
    VT_OK(vd_partial_remove(attempt->repository, &vt_err));
    free(path);
    free(json_path);
    free(json);
}

/* All of one that ends well.  @changed: or NULL: bytes that it has to look at. */
__attribute__((unused)) static void back_up(const char *name,
                                            const struct vdisk_backup_options *options,
                                            uint64_t *changed)
{
    struct attempt attempt = {.options = *options};
    attempt_open(&attempt, name, NULL);
    VT_OK(vd_tracker_begin(attempt.tracker, &vt_err));
    struct vd_bitmap *wanted = new_bits(&attempt);
    VT_OK(vd_tracker_changes(attempt.tracker, wanted, &vt_err));
    if (changed)
        *changed = vd_bitmap_dirty_bytes(wanted);
    vd_bitmap_free(wanted);
    attempt_publish(&attempt);
    VT_OK(vd_tracker_settle(attempt.tracker, &vt_err));
    attempt_close(&attempt);
}

/* One that dies when it has begun.  @uuid: of the one that is gone on with, or "", and gets it.
 * Returns changes_since_begin(); @stale: bytes. */
__attribute__((unused)) static int back_up_dies(const char *name, char uuid[VD_UUID_TEXT_BYTES],
                                                uint64_t *stale)
{
    struct attempt attempt = {0};
    attempt_open(&attempt, name, uuid[0] ? uuid : NULL);
    VT_OK(vd_tracker_begin(attempt.tracker, &vt_err));
    struct vd_bitmap *bits = new_bits(&attempt);
    int ret = vd_tracker_changes_since_begin(attempt.tracker, bits, NULL);
    *stale = vd_bitmap_dirty_bytes(bits);
    vd_bitmap_free(bits);
    memcpy(uuid, attempt.manifest.uuid, VD_UUID_TEXT_BYTES);
    attempt_close(&attempt);
    return ret;
}

/* begin() fails so, and says @words; nothing is left of it. */
__attribute__((unused)) static void back_up_fails(const char *name,
                                                  const struct vdisk_backup_options *options,
                                                  int error, const char *words)
{
    struct attempt attempt = {.options = *options};
    struct vdisk_error err = {0};
    attempt_open(&attempt, name, NULL);
    int ret = vd_tracker_begin(attempt.tracker, &err);
    if (ret != -error || !strstr(err.message, words))
        fail_msg("begin: %d: %s", ret, err.message);
    attempt_close(&attempt);
}

#endif
