/* SPDX-License-Identifier: MIT */
/* The raw format: guest offset = offset in the file. */
#ifndef VD_FORMAT_RAW_RAW_H
#define VD_FORMAT_RAW_RAW_H

#include "format/driver.h"

extern const struct vd_format_driver vd_raw_driver;

#endif
