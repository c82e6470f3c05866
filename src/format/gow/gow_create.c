/* SPDX-License-Identifier: MIT */
/* A new GOW image, and how large one would be. */
#include <inttypes.h>
#include <string.h>

#include "format/gow/gow_priv.h"
#include "util/mem.h"
#include "util/uuid.h"

#define FILL_BYTES (1u << 20)

static int check_options(uint32_t version, const struct vdisk_create_options *options,
                         struct vdisk_error *err)
{
    if (options->preallocation != VDISK_PREALLOCATION_OFF)
        return vd_err_set(err, EINVAL, "preallocation: GOW images grow as they are written");
    return vd_gow_check_size(version, options->size, err);
}

/* Makes the file as long as an image without data, and empty where it may have been something. */
static int make_room(struct vd_storage *file, const struct vd_gow_layout *layout,
                     struct vdisk_error *err)
{
    if (vd_storage_caps(file) & VD_STORAGE_CAN_RESIZE) {
        int ret = vd_storage_resize(file, 0, err);
        return ret < 0 ? ret : vd_storage_resize(file, layout->data_offset, err);
    }
    uint64_t capacity;
    int ret = vd_storage_size(file, &capacity, err);
    if (ret == 0 && capacity < layout->data_offset)
        ret = vd_err_set(err, ENOSPC,
                         "%s: has %" PRIu64 " bytes, an image without data needs %" PRIu64,
                         vd_storage_name(file), capacity, layout->data_offset);
    if (ret == 0)
        ret = vd_storage_write_zeroes(file, vd_range(0, layout->map_offset), 0, err);
    uint64_t map_end = layout->map_offset + vd_gow_table_bytes(layout);
    if (ret == 0)
        ret =
            vd_storage_write_zeroes(file, vd_range(map_end, layout->data_offset - map_end), 0, err);
    return ret;
}

static int fill_map(struct vd_storage *file, const struct vd_gow_layout *layout,
                    struct vdisk_error *err)
{
    static_assert(VD_GOW_UNALLOCATED == 0xFFFFFFFFu, "all bytes are 0xFF");
    CLEANUP_FREE void *buffer = vd_alloc_io(FILL_BYTES);
    if (!buffer)
        return vd_err_nomem(err, "an empty map");
    memset(buffer, 0xFF, FILL_BYTES);
    for (uint64_t done = 0; done < vd_gow_table_bytes(layout); done += FILL_BYTES) {
        int ret = vd_storage_pwrite(file, buffer, FILL_BYTES, layout->map_offset + done, err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

int vd_gow_create(const struct vd_format_driver *driver, struct vd_storage *file,
                  struct vd_storage *data, const struct vdisk_create_options *options,
                  struct vdisk_error *err)
{
    (void)data;
    uint32_t version = driver->variant;
    struct vd_gow_layout layout = vd_gow_layout_of(version);
    struct vd_gow_header header = {.version = version, .size = options->size};
    int ret = check_options(version, options, err);
    if (ret == 0)
        ret = vd_uuid_new(header.uuid, err);
    if (ret == 0)
        ret = make_room(file, &layout, err);
    if (ret == 0)
        ret = fill_map(file, &layout, err);
    /* Only now does it become an image. */
    if (ret == 0)
        ret = vd_storage_flush(file, err);
    return ret < 0 ? ret : vd_gow_header_write(file, &header, err);
}

int vd_gow_measure(const struct vd_format_driver *driver,
                   const struct vdisk_create_options *options, uint64_t data_bytes,
                   struct vdisk_measure_result *result, struct vdisk_error *err)
{
    int ret = vd_gow_check_size(driver->variant, options->size, err);
    if (ret < 0)
        return ret;
    struct vd_gow_layout layout = vd_gow_layout_of(driver->variant);
    uint32_t blocks = vd_gow_block_count(options->size);
    uint32_t data_blocks = (uint32_t)vd_min(vd_div_up(data_bytes, VD_GOW_BLOCK_BYTES), blocks);
    *result = (struct vdisk_measure_result){
        .required_bytes = vd_gow_file_bytes(&layout, data_blocks),
        .fully_allocated_bytes = vd_gow_file_bytes(&layout, blocks),
    };
    return 0;
}
