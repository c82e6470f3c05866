/* SPDX-License-Identifier: MIT */
/*
 * The dirty bitmaps of an image as they have to be: exactly the granules that something was written
 * to while the bitmap was enabled, since it was last cleared.
 */
#ifndef VT_BITMAP_MODEL_H
#define VT_BITMAP_MODEL_H

#include <stdbool.h>

#include "drivers/random.h"
#include "util/range.h"
#include "vdisk.h"

#define VT_BITMAPS         4u
#define VT_BITMAP_GRANULES (1u << 18)
#define VT_BITMAP_ACTIONS  3u

struct vt_bitmap {
    bool is_there;
    bool is_enabled;
    unsigned granularity_bits;
    bool dirty[VT_BITMAP_GRANULES];
};

struct vt_bitmap_model {
    uint64_t size_max; /* of the disk */
    uint64_t size;
    struct vt_bitmap bitmaps[VT_BITMAPS];
};

/* With no bitmap yet; @size: of the disk, and the most it will have. */
struct vt_bitmap_model *vt_bitmap_model_new(uint64_t size);

bool vt_bitmap_model_is_empty(const struct vt_bitmap_model *model);

/* What writing to @guest, and another size, do to them. */
void vt_bitmap_model_write(struct vt_bitmap_model *model, struct vd_range guest);
void vt_bitmap_model_resize(struct vt_bitmap_model *model, uint64_t size, uint64_t cluster_bytes);

/* The image has these bitmaps and no others, all of them consistent, with every bit as it is here.
 */
void vt_bitmap_model_compare(const struct vt_bitmap_model *model, struct vdisk_image *image);

/*
 * Some random actions at once, some of them impossible: then none of them may have been done.
 * @can_have: false if all that adds one has to be refused.  True: they were done.
 */
bool vt_bitmap_model_change(struct vt_bitmap_model *model, struct vdisk_image *image,
                            struct vt_random *random, bool can_have);

#endif
