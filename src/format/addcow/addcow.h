/* SPDX-License-Identifier: MIT */
/* The format add-cow: a bitmap beside a raw file.  docs/formats/add-cow.md is the specification. */
#ifndef VD_FORMAT_ADDCOW_ADDCOW_H
#define VD_FORMAT_ADDCOW_ADDCOW_H

#include "format/driver.h"

extern const struct vd_format_driver vd_addcow_driver;

#endif
