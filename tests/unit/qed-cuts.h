/* SPDX-License-Identifier: MIT */
/* The power is cut before every call to the storage, in each way and with several seeds. */
#ifndef QED_CUTS_H
#define QED_CUTS_H

#include "drivers/crash.h"
#include "drivers/snap.h"

#include "qed-image.h"

#define CUT_SEEDS 4

/* Looks at what was found after a cut; asserts. */
typedef void (*judge_fn)(void *opaque, struct vd_storage *found);

struct cuts {
    judge_fn judge;
    void *opaque;
    unsigned count; /* of states looked at */
};

static inline void cut_all(void *opaque, struct vd_storage *storage, enum vt_call call)
{
    struct cuts *cuts = opaque;
    (void)call;
    for (int cut = 0; cut < VT_CUTS; cut++)
        for (uint64_t seed = 0; seed < CUT_SEEDS; seed++) {
            struct vd_storage *found;
            VT_OK(vt_crash_cut(storage, (enum vt_cut)cut, seed, &found, &vt_err));
            cuts->judge(cuts->opaque, found);
            vd_storage_close(found);
            cuts->count++;
            if (cut == VT_CUT_DROP_ALL || cut == VT_CUT_KEEP_ALL)
                break; /* there is only one such state */
        }
}

/* The content of @from, durable, in a storage whose power is cut before every call. */
static inline struct vd_storage *cuts_open(struct cuts *cuts, struct vd_storage *from)
{
    struct vd_storage *file;
    VT_OK(vt_crash_open(vt_snap_pages(from), &file, &vt_err));
    vt_crash_set_hook(file, cut_all, cuts);
    return file;
}

#endif
