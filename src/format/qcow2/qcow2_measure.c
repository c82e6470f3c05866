/* SPDX-License-Identifier: MIT */
/* How large a qcow2 image would be. */
#include "format/qcow2/qcow2_crypt.h"
#include "format/qcow2/qcow2_plan.h"
#include "format/qcow2/qcow2_priv.h"

int vd_qcow2_measure(const struct vd_format_driver *driver,
                     const struct vdisk_create_options *options, uint64_t data_bytes,
                     struct vdisk_measure_result *result, struct vdisk_error *err)
{
    (void)driver;
    struct vd_qcow2_plan plan;
    struct vd_luks_options luks;
    uint64_t crypto_bytes;
    int ret = vd_qcow2_crypt_plan(options, &luks, &crypto_bytes, err);
    if (ret < 0)
        return ret;
    ret = vd_qcow2_plan(options, crypto_bytes, &plan, err);
    if (ret == 0) {
        const struct vd_qcow2_geometry *geometry = &plan.geometry;
        /* The data of a data file counts as well: it takes space, too. */
        uint64_t all = vd_qcow2_clusters(geometry, plan.header.fields.size);
        uint64_t tables = plan.full.total - plan.full.data + vd_qcow2_blocks_ahead(geometry);
        uint64_t data = plan.preallocation == VDISK_PREALLOCATION_FALLOC ||
                                plan.preallocation == VDISK_PREALLOCATION_FULL
                            ? all
                            : vd_min(vd_qcow2_clusters(geometry, data_bytes), all);
        result->required_bytes = (tables + data) << geometry->cluster_bits;
        result->fully_allocated_bytes = (tables + all) << geometry->cluster_bits;
    }
    vd_qcow2_plan_free(&plan);
    return ret;
}
