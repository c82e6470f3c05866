/* SPDX-License-Identifier: MIT */
/* The formats, in the order in which content is looked at; raw, which fits anything, is the last.
 */
#include "format/addcow/addcow.h"
#include "format/driver.h"
#include "format/gow/gow.h"
#include "format/qcow2/qcow2.h"
#include "format/qed/qed.h"
#include "format/raw/raw.h"

const struct vd_format_driver *const vd_format_drivers[] = {
    &vd_addcow_driver, &vd_gow1_driver, &vd_gow2_driver, &vd_gow3_driver,
    &vd_qcow2_driver,  &vd_qed_driver,  &vd_raw_driver,  NULL,
};
