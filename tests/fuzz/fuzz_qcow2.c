/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as a qcow2 image: looked at, read, checked, written, mended.
 *
 * The input is changes of a sound image:
 *
 *     byte 0     bits 0-1: its geometry; bit 2: with a backing file; bit 3: a file of nothing but
 *                the changes; bit 4: checked first; bit 5: mended at the end; bit 6: zstd
 *     byte 1     count of changes; each: where (header, anywhere near, L1, L2, refcounts, length),
 *                index, bytes
 *     the rest   operations on the disk: one byte, then what it needs
 *
 * What holds for any input: disk.h.
 */
#include "disk.h"
#include "files.h"
#include "format/format.h"
#include "util/endian.h"

#define LENGTH_UNIT   512u
#define LENGTH_MAX    (UINT64_C(64) << 20)
#define TABLES_IN_USE 3u /* of the sound images: their L1 entries */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

enum control {
    GEOMETRY = 3,
    WITH_BACKING = 1 << 2,
    FROM_NOTHING = 1 << 3,
    CHECKED_FIRST = 1 << 4,
    MENDED = 1 << 5,
    ZSTD = 1 << 6
};

/* Fields of the header, and of entries. */
#define AT_L1             40u
#define AT_REFCOUNT_TABLE 48u
#define HEADER_BYTES      112u
#define ENTRY_OFFSET      UINT64_C(0x00fffffffffffe00)

static const struct {
    uint32_t cluster_bytes, refcount_bits, flags;
    uint64_t entry_bytes;
    const char *compat;
} geometries[] = {
    {512, 16, 0, 8, "1.1"},
    {4096, 1, 0, 8, "1.1"},
    {4096, 16, 0, 8, "0.10"},
    {16384, 8, VDISK_CREATE_EXTENDED_L2, 16, "1.1"},
};

struct shape {
    uint64_t cluster_bytes, entry_bytes;
    uint64_t l1_offset, refcount_table, refcount_block;
    uint64_t l2_offsets[TABLES_IN_USE];
};

static uint64_t get_be64(struct overlay *image, uint64_t offset)
{
    struct be64 raw;
    overlay_get(image, &raw, sizeof(raw), offset);
    return be64_get(raw);
}

static struct shape make_sound(struct fuzz_files *files, uint8_t control)
{
    struct vdisk_create_options options = {.struct_bytes = sizeof(options)};
    unsigned which = control & GEOMETRY;
    struct shape shape = {.cluster_bytes = geometries[which].cluster_bytes,
                          .entry_bytes = geometries[which].entry_bytes};
    uint64_t span = shape.cluster_bytes / shape.entry_bytes * shape.cluster_bytes;
    options.cluster_bytes = geometries[which].cluster_bytes;
    options.refcount_bits = geometries[which].refcount_bits;
    options.flags = geometries[which].flags;
    options.compat = geometries[which].compat;
    if ((control & ZSTD) && which != 2)
        options.compression = "zstd";
    options.size = TABLES_IN_USE * span;
    if (control & WITH_BACKING) {
        options.backing = FUZZ_BASE_NAME;
        options.backing_format = "raw";
    }
    struct vd_storage *file = overlay_open(files->image);
    const struct vd_format_driver *driver = vd_format_find("qcow2", NULL);
    REQUIRE(driver && vd_format_create(driver, file, NULL, &options, NULL) == 0);
    vd_storage_close(file);
    fuzz_files_write_some(files, shape.cluster_bytes, span);

    shape.l1_offset = get_be64(files->image, AT_L1);
    shape.refcount_table = get_be64(files->image, AT_REFCOUNT_TABLE);
    shape.refcount_block = get_be64(files->image, shape.refcount_table);
    for (size_t i = 0; i < TABLES_IN_USE; i++)
        shape.l2_offsets[i] = get_be64(files->image, shape.l1_offset + i * 8) & ENTRY_OFFSET;
    return shape;
}

/* A table entry: any number, or one of a cluster that is near, with any of the upper bits. */
static void change_entry(struct input *in, struct overlay *image, const struct shape *shape,
                         uint64_t offset)
{
    uint8_t kind = (uint8_t)input_take(in, 1);
    uint64_t value = kind & 1 ? input_take(in, 8) : input_take(in, 1) * shape->cluster_bytes;
    if (kind & 2)
        value += kind >> 4;
    value |= (uint64_t)(kind >> 2 & 3) << 62;
    struct be64 raw = be64_of(value);
    overlay_write(image, &raw, sizeof(raw), offset);
}

/* One change; indexes are folded so that most of them hit what is in use. */
static void change(struct input *in, struct overlay *image, const struct shape *shape)
{
    uint8_t where = (uint8_t)input_take(in, 1);
    uint64_t index = input_take(in, where & 0x80 ? 4 : 2);
    uint8_t bytes[64];
    size_t length;
    uint64_t offset;

    switch (where % 8) {
    case 0:
        offset = index % HEADER_BYTES;
        length = 1 + (index >> 8) % 8;
        break;
    case 1:
        offset = index % (1u << 18);
        length = 1 + input_take(in, 1) % sizeof(bytes);
        break;
    case 2:
        change_entry(in, image, shape, shape->l1_offset + index % (TABLES_IN_USE + 1) * 8);
        return;
    case 3:
    case 4:
        offset = shape->l2_offsets[index % TABLES_IN_USE] + (index >> 2) % 16 * 8;
        change_entry(in, image, shape, offset);
        return;
    case 5:
        change_entry(in, image, shape, shape->refcount_table + index % 4 * 8);
        return;
    case 6:
        offset = shape->refcount_block + index % 64;
        length = 1 + (index >> 8) % 8;
        break;
    default:
        overlay_resize(image, index * (where & 0x40 ? LENGTH_UNIT : 1) % LENGTH_MAX);
        return;
    }
    input_copy(in, bytes, length);
    overlay_write(image, bytes, length, offset);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct input in = {.data = data, .left = length};
    uint8_t control = (uint8_t)input_take(&in, 1);
    struct fuzz_files files = {.format = "qcow2", .image = overlay_new(NULL, 0)};
    struct fuzz_disk disk = {.open = fuzz_files_open,
                             .opaque = &files,
                             .checks_first = control & CHECKED_FIRST,
                             .mends = control & MENDED};
    struct shape shape = {.cluster_bytes = 4096, .entry_bytes = 8, .l1_offset = 4096};
    if (!(control & FROM_NOTHING))
        shape = make_sound(&files, control);
    size_t changes = input_take(&in, 1) % 32;
    for (size_t i = 0; i < changes; i++)
        change(&in, files.image, &shape);
    fuzz_disk(&in, &disk);
    overlay_free(files.image);
    return 0;
}
