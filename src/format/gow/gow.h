/* SPDX-License-Identifier: MIT */
/* The formats gow1, gow2 and gow3: docs/formats/gow.md. */
#ifndef VD_FORMAT_GOW_GOW_H
#define VD_FORMAT_GOW_GOW_H

#include "format/driver.h"

extern const struct vd_format_driver vd_gow1_driver;
extern const struct vd_format_driver vd_gow2_driver;
extern const struct vd_format_driver vd_gow3_driver;

#endif
