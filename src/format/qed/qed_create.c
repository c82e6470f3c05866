/* SPDX-License-Identifier: MIT */
/* A new QED image, and how large one would be. */
#include <inttypes.h>
#include <string.h>

#include "format/qed/qed_file.h"

#define DEFAULT_CLUSTER_BYTES  65536u
#define DEFAULT_TABLE_CLUSTERS 4u

/* The header of an image with @options: its clusters, then the L1 table.  qed §2 */
static int plan(const struct vdisk_create_options *options, struct vd_qed_header *header,
                struct vdisk_error *err)
{
    *header = (struct vd_qed_header){
        .variant = VD_QED_FINAL,
        .cluster_bytes = options->cluster_bytes ? options->cluster_bytes : DEFAULT_CLUSTER_BYTES,
        .table_clusters =
            options->table_clusters ? options->table_clusters : DEFAULT_TABLE_CLUSTERS,
        .header_clusters = 1,
    };
    if (!vd_qed_cluster_bytes_is_legal(header->cluster_bytes))
        return vd_err_set(
            err, EINVAL, "cluster size %" PRIu32 ": must be a power of two from %u to %u bytes",
            header->cluster_bytes, VD_QED_CLUSTER_BYTES_MIN, VD_QED_CLUSTER_BYTES_MAX);
    if (!vd_qed_table_clusters_is_legal(header->table_clusters))
        return vd_err_set(err, EINVAL, "table size %" PRIu32 ": must be 1, 2, 4, 8 or 16 clusters",
                          header->table_clusters);
    header->l1_offset = vd_qed_header_area(header);

    struct vd_qed_geometry geometry = vd_qed_header_geometry(header);
    int ret = vd_qed_check_size(&geometry, vd_round_down(options->size, VD_QED_SIZE_UNIT), err);
    if (ret < 0)
        return ret;
    header->size = vd_round_up(options->size, VD_QED_SIZE_UNIT);
    return vd_qed_check_size(&geometry, header->size, err);
}

static int plan_backing(const struct vdisk_create_options *options, struct vd_qed_header *header,
                        struct vdisk_error *err)
{
    if (!options->backing)
        return 0;
    int ret = vd_qed_check_name(options->backing, err);
    if (ret < 0)
        return ret;
    size_t bytes = strlen(options->backing);
    size_t room = header->cluster_bytes - VD_QED_HEADER_BYTES;
    if (bytes > room)
        return vd_err_set(err, ENAMETOOLONG,
                          "name of the backing file: has %zu bytes, a header with clusters of "
                          "%" PRIu32 " bytes has room for %zu",
                          bytes, header->cluster_bytes, room);
    header->features = VD_QED_FEATURE_BACKING;
    if (options->backing_format && strcmp(options->backing_format, "raw") == 0)
        header->features |= VD_QED_FEATURE_NO_PROBE;
    header->backing_offset = VD_QED_HEADER_BYTES;
    header->backing_bytes = (uint32_t)bytes;
    return 0;
}

/* What the file held is gone; it is as long as header and L1 table, all zero.  qed §5 */
static int make_room(struct vd_storage *file, uint64_t bytes, struct vdisk_error *err)
{
    if (!(vd_storage_caps(file) & VD_STORAGE_CAN_RESIZE))
        return vd_err_set(err, ENOTSUP,
                          "%s: can not change its length, which in a QED image says where the next "
                          "cluster goes: make the image in a file",
                          vd_storage_name(file));
    int ret = vd_storage_resize(file, 0, err);
    return ret < 0 ? ret : vd_storage_resize(file, bytes, err);
}

int vd_qed_create(const struct vd_format_driver *driver, struct vd_storage *file,
                  struct vd_storage *data, const struct vdisk_create_options *options,
                  struct vdisk_error *err)
{
    (void)driver;
    (void)data;
    struct vd_qed_header header;
    if (options->preallocation != VDISK_PREALLOCATION_OFF)
        return vd_err_set(err, EINVAL, "preallocation: QED images grow as they are written");
    int ret = plan(options, &header, err);
    if (ret == 0)
        ret = plan_backing(options, &header, err);
    if (ret < 0)
        return ret;

    struct vd_qed_geometry geometry = vd_qed_header_geometry(&header);
    ret = make_room(file, header.l1_offset + geometry.table_bytes, err);
    if (ret == 0 && header.backing_bytes)
        ret = vd_storage_pwrite(file, options->backing, header.backing_bytes, header.backing_offset,
                                err);
    /* Only now does it become an image. */
    if (ret == 0)
        ret = vd_storage_flush(file, err);
    return ret < 0 ? ret : vd_qed_header_write(file, &header, err);
}

/* The file with @clusters of data, which need at most @tables L2 tables; UINT64_MAX: no end. */
static uint64_t file_bytes(const struct vd_qed_header *header, uint64_t clusters, uint64_t tables)
{
    struct vd_qed_geometry geometry = vd_qed_header_geometry(header);
    /* All in clusters: less than 2^52 + 2^31 * 16, so that only the last product may wrap. */
    uint64_t total = header->header_clusters + (1 + tables) * header->table_clusters + clusters;
    return total > UINT64_MAX / geometry.cluster_bytes ? UINT64_MAX
                                                       : total * geometry.cluster_bytes;
}

int vd_qed_measure(const struct vd_format_driver *driver,
                   const struct vdisk_create_options *options, uint64_t data_bytes,
                   struct vdisk_measure_result *result, struct vdisk_error *err)
{
    (void)driver;
    struct vd_qed_header header;
    int ret = plan(options, &header, err);
    if (ret < 0)
        return ret;
    struct vd_qed_geometry geometry = vd_qed_header_geometry(&header);
    uint64_t all = vd_qed_cluster_count(&geometry, header.size);
    uint64_t tables = vd_qed_table_count(&geometry, header.size);
    uint64_t data = vd_min(vd_div_up(data_bytes, geometry.cluster_bytes), all);
    *result = (struct vdisk_measure_result){
        /* Where the data lies is not known: each cluster may need a table of its own. */
        .required_bytes = file_bytes(&header, data, vd_min(tables, data)),
        .fully_allocated_bytes = file_bytes(&header, all, tables),
    };
    return 0;
}
