/* SPDX-License-Identifier: MIT */
/*
 * What a server offers.  An export lives until it has been removed and nobody holds it any more.
 */
#ifndef VD_SERVE_EXPORT_H
#define VD_SERVE_EXPORT_H

#include "serve/context.h"
#include "serve/counters.h"
#include "util/mutex.h"

struct vd_export {
    struct vdisk_image *image;
    char *name;        /* owned, UTF-8 */
    char *description; /* owned, or NULL */
    bool is_writable;
    uint32_t clients_max;        /* 0: no limit */
    uint32_t preferred_bytes;    /* block size: a power of two, 4096 or more */
    struct vd_contexts contexts; /* owned */
    struct vd_counters counters;
    atomic_bool is_removed; /* requests fail with ESHUTDOWN */
    uint64_t serial;        /* of all exports that were ever added, from 1 on */
    struct vd_export *next; /* under the lock of the list */
    unsigned holders;       /* under the lock of the list: clients, and others for a while */
};

/* All exports of a server, in the order in which they were added. */
struct vd_exports {
    struct vd_mutex lock;
    struct vd_cond changed;  /* somebody let go */
    struct vd_export *first; /* under lock: by serial */
    uint64_t added;          /* under lock: so far */
    struct vd_counters past; /* what was counted for those that were removed */
};

void vd_exports_init(struct vd_exports *exports);
void vd_exports_destroy(struct vd_exports *exports); /* nobody holds any */

int vd_exports_add(struct vd_exports *exports, struct vdisk_image *image,
                   const struct vdisk_export_options *options, struct vdisk_error *err);

/*
 * Looks for an export, any bytes being a name, and holds it: goes to vd_export_release().  The
 * empty name also finds the only export that there is.  NULL: there is none.
 */
struct vd_export *vd_exports_find(struct vd_exports *exports, const char *name, size_t length);

/* As find(), for a client that is going to use it.  -ENOENT; -EUSERS: it has enough clients, and
 * none of them has left within some seconds. */
int vd_exports_use(struct vd_exports *exports, const char *name, size_t length,
                   struct vd_export **export, struct vdisk_error *err);
void vd_export_leave(struct vd_exports *exports, struct vd_export *export); /* after use() */

/* Holds the export after @export, or the first one for NULL; releases @export.  For listing. */
struct vd_export *vd_exports_next(struct vd_exports *exports, struct vd_export *export);
void vd_export_release(struct vd_exports *exports, struct vd_export *export);

/* Holds the first export behind the one of that serial, for who does not hold it in between. */
struct vd_export *vd_exports_after(struct vd_exports *exports, uint64_t serial);

/* Takes it off the list and marks it: nobody finds it any more.  -ENOENT.  Then cut its clients,
 * and wait. */
int vd_exports_unlist(struct vd_exports *exports, const char *name, struct vd_export **export,
                      struct vdisk_error *err);

/* Waits until nobody holds it, and frees it; its counters go to @exports->past. */
void vd_exports_drop(struct vd_exports *exports, struct vd_export *export);

#endif
