/* SPDX-License-Identifier: MIT */
/* The formats gow1, gow2 and gow3: open, close, info, and the tables of the drivers. */
#include "format/gow/gow.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/gow/gow_priv.h"
#include "util/iov.h"

static bool gow_probe(const struct vd_format_driver *driver, const uint8_t *head, size_t head_bytes)
{
    return vd_gow_header_is_here(head, head_bytes, driver->variant);
}

/* gow §7: may this header be opened so? */
static int check_header(const struct vd_format *format, const struct vd_gow_header *header,
                        struct vdisk_error *err)
{
    if (header->version != format->driver->variant)
        return vd_err_set(err, EINVAL, "header: version %" PRIu32 ": open it as gow%" PRIu32,
                          header->version, header->version);
    bool is_for_check = (format->flags & (VD_FORMAT_CHECK | VD_FORMAT_WRITE)) == VD_FORMAT_CHECK;
    if ((header->flags & VD_GOW_FLAG_INCOMPLETE) && !(format->flags & VD_FORMAT_REPLICA) &&
        !is_for_check)
        return vd_err_set(
            err, EINVAL,
            "an incomplete replica: run its vdisk sync again, which goes on where the "
            "last one ended");
    return 0;
}

static int check_length(struct vd_storage *file, const struct vd_gow_layout *layout,
                        uint32_t *file_hosts, struct vdisk_error *err)
{
    uint64_t file_bytes;
    int ret = vd_storage_size(file, &file_bytes, err);
    if (ret < 0)
        return ret;
    if (file_bytes < layout->data_offset)
        return vd_err_set(err, EBADMSG,
                          "the file of %" PRIu64 " bytes is cut off within its tables, which end "
                          "at %" PRIu64,
                          file_bytes, layout->data_offset);
    *file_hosts = vd_gow_host_count(layout, file_bytes);
    return 0;
}

/* A writer that was not closed leaves the flag; who only looks leaves it too. */
static bool needs_recovery(const struct vd_format *format, const struct vd_gow_header *header)
{
    if (!vd_format_is_writable(format) || (format->flags & (VD_FORMAT_CHECK | VD_FORMAT_REPLICA)))
        return false;
    return (header->flags & VD_GOW_FLAG_DIRTY) ||
           !vd_buffer_is_zero(header->intent, sizeof(header->intent));
}

static void gow_free(struct vd_gow *gow)
{
    for (uint32_t i = 0; gow->bumped && i < VD_GOW_REGIONS; i++)
        free(gow->bumped[i]);
    free(gow->bumped);
    vd_bits_free(&gow->used);
    vd_bits_free(&gow->unmapped);
    vd_bits_free(&gow->unmapping);
    vd_bits_free(&gow->durable);
    vd_bits_free(&gow->waiting);
    vd_table_cache_destroy(&gow->tables);
    vd_mutex_destroy(&gow->alloc_lock);
    vd_mutex_destroy(&gow->flush_lock);
    vd_mutex_destroy(&gow->session_lock);
    free(gow);
}

static int gow_open(struct vd_format *format, const struct vd_format_options *options,
                    struct vdisk_error *err)
{
    struct vd_gow_header header;
    uint32_t file_hosts = 0;
    int ret =
        vd_gow_header_read(format->file, (format->flags & VD_FORMAT_CHECK) != 0, &header, err);
    if (ret == 0)
        ret = check_header(format, &header, err);
    if (ret < 0)
        return ret;
    struct vd_gow_layout layout = vd_gow_layout_of(header.version);
    ret = check_length(format->file, &layout, &file_hosts, err);
    if (ret == 0 && needs_recovery(format, &header))
        ret = vd_gow_recover(format->file, &header, err);
    if (ret < 0)
        return ret;

    struct vd_gow *gow = calloc(1, sizeof(*gow));
    if (!gow)
        return vd_err_nomem(err, "a GOW image");
    gow->format = format;
    gow->file = format->file;
    gow->layout = layout;
    gow->header = header;
    gow->file_hosts = file_hosts;
    gow->can_resize = (vd_storage_caps(format->file) & VD_STORAGE_CAN_RESIZE) != 0;
    vd_mutex_init(&gow->session_lock);
    vd_mutex_init(&gow->flush_lock);
    vd_mutex_init(&gow->alloc_lock);
    uint64_t tables_bytes = vd_gow_table_bytes(&layout) * (layout.versions_offset ? 2 : 1);
    ret = vd_table_cache_init(&gow->tables, format->file, vd_range(layout.map_offset, tables_bytes),
                              options->cache_bytes, err);
    if (ret < 0) {
        gow_free(gow);
        return ret;
    }
    vd_table_cache_share(&gow->tables, options->budget);
    format->state = gow;
    format->size = header.size;
    return 0;
}

static int gow_close(struct vd_format *format, struct vdisk_error *err)
{
    struct vd_gow *gow = format->state;
    int ret = 0;
    /* After a failure the header stays as it is: the next writer recovers. */
    if (vd_format_is_writable(format) && !atomic_load(&format->has_failed))
        ret = vd_gow_finish(gow, err);
    gow_free(gow);
    return ret;
}

static int gow_info(struct vd_format *format, struct vd_format_info *info, struct vdisk_error *err)
{
    static const struct {
        uint32_t flag, info;
    } table[] = {
        {VD_GOW_FLAG_DIRTY, VDISK_INFO_DIRTY},
        {VD_GOW_FLAG_INCOMPLETE, VDISK_INFO_INCOMPLETE},
        {VD_GOW_FLAG_REPLICA, VDISK_INFO_REPLICA},
    };
    (void)err;
    struct vd_gow *gow = format->state;
    vd_mutex_lock(&gow->session_lock);
    info->flags = VDISK_INFO_LINEAGE;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (gow->header.flags & table[i].flag)
            info->flags |= table[i].info;
    info->cluster_bytes = VD_GOW_BLOCK_BYTES;
    info->generation = gow->header.generation;
    memcpy(info->uuid, gow->header.uuid, sizeof(info->uuid));
    vd_mutex_unlock(&gow->session_lock);
    return 0;
}

#define GOW_DRIVER(version_, version_of_blocks)                                                   \
    {                                                                                             \
        .name = "gow" #version_, .cluster_bytes = VD_GOW_BLOCK_BYTES, .variant = (version_),      \
        .probe = gow_probe, .create = vd_gow_create, .measure = vd_gow_measure, .open = gow_open, \
        .close = gow_close, .info = gow_info, .map = vd_gow_map,                                  \
        .map_for_write = vd_gow_map_for_write, .write_done = vd_gow_write_done,                   \
        .try_map = vd_gow_try_map, .map_zero = vd_gow_map_zero, .version = (version_of_blocks),   \
        .flush = vd_gow_flush, .resize = vd_gow_resize, .check = vd_gow_check,                    \
    }

const struct vd_format_driver vd_gow1_driver = GOW_DRIVER(1, NULL);
const struct vd_format_driver vd_gow2_driver = GOW_DRIVER(2, NULL);
const struct vd_format_driver vd_gow3_driver = GOW_DRIVER(3, vd_gow_version);
