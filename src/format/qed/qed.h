/* SPDX-License-Identifier: MIT */
/* The format qed.  docs/formats/qed.md is the specification. */
#ifndef VD_FORMAT_QED_QED_H
#define VD_FORMAT_QED_QED_H

#include "format/driver.h"

extern const struct vd_format_driver vd_qed_driver;

#endif
