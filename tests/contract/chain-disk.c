/* SPDX-License-Identifier: MIT */
/* A disk image in a chain, and beside it what it has to read as. */
#include "contract/chain-disk.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "drivers/check.h"

#define SECTOR_BYTES     512u
#define REQUEST_MAX      (300u << 10)
#define SMALL_MAX        9000u
#define CHANCE_OF_HEADER 3 /* percent of writes that look like the start of an image */

const struct vdisk_gate vt_disk_gate = {.struct_bytes = sizeof(vt_disk_gate),
                                        .flags = VDISK_GATE_BESIDE};

const char *vt_kind_name(enum vt_kind kind)
{
    static const char *const names[VT_KINDS] = {"raw", "gow3", "qed", "add-cow"};
    return names[kind];
}

uint64_t vt_disk_draw_size(struct vt_random *random)
{
    uint64_t sectors = VT_DISK_BYTES_MAX / SECTOR_BYTES;
    switch (vt_random_below(random, 4)) {
    case 0: /* whole clusters of everything */
        return (1 + vt_random_below(random, VT_DISK_BYTES_MAX >> 16)) << 16;
    case 1: /* small */
        return (1 + vt_random_below(random, 300)) * SECTOR_BYTES;
    default:
        return (1 + vt_random_below(random, sectors)) * SECTOR_BYTES;
    }
}

/* --- files ----------------------------------------------------------------------------------- */

/* A raw file for an add-cow image, with bytes that have to stay hidden. */
static void make_data_file(const struct vt_disk *disk)
{
    uint8_t *stale = malloc(disk->size);
    assert_non_null(stale);
    memset(stale, 0xee, disk->size);
    int fd = open(disk->data, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, stale, disk->size), (ssize_t)disk->size);
    close(fd);
    free(stale);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static struct vt_disk *new_disk(enum vt_kind kind, uint64_t size)
{
    struct vt_disk *disk = calloc(1, sizeof(*disk));
    assert_non_null(disk);
    disk->bytes = calloc(1, VT_DISK_BYTES_MAX);
    assert_non_null(disk->bytes);
    disk->kind = kind;
    disk->size = size;
    return disk;
}

static void draw_geometry(struct vdisk_create_options *options, struct vt_random *random)
{
    options->cluster_bytes = 4096u << vt_random_below(random, 6);
    options->table_clusters = 1u << vt_random_below(random, 4);
}

struct vt_disk *vt_disk_create(const char *directory, const char *name, enum vt_kind kind,
                               uint64_t size, const struct vt_disk *backing,
                               struct vt_random *random)
{
    struct vt_disk *disk = new_disk(kind, size);
    snprintf(disk->path, sizeof(disk->path), "%s/%s", directory, name);

    struct vdisk_create_options options = {.struct_bytes = sizeof(options), .size = size};
    if (kind == VT_QED) {
        draw_geometry(&options, random);
    } else if (kind == VT_ADD_COW) {
        snprintf(disk->data, sizeof(disk->data), "%s/%s.raw", directory, name);
        options.data_file = base_name(disk->data);
        /* Without a backing file that would be refused. */
        if (backing && vt_random_chance(random, 50))
            make_data_file(disk);
    }
    if (backing) {
        options.backing = base_name(backing->path);
        options.backing_format = vt_kind_name(backing->kind);
        memcpy(disk->bytes, backing->bytes, size < backing->size ? size : backing->size);
    }
    VT_OK(vdisk_image_create(disk->path, vt_kind_name(kind), &options, &vt_err));
    return disk;
}

struct vt_disk *vt_disk_snapshot(struct vt_disk *disk, unsigned number, struct vt_random *random)
{
    struct vt_disk *overlay =
        new_disk(vt_random_chance(random, 50) ? VT_QED : VT_ADD_COW, disk->size);
    struct vdisk_create_options create = {.struct_bytes = sizeof(create)};
    if (overlay->kind == VT_ADD_COW) {
        snprintf(overlay->data, sizeof(overlay->data), "%.200s.%u.raw", disk->path, number);
        create.data_file = base_name(overlay->data);
    } else {
        draw_geometry(&create, random);
    }
    snprintf(overlay->path, sizeof(overlay->path), "%s", disk->path);
    snprintf(disk->path, sizeof(disk->path), "%.200s.%u", overlay->path, number);
    struct vdisk_snapshot_options options = {
        .struct_bytes = sizeof(options),
        .name = overlay->path,
        .format = vt_kind_name(disk->kind),
        .snapshot = base_name(disk->path),
        .target_format = vt_kind_name(overlay->kind),
        .create = &create,
        .gate = &vt_disk_gate,
    };
    struct vdisk_snapshot_result result = {.struct_bytes = sizeof(result)};
    VT_OK(vdisk_snapshot_external(&options, &result, &vt_err));
    assert_int_equal(result.virtual_bytes, disk->size);
    assert_string_equal(result.format, vt_kind_name(overlay->kind));
    memcpy(overlay->bytes, disk->bytes, disk->size);
    return overlay;
}

void vt_disk_free(struct vt_disk *disk, bool removes)
{
    if (!disk)
        return;
    if (removes) {
        assert_int_equal(unlink(disk->path), 0);
        if (disk->data[0])
            assert_int_equal(unlink(disk->data), 0);
    }
    free(disk->bytes);
    free(disk);
}

void vt_disk_set_size(struct vt_disk *disk, uint64_t size)
{
    assert_true(size <= VT_DISK_BYTES_MAX);
    if (size < disk->size)
        memset(disk->bytes + size, 0, disk->size - size);
    disk->size = size;
}

struct vdisk_image *vt_disk_open(const struct vt_disk *disk, uint32_t flags)
{
    struct vdisk_open_options options = {
        .struct_bytes = sizeof(options),
        .flags = flags,
        .format = vt_kind_name(disk->kind),
        .gate = &vt_disk_gate,
    };
    struct vdisk_image *image = NULL;
    VT_OK(vdisk_image_open(disk->path, &options, &image, &vt_err));
    assert_int_equal(vdisk_image_size(image), disk->size);
    return image;
}

/* --- comparing ------------------------------------------------------------------------------- */

static void compare(const struct vt_disk *disk, const uint8_t *got, uint64_t offset, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (got[i] != disk->bytes[offset + i])
            fail_msg("%s (%s, %" PRIu64 " bytes): offset %" PRIu64 " is 0x%02x, has to be 0x%02x",
                     base_name(disk->path), vt_kind_name(disk->kind), disk->size, offset + i,
                     got[i], disk->bytes[offset + i]);
}

static void verify_extents(const struct vt_disk *disk, struct vdisk_image *image)
{
    uint64_t at = 0;
    while (at < disk->size) {
        struct vdisk_extent extent;
        VT_OK(vdisk_image_extent(image, at, disk->size - at, &extent, &vt_err));
        assert_int_equal(extent.offset, at);
        assert_true(extent.length > 0 && extent.length <= disk->size - at);
        if (extent.flags & VDISK_EXTENT_ZERO)
            for (uint64_t i = at; i < at + extent.length; i++)
                if (disk->bytes[i])
                    fail_msg("%s: offset %" PRIu64 " is told to be zero, and is 0x%02x",
                             base_name(disk->path), i, disk->bytes[i]);
        at += extent.length;
    }
}

void vt_disk_verify(const struct vt_disk *disk, struct vt_random *random)
{
    struct vdisk_image *image = vt_disk_open(disk, 0);
    uint8_t *buf = malloc(VT_DISK_BYTES_MAX);
    assert_non_null(buf);
    uint64_t at = 0;
    while (at < disk->size) {
        uint64_t length = 1 + vt_random_below(random, REQUEST_MAX * 4);
        if (length > disk->size - at)
            length = disk->size - at;
        VT_OK(vdisk_image_pread(image, buf, length, at, &vt_err));
        compare(disk, buf, at, length);
        at += length;
    }
    verify_extents(disk, image);
    free(buf);
    VT_OK(vdisk_image_close(image, &vt_err));
}

static void print_finding(void *opaque, const char *message)
{
    (void)opaque;
    print_error("# %s\n", message);
}

void vt_disk_check(const struct vt_disk *disk)
{
    if (disk->kind == VT_RAW)
        return;
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    struct vdisk_image *image = vt_disk_open(disk, VDISK_OPEN_CHECK);
    VT_OK(vdisk_image_check(image, VDISK_REPAIR_NONE, print_finding, NULL, &result, &vt_err));
    VT_OK(vdisk_image_close(image, &vt_err));
    if (result.corruptions || result.leaks || result.check_errors)
        fail_msg("%s: %" PRIu64 " corruptions, %" PRIu64 " leaks, %" PRIu64 " errors", disk->path,
                 result.corruptions, result.leaks, result.check_errors);
}

/* --- a session ------------------------------------------------------------------------------- */

struct session {
    struct vt_disk *disk;
    struct vdisk_image *image;
    struct vt_random *random;
    uint8_t *buf; /* of REQUEST_MAX */
};

static void draw(struct session *session, uint64_t *offset, size_t *length)
{
    struct vt_random *random = session->random;
    uint64_t size = session->disk->size;
    uint64_t most = vt_random_chance(random, 60) ? SMALL_MAX : REQUEST_MAX;
    uint64_t unit = vt_random_chance(random, 40) ? 65536 : vt_random_chance(random, 50) ? 512 : 1;
    *length = 1 + (size_t)vt_random_below(random, most < size ? most : size);
    *offset = vt_random_below(random, size - *length + 1) / unit * unit;
    if (vt_random_chance(random, 10)) /* to the very end */
        *offset = size - *length;
}

static void do_write(struct session *session, uint64_t offset, size_t length)
{
    static const char headers[][8] = {"QED", "GOW", "ADD_COW"};
    vt_random_fill(session->random, session->buf, length);
    if (vt_random_chance(session->random, CHANCE_OF_HEADER)) {
        offset = 0;
        size_t bytes = length < 8 ? length : 8;
        memcpy(session->buf, headers[vt_random_below(session->random, 3)], bytes);
    }
    VT_OK(vdisk_image_pwrite(session->image, session->buf, length, offset, &vt_err));
    memcpy(session->disk->bytes + offset, session->buf, length);
}

static void do_zero(struct session *session, uint64_t offset, size_t length)
{
    unsigned flags = vt_random_chance(session->random, 50) ? VDISK_ZERO_NO_HOLE : 0;
    VT_OK(vdisk_image_write_zeroes(session->image, offset, length, flags, &vt_err));
    memset(session->disk->bytes + offset, 0, length);
}

static void do_read(struct session *session, uint64_t offset, size_t length)
{
    VT_OK(vdisk_image_pread(session->image, session->buf, length, offset, &vt_err));
    compare(session->disk, session->buf, offset, length);
}

/* Each byte may be zero now. */
static void do_discard(struct session *session, uint64_t offset, size_t length)
{
    uint8_t *model = session->disk->bytes + offset;
    VT_OK(vdisk_image_discard(session->image, offset, length, &vt_err));
    VT_OK(vdisk_image_pread(session->image, session->buf, length, offset, &vt_err));
    for (size_t i = 0; i < length; i++)
        if (session->buf[i] == 0)
            model[i] = 0;
    compare(session->disk, session->buf, offset, length);
}

void vt_disk_session(struct vt_disk *disk, unsigned operations, struct vt_random *random)
{
    struct session session = {.disk = disk, .random = random, .buf = malloc(REQUEST_MAX)};
    assert_non_null(session.buf);
    session.image = vt_disk_open(disk, VDISK_OPEN_WRITE);
    for (unsigned i = 0; i < operations; i++) {
        uint64_t offset;
        size_t length;
        draw(&session, &offset, &length);
        uint64_t kind = vt_random_below(random, 100);
        if (kind < 45)
            do_write(&session, offset, length);
        else if (kind < 63)
            do_zero(&session, offset, length);
        else if (kind < 73)
            do_discard(&session, offset, length);
        else if (kind < 97)
            do_read(&session, offset, length);
        else
            VT_OK(vdisk_image_flush(session.image, &vt_err));
    }
    VT_OK(vdisk_image_close(session.image, &vt_err));
    free(session.buf);
}
