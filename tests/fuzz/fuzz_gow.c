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
 * What holds for any input: disk.h.
 */
#include "disk.h"
#include "format/gow/gow_geometry.h"
#include "image/image.h"
#include "overlay.h"

#define BASE_DISK_BYTES   (UINT64_C(200) << 20) /* two regions */
#define CACHE_BYTES_LEAST (UINT64_C(1) << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

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

struct subject {
    struct overlay *overlay;
    const char *format;
};

static struct vdisk_image *open_subject(void *opaque, uint32_t flags, struct vdisk_error *err)
{
    const struct subject *subject = opaque;
    return open_image(subject->overlay, subject->format, flags, err);
}

/* Which of our formats does it look like? */
static const char *look_for_format(struct overlay *overlay)
{
    const char *format = NULL;
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    struct vdisk_error err;
    struct vdisk_image *image = open_image(overlay, NULL, 0, &err);
    if (image) {
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
    struct subject subject = {.overlay = make_file(&in)};
    struct fuzz_disk disk = {.open = open_subject,
                             .opaque = &subject,
                             .checks_first = control & 16,
                             .mends = control & 32};
    subject.format = look_for_format(subject.overlay);
    if (!subject.format)
        subject.format = format_names[control % 4 % 3];
    fuzz_disk(&in, &disk);
    overlay_free(subject.overlay);
    return 0;
}
