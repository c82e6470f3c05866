/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as a GOW image: looked at, read, checked, written, mended.
 *
 * The map of an image is 4 MiB and more, so the input is not the image but changes of one:
 *
 *     byte 0     bits 0-1: version of the base, less 1; bit 2: with some blocks in use; bit 3: a
 *                file of nothing but the changes; bit 4: checked first; bit 5: mended at the end
 *     byte 1     count of changes; each: where (head, map, versions, data, length), index, bytes
 *     the rest   operations on the disk: one byte, then what it needs
 *
 * What holds for any input: no crash, no leak, no hang; memory within the limits of the fuzzer;
 * what a write has put there reads back; a check that mended all leaves nothing for the next one.
 */
#include <stdlib.h>

#include "format/gow/gow_geometry.h"
#include "image/image.h"
#include "input.h"
#include "overlay.h"

#define BASE_DISK_BYTES   (UINT64_C(200) << 20) /* two regions */
#define IO_BYTES_MAX      (192u << 10)
#define OPERATIONS_MAX    64u
#define EXTENTS_MAX       256u
#define CACHE_BYTES_LEAST (UINT64_C(1) << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

#define REQUIRE(condition) \
    do {                   \
        if (!(condition))  \
            abort();       \
    } while (0)

static const char *const format_names[] = {"gow1", "gow2", "gow3"};

struct base {
    uint8_t *bytes;
    uint64_t length;
};

/* Opens what is in @overlay, as @format, or as whatever it looks like if that is NULL. */
static struct vdisk_image *open_image(struct overlay *overlay, const char *format, uint32_t flags,
                                      struct vdisk_error *err)
{
    struct vdisk_open_options options = {.struct_bytes = sizeof(options)};
    options.flags = flags;
    options.format = format;
    options.cache_bytes = CACHE_BYTES_LEAST;
    struct vdisk_image *image = NULL;
    vdisk_error_clear(err);
    int ret = vd_image_open_on(overlay_open(overlay), &options, &image, err);
    REQUIRE(ret == 0 || (ret == -err->code && err->message[0]));
    return image;
}

/* Some blocks of two regions, in an order that is not that of the disk. */
static void write_some_blocks(struct overlay *overlay, const char *format)
{
    static const uint32_t blocks[] = {5, 4, 0, 2100, 3199, 7};
    uint8_t buf[512];
    struct vdisk_error err;
    struct vdisk_image *image = open_image(overlay, format, VDISK_OPEN_WRITE, &err);
    REQUIRE(image);
    for (size_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
        memset(buf, 'a' + (int)i, sizeof(buf));
        REQUIRE(vdisk_image_pwrite(image, buf, sizeof(buf), blocks[i] * (uint64_t)65536, &err) ==
                0);
    }
    REQUIRE(vdisk_image_close(image, &err) == 0);
}

static struct base make_base(unsigned kind, bool is_used)
{
    struct overlay *overlay = overlay_new(NULL, 0);
    struct vd_storage *file = overlay_open(overlay);
    struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                           .size = BASE_DISK_BYTES};
    const struct vd_format_driver *driver = vd_format_find(format_names[kind], NULL);
    REQUIRE(driver && vd_format_create(driver, file, NULL, &options, NULL) == 0);
    if (is_used)
        write_some_blocks(overlay, format_names[kind]);

    struct base base = {.length = overlay->size};
    base.bytes = malloc(base.length);
    REQUIRE(base.bytes && vd_storage_pread(file, base.bytes, base.length, 0, NULL) == 0);
    vd_storage_close(file);
    overlay_free(overlay);
    return base;
}

/* Made once for all inputs. */
static const struct base *base_of(unsigned kind, bool is_used)
{
    static struct base bases[3][2];
    struct base *base = &bases[kind][is_used];
    if (!base->bytes)
        *base = make_base(kind, is_used);
    return base;
}

/* One change of the file; indexes are folded so that most of them hit what is in use. */
static void change(struct input *in, struct overlay *overlay, unsigned kind)
{
    struct vd_gow_layout layout = vd_gow_layout_of(kind + 1);
    uint8_t where = (uint8_t)input_take(in, 1);
    uint64_t index = input_take(in, where & 0x80 ? 4 : 2);
    uint8_t bytes[64];
    size_t length = 1 + input_take(in, 1) % sizeof(bytes);
    uint64_t offset = 0;

    switch (where % 5) {
    case 0:
        offset = index % VD_GOW_HEAD_BYTES;
        break;
    case 1:
        offset = layout.map_offset + index % layout.map_entries * VD_GOW_ENTRY_BYTES;
        break;
    case 2:
        offset = layout.versions_offset + index % layout.map_entries * VD_GOW_ENTRY_BYTES;
        break;
    case 3:
        offset = layout.data_offset + index % (8u << 20);
        break;
    default:
        /* Much more than can be written: only the length says so. */
        overlay_resize(overlay, where & 0x40 ? index * VD_GOW_BLOCK_BYTES
                                             : layout.data_offset + index * 512);
        return;
    }
    input_copy(in, bytes, length);
    overlay_write(overlay, bytes, length, offset);
}

static struct overlay *make_file(struct input *in)
{
    uint8_t control = (uint8_t)input_take(in, 1);
    unsigned kind = control % 4 % 3;
    const struct base *base = base_of(kind, control & 4);
    struct overlay *overlay =
        control & 8 ? overlay_new(NULL, 0) : overlay_new(base->bytes, base->length);
    size_t changes = input_take(in, 1) % 32;
    for (size_t i = 0; i < changes; i++)
        change(in, overlay, kind);
    return overlay;
}

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

/* Returns what check said: a negative value if it could not be done at all. */
static int check(struct overlay *overlay, const char *format, enum vdisk_repair repair,
                 struct vdisk_check_result *result, struct vdisk_image_info *info)
{
    struct vdisk_error err;
    uint32_t flags = VDISK_OPEN_CHECK | (repair == VDISK_REPAIR_NONE ? 0 : VDISK_OPEN_WRITE);
    struct vdisk_image *image = open_image(overlay, format, flags, &err);
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
static void mend(struct overlay *overlay, const char *format)
{
    struct vdisk_check_result result, again;
    struct vdisk_image_info info;
    struct vdisk_error err;

    if (check(overlay, format, VDISK_REPAIR_ALL, &result, &info) < 0)
        return;
    REQUIRE(check(overlay, format, VDISK_REPAIR_NONE, &again, &info) == 0);
    REQUIRE(again.corruptions == result.corruptions && again.leaks == result.leaks);
    if (result.corruptions == 0 && !(info.flags & VDISK_INFO_INCOMPLETE)) {
        struct vdisk_image *image = open_image(overlay, format, VDISK_OPEN_WRITE, &err);
        REQUIRE(image);
        vdisk_image_close(image, NULL);
    }
}

/* Looked at as whatever it is; returns the format that it looks like, of ours. */
static const char *look(struct overlay *overlay)
{
    const char *format = NULL;
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    struct vdisk_error err;
    struct vdisk_image *image = open_image(overlay, NULL, 0, &err);
    if (image) {
        walk(image);
        REQUIRE(vdisk_image_info(image, &info, &err) == 0);
        for (size_t i = 0; i < sizeof(format_names) / sizeof(format_names[0]); i++)
            if (strcmp(info.format, format_names[i]) == 0)
                format = format_names[i];
        vdisk_image_close(image, NULL);
    }
    return format;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct input in = {.data = data, .left = length};
    uint8_t control = length ? data[0] : 0;
    struct overlay *overlay = make_file(&in);
    struct vdisk_check_result result;
    struct vdisk_image_info info;
    struct vdisk_error err;

    const char *format = look(overlay);
    if (!format)
        format = format_names[control % 4 % 3];
    if (control & 16)
        check(overlay, format, VDISK_REPAIR_NONE, &result, &info);

    struct vdisk_image *image = open_image(overlay, format, VDISK_OPEN_WRITE, &err);
    if (image) {
        operate(&in, image);
        vdisk_image_close(image, NULL);
    }
    if (control & 32)
        mend(overlay, format);
    overlay_free(overlay);
    return 0;
}
