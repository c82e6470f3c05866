/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as the metadata of a qcow2 image: checked, mended, checked again, opened for writing.
 *
 * The input is changes of a sound image with a snapshot:
 *
 *     byte 0   its geometry (bits 0-2: refcount order; 3-4: cluster bits; 5: version 2; 6: extended
 *              L2 entries; 7: dirty)
 *     byte 1   count of changes; each: where, index, bytes
 *
 * What holds for any input: no crash, no leak, no hang; the file does not grow without end; what
 * the repair calls sound stays so.
 */
#include <stdio.h>
#include <stdlib.h>

#include "format/format.h"
#include "format/qcow2/qcow2_geometry.h"
#include "disk.h"
#include "input.h"
#include "overlay.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

enum control {
    REFCOUNT_ORDER = 7,
    CLUSTER_BITS = 3 << 3,
    VERSION_2 = 1 << 5,
    EXTENDED = 1 << 6,
    DIRTY = 1 << 7
};

/* Clusters of the sound image; data follows. */
enum place {
    AT_HEADER,
    AT_REFCOUNT_TABLE,
    AT_REFCOUNT_BLOCK,
    AT_L1,
    AT_L2,
    AT_SECOND_L2,
    AT_SNAPSHOTS,
    AT_SNAPSHOT_L1,
    AT_DATA,
    CLUSTERS = AT_DATA + 6
};

struct sound {
    struct vd_qcow2_geometry geometry;
    struct overlay *image;
    bool is_version_2;
};

static void put(struct sound *sound, uint64_t offset, uint64_t value, size_t bytes)
{
    uint8_t raw[8];
    for (size_t i = 0; i < bytes; i++)
        raw[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
    overlay_write(sound->image, raw, bytes, offset);
}

static uint64_t at(const struct sound *sound, uint64_t cluster)
{
    return cluster << sound->geometry.cluster_bits;
}

static void put_header(struct sound *sound, uint8_t control)
{
    put(sound, 0, 0x514649fb, 4);
    put(sound, 4, sound->is_version_2 ? 2 : 3, 4);
    put(sound, 20, sound->geometry.cluster_bits, 4);
    put(sound, 24, 2 * sound->geometry.l2_span, 8);
    put(sound, 36, 2, 4);
    put(sound, 40, at(sound, AT_L1), 8);
    put(sound, 48, at(sound, AT_REFCOUNT_TABLE), 8);
    put(sound, 56, 1, 4);
    put(sound, 60, 1, 4);
    put(sound, 64, at(sound, AT_SNAPSHOTS), 8);
    if (sound->is_version_2)
        return;
    put(sound, 72, (control & DIRTY ? 1 : 0) | (sound->geometry.subclusters > 1 ? 0x10 : 0), 8);
    put(sound, 96, sound->geometry.refcount_order, 4);
    put(sound, 100, 104, 4);
}

static void make_sound(struct sound *sound, uint8_t control)
{
    static const uint32_t bits[] = {9, 12, 14, 16};
    uint32_t cluster_bits = bits[(control & CLUSTER_BITS) >> 3];
    bool is_extended = (control & EXTENDED) && cluster_bits >= 14;
    sound->is_version_2 = (control & VERSION_2) && !is_extended;
    sound->geometry = vd_qcow2_geometry_of(
        cluster_bits, sound->is_version_2 ? 4 : (uint32_t)(control & REFCOUNT_ORDER) % 7,
        is_extended);
    overlay_resize(sound->image, at(sound, CLUSTERS));
    put_header(sound, control);
    put(sound, at(sound, AT_REFCOUNT_TABLE), at(sound, AT_REFCOUNT_BLOCK), 8);
    put(sound, at(sound, AT_L1), at(sound, AT_L2), 8);
    put(sound, at(sound, AT_L1) + 8, at(sound, AT_SECOND_L2), 8);
    put(sound, at(sound, AT_SNAPSHOT_L1), at(sound, AT_L2), 8);
    put(sound, at(sound, AT_SNAPSHOTS), at(sound, AT_SNAPSHOT_L1), 8);
    put(sound, at(sound, AT_SNAPSHOTS) + 8, 2, 4);
    put(sound, at(sound, AT_SNAPSHOTS) + 12, 1, 2);
    put(sound, at(sound, AT_SNAPSHOTS) + 36, 16, 4);
    put(sound, at(sound, AT_SNAPSHOTS) + 56, '1', 1);
    for (uint64_t i = 0; i < 6; i++) {
        uint64_t entry = at(sound, i < 4 ? AT_L2 : AT_SECOND_L2) + i * sound->geometry.entry_bytes;
        put(sound, entry, at(sound, AT_DATA + i), 8);
        if (sound->geometry.subclusters > 1)
            put(sound, entry + 8, UINT32_MAX, 8);
    }
}

static struct vdisk_check_result check(struct overlay *image, enum vdisk_repair repair, int *ret)
{
    struct vdisk_check_result result = {.struct_bytes = sizeof(result)};
    const struct vd_check check = {.repair = repair, .result = &result};
    struct vd_format_options options = {.flags = VD_FORMAT_CHECK};
    struct vdisk_error err = {0};
    struct vd_format *format;
    if (repair != VDISK_REPAIR_NONE)
        options.flags |= VD_FORMAT_WRITE;
    struct vd_storage *file = overlay_open(image);
    *ret = vd_format_open(vd_format_find("qcow2", NULL), file, &options, &format, &err);
    if (*ret == 0) {
        *ret = vd_format_check(format, &check, &err);
        (void)!vd_format_close(format, NULL);
    }
    REQUIRE(*ret == 0 || (*ret == -err.code && err.message[0]));
    vd_storage_close(file);
    return result;
}

static void open_for_writing(struct overlay *image)
{
    const struct vd_format_options options = {.flags = VD_FORMAT_WRITE};
    struct vd_format *format;
    struct vd_storage *file = overlay_open(image);
    if (vd_format_open(vd_format_find("qcow2", NULL), file, &options, &format, NULL) == 0)
        (void)!vd_format_close(format, NULL);
    vd_storage_close(file);
}

/* The repair, and what has to hold of it. */
static void mend(struct overlay *image)
{
    int ret;
    uint64_t size = image->size;
    struct vdisk_check_result mended = check(image, VDISK_REPAIR_ALL, &ret);
    REQUIRE(image->size <= size * 3 + (UINT64_C(64) << 20));
    bool is_sound = ret == 0 && mended.corruptions + mended.leaks + mended.check_errors == 0;
    struct vdisk_check_result again = check(image, VDISK_REPAIR_NONE, &ret);
    if (is_sound)
        REQUIRE(ret == 0 && again.corruptions + again.leaks + again.check_errors == 0);
    again = check(image, VDISK_REPAIR_ALL, &ret);
    if (is_sound)
        REQUIRE(ret == 0 && again.corruptions_fixed + again.leaks_fixed == 0);
}

/* A word of some table, or bytes anywhere. */
static void change(struct input *in, struct sound *sound)
{
    uint8_t where = (uint8_t)input_take(in, 1);
    uint64_t index = input_take(in, 1);
    uint8_t kind = (uint8_t)input_take(in, 1);
    uint64_t value = kind & 1 ? input_take(in, 8) : at(sound, input_take(in, 1) % (CLUSTERS + 2));
    if (kind & 2)
        value |= UINT64_C(1) << (kind >> 2);
    switch (where % 4) {
    case 0:
        put(sound, at(sound, where / 4 % CLUSTERS) + index % 16 * 8, value, 8);
        break;
    case 1:
        put(sound, at(sound, AT_REFCOUNT_BLOCK) + index % 32, value, 1);
        break;
    case 2:
        put(sound, 20 + index % 84, value, 1 + kind % 4);
        break;
    default:
        if (kind % 8 == 0)
            overlay_resize(sound->image, at(sound, index % (CLUSTERS + 1)) + value % 1024);
        else
            put(sound, value % at(sound, CLUSTERS), index, 1);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct input in = {.data = data, .left = length};
    struct sound sound = {.image = overlay_new(NULL, 0)};
    make_sound(&sound, (uint8_t)input_take(&in, 1));
    size_t changes = input_take(&in, 1) % 32;
    for (size_t i = 0; i < changes; i++)
        change(&in, &sound);
    int ret;
    (void)check(sound.image, VDISK_REPAIR_NONE, &ret);
    if (length % 4 == 0)
        open_for_writing(sound.image);
    mend(sound.image);
    open_for_writing(sound.image);
    overlay_free(sound.image);
    return 0;
}
