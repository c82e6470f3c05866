/* SPDX-License-Identifier: MIT */
/* Which form has the header of a QED image?  qed §9.3 */
#include <string.h>

#include "format/qed/qed_header.h"

static const char *const variant_names[] = {
    [VD_QED_FINAL] = "final",
    [VD_QED_DRAFT_1] = "draft-1",
    [VD_QED_DRAFT_2] = "draft-2",
    [VD_QED_DRAFT_3] = "draft-3",
};

const char *vd_qed_variant_name(enum vd_qed_variant variant)
{
    assert(variant >= VD_QED_FINAL && variant <= VD_QED_DRAFT_3);
    return variant_names[variant];
}

enum vd_qed_variant vd_qed_variant_find(const char *name)
{
    for (enum vd_qed_variant variant = VD_QED_FINAL; variant <= VD_QED_DRAFT_3; variant++)
        if (strcmp(variant_names[variant], name) == 0)
            return variant;
    return VD_QED_LOOK;
}

/* Could an L1 table be at @offset?  The file may end within its last cluster. */
static bool is_l1_offset(const struct vd_qed_header *header, uint64_t file_bytes, uint64_t offset)
{
    struct vd_qed_geometry geometry = vd_qed_header_geometry(header);
    uint64_t file_end = vd_round_up(file_bytes, header->cluster_bytes);
    return offset > 0 &&
           vd_qed_table_is_within(&geometry, vd_qed_header_area(header), file_end, offset);
}

/* The @draft reading of the header makes sense, and the @final one does not. */
static bool is_draft(const struct vd_qed_header *draft, const struct vd_qed_header *final,
                     uint64_t file_bytes)
{
    if (!vd_qed_cluster_bytes_is_legal(draft->cluster_bytes) ||
        !vd_qed_table_clusters_is_legal(draft->table_clusters))
        return false;
    /* A final header has autoclear features there: none is defined, so it is 0. */
    if (!is_l1_offset(draft, file_bytes, draft->l1_offset))
        return false;
    struct vd_qed_geometry geometry = vd_qed_header_geometry(draft);
    if (draft->size == 0 || draft->size > geometry.size_max ||
        !vd_is_aligned(draft->size, draft->cluster_bytes))
        return false;
    /* A size of 0 with an autoclear feature that looks like an L1 table: rather a draft. */
    return final->size == 0 || !vd_qed_size_is_legal(&geometry, final->size) ||
           !is_l1_offset(final, file_bytes, final->l1_offset);
}

enum vd_qed_variant vd_qed_variant_of(const uint8_t *head, uint64_t file_bytes)
{
    struct vd_qed_header final;
    struct vd_qed_header draft;
    vd_qed_header_decode(head, VD_QED_FINAL, &final);
    vd_qed_header_decode(head, VD_QED_DRAFT_2, &draft);
    if (!is_draft(&draft, &final, file_bytes))
        return VD_QED_FINAL;

    /* Without any of these marks the three are alike, byte by byte. */
    bool has_backing = (draft.features & VD_QED_FEATURE_BACKING) != 0;
    if ((draft.features & VD_QED_FEATURE_NO_PROBE) ||
        (has_backing && draft.backing_offset < VD_QED_HEADER_BYTES))
        return VD_QED_DRAFT_3;
    return draft.features & VD_QED_FEATURE_NEED_CHECK ? VD_QED_DRAFT_2 : VD_QED_DRAFT_1;
}
