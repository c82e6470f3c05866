/* SPDX-License-Identifier: MIT */
/* The options of a new qcow2 image, and how many clusters it has of what. */
#include "format/qcow2/qcow2_plan.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/codec.h"
#include "util/mem.h"

#define DEFAULT_CLUSTER_BYTES 65536u
#define DEFAULT_REFCOUNT_BITS 16u
#define SIZE_UNIT             512u
#define NAMES_CLUSTER_BYTES   4096u /* in smaller clusters the names of features are left out */
#define CLUSTER_BYTES_MIN     (1u << VD_QCOW2_CLUSTER_BITS_MIN)
#define CLUSTER_BYTES_MAX     (1u << VD_QCOW2_CLUSTER_BITS_MAX)

int vd_qcow2_version_of(const char *compat, uint32_t *version, struct vdisk_error *err)
{
    *version = 3;
    if (strcmp(compat, "1.1") == 0 || strcmp(compat, "v3") == 0)
        return 0;
    *version = 2;
    if (strcmp(compat, "0.10") == 0 || strcmp(compat, "v2") == 0)
        return 0;
    return vd_err_set(err, EINVAL, "compat '%s': must be 0.10 (or v2) or 1.1 (or v3)", compat);
}

static bool is_power_of_two(uint32_t value)
{
    return value && (value & (value - 1)) == 0;
}

int vd_qcow2_refcount_order_of(uint32_t bits, uint32_t *order, struct vdisk_error *err)
{
    if (!is_power_of_two(bits) || bits > 1u << VD_QCOW2_REFCOUNT_ORDER_MAX)
        return vd_err_set(err, EINVAL,
                          "refcount width of %" PRIu32
                          " bits: must be a power of two, and may not exceed 64 bits",
                          bits);
    *order = (uint32_t)__builtin_ctz(bits);
    return 0;
}

static int plan_units(const struct vdisk_create_options *options, struct vd_qcow2_fields *fields,
                      struct vdisk_error *err)
{
    uint32_t cluster_bytes =
        options->cluster_bytes ? options->cluster_bytes : DEFAULT_CLUSTER_BYTES;
    uint32_t refcount_bits =
        options->refcount_bits ? options->refcount_bits : DEFAULT_REFCOUNT_BITS;
    if (!is_power_of_two(cluster_bytes) || cluster_bytes < CLUSTER_BYTES_MIN ||
        cluster_bytes > CLUSTER_BYTES_MAX)
        return vd_err_set(err, EINVAL,
                          "cluster size %" PRIu32 ": must be a power of two between 512 and 2048k",
                          cluster_bytes);
    if (options->table_clusters)
        return vd_err_set(err, EINVAL, "tables of qcow2 images have one cluster");
    fields->cluster_bits = (uint32_t)__builtin_ctz(cluster_bytes);
    return vd_qcow2_refcount_order_of(refcount_bits, &fields->refcount_order, err);
}

static int plan_compression(const struct vdisk_create_options *options,
                            struct vd_qcow2_fields *fields, struct vdisk_error *err)
{
    const char *type = options->compression;
    if (!type || strcmp(type, vd_codec_name(VD_CODEC_DEFLATE)) == 0)
        return 0;
    if (strcmp(type, vd_codec_name(VD_CODEC_ZSTD)) != 0)
        return vd_err_set(err, EINVAL, "compression type '%s': must be zlib or zstd", type);
    fields->compression_type = 1;
    fields->incompatible |= VD_QCOW2_COMPRESSION;
    return 0;
}

static int plan_features(const struct vdisk_create_options *options, struct vd_qcow2_fields *fields,
                         struct vdisk_error *err)
{
    if (options->flags & VDISK_CREATE_LAZY_REFCOUNTS)
        fields->compatible |= VD_QCOW2_LAZY_REFCOUNTS;
    if (options->flags & VDISK_CREATE_EXTENDED_L2)
        fields->incompatible |= VD_QCOW2_EXTENDED_L2;
    if (options->data_file)
        fields->incompatible |= VD_QCOW2_DATA_FILE;
    if (options->flags & VDISK_CREATE_DATA_RAW)
        fields->autoclear |= VD_QCOW2_DATA_RAW;
    if ((options->flags & VDISK_CREATE_DATA_RAW) && !options->data_file)
        return vd_err_set(err, EINVAL, "data_file_raw: needs a data file (data_file)");
    if ((options->flags & VDISK_CREATE_DATA_RAW) && options->backing)
        return vd_err_set(err, EINVAL,
                          "a backing file and data_file_raw cannot be used at the same time: the "
                          "data file alone would not be the disk");
    if ((options->flags & VDISK_CREATE_EXTENDED_L2) &&
        fields->cluster_bits < VD_QCOW2_EXTENDED_L2_BITS_MIN)
        return vd_err_set(err, EINVAL,
                          "extended L2 entries are only supported with cluster sizes of at least "
                          "%u bytes",
                          1u << VD_QCOW2_EXTENDED_L2_BITS_MIN);
    return 0;
}

static int check_version_2(const struct vd_qcow2_fields *fields, struct vdisk_error *err)
{
    const char *what = NULL;
    if (fields->version >= 3)
        return 0;
    if (fields->compatible & VD_QCOW2_LAZY_REFCOUNTS)
        what = "lazy refcounts";
    else if (1u << fields->refcount_order != DEFAULT_REFCOUNT_BITS)
        what = "refcount widths other than 16 bits";
    else if (fields->incompatible & VD_QCOW2_EXTENDED_L2)
        what = "extended L2 entries";
    else if (fields->incompatible & VD_QCOW2_DATA_FILE)
        what = "external data files";
    else if (fields->incompatible & VD_QCOW2_COMPRESSION)
        what = "a compression type other than zlib";
    return what ? vd_err_set(err, EINVAL, "%s: need compatibility level 1.1 (compat=1.1)", what)
                : 0;
}

static int plan_names(const struct vdisk_create_options *options, struct vd_qcow2_header *header,
                      struct vdisk_error *err)
{
    const struct {
        const char *from;
        char **to;
    } names[] = {{options->backing, &header->backing_name},
                 {options->backing ? options->backing_format : NULL, &header->backing_format},
                 {options->data_file, &header->data_file}};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (!names[i].from)
            continue;
        *names[i].to = strdup(names[i].from);
        if (!*names[i].to)
            return vd_err_nomem(err, "the names in a header");
    }
    return 0;
}

int vd_qcow2_name_features(struct vd_qcow2_header *header, struct vdisk_error *err)
{
    static const struct vd_qcow2_disk_feature_name names[] = {
        {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
        {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
        {2, 0, "bitmaps"},          {2, 1, "raw external data"},
    };
    if (header->fields.version < 3 ||
        UINT32_C(1) << header->fields.cluster_bits < NAMES_CLUSTER_BYTES)
        return 0;
    struct vd_qcow2_extension *others =
        realloc(header->others, (header->other_entries + 1) * sizeof(*others));
    if (!others)
        return vd_err_nomem(err, "the names of features");
    header->others = others;
    uint8_t *bytes = vd_alloc_array(1, sizeof(names));
    if (!bytes)
        return vd_err_nomem(err, "the names of features");
    memcpy(bytes, names, sizeof(names));
    others[header->other_entries++] = (struct vd_qcow2_extension){
        .type = VD_QCOW2_EXT_FEATURE_NAMES, .length = sizeof(names), .bytes = bytes};
    return 0;
}

static int plan_size(const struct vdisk_create_options *options, struct vd_qcow2_plan *plan,
                     struct vdisk_error *err)
{
    struct vd_qcow2_fields *fields = &plan->header.fields;
    uint64_t most = VD_QCOW2_L1_BYTES_MAX / sizeof(struct be64);
    /* As large as the largest table can map, and no larger than offsets that are signed. */
    uint64_t largest =
        plan->geometry.l2_span > INT64_MAX / most ? INT64_MAX : most * plan->geometry.l2_span;
    largest = vd_round_down(largest, SIZE_UNIT);
    if (options->size > largest)
        return vd_err_set(err, EFBIG,
                          "size of %" PRIu64 " bytes: the limit with clusters of %" PRIu32
                          " bytes is %" PRIu64 " (try using a larger cluster size)",
                          options->size, plan->geometry.cluster_bytes, largest);
    fields->size = vd_round_up(options->size, SIZE_UNIT);
    fields->l1_entries = (uint32_t)vd_qcow2_l1_entries(&plan->geometry, fields->size);
    return 0;
}

/* Refcounts for all that is counted in @sizes, and for themselves.  @table_min: of the table. */
static void add_refcounts(const struct vd_qcow2_geometry *geometry, uint64_t table_min,
                          struct vd_qcow2_sizes *sizes)
{
    uint64_t others = sizes->header + sizes->l1 + sizes->crypto + sizes->l2 + sizes->data;
    uint64_t table = vd_max(table_min, 1);
    uint64_t blocks = 1;
    for (;;) {
        uint64_t total = others + table + blocks;
        uint64_t blocks_needed = vd_div_up(total, geometry->block_entries);
        uint64_t table_needed =
            vd_qcow2_clusters(geometry, vd_max(blocks, blocks_needed) * sizeof(struct be64));
        sizes->total = total;
        if (blocks_needed <= blocks && table_needed <= table)
            break;
        blocks = vd_max(blocks, blocks_needed);
        table = vd_max(table, table_needed);
    }
    sizes->refcount_blocks = blocks;
    sizes->refcount_table = table;
}

static int plan_clusters(struct vd_qcow2_plan *plan, uint64_t crypto_bytes, struct vdisk_error *err)
{
    const struct vd_qcow2_geometry *geometry = &plan->geometry;
    const struct vd_qcow2_fields *fields = &plan->header.fields;
    plan->full = (struct vd_qcow2_sizes){
        .header = 1,
        .l1 = vd_qcow2_clusters(geometry, fields->l1_entries * sizeof(struct be64)),
        .crypto = vd_qcow2_clusters(geometry, crypto_bytes),
        .l2 = fields->l1_entries,
        .data = plan->has_data_file ? 0 : vd_qcow2_clusters(geometry, fields->size),
    };
    plan->now = plan->full;
    add_refcounts(geometry, 0, &plan->full);
    /* The table is made large enough for all of the disk, if such a large one is allowed. */
    uint64_t table_max = vd_max(VD_QCOW2_REFCOUNT_TABLE_BYTES_MAX >> geometry->cluster_bits, 1);
    if (plan->preallocation == VDISK_PREALLOCATION_OFF) {
        plan->now.l2 = 0;
        plan->now.data = 0;
    }
    add_refcounts(geometry, vd_min(plan->full.refcount_table, table_max), &plan->now);
    if (plan->now.refcount_table > table_max)
        return vd_err_set(err, EFBIG,
                          "size of %" PRIu64 " bytes: its refcount table would have %" PRIu64
                          " clusters, the limit is %" PRIu64
                          ": use larger clusters, or fewer refcount bits",
                          fields->size, plan->now.refcount_table, table_max);
    return 0;
}

static int plan_preallocation(const struct vdisk_create_options *options,
                              struct vd_qcow2_plan *plan, struct vdisk_error *err)
{
    plan->preallocation = options->preallocation;
    /* The data file is the disk from the start. */
    if (plan->preallocation == VDISK_PREALLOCATION_OFF && (options->flags & VDISK_CREATE_DATA_RAW))
        plan->preallocation = VDISK_PREALLOCATION_METADATA;
    if (plan->preallocation != VDISK_PREALLOCATION_OFF && options->backing &&
        !(options->flags & VDISK_CREATE_EXTENDED_L2))
        return vd_err_set(err, EINVAL,
                          "a backing file and preallocation can only be used at the same time if "
                          "extended_l2 is on: what is allocated would hide the backing file");
    return 0;
}

int vd_qcow2_plan(const struct vdisk_create_options *options, uint64_t crypto_bytes,
                  struct vd_qcow2_plan *plan, struct vdisk_error *err)
{
    *plan = (struct vd_qcow2_plan){.has_data_file = options->data_file != NULL};
    struct vd_qcow2_fields *fields = &plan->header.fields;
    int ret = vd_qcow2_version_of(options->compat ? options->compat : "1.1", &fields->version, err);
    if (ret == 0)
        ret = plan_units(options, fields, err);
    if (ret == 0)
        ret = plan_compression(options, fields, err);
    if (ret == 0)
        ret = plan_features(options, fields, err);
    if (ret == 0)
        ret = check_version_2(fields, err);
    if (ret == 0)
        ret = plan_preallocation(options, plan, err);
    if (ret < 0)
        return ret;
    plan->is_encrypted = crypto_bytes != 0;
    if (plan->is_encrypted && fields->version < 3 && plan->preallocation)
        return vd_err_set(err, EINVAL,
                          "encryption and preallocation can only be used at the same time with "
                          "compatibility level 1.1 (compat=1.1): what is set aside would not read "
                          "as zero");
    plan->geometry = vd_qcow2_header_geometry(&plan->header);
    ret = plan_size(options, plan, err);
    if (ret == 0)
        ret = plan_clusters(plan, crypto_bytes, err);
    if (ret == 0)
        ret = plan_names(options, &plan->header, err);
    return ret < 0 ? ret : vd_qcow2_name_features(&plan->header, err);
}

void vd_qcow2_plan_free(struct vd_qcow2_plan *plan)
{
    vd_qcow2_header_free(&plan->header);
}
