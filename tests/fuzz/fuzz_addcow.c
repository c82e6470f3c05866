/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as an add-cow image: looked at, read, checked, written, mended.
 *
 * The input is changes of a sound image:
 *
 *     byte 0     bit 0: with a backing file; bit 1: with the later header; bit 2: with some
 * clusters in use; bit 3: a file of nothing but the changes; bit 4: checked first; bit 5: mended at
 * the end; bit 6: the format is not told byte 1     count of changes; each: where (header, name,
 * bitmap, either length), index, bytes the rest   operations on the disk: one byte, then what it
 * needs
 *
 * What holds for any input: disk.h.
 */
#include "disk.h"
#include "files.h"
#include "format/addcow/addcow_geometry.h"
#include "format/format.h"

#define BASE_DISK_BYTES  (UINT64_C(3) << 20)
#define LATER_NAME_AT    100u
#define DATA_LENGTH_UNIT 512u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

enum control {
    WITH_BACKING = 1 << 0,
    WITH_LATER_HEADER = 1 << 1,
    WITH_CLUSTERS = 1 << 2,
    FROM_NOTHING = 1 << 3,
    CHECKED_FIRST = 1 << 4,
    MENDED = 1 << 5,
    UNTOLD = 1 << 6
};

static void write_some_clusters(struct fuzz_files *files)
{
    static const uint32_t clusters[] = {0, 3, 4, 17, 47};
    struct vdisk_error err = {0};
    uint8_t bytes[700];
    struct vdisk_image *image = fuzz_files_open(files, VDISK_OPEN_WRITE, &err);
    REQUIRE(image);
    for (size_t i = 0; i < sizeof(clusters) / sizeof(clusters[0]); i++) {
        memset(bytes, 'a' + (int)i, sizeof(bytes));
        REQUIRE(vdisk_image_pwrite(image, bytes, sizeof(bytes), clusters[i] * UINT64_C(65536),
                                   &err) == 0);
    }
    REQUIRE(vdisk_image_close(image, &err) == 0);
}

static void make_sound(struct fuzz_files *files, uint8_t control)
{
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options), .size = BASE_DISK_BYTES, .data_file = FUZZ_DATA_NAME};
    if (control & WITH_BACKING) {
        options.backing = FUZZ_BASE_NAME;
        options.backing_format = "raw";
    }
    struct vd_storage *file = overlay_open(files->image);
    struct vd_storage *data = overlay_open(files->data);
    const struct vd_format_driver *driver = vd_format_find("add-cow", NULL);
    REQUIRE(driver && vd_format_create(driver, file, data, &options, NULL) == 0);
    vd_storage_close(file);
    vd_storage_close(data);
    if (control & WITH_CLUSTERS)
        write_some_clusters(files);
}

static struct vd_addcow_disk_name later_name(struct overlay *image, uint32_t offset,
                                             const char *name)
{
    struct vd_addcow_disk_name disk;
    overlay_write(image, name, strlen(name), offset);
    disk.offset = le32_of(offset);
    disk.length = le32_of((uint32_t)strlen(name));
    return disk;
}

/* The bitmap stays where it is. */
static void put_later_header(struct overlay *image, uint8_t control)
{
    static const uint8_t zeros[VD_ADDCOW_HEADER_BYTES];
    struct vd_addcow_disk_later_header header = {.magic = "ACO"};
    header.magic[3] = 'W';
    overlay_write(image, zeros, sizeof(zeros), 0);
    header.data = later_name(image, LATER_NAME_AT, FUZZ_DATA_NAME);
    memcpy(header.data_format, "raw", 3);
    if (control & WITH_BACKING) {
        header.backing = later_name(image, LATER_NAME_AT + 10, FUZZ_BASE_NAME);
        memcpy(header.backing_format, "raw", 3);
    }
    header.cluster_bits = le32_of(VD_ADDCOW_CLUSTER_BITS);
    header.header_bytes = le32_of(65536); /* the larger of 4096 and a cluster */
    overlay_write(image, &header, sizeof(header), 0);
    if (control & WITH_CLUSTERS)
        overlay_write(image, "\x19\0\2\0\0\x80", 6, 65536);
}

/* One change; indexes are folded so that most of them hit what is in use. */
static void change(struct input *in, struct fuzz_files *files)
{
    uint8_t where = (uint8_t)input_take(in, 1);
    uint64_t index = input_take(in, where & 0x80 ? 4 : 2);
    uint8_t bytes[64];
    size_t length = 1 + input_take(in, 1) % sizeof(bytes);
    uint64_t offset = 0;

    switch (where % 6) {
    case 0:
    case 1:
        offset = index % sizeof(struct vd_addcow_disk_later_header);
        length = 1 + length % 8;
        break;
    case 2:
        offset = index % VD_ADDCOW_HEADER_BYTES;
        break;
    case 3:
        offset = VD_ADDCOW_HEADER_BYTES + index % 16;
        break;
    case 4:
        overlay_resize(files->image, index % (1u << 21));
        return;
    default:
        overlay_resize(files->data, index * DATA_LENGTH_UNIT + (where & 0x40 ? length : 0));
        return;
    }
    input_copy(in, bytes, length);
    overlay_write(files->image, bytes, length, offset);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct input in = {.data = data, .left = length};
    uint8_t control = (uint8_t)input_take(&in, 1);
    struct fuzz_files files = {
        .format = "add-cow", .image = overlay_new(NULL, 0), .data = overlay_new(NULL, 0)};
    struct fuzz_disk disk = {.open = fuzz_files_open,
                             .opaque = &files,
                             .checks_first = control & CHECKED_FIRST,
                             .mends = control & MENDED};
    if (!(control & FROM_NOTHING)) {
        make_sound(&files, control);
        if (control & WITH_LATER_HEADER)
            put_later_header(files.image, control);
    }
    size_t changes = input_take(&in, 1) % 32;
    for (size_t i = 0; i < changes; i++)
        change(&in, &files);
    if (control & UNTOLD)
        files.format = NULL;
    fuzz_disk(&in, &disk);
    overlay_free(files.image);
    overlay_free(files.data);
    return 0;
}
