/* SPDX-License-Identifier: MIT */
/* Backups of every kind of source, by the public interface alone. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backup-disk.h"

#define CLUSTER 65536u

static const char secret[] = "a secret that nobody guesses";

/* ---- Chains ---- */

struct expected {
    const char *format;
    enum vdisk_tracker tracker;
    uint32_t flags; /* what an incremental backup needs beyond being one */
};

static const struct expected formats[] = {
    {"qcow2", VDISK_TRACKER_BITMAP, 0},
    {"gow3", VDISK_TRACKER_VERSIONS, 0},
    {"add-cow", VDISK_TRACKER_OVERLAY, 0},
    {"qed", VDISK_TRACKER_COMPARE, VDISK_BACKUP_COMPARE},
    {"raw", VDISK_TRACKER_COMPARE, VDISK_BACKUP_COMPARE},
};

/* full, incremental, differential, incremental, full, incremental */
static void one_chain(const struct expected *expected, const char *stored, bool compresses)
{
    struct vb vb;
    vb_init(&vb, expected->format, 40 * CLUSTER + 512, 1);
    vb.is_compressed = compresses;
    struct vdisk_backup_options options = vb_options(&vb, 0);
    options.format = stored;
    vb_session(&vb, 12);
    struct vdisk_backup_result result = vb_backup_with(&vb, &options);
    assert_int_equal(result.kind, VDISK_POINT_FULL);
    assert_int_equal(result.point, 1);
    assert_int_equal(result.parent, 0);
    assert_int_equal(result.changed_bytes, vb.now.size);
    assert_false(result.is_resumed);

    vb_write_once(&vb, 5 * CLUSTER + 700, 900);
    options.flags |= expected->flags;
    result = vb_backup_with(&vb, &options);
    assert_int_equal(result.kind, VDISK_POINT_INCREMENTAL);
    assert_int_equal(result.tracker, expected->tracker);
    assert_int_equal(result.parent, 1);
    if (expected->tracker == VDISK_TRACKER_BITMAP || expected->tracker == VDISK_TRACKER_VERSIONS) {
        assert_int_equal(result.changed_bytes, CLUSTER);
        assert_true(result.read_bytes >= 900 && result.read_bytes <= CLUSTER);
    }

    vb_write_once(&vb, 9 * CLUSTER, 2 * CLUSTER);
    uint32_t differential = VDISK_BACKUP_DIFFERENTIAL | expected->flags;
    options.flags = vb_options(&vb, differential).flags;
    result = vb_backup_with(&vb, &options);
    assert_int_equal(result.kind, VDISK_POINT_DIFFERENTIAL);
    assert_int_equal(result.parent, 1);
    if (expected->tracker == VDISK_TRACKER_BITMAP || expected->tracker == VDISK_TRACKER_VERSIONS)
        assert_int_equal(result.changed_bytes, 3 * CLUSTER);

    vb_session(&vb, 4);
    options.flags = vb_options(&vb, VDISK_BACKUP_INCREMENTAL | expected->flags).flags;
    result = vb_backup_with(&vb, &options);
    assert_int_equal(result.parent, 3);

    options.flags = vb_options(&vb, VDISK_BACKUP_FULL).flags;
    result = vb_backup_with(&vb, &options);
    assert_int_equal(result.kind, VDISK_POINT_FULL);
    assert_int_equal(result.parent, 0);

    /* Nothing has changed. */
    options.flags = vb_options(&vb, expected->flags).flags;
    result = vb_backup_with(&vb, &options);
    assert_int_equal(result.parent, 5);
    assert_int_equal(result.point, 6);
    if (expected->tracker == VDISK_TRACKER_BITMAP || expected->tracker == VDISK_TRACKER_VERSIONS)
        assert_int_equal(result.changed_bytes, 0);
    vb_verify(&vb);
    vb_destroy(&vb);
}

static void every_source_as_every_kind(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        print_message("# %s\n", formats[i].format);
        one_chain(&formats[i], NULL, false);
    }
}

static void stored_in_other_ways(void **state)
{
    (void)state;
    one_chain(&formats[0], "qed", false);
    one_chain(&formats[0], NULL, true);
    one_chain(&formats[1], "qcow2", true);
}

/* What differs is all that is stored. */
static void comparing_stores_what_differs(void **state)
{
    (void)state;
    struct vb vb;
    vb_init(&vb, "raw", 32 * CLUSTER, 2);
    vb_write_once(&vb, 0, 32 * CLUSTER);
    vb_backup(&vb, 0);
    vb_write_once(&vb, 7 * CLUSTER, 1);
    struct vdisk_backup_result result = vb_backup(&vb, VDISK_BACKUP_COMPARE);
    assert_int_equal(result.changed_bytes, 32 * CLUSTER);
    assert_int_equal(result.read_bytes, 32 * CLUSTER);
    assert_true(result.stored_bytes < 8 * CLUSTER);
    vb_verify(&vb);

    /* The next backup of a disk with bitmaps need not compare. */
    struct vb tracked;
    vb_init(&tracked, "qcow2", 32 * CLUSTER, 3);
    vb_write_once(&tracked, 0, 8 * CLUSTER);
    vb_backup(&tracked, VDISK_BACKUP_UNTRACKED);
    vb_write_once(&tracked, 3 * CLUSTER, 1);
    struct vdisk_backup_options options = vb_options(&tracked, 0);
    VT_FAILS(ENOTSUP, vb_run(&tracked, &options, NULL, &vt_err));
    assert_int_equal(vb_backup(&tracked, VDISK_BACKUP_COMPARE).tracker, VDISK_TRACKER_COMPARE);
    vb_write_once(&tracked, 4 * CLUSTER, 1);
    result = vb_backup(&tracked, 0);
    assert_int_equal(result.tracker, VDISK_TRACKER_BITMAP);
    assert_int_equal(result.changed_bytes, CLUSTER);
    vb_verify(&tracked);
    vb_destroy(&tracked);
    vb_destroy(&vb);
}

static void with_a_key(void **state)
{
    (void)state;
    struct vb vb;
    vb_init(&vb, "qcow2", 20 * CLUSTER, 4);
    struct vdisk_backup_options options = vb_options(&vb, 0);
    options.key = secret;
    options.key_bytes = sizeof(secret);
    for (unsigned i = 0; i < 3; i++) {
        vb_session(&vb, 5);
        vb_backup_with(&vb, &options);
    }
    for (unsigned i = 0; i < 3; i++)
        vb_verify_point(&vb, i, secret, sizeof(secret));
    options.key_bytes = sizeof(secret) / 2 + 2;
    VT_FAILS(EKEYREJECTED, vb_run(&vb, &options, NULL, &vt_err));
    options.key_bytes = 8;
    VT_FAILS(EINVAL, vb_run(&vb, &options, NULL, &vt_err));
    options.key = NULL;
    options.key_bytes = 0;
    VT_FAILS(EKEYREJECTED, vb_run(&vb, &options, NULL, &vt_err));
    vb_destroy(&vb);
}

/* ---- Sizes ---- */

static void resize(struct vb *vb, uint64_t size)
{
    struct vdisk_image *image = vb_open(vb, VDISK_OPEN_WRITE);
    vb_resize(vb, image, size);
    vb_close(image);
}

/* @odd: bytes that the sizes are no multiple of clusters by. */
static void one_with_sizes(const struct expected *expected, uint64_t odd)
{
    struct vb vb;
    uint32_t flags = expected->flags;
    vb_init(&vb, expected->format, 32 * CLUSTER + odd, 5);
    vb_write_once(&vb, 0, vb.now.size);
    vb_backup(&vb, 0);
    resize(&vb, 48 * CLUSTER + odd); /* longer */
    vb_backup(&vb, flags);
    vb_write_once(&vb, 40 * CLUSTER, 3 * CLUSTER);
    resize(&vb, 16 * CLUSTER + odd); /* shorter */
    vb_backup(&vb, flags);
    resize(&vb, 32 * CLUSTER + odd); /* what was there may not come back */
    vb_backup(&vb, flags);
    vb_write_once(&vb, 20 * CLUSTER, 8 * CLUSTER);
    vb_backup(&vb, flags);
    resize(&vb, 22 * CLUSTER + odd); /* both at once */
    resize(&vb, 32 * CLUSTER);
    vb_backup(&vb, flags);
    resize(&vb, 8 * CLUSTER);
    vb_write_once(&vb, 8 * CLUSTER - 10, 10);
    resize(&vb, 48 * CLUSTER);
    vb_backup(&vb, flags);
    vb_backup(&vb, flags | VDISK_BACKUP_DIFFERENTIAL);
    vb_verify(&vb);
    vb_destroy(&vb);
}

static void sizes_change(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        if (strcmp(formats[i].format, "add-cow") == 0)
            continue;
        print_message("# %s\n", formats[i].format);
        one_with_sizes(&formats[i], 0);
        one_with_sizes(&formats[i], 512);
        one_with_sizes(&formats[i], CLUSTER - 512);
    }
}

/* Shorter within a cluster, and as long as it was, by somebody who tells no bitmap of it. */
static void resize_secretly(struct vb *vb, uint64_t size)
{
    struct vdisk_image *image = vb_open(vb, VDISK_OPEN_WRITE);
    struct vdisk_bitmap_info info = {.struct_bytes = sizeof(info)};
    uint64_t old = vb->now.size;
    size_t count;
    char name[128];
    VT_OK(vdisk_bitmap_count(image, &count, &vt_err));
    assert_int_equal(count, 1);
    VT_OK(vdisk_bitmap_info(image, 0, &info, &vt_err));
    snprintf(name, sizeof(name), "%s", info.name);
    struct vdisk_bitmap_action action = {.kind = VDISK_BITMAP_DISABLE, .name = name};
    VT_OK(vdisk_bitmap_change(image, &action, 1, &vt_err));
    vb_resize(vb, image, size);
    vb_resize(vb, image, old);
    action.kind = VDISK_BITMAP_ENABLE;
    VT_OK(vdisk_bitmap_change(image, &action, 1, &vt_err));
    vb_close(image);
}

static void resized_by_others(void **state)
{
    (void)state;
    static const uint32_t clusters[] = {4096, CLUSTER, 2u << 20};
    static const uint64_t sizes[] = {20 * CLUSTER + 512, 20 * CLUSTER + 8192, 512, 39 * CLUSTER};
    for (size_t i = 0; i < sizeof(clusters) / sizeof(clusters[0]); i++)
        for (size_t j = 0; j < sizeof(sizes) / sizeof(sizes[0]); j++) {
            struct vb vb;
            struct vdisk_create_options create = {.struct_bytes = sizeof(create),
                                                  .size = 40 * CLUSTER + 1024,
                                                  .cluster_bytes = clusters[i]};
            vb_init(&vb, "qcow2", create.size, 22);
            VT_OK(vdisk_image_create(vb.source, "qcow2", &create, &vt_err));
            vb_write_once(&vb, 0, vb.now.size);
            vb_backup(&vb, 0);
            resize_secretly(&vb, sizes[j]);
            vb_write_once(&vb, 30 * CLUSTER, CLUSTER);
            vb_backup(&vb, 0);
            vb_verify(&vb);
            vb_destroy(&vb);
        }
}

static void nothing_on_the_disk(void **state)
{
    (void)state;
    struct vb vb;
    vb_init(&vb, "qcow2", 16 * CLUSTER, 6);
    struct vdisk_backup_result result = vb_backup(&vb, 0);
    assert_int_equal(result.read_bytes, 0);
    vb_write_once(&vb, 0, 1);
    vb_backup(&vb, 0);
    struct vdisk_image *image = vb_open(&vb, VDISK_OPEN_WRITE);
    vb_discard(&vb, image, 0, CLUSTER);
    vb_zero(&vb, image, 0, CLUSTER);
    vb_close(image);
    result = vb_backup(&vb, 0);
    assert_int_equal(result.read_bytes, 0);
    vb_verify(&vb);
    vb_destroy(&vb);
}

static void snapshots_are_applied(void **state)
{
    (void)state;
    struct vb vb;
    vb_init(&vb, "qcow2", 30 * CLUSTER + 512, 7);
    vb_session(&vb, 3);
    struct vdisk_image *image = vb_open(&vb, VDISK_OPEN_WRITE);
    vb_write(&vb, image, 2 * CLUSTER, 3 * CLUSTER);
    vb_snapshot(&vb, image);
    vb_close(image);
    vb_backup(&vb, 0);
    vb_write_once(&vb, 3 * CLUSTER, 100);
    vb_backup(&vb, 0);
    image = vb_open(&vb, VDISK_OPEN_WRITE);
    vb_resize(&vb, image, 12 * CLUSTER);
    vb_write(&vb, image, CLUSTER, CLUSTER);
    vb_apply(&vb, image, 0);
    vb_close(image);
    vb_backup(&vb, 0);
    vb_verify(&vb);
    vb_destroy(&vb);
}

/* ---- What is refused ---- */

static void options_that_contradict(void **state)
{
    (void)state;
    struct vb vb;
    vb_init(&vb, "qcow2", 4 * CLUSTER, 8);
    static const uint32_t flags[] = {
        VDISK_BACKUP_FULL | VDISK_BACKUP_INCREMENTAL,
        VDISK_BACKUP_FULL | VDISK_BACKUP_DIFFERENTIAL,
        VDISK_BACKUP_INCREMENTAL | VDISK_BACKUP_DIFFERENTIAL,
        VDISK_BACKUP_FULL | VDISK_BACKUP_COMPARE,
        1u << 20,
    };
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        struct vdisk_backup_options options = vb_options(&vb, flags[i]);
        VT_FAILS(EINVAL, vb_run(&vb, &options, NULL, &vt_err));
    }
#define REFUSED(...)                                              \
    do {                                                          \
        struct vdisk_backup_options options = vb_options(&vb, 0); \
        __VA_ARGS__;                                              \
        VT_FAILS(EINVAL, vb_run(&vb, &options, NULL, &vt_err));   \
    } while (0)
    REFUSED(options.struct_bytes--);
    REFUSED(options.format = "raw");
    REFUSED(options.flags = VDISK_BACKUP_COMPRESS; options.format = "qed");
    REFUSED(options.compression_level = 3);
    REFUSED(options.flags = VDISK_BACKUP_COMPRESS; options.compression_level = 10);
    REFUSED(options.source_flags = VDISK_OPEN_WRITE);
    REFUSED(options.source = NULL);
    REFUSED(options.repository = NULL);
    REFUSED(options.next_bitmap = "next");
    REFUSED(options.key = secret);
#undef REFUSED
    struct vdisk_backup_options options = vb_options(&vb, 0);
    struct vdisk_backup_result result = {.struct_bytes = 1};
    VT_FAILS(EINVAL, vb_run(&vb, &options, &result, &vt_err));
    assert_int_not_equal(access(vb.repository, F_OK), 0); /* nothing was made */
    vb_destroy(&vb);

    vb_init(&vb, "raw", 4 * CLUSTER, 8);
    options = vb_options(&vb, 0);
    options.bitmap = "some";
    VT_FAILS(EINVAL, vb_run(&vb, &options, NULL, &vt_err));
    assert_int_not_equal(access(vb.repository, F_OK), 0);
    vb_destroy(&vb);
}

static void kinds_that_can_not_be(void **state)
{
    (void)state;
    struct vb vb;
    vb_init(&vb, "raw", 4 * CLUSTER, 9);
    struct vdisk_backup_options options = vb_options(&vb, VDISK_BACKUP_INCREMENTAL);
    VT_FAILS(ENOENT, vb_run(&vb, &options, NULL, &vt_err));
    options.flags = VDISK_BACKUP_DIFFERENTIAL;
    VT_FAILS(ENOENT, vb_run(&vb, &options, NULL, &vt_err));
    options.flags = VDISK_BACKUP_FULL;
    options.source = vb_path(&vb, "elsewhere");
    VT_FAILS(ENOENT, vb_run(&vb, &options, NULL, &vt_err));
    assert_int_not_equal(access(vb.repository, F_OK), 0);

    /* A directory that was there stays, as empty as it was. */
    assert_int_equal(mkdir(vb.repository, 0777), 0);
    VT_FAILS(ENOENT, vb_run(&vb, &options, NULL, &vt_err));
    assert_int_equal(rmdir(vb.repository), 0);

    vb_backup(&vb, 0);
    options = vb_options(&vb, 0);
    VT_FAILS(ENOTSUP, vb_run(&vb, &options, NULL, &vt_err));
    assert_int_equal(vb_count(&vb), 1);
    vb_verify(&vb);
    vb_destroy(&vb);
}

static void another_disk(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        struct vb vb, other;
        const char *format = formats[i].format;
        print_message("# %s\n", format);
        vb_init(&vb, format, 8 * CLUSTER, 10);
        vb_init(&other, format, 8 * CLUSTER, 11);
        vb_backup(&vb, 0);
        struct vdisk_backup_options options = vb_options(&vb, formats[i].flags);
        options.source = other.source;
        VT_FAILS(EXDEV, vb_run(&vb, &options, NULL, &vt_err));
        options.flags = VDISK_BACKUP_FULL;
        VT_FAILS(EXDEV, vb_run(&vb, &options, NULL, &vt_err));
        assert_int_equal(vb_count(&vb), 1);
        vb_write_once(&vb, 3 * CLUSTER, 5);
        vb_backup(&vb, formats[i].flags);
        vb_verify(&vb);
        vb_destroy(&other);
        vb_destroy(&vb);
    }
}

static void a_source_within_the_repository(void **state)
{
    (void)state;
    struct vb vb;
    vb_init(&vb, "qcow2", 8 * CLUSTER, 12);
    vb_session(&vb, 3);
    vb_backup(&vb, 0);
    char path[512];
    snprintf(path, sizeof(path), "%s/000001.qcow2", vb.repository);
    struct vdisk_backup_options options = vb_options(&vb, VDISK_BACKUP_FULL);
    options.source = path;
    VT_FAILS(EINVAL, vb_run(&vb, &options, NULL, &vt_err));
    vb_verify(&vb);
    vb_destroy(&vb);
}

static void somebody_has_it(void **state)
{
    (void)state;
    struct vb vb;
    vb_init(&vb, "qcow2", 8 * CLUSTER, 13);
    struct vdisk_image *image = vb_open(&vb, VDISK_OPEN_WRITE);
    struct vdisk_backup_options options = vb_options(&vb, 0);
    struct vdisk_error err = {0};
    assert_int_equal(vb_run(&vb, &options, NULL, &err), -EAGAIN);
    assert_non_null(strstr(err.message, "NBD"));
    vb_close(image);
    assert_int_not_equal(access(vb.repository, F_OK), 0);
    vb_destroy(&vb);
}

/* What an encrypted disk holds is not stored for all to read unless somebody says so. */
static void an_encrypted_source(void **state)
{
    (void)state;
    struct vb vb;
    struct vdisk_error err = {0};
    const struct vdisk_passphrase passphrase = {.bytes = secret, .length = sizeof(secret)};
    const struct vdisk_encrypt_options encrypt = {
        .struct_bytes = sizeof(encrypt), .iter_time_ms = 1, .passphrase = passphrase};
    const struct vdisk_create_options create = {
        .struct_bytes = sizeof(create), .size = 8 * CLUSTER, .encrypt = &encrypt};
    const struct vdisk_passphrases known = {
        .struct_bytes = sizeof(known), .entries = 1, .list = &passphrase};
    const struct vdisk_open_options open = {.struct_bytes = sizeof(open),
                                            .flags = VDISK_OPEN_WRITE,
                                            .format = "qcow2",
                                            .passphrases = &known};
    vb_init(&vb, "qcow2", 8 * CLUSTER, 20);
    int ret = vdisk_image_create(vb.source, "qcow2", &create, &err);
    if (ret == -ENOTSUP) { /* built without the library for it */
        vb_destroy(&vb);
        skip();
    }
    assert_int_equal(ret, 0);
    struct vdisk_backup_options options = vb_options(&vb, 0);
    options.passphrases = &known;
    VT_FAILS(EPERM, vb_run(&vb, &options, NULL, &vt_err));
    options.flags = VDISK_BACKUP_IN_CLEAR;
    options.passphrases = NULL;
    VT_FAILS(ENOKEY, vb_run(&vb, &options, NULL, &vt_err));
    assert_int_not_equal(access(vb.repository, F_OK), 0);

    options.passphrases = &known;
    for (unsigned i = 0; i < 2; i++) {
        struct vdisk_image *image;
        VT_OK(vdisk_image_open(vb.source, &open, &image, &vt_err));
        vb_write(&vb, image, (2 * i + 1) * CLUSTER + 100, 5000);
        vb_close(image);
        struct vdisk_backup_result result = vb_backup_with(&vb, &options);
        assert_int_equal(result.changed_bytes, i ? CLUSTER : vb.now.size);
    }
    vb_verify(&vb);
    vb_destroy(&vb);
}

/* ---- What is damaged ---- */

static void spoil(const struct vb *vb, const char *file, long offset)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", vb->repository, file);
    FILE *stream = fopen(path, "r+");
    assert_non_null(stream);
    assert_int_equal(fseek(stream, offset, SEEK_SET), 0);
    int byte = fgetc(stream);
    assert_int_not_equal(byte, EOF);
    assert_int_equal(fseek(stream, offset, SEEK_SET), 0);
    assert_int_not_equal(fputc(byte ^ 1, stream), EOF);
    assert_int_equal(fclose(stream), 0);
}

/* Nothing is built on what is damaged; a full backup is. */
static void points_that_are_damaged(void **state)
{
    (void)state;
    static const char *const files[] = {"000002.json", "000001.json", "000002.qcow2"};
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        struct vb vb;
        vb_init(&vb, "qcow2", 8 * CLUSTER, 21);
        for (unsigned j = 0; j < 2; j++) {
            vb_session(&vb, 3);
            vb_backup(&vb, 0);
        }
        spoil(&vb, files[i], 40);
        struct vdisk_backup_options options = vb_options(&vb, 0);
        VT_FAILS(EBADMSG, vb_run(&vb, &options, NULL, &vt_err));
        vb_write_once(&vb, CLUSTER, 10);
        vb_backup(&vb, VDISK_BACKUP_FULL);
        vb_write_once(&vb, 2 * CLUSTER, 10);
        struct vdisk_backup_result result = vb_backup(&vb, 0);
        assert_int_equal(result.point, 4);
        assert_int_equal(result.parent, 3);
        vb_verify_point(&vb, 2, NULL, 0);
        vb_verify_point(&vb, 3, NULL, 0);
        vb_destroy(&vb);
    }
}

/* ---- Two at once ---- */

struct second {
    struct vdisk_backup_options options;
    int ret;
    unsigned calls;
};

static int begin_second(void *opaque, const struct vdisk_progress *progress)
{
    struct second *second = opaque;
    (void)progress;
    if (!second->calls++)
        second->ret = vdisk_backup(&second->options, NULL, NULL);
    return 0;
}

static void two_at_once(void **state)
{
    (void)state;
    struct vb vb, other;
    vb_init(&vb, "qcow2", 8 * CLUSTER, 14);
    vb_init(&other, "raw", 8 * CLUSTER, 15);
    vb_session(&vb, 3);
    struct second second = {.options = vb_options(&vb, 0)};
    second.options.source = other.source;
    second.options.source_format = "raw";
    struct vdisk_backup_options options = vb_options(&vb, 0);
    options.progress = begin_second;
    options.opaque = &second;
    vb_backup_with(&vb, &options);
    assert_int_equal(second.ret, -EAGAIN);
    vb_verify(&vb);
    vb_destroy(&other);
    vb_destroy(&vb);
}

/* ---- Going on ---- */

static int cancel(void *opaque, const struct vdisk_progress *progress)
{
    const char *phase = opaque;
    return strcmp(progress->phase, phase) == 0;
}

struct told {
    char text[512];
    unsigned count;
};

static void tell(void *opaque, const char *message)
{
    struct told *told = opaque;
    snprintf(told->text, sizeof(told->text), "%s", message);
    told->count++;
}

/* A backup that is canceled in @phase, and what is written to the disk then. */
static void begin_and_cancel(struct vb *vb, uint32_t flags, char *phase)
{
    struct vdisk_backup_options options = vb_options(vb, flags);
    options.progress = cancel;
    options.opaque = phase;
    VT_FAILS(ECANCELED, vb_run(vb, &options, NULL, &vt_err));
}

static void canceled_and_gone_on_with(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        struct vb vb;
        uint32_t flags = formats[i].flags;
        print_message("# %s\n", formats[i].format);
        vb_init(&vb, formats[i].format, 24 * CLUSTER + 512, 16);
        vb_session(&vb, 6);
        begin_and_cancel(&vb, 0, "copy");
        assert_int_equal(vb_count(&vb), 0);
        vb_session(&vb, 3);
        begin_and_cancel(&vb, 0, "digest");
        assert_int_equal(vb_count(&vb), 0);
        vb_backup(&vb, 0);
        vb_verify(&vb);

        vb_write_once(&vb, CLUSTER, CLUSTER);
        begin_and_cancel(&vb, flags, "digest");
        vb_write_once(&vb, CLUSTER + 100, 10);
        vb_write_once(&vb, 9 * CLUSTER, 10);
        struct vdisk_backup_result result = vb_backup(&vb, flags);
        assert_true(result.is_resumed);
        assert_false(vb_has(&vb, "partial.json"));
        vb_session(&vb, 3);
        vb_backup(&vb, flags);
        vb_verify(&vb);
        vb_destroy(&vb);
    }
}

/* Cancels when half of it has been copied. */
static int cancel_in_the_middle(void *opaque, const struct vdisk_progress *progress)
{
    (void)opaque;
    return strcmp(progress->phase, "copy") == 0 &&
           progress->done_bytes >= progress->total_bytes / 2;
}

/* @is_known: what has changed since the first one began; then little is copied once more. */
static void in_the_middle(const char *format, uint32_t flags, bool compresses, bool is_known)
{
    struct vb vb;
    vb_init(&vb, format, 24 * CLUSTER + 512, 18);
    vb.stretch_bytes = CLUSTER;
    vb.is_compressed = compresses;
    vb_write_once(&vb, 0, CLUSTER);
    if (flags)
        vb_backup(&vb, 0);
    vb_write_once(&vb, 0, vb.now.size);
    for (unsigned i = 0; i < 2; i++) {
        struct vdisk_backup_options options = vb_options(&vb, flags);
        options.workers = 1;
        options.rate_bytes = 24 * CLUSTER; /* there is time for a report */
        options.progress = cancel_in_the_middle;
        VT_FAILS(ECANCELED, vb_run(&vb, &options, NULL, &vt_err));
        vb_write_once(&vb, (3 + 10 * i) * CLUSTER + 5, 100);
    }
    struct vdisk_backup_result result = vb_backup(&vb, flags);
    assert_true(result.is_resumed);
    if (is_known)
        assert_true(result.read_bytes <= 14 * CLUSTER);
    else
        assert_true(result.read_bytes >= 24 * CLUSTER);
    vb_verify(&vb);
    vb_write_once(&vb, 6 * CLUSTER, CLUSTER);
    vb_backup(&vb, flags);
    vb_verify(&vb);
    vb_destroy(&vb);
}

static void stopped_in_the_middle(void **state)
{
    (void)state;
    in_the_middle("qcow2", 0, false, true);
    in_the_middle("qcow2", VDISK_BACKUP_INCREMENTAL, true, true);
    in_the_middle("gow3", VDISK_BACKUP_DIFFERENTIAL, false, true);
    in_the_middle("add-cow", VDISK_BACKUP_INCREMENTAL, false, false);
    in_the_middle("raw", VDISK_BACKUP_COMPARE, true, false);
}

/* A bitmap that the unfinished backup did not begin with tells nothing of what it has. */
static void the_record_begins_once_more(void **state)
{
    (void)state;
    struct vb vb;
    vb_init(&vb, "qcow2", 24 * CLUSTER, 19);
    vb.stretch_bytes = CLUSTER;
    vb_write_once(&vb, 0, vb.now.size);
    struct vdisk_backup_options options = vb_options(&vb, 0);
    options.workers = 1;
    options.rate_bytes = 24 * CLUSTER;
    options.progress = cancel_in_the_middle;
    VT_FAILS(ECANCELED, vb_run(&vb, &options, NULL, &vt_err));

    struct vdisk_image *image = vb_open(&vb, VDISK_OPEN_WRITE);
    struct vdisk_bitmap_info info = {.struct_bytes = sizeof(info)};
    VT_OK(vdisk_bitmap_info(image, 0, &info, &vt_err));
    char name[128];
    snprintf(name, sizeof(name), "%s", info.name);
    struct vdisk_bitmap_action action = {.kind = VDISK_BITMAP_REMOVE, .name = name};
    VT_OK(vdisk_bitmap_change(image, &action, 1, &vt_err));
    vb_write(&vb, image, 2 * CLUSTER, CLUSTER);
    vb_close(image);
    begin_and_cancel(&vb, 0, "copy"); /* it is there again, and tells of nothing */
    struct vdisk_backup_result result = vb_backup(&vb, 0);
    assert_true(result.is_resumed);
    vb_verify(&vb);
    vb_destroy(&vb);
}

static void what_does_not_fit_is_removed(void **state)
{
    (void)state;
    struct vb vb;
    struct told told = {0};
    vb_init(&vb, "qcow2", 24 * CLUSTER, 17);
    vb_session(&vb, 4);
    vb_backup(&vb, 0);
    vb_session(&vb, 2);
    struct vdisk_backup_options options = vb_options(&vb, 0);
    options.report = tell;
    options.opaque = &told;

    begin_and_cancel(&vb, 0, "digest");
    resize(&vb, 20 * CLUSTER);
    assert_false(vb_backup_with(&vb, &options).is_resumed);
    assert_non_null(strstr(told.text, "size"));

    vb_session(&vb, 2);
    begin_and_cancel(&vb, VDISK_BACKUP_DIFFERENTIAL, "digest");
    assert_false(vb_backup_with(&vb, &options).is_resumed);
    assert_int_equal(told.count, 2);

    vb_session(&vb, 2);
    begin_and_cancel(&vb, 0, "digest");
    options.flags = VDISK_BACKUP_RESTART;
    assert_false(vb_backup_with(&vb, &options).is_resumed);
    assert_int_equal(told.count, 3);

    /* Compressed clusters of another kind. */
    vb_session(&vb, 2);
    begin_and_cancel(&vb, 0, "digest");
    options.flags = VDISK_BACKUP_COMPRESS;
    assert_false(vb_backup_with(&vb, &options).is_resumed);
    assert_int_equal(told.count, 4);
    vb_verify(&vb);
    vb_destroy(&vb);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_source_as_every_kind),
        cmocka_unit_test(stored_in_other_ways),
        cmocka_unit_test(comparing_stores_what_differs),
        cmocka_unit_test(with_a_key),
        cmocka_unit_test(sizes_change),
        cmocka_unit_test(resized_by_others),
        cmocka_unit_test(nothing_on_the_disk),
        cmocka_unit_test(snapshots_are_applied),
        cmocka_unit_test(options_that_contradict),
        cmocka_unit_test(kinds_that_can_not_be),
        cmocka_unit_test(another_disk),
        cmocka_unit_test(a_source_within_the_repository),
        cmocka_unit_test(somebody_has_it),
        cmocka_unit_test(an_encrypted_source),
        cmocka_unit_test(points_that_are_damaged),
        cmocka_unit_test(two_at_once),
        cmocka_unit_test(canceled_and_gone_on_with),
        cmocka_unit_test(stopped_in_the_middle),
        cmocka_unit_test(the_record_begins_once_more),
        cmocka_unit_test(what_does_not_fit_is_removed),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("backup", tests, NULL, NULL);
}
