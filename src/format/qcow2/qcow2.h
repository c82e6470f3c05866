/* SPDX-License-Identifier: MIT */
/* The format qcow2.  docs/formats/qcow2.md is the specification. */
#ifndef VD_FORMAT_QCOW2_QCOW2_H
#define VD_FORMAT_QCOW2_QCOW2_H

#include "format/driver.h"

extern const struct vd_format_driver vd_qcow2_driver;

#endif
