/* SPDX-License-Identifier: MIT */
/* Another backing file, in an order that a power cut can not turn into a third.  add-cow §5.3. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/addcow/addcow_priv.h"
#include "util/mem.h"

/* How many bytes are free from @start on? */
static uint32_t room_at(const struct vd_addcow_header *header, uint32_t start)
{
    const struct vd_addcow_name *const names[] = {&header->data, &header->backing};
    uint32_t end = VD_ADDCOW_HEADER_BYTES;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (names[i]->length && names[i]->offset >= start && names[i]->offset < end)
            end = names[i]->offset;
        if (names[i]->offset < start && names[i]->offset + names[i]->length > start)
            end = start;
    }
    return end - start;
}

/* A5: a place for @name->length bytes that no present name has, the first there is. */
static int find_place(const struct vd_addcow *cow, struct vd_addcow_name *name,
                      struct vdisk_error *err)
{
    const struct vd_addcow_header *header = &cow->header;
    const uint32_t starts[] = {
        sizeof(struct vd_addcow_disk_header),
        header->data.offset + header->data.length,
        header->backing.offset ? header->backing.offset + header->backing.length
                               : (uint32_t)sizeof(struct vd_addcow_disk_header),
    };
    uint32_t most = 0;
    name->offset = 0;
    for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) {
        uint32_t room = starts[i] <= VD_ADDCOW_HEADER_BYTES - 2 ? room_at(header, starts[i]) : 0;
        most = (uint32_t)vd_max(most, room);
        if (room >= name->length && (!name->offset || starts[i] < name->offset))
            name->offset = starts[i];
    }
    if (name->offset && name->length < VD_ADDCOW_NAME_BYTES_MAX)
        return 0;
    return vd_err_set(err, ENAMETOOLONG,
                      "%s: a name of %" PRIu32
                      " bytes for the backing file: the header has room for %" PRIu32
                      " beside the names in it: use a shorter one, relative for example",
                      vd_storage_name(cow->file), name->length, most);
}

int vd_addcow_write_header(struct vd_addcow *cow, const struct vd_addcow_header *header,
                           struct vdisk_error *err)
{
    uint8_t head[sizeof(struct vd_addcow_disk_header)];
    vd_addcow_header_encode(header, head);
    return vd_storage_pwrite(cow->file, head, sizeof(head), 0, err);
}

/* What the header shall say.  The name is where it leads to, durably, when this returns. */
static int place_name(struct vd_addcow *cow, const struct vd_backing *backing,
                      struct vd_addcow_header *header, struct vdisk_error *err)
{
    *header = cow->header;
    header->features = 0;
    header->backing = (struct vd_addcow_name){0};
    if (!backing)
        return 0;
    header->features = VD_ADDCOW_FEATURE_BACKING;
    if (backing->format && strcmp(backing->format, "raw") == 0)
        header->features |= VD_ADDCOW_FEATURE_BACKING_RAW;
    if (cow->backing_name && strcmp(cow->backing_name, backing->name) == 0) {
        header->backing = cow->header.backing;
        return 0;
    }
    size_t length = strlen(backing->name);
    if (!length)
        return vd_err_set(err, EINVAL, "%s: the name of the backing file is empty",
                          vd_storage_name(cow->file));
    if (strcmp(backing->name, cow->data_name) == 0)
        return vd_err_set(err, EINVAL, "%s: '%s' is its raw file, and can not be its backing file",
                          vd_storage_name(cow->file), backing->name);
    header->backing.length = (uint32_t)vd_min(length, UINT32_MAX);
    int ret = find_place(cow, &header->backing, err);
    if (ret == 0)
        ret = vd_storage_pwrite(cow->file, backing->name, length, header->backing.offset, err);
    return ret < 0 ? ret : vd_addcow_flush_file(cow, cow->file, err);
}

/* Within one sector: it is the old header or the new one.  A failure leaves open which. */
static int switch_header(struct vd_addcow *cow, const struct vd_addcow_header *header,
                         struct vdisk_error *err)
{
    struct vdisk_error inner = {0};
    if (vd_addcow_write_header(cow, header, &inner) < 0) {
        vd_format_fail(cow->format, &inner);
        return vd_err_copy(err, &inner);
    }
    return vd_addcow_flush_file(cow, cow->file, err);
}

/* The old name's bytes become zero again, which is only for those who look at the file. */
static int wipe_name(struct vd_addcow *cow, const struct vd_addcow_name *old,
                     struct vdisk_error *err)
{
    if (!old->length || old->offset == cow->header.backing.offset)
        return 0;
    int ret = vd_storage_write_zeroes(cow->file, vd_range(old->offset, old->length), 0, err);
    return ret < 0 ? ret : vd_addcow_flush_file(cow, cow->file, err);
}

int vd_addcow_set_backing(struct vd_format *format, const struct vd_backing *backing,
                          struct vdisk_error *err)
{
    struct vd_addcow *cow = format->state;
    struct vd_addcow_header header;
    CLEANUP_FREE char *name = NULL;
    if (backing && !(name = strdup(backing->name)))
        return vd_err_nomem(err, "a name");
    /* What was written before must not come to show what is in the new backing file. */
    int ret = vd_addcow_flush(format, err);
    if (ret == 0)
        ret = place_name(cow, backing, &header, err);
    if (ret == 0)
        ret = switch_header(cow, &header, err);
    if (ret < 0)
        return ret;
    struct vd_addcow_name old = cow->header.backing;
    cow->header = header;
    free(cow->backing_name);
    cow->backing_name = STEAL_PTR(name);
    return wipe_name(cow, &old, err);
}
