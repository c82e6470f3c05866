/* SPDX-License-Identifier: MIT */
/* The header of a qcow2 image: copied, laid out, and written so that it is never torn (N2). */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/qcow2/qcow2_extensions.h"
#include "util/mem.h"

#define SECTOR_BYTES     512u
#define NAME_ALIGN       8u
#define END_MARK_BYTES   8u
#define KNOWN_TYPE_BYTES 112u /* of a header with compression type */

static int copy_string(const char *from, char **to)
{
    *to = from ? strdup(from) : NULL;
    return from && !*to ? -ENOMEM : 0;
}

static int copy_bytes(const uint8_t *from, size_t length, uint8_t **to)
{
    *to = NULL;
    if (!from)
        return 0;
    *to = vd_alloc_array(length, 1);
    if (!*to)
        return -ENOMEM;
    memcpy(*to, from, length);
    return 0;
}

static int copy_others(const struct vd_qcow2_header *from, struct vd_qcow2_header *to)
{
    to->others = vd_alloc_array(from->other_entries, sizeof(*to->others));
    if (!to->others)
        return -ENOMEM;
    for (size_t i = 0; i < from->other_entries; i++) {
        to->others[i] = from->others[i];
        int ret = copy_bytes(from->others[i].bytes, from->others[i].length, &to->others[i].bytes);
        if (ret < 0)
            return ret;
        to->other_entries++;
    }
    return 0;
}

int vd_qcow2_header_copy(const struct vd_qcow2_header *from, struct vd_qcow2_header *to,
                         struct vdisk_error *err)
{
    *to = (struct vd_qcow2_header){
        .fields = from->fields,
        .bitmaps = from->bitmaps,
        .crypto = from->crypto,
        .rest_bytes = from->rest_bytes,
    };
    int ret = copy_string(from->backing_name, &to->backing_name);
    if (ret == 0)
        ret = copy_string(from->backing_format, &to->backing_format);
    if (ret == 0)
        ret = copy_string(from->data_file, &to->data_file);
    if (ret == 0)
        ret = copy_bytes(from->rest, from->rest_bytes, &to->rest);
    if (ret == 0)
        ret = copy_others(from, to);
    if (ret < 0) {
        vd_qcow2_header_free(to);
        return vd_err_nomem(err, "a copy of a header");
    }
    return 0;
}

/* The fixed fields, as far as the version has them.  Returns how many bytes. */
static size_t encode(const struct vd_qcow2_fields *fields, uint8_t *bytes)
{
    struct vd_qcow2_disk_header disk = {
        .magic = be32_of(VD_QCOW2_MAGIC),
        .version = be32_of(fields->version),
        .backing_offset = be64_of(fields->backing_offset),
        .backing_bytes = be32_of(fields->backing_bytes),
        .cluster_bits = be32_of(fields->cluster_bits),
        .size = be64_of(fields->size),
        .crypt_method = be32_of(fields->crypt_method),
        .l1_entries = be32_of(fields->l1_entries),
        .l1_offset = be64_of(fields->l1_offset),
        .refcount_table_offset = be64_of(fields->refcount_table_offset),
        .refcount_table_clusters = be32_of(fields->refcount_table_clusters),
        .snapshot_entries = be32_of(fields->snapshot_entries),
        .snapshots_offset = be64_of(fields->snapshots_offset),
        .incompatible = be64_of(fields->incompatible),
        .compatible = be64_of(fields->compatible),
        .autoclear = be64_of(fields->autoclear),
        .refcount_order = be32_of(fields->refcount_order),
        .header_bytes = be32_of(fields->header_bytes),
        .compression_type = fields->compression_type,
    };
    size_t length = VD_QCOW2_V2_HEADER_BYTES;
    if (fields->version >= 3)
        length = fields->header_bytes > VD_QCOW2_V3_HEADER_BYTES ? VD_QCOW2_REST_OFFSET
                                                                 : VD_QCOW2_V3_HEADER_BYTES;
    memcpy(bytes, &disk, length);
    return length;
}

/* The lengths of the fields, as the version has them. */
static void settle_fields(struct vd_qcow2_header *header)
{
    struct vd_qcow2_fields *fields = &header->fields;
    if (fields->version < 3) {
        fields->header_bytes = VD_QCOW2_V2_HEADER_BYTES;
        return;
    }
    size_t length = VD_QCOW2_REST_OFFSET + header->rest_bytes;
    fields->header_bytes = (uint32_t)vd_max(vd_round_up(length, NAME_ALIGN), KNOWN_TYPE_BYTES);
}

static int too_much(const char *what, uint64_t bytes, struct vdisk_error *err)
{
    return vd_err_set(err, ENOSPC,
                      "header: there is no room for %s in the first %" PRIu64
                      " bytes of the image: names have to be shorter",
                      what, bytes);
}

/* A header as it is to be in the file. */
struct layout {
    uint8_t *bytes; /* cluster_bytes of it, zeroed before; owned */
    size_t cluster_bytes;
    size_t first_end; /* behind what has to be in the first sector */
    size_t end;       /* behind the extensions, with their end mark */
    struct vd_range name;
};

/* Fields and extensions.  @with_others: those too that may be outside of the first sector. */
static int put_header(const struct vd_qcow2_header *header, bool with_others, size_t limit,
                      struct layout *layout, struct vdisk_error *err)
{
    const struct vd_qcow2_fields *fields = &header->fields;
    size_t first_sector = (size_t)vd_min(vd_min(SECTOR_BYTES, layout->cluster_bytes), limit);
    struct vd_qcow2_cursor cursor = {
        .bytes = layout->bytes, .at = fields->header_bytes, .end = first_sector};

    /* Their end is in the first sector, too; the end of the area does without a mark. */
    if (limit > first_sector)
        cursor.end -= END_MARK_BYTES;
    if (fields->header_bytes > cursor.end)
        return too_much("fields and extensions", first_sector, err);
    memset(layout->bytes, 0, layout->cluster_bytes);
    encode(fields, layout->bytes);
    if (fields->version >= 3 && header->rest_bytes)
        memcpy(layout->bytes + VD_QCOW2_REST_OFFSET, header->rest, header->rest_bytes);
    vd_qcow2_extensions_put_first(header, &cursor);
    if (cursor.is_full)
        return too_much("fields and extensions", first_sector, err);
    layout->first_end = cursor.at;
    cursor.end = limit;
    if (with_others)
        vd_qcow2_extensions_put_others(header, &cursor);
    if (cursor.is_full)
        return too_much("extensions", limit, err);
    layout->end = (size_t)vd_min(cursor.at + END_MARK_BYTES, limit);
    return 0;
}

/* The name that the file has, in the first cluster; NULL: none. */
struct old_name {
    const char *text;
    struct vd_range place;
};

/*
 * Where @name of @bytes goes: where it is; or behind the extensions if all is in the first sector
 * then; else as far behind as the old one leaves room.  0: nowhere.
 */
static uint64_t place_name(const struct layout *layout, const char *name, uint64_t bytes,
                           const struct old_name *old)
{
    const struct vd_range taken = old->place;
    if (old->text && strcmp(old->text, name) == 0 && taken.length == bytes &&
        taken.offset >= layout->end)
        return taken.offset;
    struct vd_range place = vd_range(layout->end, bytes);
    if (vd_range_end(place) <= vd_min(SECTOR_BYTES, layout->cluster_bytes))
        return place.offset;
    if (vd_range_end(place) > layout->cluster_bytes)
        return 0;
    place.offset = vd_round_down(layout->cluster_bytes - bytes, NAME_ALIGN);
    if (taken.length && vd_ranges_overlap(place, taken) && taken.offset >= bytes)
        place.offset = vd_round_down(taken.offset - bytes, NAME_ALIGN);
    bool is_free = place.offset >= layout->end && place.offset >= SECTOR_BYTES &&
                   (taken.length == 0 || !vd_ranges_overlap(place, taken));
    return is_free ? place.offset : 0;
}

/* Lays @header out in layout->bytes. */
static int lay_out(struct vd_qcow2_header *header, const struct old_name *old,
                   struct layout *layout, struct vdisk_error *err)
{
    struct vd_qcow2_fields *fields = &header->fields;
    settle_fields(header);
    fields->backing_offset = 0;
    fields->backing_bytes = header->backing_name ? (uint32_t)strlen(header->backing_name) : 0;
    if (fields->backing_bytes > VD_QCOW2_NAME_BYTES_MAX)
        return vd_err_set(err, ENAMETOOLONG,
                          "name of the backing file: has %" PRIu32 " bytes, the limit is %u",
                          fields->backing_bytes, VD_QCOW2_NAME_BYTES_MAX);
    int ret = put_header(header, true, layout->cluster_bytes, layout, err);
    if (ret < 0 || !header->backing_name)
        return ret;
    fields->backing_offset = place_name(layout, header->backing_name, fields->backing_bytes, old);
    if (fields->backing_offset == 0)
        return too_much("the name of the backing file", layout->cluster_bytes, err);
    layout->name = vd_range(fields->backing_offset, fields->backing_bytes);
    encode(fields, layout->bytes);
    memcpy(layout->bytes + fields->backing_offset, header->backing_name, fields->backing_bytes);
    return 0;
}

int vd_qcow2_header_format(struct vd_qcow2_header *header, uint8_t *bytes, struct vdisk_error *err)
{
    struct layout layout = {.bytes = bytes,
                            .cluster_bytes = UINT32_C(1) << header->fields.cluster_bits};
    return lay_out(header, &(struct old_name){0}, &layout, err);
}

/* From here on something has been changed, which -ENOSPC would deny. */
static int write_bytes(struct vd_storage *file, const void *bytes, size_t length, uint64_t offset,
                       struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    int ret = vd_storage_pwrite(file, bytes, length, offset, &inner);
    if (ret == -ENOSPC)
        return vd_err_set(err, EIO, "header: %s", inner.message);
    return ret < 0 ? vd_err_copy(err, &inner) : 0;
}

static int flush(struct vd_storage *file, struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    int ret = vd_storage_flush(file, &inner);
    if (ret == -ENOSPC)
        return vd_err_set(err, EIO, "header: %s", inner.message);
    return ret < 0 ? vd_err_copy(err, &inner) : 0;
}

static int write_durably(struct vd_storage *file, const uint8_t *bytes, struct vd_range range,
                         struct vdisk_error *err)
{
    int ret = write_bytes(file, bytes + range.offset, (size_t)range.length, range.offset, err);
    return ret < 0 ? ret : flush(file, err);
}

/* What the file has, and what it is to have. */
struct switching {
    struct vd_storage *file;
    struct vd_qcow2_header old;
    uint8_t *before; /* the first cluster, zeros behind the end of the file; owned */
    struct layout next;
    size_t sector; /* bytes of the first one */
};

/* Does it differ in [@from, @to)? */
static bool differs(const struct switching *sw, size_t from, size_t to)
{
    return from < to && memcmp(sw->before + from, sw->next.bytes + from, to - from) != 0;
}

/* Does anything behind the first sector have to be written? */
static bool is_more_than_a_sector(const struct switching *sw)
{
    return differs(sw, sw->sector, sw->next.end) ||
           differs(sw, (size_t)vd_max(sw->next.name.offset, sw->sector),
                   (size_t)vd_range_end(sw->next.name));
}

/* N2, first step: as it was, but with the extensions ended in the first sector. */
static int end_extensions(struct switching *sw, struct vdisk_error *err)
{
    const struct vd_qcow2_fields *fields = &sw->old.fields;
    struct layout layout = {.bytes = vd_alloc_array(sw->next.cluster_bytes, 1),
                            .cluster_bytes = sw->next.cluster_bytes};
    if (!layout.bytes)
        return vd_err_nomem(err, "the header of a qcow2 image");
    size_t limit = fields->backing_offset
                       ? (size_t)vd_min(fields->backing_offset, layout.cluster_bytes)
                       : layout.cluster_bytes;
    /* The lengths are those that the file has: what is behind stays where it is. */
    int ret = put_header(&sw->old, false, limit, &layout, err);
    if (ret == 0 && sw->old.backing_name && fields->backing_offset < sw->sector) {
        size_t kept = sw->sector - (size_t)fields->backing_offset;
        memcpy(layout.bytes + fields->backing_offset, sw->before + fields->backing_offset, kept);
    }
    if (ret == 0)
        ret = write_durably(sw->file, layout.bytes, vd_range(0, sw->sector), err);
    free(layout.bytes);
    return ret;
}

/* N2, second step: the other sectors; not the old name, and no more of them than are used. */
static int write_others(struct switching *sw, struct vdisk_error *err)
{
    const struct vd_range extensions = vd_range(sw->sector, sw->next.end - sw->sector);
    uint64_t name_start = vd_max(sw->next.name.offset, sw->sector);
    uint64_t name_end = vd_range_end(sw->next.name);
    int ret = 0;
    if (sw->next.end > sw->sector)
        ret = write_bytes(sw->file, sw->next.bytes + extensions.offset, (size_t)extensions.length,
                          extensions.offset, err);
    if (ret == 0 && name_end > name_start)
        ret = write_bytes(sw->file, sw->next.bytes + name_start, (size_t)(name_end - name_start),
                          name_start, err);
    return ret < 0 ? ret : flush(sw->file, err);
}

static int switch_over(struct switching *sw, struct vdisk_error *err)
{
    int ret = 0;
    if (is_more_than_a_sector(sw)) {
        ret = end_extensions(sw, err);
        if (ret == 0)
            ret = write_others(sw, err);
    }
    return ret < 0 ? ret : write_durably(sw->file, sw->next.bytes, vd_range(0, sw->sector), err);
}

static void switching_free(struct switching *sw)
{
    vd_qcow2_header_free(&sw->old);
    free(sw->before);
    free(sw->next.bytes);
}

/* Reads what the file has, and lays out @header beside it. */
static int prepare(struct vd_storage *file, struct vd_qcow2_header *header, struct switching *sw,
                   struct vdisk_error *err)
{
    size_t cluster_bytes = (size_t)1 << header->fields.cluster_bits;
    uint64_t file_bytes;
    *sw = (struct switching){
        .file = file,
        .before = vd_alloc_array(cluster_bytes, 1),
        .next = {.bytes = vd_alloc_array(cluster_bytes, 1), .cluster_bytes = cluster_bytes},
        .sector = (size_t)vd_min(SECTOR_BYTES, cluster_bytes),
    };
    if (!sw->before || !sw->next.bytes)
        return vd_err_nomem(err, "the header of a qcow2 image");
    int ret = vd_qcow2_header_read(file, VD_QCOW2_HEADER_CHECK, &sw->old, err);
    if (ret == 0)
        ret = vd_storage_size(file, &file_bytes, err);
    if (ret == 0)
        ret = vd_storage_pread(file, sw->before, (size_t)vd_min(file_bytes, cluster_bytes), 0, err);
    if (ret < 0)
        return ret;
    struct old_name old = {.text = sw->old.backing_name};
    if (old.text)
        old.place = vd_range(sw->old.fields.backing_offset, sw->old.fields.backing_bytes);
    return lay_out(header, &old, &sw->next, err);
}

/* Would the second step write over the name that the file has, outside of the first sector? */
static bool is_in_the_way(const struct switching *sw)
{
    const struct vd_qcow2_fields *old = &sw->old.fields;
    return sw->old.backing_name && old->backing_offset + old->backing_bytes > sw->sector &&
           old->backing_offset < sw->next.end;
}

/*
 * The name that the file has moves as far behind as it can, alone: the extensions end with the
 * first sector until the header is written.
 */
static int move_name(struct switching *sw, struct vdisk_error *err)
{
    struct vd_qcow2_header moved = sw->old; /* borrows all */
    struct layout layout = {.bytes = vd_alloc_array(sw->next.cluster_bytes, 1),
                            .cluster_bytes = sw->next.cluster_bytes};
    const struct vd_range old =
        vd_range(sw->old.fields.backing_offset, sw->old.fields.backing_bytes);
    if (!layout.bytes)
        return vd_err_nomem(err, "the header of a qcow2 image");
    int ret = put_header(&moved, false, layout.cluster_bytes, &layout, err);
    uint64_t place = vd_round_down(layout.cluster_bytes - old.length, NAME_ALIGN);
    if (ret == 0 && (place < sw->next.end || vd_ranges_overlap(vd_range(place, old.length), old)))
        ret = too_much("extensions beside the name of the backing file", layout.cluster_bytes, err);
    if (ret == 0)
        ret = write_bytes(sw->file, moved.backing_name, (size_t)old.length, place, err);
    if (ret == 0)
        ret = flush(sw->file, err);
    if (ret == 0) {
        moved.fields.backing_offset = place;
        encode(&moved.fields, layout.bytes);
        ret = write_durably(sw->file, layout.bytes, vd_range(0, sw->sector), err);
    }
    free(layout.bytes);
    return ret;
}

int vd_qcow2_header_write(struct vd_storage *file, struct vd_qcow2_header *header,
                          struct vdisk_error *err)
{
    struct switching sw;
    struct vd_qcow2_fields asked = header->fields;
    int ret = prepare(file, header, &sw, err);
    if (ret == 0 && is_in_the_way(&sw)) {
        ret = move_name(&sw, err);
        switching_free(&sw);
        if (ret == 0)
            ret = prepare(file, header, &sw, err);
        else
            sw = (struct switching){0};
    }
    if (ret == 0)
        ret = switch_over(&sw, err);
    switching_free(&sw);
    if (ret < 0)
        header->fields = asked;
    return ret;
}

int vd_qcow2_header_write_fields(struct vd_storage *file, const struct vd_qcow2_header *header,
                                 struct vdisk_error *err)
{
    uint8_t bytes[sizeof(struct vd_qcow2_disk_header)];
    size_t length = encode(&header->fields, bytes);
    return vd_storage_pwrite(file, bytes, length, 0, err);
}
