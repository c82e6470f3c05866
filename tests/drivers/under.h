/* SPDX-License-Identifier: MIT */
/* What the storages over another storage have in common. */
#ifndef VT_UNDER_H
#define VT_UNDER_H

#include "storage/driver.h"

/* Who closes the storage below? */
enum vt_ownership {
    VT_BORROW,
    VT_OWN
};

static inline void vt_under_close(struct vd_storage *inner, enum vt_ownership ownership)
{
    if (ownership == VT_OWN)
        vd_storage_close(inner);
}

/* Makes @storage look like @inner to the layers above: its claims are those of @inner. */
static inline void vt_under_imitate(struct vd_storage *storage, const struct vd_storage *inner)
{
    storage->flags = inner->flags;
    storage->caps = inner->caps;
    storage->identity = inner->identity;
}

#endif
