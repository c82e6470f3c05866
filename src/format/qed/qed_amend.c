/* SPDX-License-Identifier: MIT */
/*
 * From the header of a draft to the final one: 64 bytes, as tables and data are the same.  All that
 * has to be elsewhere is durable there before they are written.  qed §9.4
 */
#include <string.h>

#include "format/qed/qed_file.h"

/* 0, and the form that the header has against all appearances, or VD_QED_LOOK. */
static int check_options(const struct vdisk_amend_options *options, enum vd_qed_variant *draft,
                         struct vdisk_error *err)
{
    *draft = VD_QED_LOOK;
    if (options->compat && strcmp(options->compat, vd_qed_variant_name(VD_QED_FINAL)) != 0)
        return vd_err_set(err, EINVAL, "compat=%s: a QED image can be made 'final', no other",
                          options->compat);
    if (!options->draft)
        return 0;
    *draft = vd_qed_variant_find(options->draft);
    if (*draft == VD_QED_LOOK || *draft == VD_QED_FINAL)
        return vd_err_set(err, EINVAL,
                          "draft=%s: unknown; there are 'draft-1', 'draft-2' and 'draft-3'",
                          options->draft);
    if (!options->compat)
        return vd_err_set(err, EINVAL,
                          "draft=%s: says what the header is, not what is to be made of it: add "
                          "compat=final",
                          options->draft);
    return 0;
}

/* A draft's file may end within its last cluster, which a final image does not count then. */
static int complete_last_cluster(struct vd_storage *file, const struct vd_qed_header *header,
                                 struct vdisk_error *err)
{
    uint64_t bytes;
    int ret = vd_storage_size(file, &bytes, err);
    if (ret < 0 || vd_is_aligned(bytes, header->cluster_bytes))
        return ret;
    return vd_storage_resize(file, vd_round_up(bytes, header->cluster_bytes), err);
}

/* Copies the name of the third draft from where a final header has fields. */
static int move_name(struct vd_storage *file, struct vd_qed_header *header, const char *name,
                     struct vdisk_error *err)
{
    uint32_t offset = header->backing_offset;
    if (offset >= VD_QED_HEADER_BYTES)
        return 0;
    int ret = vd_qed_find_name_room(header, header->backing_bytes, &offset, err);
    if (ret == 0)
        ret = vd_storage_pwrite(file, name, header->backing_bytes, offset, err);
    if (ret == 0)
        header->backing_offset = offset;
    return ret;
}

static int finalise(struct vd_storage *file, struct vd_qed_header *header, struct vdisk_error *err)
{
    struct vd_qed_names names;
    int ret = vd_qed_names_read(file, header, &names, err);
    if (ret < 0)
        return ret;
    if (names.backing) {
        ret = move_name(file, header, names.backing, err);
        if (names.format && strcmp(names.format, "raw") == 0)
            header->features |= VD_QED_FEATURE_NO_PROBE;
    } else {
        header->backing_offset = 0;
        header->backing_bytes = 0;
    }
    vd_qed_names_free(&names);
    if (ret == 0)
        ret = complete_last_cluster(file, header, err);
    if (ret == 0)
        ret = vd_storage_flush(file, err);
    if (ret < 0)
        return ret;

    header->variant = VD_QED_FINAL;
    header->compat_features = 0; /* those of a draft mean nothing in a final header */
    header->format_offset = 0;
    header->format_bytes = 0;
    ret = vd_qed_header_write(file, header, err);
    return ret < 0 ? ret : vd_storage_flush(file, err);
}

int vd_qed_amend(const struct vd_format_driver *driver, struct vd_storage *file,
                 const struct vdisk_amend_options *options, struct vdisk_error *err)
{
    (void)driver;
    struct vd_qed_header header;
    enum vd_qed_variant draft;
    int ret = check_options(options, &draft, err);
    if (ret == 0)
        ret = vd_qed_header_read(file, draft, &header, err);
    if (ret < 0 || !options->compat || header.variant == VD_QED_FINAL)
        return ret;
    return finalise(file, &header, err);
}
