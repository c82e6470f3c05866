/* SPDX-License-Identifier: MIT */
#include "format/qcow2/qcow2_stream.h"

#include <inttypes.h>
#include <string.h>

#include "format/qcow2/qcow2_entry.h"
#include "format/qcow2/qcow2_plan.h"
#include "util/mem.h"

/* The image being written.  Its parts lie in this order, each in whole clusters. */
struct layout {
    const struct vd_qcow2_geometry *geometry;
    const struct vd_qcow2_runs *runs;
    uint64_t table; /* clusters of the refcount table, */
    uint64_t blocks;
    uint64_t l1;
    uint64_t l2;
    uint64_t data;
    uint64_t total; /* with the header */
};

struct sink {
    vd_qcow2_put_fn put;
    void *opaque;
    uint8_t *cluster; /* owned; what is being filled */
    size_t cluster_bytes;
    size_t used;
};

static int sink_put(struct sink *sink, const void *bytes, size_t length, struct vdisk_error *err)
{
    int ret = 0;
    memcpy(sink->cluster + sink->used, bytes, length);
    sink->used += length;
    if (sink->used == sink->cluster_bytes) {
        ret = sink->put(sink->opaque, sink->cluster, sink->used, err);
        sink->used = 0;
    }
    return ret;
}

/* Zeros to the end of the cluster, if one has begun. */
static int sink_pad(struct sink *sink, struct vdisk_error *err)
{
    if (sink->used == 0)
        return 0;
    memset(sink->cluster + sink->used, 0, sink->cluster_bytes - sink->used);
    sink->used = 0;
    return sink->put(sink->opaque, sink->cluster, sink->cluster_bytes, err);
}

int vd_qcow2_stream_check(const struct vdisk_create_options *options, uint32_t *cluster_bytes,
                          struct vdisk_error *err)
{
    struct vd_qcow2_plan plan;
    const char *what = NULL;
    if (options->backing)
        what = "a backing file";
    else if (options->data_file)
        what = "a data file";
    else if (options->flags & VDISK_CREATE_EXTENDED_L2)
        what = "extended L2 entries";
    else if (options->preallocation != VDISK_PREALLOCATION_OFF)
        what = "preallocation";
    else if (options->encrypt)
        what = "encryption";
    if (what)
        return vd_err_set(err, ENOTSUP, "an image with %s is not written to a pipe: make a file",
                          what);
    int ret = vd_qcow2_plan(options, 0, &plan, err);
    *cluster_bytes = plan.geometry.cluster_bytes;
    vd_qcow2_plan_free(&plan);
    return ret;
}

/* The L2 tables that @runs need. */
static uint64_t count_tables(const struct vd_qcow2_geometry *geometry,
                             const struct vd_qcow2_runs *runs)
{
    uint64_t count = 0, next = 0; /* the first table that is not counted */
    for (size_t i = 0; i < runs->entries; i++) {
        uint64_t first = vd_qcow2_l1_index(geometry, runs->ranges[i].offset);
        uint64_t end = vd_qcow2_l1_index(geometry, vd_range_end(runs->ranges[i]) - 1) + 1;
        first = vd_max(first, next);
        if (end > first)
            count += end - first;
        next = vd_max(next, end);
    }
    return count;
}

static int lay_out(struct layout *layout, const struct vd_qcow2_fields *fields,
                   struct vdisk_error *err)
{
    const struct vd_qcow2_geometry *geometry = layout->geometry;
    layout->l1 = vd_qcow2_clusters(geometry, fields->l1_entries * sizeof(struct be64));
    layout->l2 = count_tables(geometry, layout->runs);
    for (size_t i = 0; i < layout->runs->entries; i++)
        layout->data += layout->runs->ranges[i].length >> geometry->cluster_bits;
    layout->table = layout->blocks = 1;
    for (;;) {
        layout->total = 1 + layout->table + layout->blocks + layout->l1 + layout->l2 + layout->data;
        uint64_t blocks = vd_div_up(layout->total, geometry->block_entries);
        uint64_t table =
            vd_qcow2_clusters(geometry, vd_max(blocks, layout->blocks) * sizeof(struct be64));
        if (blocks <= layout->blocks && table <= layout->table)
            break;
        layout->blocks = vd_max(blocks, layout->blocks);
        layout->table = vd_max(table, layout->table);
    }
    uint64_t most = vd_max(VD_QCOW2_REFCOUNT_TABLE_BYTES_MAX >> geometry->cluster_bits, 1);
    return layout->table <= most ? 0
                                 : vd_err_set(err, EFBIG,
                                              "its refcount table would have %" PRIu64
                                              " clusters, the limit is %" PRIu64
                                              ": use larger clusters, or fewer refcount bits",
                                              layout->table, most);
}

static uint64_t place(const struct layout *layout, uint64_t clusters)
{
    return clusters << layout->geometry->cluster_bits;
}

static int put_header(struct sink *sink, const struct layout *layout,
                      struct vd_qcow2_header *header, struct vdisk_error *err)
{
    struct vd_qcow2_fields *fields = &header->fields;
    fields->refcount_table_offset = place(layout, 1);
    fields->refcount_table_clusters = (uint32_t)layout->table;
    fields->l1_offset = layout->l1 ? place(layout, 1 + layout->table + layout->blocks) : 0;
    memset(sink->cluster, 0, sink->cluster_bytes);
    int ret = vd_qcow2_header_format(header, sink->cluster, err);
    return ret < 0 ? ret : sink->put(sink->opaque, sink->cluster, sink->cluster_bytes, err);
}

static int put_table(struct sink *sink, const struct layout *layout, struct vdisk_error *err)
{
    int ret = 0;
    for (uint64_t i = 0; i < layout->blocks && ret == 0; i++) {
        struct be64 entry = be64_of(place(layout, 1 + layout->table + i));
        ret = sink_put(sink, &entry, sizeof(entry), err);
    }
    return ret < 0 ? ret : sink_pad(sink, err);
}

/* Every cluster of the file is used once. */
static int put_refcounts(struct sink *sink, const struct layout *layout, struct vdisk_error *err)
{
    uint32_t bits = UINT32_C(1) << layout->geometry->refcount_order;
    uint64_t step = bits >= 8 ? 1 : 8 / bits; /* refcounts in a unit */
    size_t unit_bytes = bits >= 8 ? bits / 8 : 1;
    uint8_t unit[8] = {0};
    uint64_t left = layout->total;
    int ret = 0;
    for (uint64_t i = 0; i < step; i++)
        unit[unit_bytes - 1] |= (uint8_t)(1u << (i * bits));
    for (; left >= step && ret == 0; left -= step)
        ret = sink_put(sink, unit, unit_bytes, err);
    if (ret == 0 && left) {
        unit[0] &= (uint8_t)((1u << (left * bits)) - 1);
        ret = sink_put(sink, unit, unit_bytes, err);
    }
    return ret < 0 ? ret : sink_pad(sink, err);
}

/* Does table @index map anything of the runs from *at on?  Those before it are passed. */
static bool has_table(const struct layout *layout, uint64_t index, size_t *at)
{
    const struct vd_qcow2_runs *runs = layout->runs;
    uint64_t start = index * layout->geometry->l2_span;
    while (*at < runs->entries && vd_range_end(runs->ranges[*at]) <= start)
        ++*at;
    return *at < runs->entries &&
           vd_qcow2_l1_index(layout->geometry, runs->ranges[*at].offset) <= index;
}

static int put_l1(struct sink *sink, const struct layout *layout, uint64_t entries,
                  struct vdisk_error *err)
{
    uint64_t table = 1 + layout->table + layout->blocks + layout->l1;
    size_t at = 0;
    int ret = 0;
    for (uint64_t i = 0; i < entries && ret == 0; i++) {
        struct be64 entry = {0};
        if (has_table(layout, i, &at))
            entry = be64_of(place(layout, table++) | VD_QCOW2_ENTRY_COPIED);
        ret = sink_put(sink, &entry, sizeof(entry), err);
    }
    return ret < 0 ? ret : sink_pad(sink, err);
}

/* One table, from guest offset @start on; *data is the next cluster of data. */
static int put_l2_table(struct sink *sink, const struct layout *layout, uint64_t start, size_t at,
                        uint64_t *data, struct vdisk_error *err)
{
    const struct vd_qcow2_geometry *geometry = layout->geometry;
    const struct vd_qcow2_runs *runs = layout->runs;
    int ret = 0;
    for (uint64_t i = 0; i < geometry->l2_entries && ret == 0; i++) {
        uint64_t guest = start + place(layout, i);
        struct be64 entry = {0};
        while (at < runs->entries && vd_range_end(runs->ranges[at]) <= guest)
            at++;
        if (at < runs->entries && runs->ranges[at].offset <= guest)
            entry = be64_of(place(layout, (*data)++) | VD_QCOW2_ENTRY_COPIED);
        ret = sink_put(sink, &entry, sizeof(entry), err);
    }
    return ret;
}

static int put_l2(struct sink *sink, const struct layout *layout, uint64_t l1_entries,
                  struct vdisk_error *err)
{
    uint64_t data = layout->total - layout->data;
    size_t at = 0;
    int ret = 0;
    for (uint64_t i = 0; i < l1_entries && ret == 0; i++)
        if (has_table(layout, i, &at))
            ret = put_l2_table(sink, layout, i * layout->geometry->l2_span, at, &data, err);
    return ret;
}

static int put_all(struct sink *sink, struct vd_qcow2_plan *plan, const struct vd_qcow2_runs *runs,
                   struct vdisk_error *err)
{
    struct layout layout = {.geometry = &plan->geometry, .runs = runs};
    uint64_t l1_entries = plan->header.fields.l1_entries;
    sink->cluster_bytes = plan->geometry.cluster_bytes;
    sink->cluster = malloc(sink->cluster_bytes);
    if (!sink->cluster)
        return vd_err_nomem(err, "a cluster");
    int ret = lay_out(&layout, &plan->header.fields, err);
    if (ret == 0)
        ret = put_header(sink, &layout, &plan->header, err);
    if (ret == 0)
        ret = put_table(sink, &layout, err);
    if (ret == 0)
        ret = put_refcounts(sink, &layout, err);
    if (ret == 0)
        ret = put_l1(sink, &layout, l1_entries, err);
    if (ret == 0)
        ret = put_l2(sink, &layout, l1_entries, err);
    free(sink->cluster);
    return ret;
}

int vd_qcow2_stream_head(const struct vdisk_create_options *options,
                         const struct vd_qcow2_runs *runs, vd_qcow2_put_fn put, void *opaque,
                         struct vdisk_error *err)
{
    struct vd_qcow2_plan plan;
    struct sink sink = {.put = put, .opaque = opaque};
    int ret = vd_qcow2_plan(options, 0, &plan, err);
    if (ret == 0)
        ret = put_all(&sink, &plan, runs, err);
    vd_qcow2_plan_free(&plan);
    return ret;
}
