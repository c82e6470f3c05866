/* SPDX-License-Identifier: MIT */
/*
 * Another backing file: the new name is durable before the header leads to it, and the old one is
 * not touched, so that a power cut leaves the one or the other.  qed §7.2
 */
#include <inttypes.h>
#include <string.h>

#include "format/qed/qed_file.h"

int vd_qed_find_name_room(const struct vd_qed_header *header, uint32_t bytes, uint32_t *offset,
                          struct vdisk_error *err)
{
    uint64_t area = vd_qed_header_area(header);
    uint64_t old = VD_QED_HEADER_BYTES; /* the name that is there, or nothing */
    uint64_t old_end = VD_QED_HEADER_BYTES;
    if (header->features & VD_QED_FEATURE_BACKING) {
        old = header->backing_offset;
        old_end = vd_max(old + header->backing_bytes, VD_QED_HEADER_BYTES);
    }
    if (old >= VD_QED_HEADER_BYTES && bytes <= old - VD_QED_HEADER_BYTES)
        *offset = VD_QED_HEADER_BYTES;
    else if (bytes <= area - old_end)
        *offset = (uint32_t)old_end;
    else
        return vd_err_set(err, ENOSPC,
                          "name of the backing file: there is no room for %" PRIu32
                          " bytes in the header of %" PRIu64
                          " bytes, beside its fields and the %" PRIu64
                          " bytes of the name that is there: use a shorter name, or convert to an "
                          "image with larger clusters",
                          bytes, area, old_end - old);
    return 0;
}

/* Is @name what the image names already? */
static int is_recorded(struct vd_storage *file, const struct vd_qed_header *header,
                       const char *name, bool *is, struct vdisk_error *err)
{
    struct vd_qed_names names;
    *is = false;
    int ret = vd_qed_names_read(file, header, &names, err);
    if (ret < 0)
        return ret;
    *is = names.backing && strcmp(names.backing, name) == 0;
    vd_qed_names_free(&names);
    return 0;
}

static int write_name(struct vd_storage *file, struct vd_qed_header *header, const char *name,
                      struct vdisk_error *err)
{
    bool is = false;
    int ret = is_recorded(file, header, name, &is, err);
    if (ret < 0 || is)
        return ret;
    uint32_t bytes = (uint32_t)strlen(name);
    uint32_t offset;
    ret = vd_qed_find_name_room(header, bytes, &offset, err);
    if (ret == 0)
        ret = vd_storage_pwrite(file, name, bytes, offset, err);
    if (ret == 0)
        ret = vd_storage_flush(file, err);
    if (ret < 0)
        return ret;
    header->backing_offset = offset;
    header->backing_bytes = bytes;
    return 0;
}

int vd_qed_prepare_backing(struct vd_storage *file, struct vd_qed_header *header,
                           const struct vd_backing *backing, struct vdisk_error *err)
{
    assert(header->variant == VD_QED_FINAL);
    if (header->compat_features)
        return vd_err_set(err, ENOTSUP,
                          "header: unknown compatible features 0x%" PRIx64
                          ": what they keep in the header's clusters might be overwritten, so the "
                          "backing file can not be changed",
                          header->compat_features);
    uint64_t features =
        header->features & ~(uint64_t)(VD_QED_FEATURE_BACKING | VD_QED_FEATURE_NO_PROBE);
    if (!backing) {
        header->features = features;
        header->backing_offset = 0;
        header->backing_bytes = 0;
        return 0;
    }
    int ret = vd_qed_check_name(backing->name, err);
    if (ret == 0)
        ret = write_name(file, header, backing->name, err);
    if (ret < 0)
        return ret;
    header->features = features | VD_QED_FEATURE_BACKING;
    if (backing->format && strcmp(backing->format, "raw") == 0)
        header->features |= VD_QED_FEATURE_NO_PROBE;
    return 0;
}
