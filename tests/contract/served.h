/* SPDX-License-Identifier: MIT */
/* A storage to be tested that is a local file which a server offers under a URL. */
#ifndef VT_SERVED_H
#define VT_SERVED_H

#include "contract/storage.h"

struct vt_served {
    struct vt_storage_factory factory;
    char path[512]; /* of the file */
    char url[512];
    bool is_writable; /* by the server */
};

/* @name: for the tests' names; the caller sets path, url and is_writable. */
void vt_served_init(struct vt_served *served, const char *name);

#endif
