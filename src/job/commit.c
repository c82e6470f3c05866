/* SPDX-License-Identifier: MIT */
/*
 * vdisk_commit(): writes what the images above a base have decided into the base.
 *
 * K1  Only ranges that an image above the base decides are written, and such a range is never read
 *     from the base: so the disk reads the same at any instant, and after any failure.
 * K2  The image is emptied only when the base, and all that was written to it, is durable.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "image/chain.h"
#include "job/merge.h"
#include "util/mem.h"

struct commit {
    const struct vdisk_commit_options *options;
    struct vdisk_commit_result *result;
    struct vd_job job;
    struct vdisk_image *top;
    struct vdisk_image *base;
    unsigned base_depth;
    bool empties; /* the image shall be emptied */
};

static const char *name_of(struct vdisk_image *image)
{
    return vd_storage_name(vd_format_file(vd_image_format(image)));
}

/* ---- Which one is the base? ---- */

static int unknown_base(struct vdisk_image *top, const char *base, struct vdisk_error *err)
{
    char list[640] = "";
    size_t used = 0;
    for (struct vdisk_image *image = vdisk_image_backing(top); image;
         image = vdisk_image_backing(image)) {
        int length =
            snprintf(list + used, sizeof(list) - used, "%s'%s'", used ? ", " : "", name_of(image));
        if (length < 0 || (size_t)length >= sizeof(list) - used) {
            snprintf(list + used, sizeof(list) - used, ", ...");
            break;
        }
        used += (size_t)length;
    }
    return vd_err_set(err, EINVAL, "%s: '%.200s' is none of the images behind it, which are %s",
                      name_of(top), base, list);
}

/* The image that @base means: a path from here, or a name as an image of the chain has it. */
static int find_base(struct vdisk_image *top, const char *base, unsigned *depth,
                     struct vdisk_error *err)
{
    struct vd_storage_identity identity = vd_storage_identify(base);
    unsigned level = 0, named = 0;
    for (struct vdisk_image *image = top; image; image = vdisk_image_backing(image), level++) {
        if (vd_storage_identity_equals(
                identity, vd_storage_identity(vd_format_file(vd_image_format(image))))) {
            *depth = level;
            return level ? 0
                         : vd_err_set(err, EINVAL,
                                      "%s: is the image itself, and can not be the "
                                      "base of its commit",
                                      base);
        }
        struct vd_format_info info;
        struct vdisk_image *behind = vdisk_image_backing(image);
        int ret = vd_format_info(vd_image_format(image), &info, err);
        if (ret < 0)
            return ret;
        if (!behind || (strcmp(base, info.backing_name) != 0 && strcmp(base, name_of(behind)) != 0))
            continue;
        if (named)
            return vd_err_set(
                err, EINVAL,
                "%s: more than one of the images behind it is called '%.200s': name it "
                "by its path from here",
                name_of(top), base);
        named = level + 1;
    }
    *depth = named;
    return named ? 0 : unknown_base(top, base, err);
}

static struct vdisk_image *image_at(struct vdisk_image *image, unsigned depth)
{
    while (image && depth--)
        image = vdisk_image_backing(image);
    return image;
}

/* ---- Opening ---- */

static int open_chain(const struct commit *commit, uint32_t flags, unsigned write_level,
                      struct vdisk_image **top, struct vdisk_error *err)
{
    const struct vdisk_commit_options *options = commit->options;
    struct vdisk_open_options open = {.struct_bytes = sizeof(open),
                                      .flags = options->open_flags | flags,
                                      .format = options->format,
                                      .network = options->network,
                                      .passphrases = options->passphrases,
                                      .gate = options->gate};
    struct vd_chain_options chain = {.open = &open, .write_level = write_level};
    return vd_image_open_chain(options->name, &chain, top, err);
}

/* Which level has to be open for writing has to be known before. */
static int look_for_base(struct commit *commit, struct vdisk_error *err)
{
    commit->base_depth = 1;
    if (!commit->options->base)
        return 0;
    struct vdisk_image *top;
    int ret = open_chain(commit, 0, 0, &top, err);
    if (ret < 0)
        return ret;
    ret = find_base(top, commit->options->base, &commit->base_depth, err);
    vdisk_image_close(top, NULL); /* read-only: nothing to lose */
    return ret;
}

static int open_images(struct commit *commit, struct vdisk_error *err)
{
    const struct vdisk_commit_options *options = commit->options;
    uint32_t flags = commit->empties ? VDISK_OPEN_WRITE : 0;
    int ret = look_for_base(commit, err);
    if (ret == 0)
        ret = open_chain(commit, flags, commit->base_depth, &commit->top, err);
    if (ret < 0)
        return ret;
    unsigned depth = commit->base_depth;
    if (options->base)
        ret = find_base(commit->top, options->base, &depth, err);
    if (ret < 0)
        return ret;
    if (depth != commit->base_depth)
        return vd_err_set(err, EAGAIN, "%s: the images behind it were changed meanwhile",
                          options->name);
    commit->base = image_at(commit->top, depth);
    if (!commit->base)
        return vd_err_set(err, EINVAL, "%s: has no backing file to commit to", options->name);
    return 0;
}

/* ---- Writing ---- */

static int look(const struct vd_merge *merge, struct vd_range range, enum vd_merge_kind *kind,
                uint64_t *length, struct vdisk_error *err)
{
    const struct commit *commit = merge->opaque;
    struct vdisk_extent extent, base;
    int ret = vdisk_image_extent(commit->top, range.offset, range.length, &extent, err);
    if (ret < 0)
        return ret;
    *length = extent.length;
    bool is_decided = extent.depth < commit->base_depth; /* K1 */
    *kind = is_decided ? VD_MERGE_READ : VD_MERGE_LEAVE;
    if (!is_decided || !(extent.flags & VDISK_EXTENT_ZERO))
        return 0;
    ret = vdisk_image_extent(merge->target, range.offset, extent.length, &base, err);
    if (ret < 0)
        return ret;
    *length = base.length;
    *kind = base.flags & VDISK_EXTENT_ZERO ? VD_MERGE_LEAVE : VD_MERGE_ZERO;
    return 0;
}

static int copy(struct vd_merge *merge, struct vd_range range,
                const struct vd_merge_buffers *buffers, struct vdisk_error *err)
{
    const struct commit *commit = merge->opaque;
    int ret =
        vdisk_image_pread(commit->top, buffers->bytes[0], (size_t)range.length, range.offset, err);
    return ret < 0 ? ret : vd_merge_write(merge, buffers->bytes[0], range, err);
}

static int grow_base(struct commit *commit, struct vdisk_error *err)
{
    uint64_t size = vdisk_image_size(commit->top);
    uint64_t base_size = vdisk_image_size(commit->base);
    if (base_size >= size)
        return 0;
    int ret = vdisk_image_resize(commit->base, size, VDISK_PREALLOCATION_OFF, err);
    if (ret < 0)
        return vd_err_prefix(err, ret,
                             "%s: its disk of %" PRIu64 " bytes has to grow to %" PRIu64 ": ",
                             name_of(commit->base), base_size, size);
    commit->result->flags |= VDISK_COMMIT_BASE_GREW;
    return 0;
}

static int merge_down(struct commit *commit, struct vdisk_error *err)
{
    static const struct vd_merge_rules rules = {.look = look, .copy = copy, .zero = vd_merge_zero};
    const struct vdisk_commit_options *options = commit->options;
    struct vd_merge merge = {
        .rules = &rules,
        .opaque = commit,
        .job = &commit->job,
        .target = commit->base,
        .size = vdisk_image_size(commit->top),
        .is_durable = !(options->open_flags & VDISK_OPEN_UNSAFE),
    };
    vd_merge_init(&merge);
    int ret = vd_merge_run(&merge, "commit", options->workers, err);
    commit->result->data_bytes = atomic_load(&merge.data_bytes);
    commit->result->zero_bytes = atomic_load(&merge.zero_bytes);
    vd_merge_destroy(&merge);
    return ret;
}

/* K2 */
static int empty_top(struct commit *commit, struct vdisk_error *err)
{
    struct vdisk_error why = {0};
    if (!commit->empties)
        return 0;
    int ret = vd_format_empty(vd_image_format(commit->top), &why);
    if (ret == 0)
        commit->result->flags |= VDISK_COMMIT_EMPTIED;
    return ret == 0 || ret == -ENOTSUP ? 0 : vd_err_copy(err, &why);
}

static int run(struct commit *commit, struct vdisk_error *err)
{
    int ret = open_images(commit, err);
    if (ret < 0)
        return ret;
    commit->result->base_depth = commit->base_depth;
    commit->result->virtual_bytes = vdisk_image_size(commit->top);
    snprintf(commit->result->base_name, sizeof(commit->result->base_name), "%s",
             name_of(commit->base));
    ret = grow_base(commit, err);
    if (ret == 0)
        ret = merge_down(commit, err);
    if (ret == 0)
        ret = vdisk_image_flush(commit->base, err);
    if (ret == 0)
        ret = empty_top(commit, err);
    int closed = vdisk_image_close(STEAL_PTR(commit->top), ret == 0 ? err : NULL);
    if (ret == 0)
        ret = closed;
    if (ret == 0)
        (void)vd_job_finish(&commit->job, NULL); /* too late to cancel: it is done */
    return ret;
}

/* ---- The whole ---- */

static int check_options(const struct vdisk_commit_options *options,
                         const struct vdisk_commit_result *result, struct vdisk_error *err)
{
    const uint32_t open_flags = VDISK_OPEN_DIRECT | VDISK_OPEN_SYNC | VDISK_OPEN_UNSAFE;
    if (options->struct_bytes != sizeof(*options) || options->reserved)
        return vd_err_set(err, EINVAL,
                          "commit options: struct_bytes is %zu and reserved %" PRIu64
                          ": this library wants %zu and 0",
                          options->struct_bytes, options->reserved, sizeof(*options));
    if (options->flags & ~(uint32_t)VDISK_COMMIT_KEEP)
        return vd_err_set(err, EINVAL, "commit options: unknown flags 0x%" PRIx32,
                          options->flags & ~(uint32_t)VDISK_COMMIT_KEEP);
    if (options->open_flags & ~open_flags)
        return vd_err_set(err, EINVAL, "commit options: open flags 0x%" PRIx32 " have no meaning",
                          options->open_flags & ~open_flags);
    if (!options->name)
        return vd_err_set(err, EINVAL, "commit options: the name of an image is needed");
    if (result && result->struct_bytes != sizeof(*result))
        return vd_err_set(err, EINVAL, "commit result: struct_bytes is %zu, this library wants %zu",
                          result->struct_bytes, sizeof(*result));
    return 0;
}

int vdisk_commit(const struct vdisk_commit_options *options, struct vdisk_commit_result *result,
                 struct vdisk_error *err)
{
    int ret = check_options(options, result, err);
    if (ret < 0)
        return ret;
    struct vdisk_commit_result done = {.struct_bytes = sizeof(done)};
    struct commit commit = {.options = options,
                            .result = &done,
                            .empties = !options->base && !(options->flags & VDISK_COMMIT_KEEP)};
    vd_job_init(&commit.job, options->progress, options->opaque, options->rate_bytes);
    ret = run(&commit, err);
    if (result)
        *result = done;
    vdisk_image_close(commit.top, NULL); /* what has failed is in err */
    vd_job_destroy(&commit.job);
    return ret;
}
