/* SPDX-License-Identifier: MIT */
/*
 * Persistent bitmaps: added, removed, cleared, merged, recovered.  The actions are carried out on a
 * second list, which shares the bitmaps that stay as they are; then that list is stored, and takes
 * the place of the first, or is forgotten.
 */
#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "format/bitmaps.h"
#include "format/qcow2/qcow2_bitmap_state.h"
#include "util/mem.h"

#define GRANULARITY_DEFAULT_MIN 4096u
#define GRANULARITY_DEFAULT_MAX 65536u

/* A change in the making. */
struct change {
    struct vd_qcow2 *qcow2;
    const struct vd_qcow2_list *old;
    struct vd_qcow2_list list;    /* what there will be */
    struct vd_qcow2_list dropped; /* those of the old list that are removed: borrowed */
};

static bool is_of(const struct vd_qcow2_list *list, const struct vd_qcow2_bitmap *bitmap)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->bitmaps[i] == bitmap)
            return true;
    return false;
}

/* Frees @list but for the bitmaps that @kept has. */
static void free_rest(struct vd_qcow2 *qcow2, struct vd_qcow2_list *list,
                      const struct vd_qcow2_list *kept)
{
    for (size_t i = 0; i < list->count; i++)
        if (!is_of(kept, list->bitmaps[i]))
            vd_qcow2_bitmap_free(qcow2, list->bitmaps[i]);
    free(list->bitmaps);
    *list = (struct vd_qcow2_list){0};
}

/* @list gets room for the bitmaps of @from and one more a future action. */
static int list_room(struct vd_qcow2_list *list, size_t room, struct vdisk_error *err)
{
    list->bitmaps = vd_alloc_array(room, sizeof(struct vd_qcow2_bitmap *));
    return list->bitmaps ? 0 : vd_err_nomem(err, "the bitmaps of an image");
}

/* The bitmap that an action names, wherever it is in the list. */
static int find(struct change *change, const char *name, size_t *index, struct vdisk_error *err)
{
    for (size_t i = 0; i < change->list.count; i++)
        if (strcmp(change->list.bitmaps[i]->entry.name, name) == 0) {
            *index = i;
            return 0;
        }
    return vd_err_set(err, ENOENT, "there is no bitmap '%s'", name);
}

/* In place of bitmap @index one that may be changed: without bits. */
static int make_own(struct change *change, size_t index, struct vdisk_error *err)
{
    struct vd_qcow2_bitmap *from = change->list.bitmaps[index];
    if (!is_of(change->old, from))
        return 0;
    struct vd_qcow2_bitmap *own = calloc(1, sizeof(*own));
    if (own) {
        own->entry = from->entry;
        own->entry.name = strdup(from->entry.name);
    }
    if (!own || !own->entry.name) {
        free(own);
        return vd_err_nomem(err, "a bitmap");
    }
    own->is_valid = from->is_valid;
    own->is_in_file = from->is_in_file;
    own->is_rewritten = from->is_rewritten;
    change->list.bitmaps[index] = own;
    return 0;
}

/* The same, of one whose bits can be used. */
static int make_valid_own(struct change *change, const char *name, struct vd_qcow2_bitmap **bitmap,
                          struct vdisk_error *err)
{
    size_t index;
    int ret = find(change, name, &index, err);
    if (ret < 0)
        return ret;
    if (!change->list.bitmaps[index]->is_valid)
        return vd_err_set(err, EUCLEAN,
                          "bitmap '%s' is inconsistent: it can only be recovered or removed", name);
    ret = make_own(change, index, err);
    *bitmap = change->list.bitmaps[index];
    return ret;
}

/* Fresh bits in place of those that @bitmap has; it will be stored as a whole. */
static void replace_bits(struct vd_qcow2_bitmap *bitmap, struct vd_bitmap *bits)
{
    vd_bitmap_free(bitmap->bits);
    bitmap->bits = bits;
    bitmap->is_rewritten = true;
}

static int new_bits(struct change *change, uint32_t granularity_bits, struct vd_bitmap **bits,
                    struct vdisk_error *err)
{
    return vd_bitmap_new(change->qcow2->format->size, granularity_bits,
                         &change->qcow2->dirty->budget, bits, err);
}

/* --- the actions -------------------------------------------------------------------------------
 */

static int check_granularity(const struct vd_qcow2 *qcow2, const struct vd_bitmap_action *action,
                             uint32_t *bits, struct vdisk_error *err)
{
    uint64_t granularity = action->granularity;
    if (granularity == 0)
        granularity = vd_max(GRANULARITY_DEFAULT_MIN,
                             vd_min(GRANULARITY_DEFAULT_MAX, qcow2->geometry.cluster_bytes));
    if ((granularity & (granularity - 1)) != 0 ||
        granularity < UINT64_C(1) << VD_QCOW2_BITMAP_GRANULARITY_MIN ||
        granularity > UINT64_C(1) << VD_QCOW2_BITMAP_GRANULARITY_MAX)
        return vd_err_set(err, EINVAL,
                          "bitmap '%s': granularity %" PRIu64
                          ": must be a power of two from %" PRIu64 " to %" PRIu64 " bytes",
                          action->name, granularity, UINT64_C(1) << VD_QCOW2_BITMAP_GRANULARITY_MIN,
                          UINT64_C(1) << VD_QCOW2_BITMAP_GRANULARITY_MAX);
    *bits = (uint32_t)__builtin_ctzll(granularity);
    return 0;
}

static int check_new(const struct change *change, const struct vd_bitmap_action *action,
                     uint32_t *granularity_bits, struct vdisk_error *err)
{
    const struct vd_qcow2 *qcow2 = change->qcow2;
    size_t pieces;
    if (qcow2->header.fields.version < 3)
        return vd_err_set(
            err, ENOTSUP,
            "bitmap '%s': images of version 2 (compat 0.10) have no bitmaps: amend it "
            "to compat 1.1 first",
            action->name);
    int ret = vd_qcow2_bitmap_check_name(action->name, err);
    if (ret == 0 && vd_qcow2_list_find(&change->list, action->name))
        ret = vd_err_set(err, EEXIST, "there is a bitmap '%s' already", action->name);
    if (ret == 0 && change->list.count >= VD_QCOW2_BITMAPS_MAX)
        ret = vd_err_set(err, EINVAL, "bitmap '%s': there are %zu bitmaps: %u at most",
                         action->name, change->list.count, VD_QCOW2_BITMAPS_MAX);
    if (ret == 0)
        ret = check_granularity(qcow2, action, granularity_bits, err);
    if (ret == 0)
        ret = vd_qcow2_bitmap_count_pieces(qcow2, action->name, *granularity_bits,
                                           qcow2->format->size, &pieces, err);
    return ret;
}

static int add(struct change *change, const struct vd_bitmap_action *action,
               struct vdisk_error *err)
{
    uint32_t granularity_bits = 0;
    int ret = check_new(change, action, &granularity_bits, err);
    if (ret < 0)
        return ret;
    struct vd_qcow2_bitmap *bitmap = calloc(1, sizeof(*bitmap));
    char *name = strdup(action->name);
    if (!bitmap || !name) {
        free(bitmap);
        free(name);
        return vd_err_nomem(err, "a bitmap");
    }
    *bitmap = (struct vd_qcow2_bitmap){
        .entry = {.name = name,
                  .flags = VD_QCOW2_BITMAP_AUTO,
                  .granularity_bits = granularity_bits},
        .is_valid = true,
        .is_rewritten = true,
    };
    change->list.bitmaps[change->list.count++] = bitmap;
    return new_bits(change, granularity_bits, &bitmap->bits, err);
}

static int remove_bitmap(struct change *change, const struct vd_bitmap_action *action,
                         struct vdisk_error *err)
{
    size_t index;
    int ret = find(change, action->name, &index, err);
    if (ret < 0)
        return ret;
    struct vd_qcow2_bitmap *bitmap = change->list.bitmaps[index];
    change->list.count--;
    memmove(&change->list.bitmaps[index], &change->list.bitmaps[index + 1],
            (change->list.count - index) * sizeof(struct vd_qcow2_bitmap *));
    if (!is_of(change->old, bitmap)) {
        /* One that an earlier action has made; what it stands for in the file goes. */
        struct vd_qcow2_bitmap *old = vd_qcow2_list_find(change->old, action->name);
        vd_qcow2_bitmap_free(change->qcow2, bitmap);
        bitmap = old && !is_of(&change->dropped, old) ? old : NULL;
    }
    if (bitmap)
        change->dropped.bitmaps[change->dropped.count++] = bitmap;
    return 0;
}

static int clear(struct change *change, const struct vd_bitmap_action *action,
                 struct vdisk_error *err)
{
    struct vd_qcow2_bitmap *bitmap;
    struct vd_bitmap *bits;
    int ret = make_valid_own(change, action->name, &bitmap, err);
    if (ret == 0)
        ret = new_bits(change, bitmap->entry.granularity_bits, &bits, err);
    if (ret == 0)
        replace_bits(bitmap, bits);
    return ret;
}

static int enable(struct change *change, const struct vd_bitmap_action *action,
                  struct vdisk_error *err)
{
    struct vd_qcow2_bitmap *bitmap;
    int ret = make_valid_own(change, action->name, &bitmap, err);
    if (ret < 0)
        return ret;
    if (action->kind == VDISK_BITMAP_ENABLE)
        bitmap->entry.flags |= VD_QCOW2_BITMAP_AUTO;
    else
        bitmap->entry.flags &= ~(uint32_t)VD_QCOW2_BITMAP_AUTO;
    return 0;
}

/* What is merged: of this image, or what the caller has. */
static int merge_source(struct change *change, const struct vd_bitmap_action *action,
                        const struct vd_bitmap **bits, struct vdisk_error *err)
{
    size_t index;
    *bits = action->bits;
    if (action->bits)
        return 0;
    int ret = find(change, action->source, &index, err);
    if (ret < 0)
        return ret;
    struct vd_qcow2_bitmap *source = change->list.bitmaps[index];
    if (!source->is_valid)
        return vd_err_set(err, EUCLEAN, "bitmap '%s' is inconsistent: it can not be merged",
                          action->source);
    ret = vd_qcow2_bitmap_bits_load(change->qcow2, source, err);
    *bits = source->bits;
    return ret;
}

/* @bits are of a disk of the same size? */
static int check_size(const struct change *change, const struct vd_bitmap_action *action,
                      const struct vd_bitmap *bits, struct vdisk_error *err)
{
    uint64_t size = change->qcow2->format->size;
    if (vd_bitmap_disk_bytes(bits) == size)
        return 0;
    return vd_err_set(err, EINVAL,
                      "bitmap '%s': the disk has %" PRIu64
                      " bytes, and that of the bitmap to be merged %" PRIu64
                      ": they have to be the same",
                      action->name, size, vd_bitmap_disk_bytes(bits));
}

static int merge(struct change *change, const struct vd_bitmap_action *action,
                 struct vdisk_error *err)
{
    struct vd_qcow2_bitmap *bitmap;
    const struct vd_bitmap *source;
    struct vd_bitmap *bits;
    int ret = make_valid_own(change, action->name, &bitmap, err);
    if (ret == 0)
        ret = merge_source(change, action, &source, err);
    if (ret == 0)
        ret = check_size(change, action, source, err);
    if (ret == 0)
        ret = vd_qcow2_bitmap_bits_load(change->qcow2, bitmap, err);
    if (ret == 0)
        ret = vd_bitmap_copy(bitmap->bits, &bits, err);
    if (ret < 0)
        return ret;
    ret = vd_bitmap_merge(bits, source, err); /* which may be those that are replaced */
    if (ret == 0)
        replace_bits(bitmap, bits);
    else
        vd_bitmap_free(bits);
    return ret;
}

static int recover(struct change *change, const struct vd_bitmap_action *action,
                   struct vdisk_error *err)
{
    size_t index;
    struct vd_bitmap *bits;
    int ret = find(change, action->name, &index, err);
    if (ret < 0)
        return ret;
    if (change->list.bitmaps[index]->is_valid)
        return vd_err_set(err, EINVAL, "bitmap '%s' is consistent: there is nothing to recover",
                          action->name);
    ret = make_own(change, index, err);
    if (ret == 0 && action->bits)
        ret = check_size(change, action, action->bits, err);
    struct vd_qcow2_bitmap *bitmap = change->list.bitmaps[index];
    if (ret == 0 && bitmap->is_in_file)
        ret = vd_qcow2_bitmap_table_load(change->qcow2, bitmap, err); /* while it is not valid */
    if (ret == 0)
        ret = new_bits(change, bitmap->entry.granularity_bits, &bits, err);
    if (ret < 0)
        return ret;
    replace_bits(bitmap, bits);
    bitmap->is_valid = true;
    if (action->bits)
        return vd_bitmap_merge(bits, action->bits, err);
    vd_bitmap_set_all(bits);
    return 0;
}

static int act(struct change *change, const struct vd_bitmap_action *action,
               struct vdisk_error *err)
{
    switch (action->kind) {
    case VDISK_BITMAP_ADD:
        return add(change, action, err);
    case VDISK_BITMAP_REMOVE:
        return remove_bitmap(change, action, err);
    case VDISK_BITMAP_CLEAR:
        return clear(change, action, err);
    case VDISK_BITMAP_ENABLE:
    case VDISK_BITMAP_DISABLE:
        return enable(change, action, err);
    case VDISK_BITMAP_MERGE:
        return merge(change, action, err);
    case VDISK_BITMAP_RECOVER:
        return recover(change, action, err);
    }
    return vd_err_set(err, EINVAL, "unknown action %d on a bitmap", (int)action->kind);
}

/* --- all of them -------------------------------------------------------------------------------
 */

/* D4: what nobody trusts keeps its name only. */
static int leave_places(struct change *change, struct vdisk_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < change->list.count && ret == 0; i++) {
        ret = make_own(change, i, err);
        if (ret == 0)
            change->list.bitmaps[i]->is_rewritten = true;
    }
    return ret;
}

/* What will be released has to be known before. */
static int load_tables(struct change *change, struct vdisk_error *err)
{
    int ret = 0;
    for (size_t i = 0; i < change->list.count && ret == 0; i++) {
        struct vd_qcow2_bitmap *bitmap = change->list.bitmaps[i];
        if (bitmap->is_in_file && bitmap->is_rewritten)
            ret = vd_qcow2_bitmap_table_claim(change->qcow2, bitmap, err);
    }
    for (size_t i = 0; i < change->dropped.count && ret == 0; i++)
        if (change->dropped.bitmaps[i]->is_in_file)
            ret = vd_qcow2_bitmap_table_claim(change->qcow2, change->dropped.bitmaps[i], err);
    return ret;
}

static int check_length(const struct change *change, struct vdisk_error *err)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < change->list.count; i++)
        bytes += vd_qcow2_bitmap_entry_bytes(&change->list.bitmaps[i]->entry);
    if (bytes <= VD_QCOW2_BITMAP_DIR_BYTES_MAX)
        return 0;
    return vd_err_set(err, EINVAL,
                      "the bitmap directory would have %" PRIu64 " bytes: %" PRIu64 " at most",
                      bytes, VD_QCOW2_BITMAP_DIR_BYTES_MAX);
}

static int prepare(struct change *change, const struct vd_bitmap_action *actions, size_t count,
                   struct vdisk_error *err)
{
    const struct vd_qcow2_list *old = change->old;
    int ret = list_room(&change->list, old->count + count, err);
    if (ret == 0)
        ret = list_room(&change->dropped, old->count, err);
    if (ret < 0)
        return ret;
    for (size_t i = 0; i < old->count; i++)
        change->list.bitmaps[change->list.count++] = old->bitmaps[i];
    if (!change->qcow2->dirty->is_trusted)
        ret = leave_places(change, err);
    for (size_t i = 0; i < count && ret == 0; i++)
        ret = act(change, &actions[i], err);
    if (ret == 0)
        ret = check_length(change, err);
    return ret < 0 ? ret : load_tables(change, err);
}

/* Gives back what was taken for a list that is not stored. */
static void give_back(struct change *change)
{
    struct vd_qcow2 *qcow2 = change->qcow2;
    vd_qcow2_bitmap_unreserve_directory(qcow2, vd_qcow2_list_clusters(qcow2, &change->list));
    for (size_t i = 0; i < change->list.count; i++)
        vd_qcow2_bitmap_unreserve(qcow2, change->list.bitmaps[i]);
}

static int change_list(struct vd_qcow2 *qcow2, const struct vd_bitmap_action *actions, size_t count,
                       struct vdisk_error *err)
{
    struct vd_qcow2_dirty *dirty = qcow2->dirty;
    struct change change = {.qcow2 = qcow2, .old = &dirty->list};
    bool is_stored = false;
    int ret = prepare(&change, actions, count, err);
    if (ret == 0)
        ret = vd_qcow2_bitmap_list_store(qcow2, &change.list, &change.dropped, &is_stored, err);
    free(change.dropped.bitmaps);
    if (is_stored) {
        struct vd_qcow2_list old = dirty->list;
        dirty->list = change.list;
        free_rest(qcow2, &old, &dirty->list);
    } else {
        give_back(&change);
        free_rest(qcow2, &change.list, &dirty->list);
    }
    return ret;
}

int vd_qcow2_bitmap_change(struct vd_format *format, const struct vd_bitmap_action *actions,
                           size_t count, struct vdisk_error *err)
{
    struct vd_qcow2 *qcow2 = format->state;
    int ret = 0;
    if (!qcow2->writer)
        return vd_err_set(err, EINVAL, "an image that is opened for a check can not be changed");
    if (qcow2->header.bitmaps.is_draft)
        ret = vd_qcow2_bitmap_dir_check_place(&qcow2->header.bitmaps, qcow2->geometry.cluster_bits,
                                              err);
    if (ret == 0)
        ret = vd_qcow2_begin(qcow2, err);
    if (ret < 0)
        return ret;
    vd_mutex_lock(&qcow2->dirty->lock);
    ret = vd_qcow2_bitmap_list_claim(qcow2, err);
    vd_mutex_unlock(&qcow2->dirty->lock);
    if (ret == 0)
        ret = vd_qcow2_bitmaps_store(qcow2, err); /* what was recorded so far */
    return ret < 0 ? ret : change_list(qcow2, actions, count, err);
}
