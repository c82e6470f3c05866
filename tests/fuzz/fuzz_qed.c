/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as a QED image: looked at, read, checked, written, mended.
 *
 * The input is changes of a sound image:
 *
 *     byte 0     bits 0-1: its geometry; bit 2: with a backing file; bit 3: a file of nothing but
 * the changes; bit 4: checked first; bit 5: mended at the end; bit 6: with the header of the first
 * draft; bit 7: the format is not told byte 1     count of changes; each: where (header, name, L1,
 * L2, anywhere, length), index, bytes the rest   operations on the disk: one byte, then what it
 * needs
 *
 * What holds for any input: disk.h.
 */
#include "disk.h"
#include "files.h"
#include "format/format.h"
#include "util/endian.h"

#define LENGTH_UNIT   512u
#define LENGTH_MAX    (UINT64_C(2) << 30) /* the largest tables have 1 GiB */
#define ENTRY_BYTES   8u
#define TABLES_IN_USE 3u /* of the sound images: their L1 entries */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

enum control {
    GEOMETRY = 3,
    WITH_BACKING = 1 << 2,
    FROM_NOTHING = 1 << 3,
    CHECKED_FIRST = 1 << 4,
    MENDED = 1 << 5,
    DRAFT = 1 << 6,
    UNTOLD = 1 << 7
};

/* Fields of the final header, and of the first draft. */
enum header_offset {
    AT_L1 = 40,
    AT_SIZE = 48,
    AT_BACKING = 56,
    DRAFT_AT_L1 = 32,
    DRAFT_AT_SIZE = 40,
    DRAFT_AT_BACKING = 48,
    DRAFT_AT_FORMAT = 56
};

static const struct {
    uint32_t cluster_bytes;
    uint32_t table_clusters;
} geometries[] = {{4096, 1}, {4096, 2}, {8192, 1}, {65536, 1}};

struct shape {
    uint64_t cluster_bytes;
    uint64_t l1_offset;
    uint64_t l2_offsets[TABLES_IN_USE];
};

static uint64_t get_le64(struct overlay *image, uint64_t offset)
{
    struct le64 raw;
    overlay_get(image, &raw, sizeof(raw), offset);
    return le64_get(raw);
}

static void put_le64(struct overlay *image, uint64_t offset, uint64_t value)
{
    struct le64 raw = le64_of(value);
    overlay_write(image, &raw, sizeof(raw), offset);
}

static struct shape make_sound(struct fuzz_files *files, uint8_t control)
{
    struct vdisk_create_options options = {.struct_bytes = sizeof(options)};
    options.cluster_bytes = geometries[control & GEOMETRY].cluster_bytes;
    options.table_clusters = geometries[control & GEOMETRY].table_clusters;
    uint64_t cluster = options.cluster_bytes;
    uint64_t span = cluster * options.table_clusters / ENTRY_BYTES * cluster;
    options.size = TABLES_IN_USE * span;
    if (control & WITH_BACKING) {
        options.backing = FUZZ_BASE_NAME;
        options.backing_format = "raw";
    }
    struct vd_storage *file = overlay_open(files->image);
    const struct vd_format_driver *driver = vd_format_find("qed", NULL);
    REQUIRE(driver && vd_format_create(driver, file, NULL, &options, NULL) == 0);
    vd_storage_close(file);
    fuzz_files_write_some(files, cluster, span);

    struct shape shape = {.cluster_bytes = cluster, .l1_offset = get_le64(files->image, AT_L1)};
    for (size_t i = 0; i < TABLES_IN_USE; i++)
        shape.l2_offsets[i] = get_le64(files->image, shape.l1_offset + i * ENTRY_BYTES);
    return shape;
}

static void put_draft_header(struct overlay *image)
{
    uint64_t l1_offset = get_le64(image, AT_L1);
    uint64_t size = get_le64(image, AT_SIZE);
    uint64_t backing = get_le64(image, AT_BACKING);
    put_le64(image, DRAFT_AT_L1, l1_offset);
    put_le64(image, DRAFT_AT_SIZE, size);
    put_le64(image, DRAFT_AT_BACKING, backing);
    put_le64(image, DRAFT_AT_FORMAT, 0);
}

/* A table entry: any number, or one of a cluster that is near. */
static void change_entry(struct input *in, struct overlay *image, const struct shape *shape,
                         uint64_t offset)
{
    uint8_t kind = (uint8_t)input_take(in, 1);
    uint64_t value = kind & 1 ? input_take(in, 8) : input_take(in, 1) * shape->cluster_bytes;
    put_le64(image, offset, value + (kind & 2 ? kind >> 2 : 0));
}

/* One change; indexes are folded so that most of them hit what is in use. */
static void change(struct input *in, struct overlay *image, const struct shape *shape)
{
    uint8_t where = (uint8_t)input_take(in, 1);
    uint64_t index = input_take(in, where & 0x80 ? 4 : 2);
    uint8_t bytes[64];
    size_t length;
    uint64_t offset;

    switch (where % 7) {
    case 0:
        offset = index % 64;
        length = 1 + (index >> 8) % 8;
        break;
    case 1:
        offset = index % shape->cluster_bytes;
        length = 1 + input_take(in, 1) % sizeof(bytes);
        break;
    case 2:
        change_entry(in, image, shape,
                     shape->l1_offset + index % (TABLES_IN_USE + 1) * ENTRY_BYTES);
        return;
    case 3:
    case 4:
        offset = shape->l2_offsets[index % TABLES_IN_USE] + (index >> 2) % 16 * ENTRY_BYTES;
        change_entry(in, image, shape, offset);
        return;
    case 5:
        offset = index % (1u << 21);
        length = 1 + input_take(in, 1) % sizeof(bytes);
        break;
    default:
        overlay_resize(image, index * (where & 0x40 ? LENGTH_UNIT : 1) % LENGTH_MAX);
        return;
    }
    input_copy(in, bytes, length);
    overlay_write(image, bytes, length, offset);
}

/* To a final header; what comes of it has to be something that opens, or tells why not. */
static void amend(struct overlay *image)
{
    struct vdisk_amend_options options = {.struct_bytes = sizeof(options), .compat = "final"};
    struct vdisk_error err = {0};
    struct vd_storage *file = overlay_open(image);
    int ret = vd_format_amend(vd_format_find("qed", NULL), file, &options, &err);
    REQUIRE(ret == 0 || (ret == -err.code && err.message[0]));
    vd_storage_close(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct input in = {.data = data, .left = length};
    uint8_t control = (uint8_t)input_take(&in, 1);
    struct fuzz_files files = {.format = "qed", .image = overlay_new(NULL, 0)};
    struct fuzz_disk disk = {.open = fuzz_files_open,
                             .opaque = &files,
                             .checks_first = control & CHECKED_FIRST,
                             .mends = control & MENDED};
    struct shape shape = {.cluster_bytes = 4096, .l1_offset = 4096};
    if (!(control & FROM_NOTHING))
        shape = make_sound(&files, control);
    if (!(control & FROM_NOTHING) && (control & DRAFT))
        put_draft_header(files.image);
    size_t changes = input_take(&in, 1) % 32;
    for (size_t i = 0; i < changes; i++)
        change(&in, files.image, &shape);
    if (control & UNTOLD)
        files.format = NULL;
    if ((control & DRAFT) && in.left && input_take(&in, 1) & 1)
        amend(files.image);
    fuzz_disk(&in, &disk);
    overlay_free(files.image);
    return 0;
}
