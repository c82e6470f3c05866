/* SPDX-License-Identifier: MIT */
#include "disk.h"

#include "util/range.h"

#define IO_BYTES_MAX   (192u << 10)
#define OPERATIONS_MAX 64u
#define EXTENTS_MAX    256u

/* A place for a request of at most IO_BYTES_MAX, near the start, the end, or anywhere. */
static struct vd_range place(struct input *in, uint64_t size)
{
    uint64_t at = input_take(in, 4);
    uint64_t length = input_take(in, 2) * 3;
    uint64_t offset = at & 1 ? (at >> 1) * 4096 : at >> 1;
    if (size == 0)
        return vd_range(0, 0);
    offset %= size;
    return vd_range(offset, vd_min(vd_min(length, IO_BYTES_MAX), size - offset));
}

static void read_back(struct vdisk_image *image, struct vd_range range, const uint8_t *wanted)
{
    struct vdisk_error err = {0};
    uint8_t *buf = malloc(range.length + 1);
    REQUIRE(buf);
    if (vdisk_image_pread(image, buf, range.length, range.offset, &err) == 0 && wanted)
        REQUIRE(memcmp(buf, wanted, range.length) == 0);
    free(buf);
}

static void write_and_read(struct input *in, struct vdisk_image *image, bool zeroes)
{
    struct vdisk_error err = {0};
    struct vd_range range = place(in, vdisk_image_size(image));
    uint8_t *buf = malloc(range.length + 1);
    REQUIRE(buf);
    memset(buf, zeroes ? 0 : (int)(input_take(in, 1) | 1), range.length);
    int ret = zeroes
                  ? vdisk_image_write_zeroes(image, range.offset, range.length,
                                             (unsigned)input_take(in, 1) & VDISK_ZERO_NO_HOLE, &err)
                  : vdisk_image_pwrite(image, buf, range.length, range.offset, &err);
    read_back(image, range, ret == 0 ? buf : NULL);
    free(buf);
}

/* Walks over the disk: each answer has to lead on, and to stay within what was asked for. */
static void walk(struct vdisk_image *image)
{
    uint64_t offset = 0, size = vdisk_image_size(image);
    for (unsigned i = 0; i < EXTENTS_MAX && offset < size; i++) {
        struct vdisk_extent extent;
        if (vdisk_image_extent(image, offset, size - offset, &extent, NULL) < 0)
            return;
        REQUIRE(extent.offset == offset && extent.length && extent.length <= size - offset);
        offset += extent.length;
    }
}

static void operate(struct input *in, struct vdisk_image *image)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    struct vdisk_error err = {0};
    struct vd_range range;

    for (unsigned i = 0; i < OPERATIONS_MAX && in->left; i++) {
        vdisk_error_clear(&err);
        switch (input_take(in, 1) % 8) {
        case 0:
        case 1:
            write_and_read(in, image, false);
            break;
        case 2:
            write_and_read(in, image, true);
            break;
        case 3:
            range = place(in, vdisk_image_size(image));
            (void)!vdisk_image_discard(image, range.offset, range.length, &err);
            break;
        case 4:
            read_back(image, place(in, vdisk_image_size(image)), NULL);
            break;
        case 5:
            (void)!vdisk_image_flush(image, &err);
            break;
        case 6:
            walk(image);
            break;
        default:
            REQUIRE(vdisk_image_info(image, &info, &err) == 0);
            break;
        }
    }
}

static struct vdisk_image *open_disk(const struct fuzz_disk *disk, uint32_t flags,
                                     struct vdisk_error *err)
{
    vdisk_error_clear(err);
    struct vdisk_image *image = disk->open(disk->opaque, flags, err);
    REQUIRE(image || (err->code && err->message[0]));
    return image;
}

/* Returns what check said: a negative value if it could not be done at all. */
static int check(const struct fuzz_disk *disk, enum vdisk_repair repair,
                 struct vdisk_check_result *result, struct vdisk_image_info *info)
{
    struct vdisk_error err;
    uint32_t flags = VDISK_OPEN_CHECK | (repair == VDISK_REPAIR_NONE ? 0 : VDISK_OPEN_WRITE);
    struct vdisk_image *image = open_disk(disk, flags, &err);
    if (!image)
        return -err.code;
    *result = (struct vdisk_check_result){.struct_bytes = sizeof(*result)};
    *info = (struct vdisk_image_info){.struct_bytes = sizeof(*info)};
    int ret = vdisk_image_check(image, repair, NULL, NULL, result, &err);
    REQUIRE(ret == 0 || (ret == -err.code && err.message[0]));
    REQUIRE(vdisk_image_info(image, info, &err) == 0);
    int closed = vdisk_image_close(image, &err);
    return ret < 0 ? ret : closed;
}

/* Mended is mended: the next check finds what this one left, and no more; the disk opens. */
static void mend(const struct fuzz_disk *disk)
{
    struct vdisk_check_result result, again;
    struct vdisk_image_info info;
    struct vdisk_error err;

    if (check(disk, VDISK_REPAIR_ALL, &result, &info) < 0)
        return;
    REQUIRE(check(disk, VDISK_REPAIR_NONE, &again, &info) == 0);
    REQUIRE(again.corruptions == result.corruptions && again.leaks == result.leaks);
    if (result.corruptions == 0 && result.check_errors == 0 &&
        !(info.flags & VDISK_INFO_INCOMPLETE)) {
        struct vdisk_image *image = open_disk(disk, VDISK_OPEN_WRITE | VDISK_OPEN_NO_BACKING, &err);
        REQUIRE(image);
        vdisk_image_close(image, NULL);
    }
}

static void look(const struct fuzz_disk *disk)
{
    struct vdisk_error err;
    struct vdisk_image *image = open_disk(disk, 0, &err);
    if (!image)
        return;
    walk(image);
    for (uint64_t offset = 0; offset < vdisk_image_size(image) && offset < 4 * IO_BYTES_MAX;
         offset += IO_BYTES_MAX)
        read_back(image, vd_range(offset, vd_min(IO_BYTES_MAX, vdisk_image_size(image) - offset)),
                  NULL);
    vdisk_image_close(image, NULL);
}

void fuzz_disk(struct input *in, const struct fuzz_disk *disk)
{
    struct vdisk_check_result result;
    struct vdisk_image_info info;
    struct vdisk_error err;

    look(disk);
    if (disk->checks_first)
        check(disk, VDISK_REPAIR_NONE, &result, &info);
    struct vdisk_image *image = open_disk(disk, VDISK_OPEN_WRITE, &err);
    if (image) {
        operate(in, image);
        vdisk_image_close(image, NULL);
    }
    if (disk->mends)
        mend(disk);
}
