/* SPDX-License-Identifier: MIT */
/*
 * vdisk_rebase(): gives an image another backing file, or none.
 *
 * The content is brought into the image first (job/pull.h); the name of the backing file, which
 * changes at once, comes last.
 */
#include <inttypes.h>
#include <string.h>

#include "image/chain.h"
#include "image/named.h"
#include "job/pull.h"
#include "util/mem.h"

struct rebase {
    const struct vdisk_rebase_options *options;
    struct vdisk_rebase_result *result;
    struct vd_job job;
    struct vd_backing backing;  /* the new one; its name is NULL: none */
    struct vdisk_image *image;  /* open for writing */
    struct vdisk_image *behind; /* the new backing image */
};

static bool is_unsafe(const struct rebase *rebase)
{
    return (rebase->options->flags & VDISK_REBASE_UNSAFE) != 0;
}

static struct vdisk_open_options open_options(const struct rebase *rebase, uint32_t flags,
                                              const struct vdisk_gate *gate)
{
    const struct vdisk_rebase_options *options = rebase->options;
    return (struct vdisk_open_options){.struct_bytes = sizeof(struct vdisk_open_options),
                                       .flags = flags,
                                       .format = options->format,
                                       .network = options->network,
                                       .passphrases = options->passphrases,
                                       .gate = gate};
}

/* ---- The new backing image ---- */

/*
 * What the image records of the format is only whether it is raw: anything else has to be what the
 * content looks like.
 */
static int check_format(struct rebase *rebase, struct vdisk_error *err)
{
    const struct vd_format *format = vd_image_format(rebase->behind);
    const struct vd_format_driver *driver = vd_format_driver_of(format);
    const struct vd_format_driver *seen;
    rebase->backing.format = vd_format_driver_name(driver);
    if (!vd_format_driver_has_probe(driver))
        return 0;
    int ret = vd_format_probe(vd_format_file(format), &seen, err);
    if (ret < 0 || seen == driver)
        return ret;
    return vd_err_set(err, EINVAL,
                      "backing file '%s': is to be of format %s, but will be taken for %s, by its "
                      "content",
                      vd_storage_name(vd_format_file(format)), rebase->backing.format,
                      vd_format_driver_name(seen));
}

/* Opens the image as it will be, which finds whatever is wrong with that, and keeps the part that
 * is behind it. */
static int open_behind(struct rebase *rebase, struct vdisk_error *err)
{
    struct vdisk_open_options open =
        open_options(rebase, rebase->options->backing_flags, rebase->options->gate);
    struct vd_chain_options chain = {.open = &open, .backing = &rebase->backing};
    struct vdisk_image *image;
    int ret = vd_image_open_chain(rebase->options->name, &chain, &image, err);
    if (ret < 0)
        return ret;
    rebase->behind = vd_image_take_backing(image);
    vdisk_image_close(image, NULL); /* read-only: nothing to lose */
    return check_format(rebase, err);
}

static bool is_image_itself(const struct rebase *rebase, const struct vd_storage *storage)
{
    return vd_storage_identity_equals(
        vd_storage_identity(vd_format_file(vd_image_format(rebase->image))),
        vd_storage_identity(storage));
}

/* What can be told of @path, without the images behind it: nothing if it is not there. */
static int look_at_file(struct rebase *rebase, const char *path, struct vdisk_error *err)
{
    struct vd_storage_options options = {.flags = VD_STORAGE_SHARE,
                                         .network = rebase->options->network};
    const struct vd_format_driver *driver = NULL;
    struct vd_storage *storage;
    if (vd_storage_open(path, &options, &storage, NULL) < 0)
        return 0;
    int ret = 0;
    if (is_image_itself(rebase, storage))
        ret = vd_err_set(err, ELOOP, "%s: can not be its own backing file", rebase->options->name);
    else if (!rebase->backing.format && vd_format_probe(storage, &driver, NULL) == 0 &&
             !vd_format_driver_has_probe(driver))
        ret = vd_err_set(err, EINVAL,
                         "backing file '%s': no known format found in it: name the format, raw "
                         "included (-F raw)",
                         path);
    vd_storage_close(storage);
    return ret;
}

/* What is not opened is at least looked at: nothing good comes of an image on itself. */
static int check_unopened(struct rebase *rebase, struct vdisk_error *err)
{
    const struct vd_format_driver *driver = NULL;
    struct vd_named named;
    int ret = vd_named_resolve(&named, rebase->options->name, rebase->backing.name, err);
    if (ret == 0 && named.format && !rebase->backing.format) {
        driver = vd_format_find(named.format, err);
        ret = driver ? 0 : -EINVAL;
    }
    if (driver)
        rebase->backing.format = vd_format_driver_name(driver);
    if (ret == 0)
        ret = look_at_file(rebase, named.path, err);
    else
        vd_err_prefix(err, ret, "backing file '%s': ", rebase->backing.name);
    vd_named_free(&named);
    return ret;
}

/* ---- The whole ---- */

static int open_image(struct rebase *rebase, struct vdisk_error *err)
{
    const struct vdisk_rebase_options *options = rebase->options;
    uint32_t flags = VDISK_OPEN_WRITE | options->open_flags;
    if (is_unsafe(rebase))
        flags |= VDISK_OPEN_NO_BACKING;
    struct vdisk_open_options open = open_options(rebase, flags, options->gate);
    int ret = vdisk_image_open(options->name, &open, &rebase->image, err);
    if (ret < 0)
        return ret;
    const struct vd_format_driver *driver = vd_format_driver_of(vd_image_format(rebase->image));
    if (!vd_format_driver_has_backing(driver))
        return vd_err_set(err, ENOTSUP, "%s: format %s has no backing files", options->name,
                          vd_format_driver_name(driver));
    return 0;
}

static int pull(struct rebase *rebase, struct vdisk_error *err)
{
    const struct vdisk_rebase_options *options = rebase->options;
    struct vd_pull pull = {.image = rebase->image,
                           .behind = rebase->behind,
                           .is_durable = !(options->open_flags & VDISK_OPEN_UNSAFE),
                           .job = &rebase->job,
                           .phase = "rebase",
                           .workers = options->workers};
    int ret = vd_pull(&pull, err);
    rebase->result->read_bytes = pull.read_bytes;
    rebase->result->data_bytes = pull.data_bytes;
    rebase->result->zero_bytes = pull.zero_bytes;
    return ret;
}

static int run(struct rebase *rebase, struct vdisk_error *err)
{
    bool has_new = rebase->backing.name != NULL;
    int ret = has_new && !is_unsafe(rebase) ? open_behind(rebase, err) : 0;
    if (ret == 0)
        ret = open_image(rebase, err);
    if (ret < 0)
        return ret;
    rebase->result->virtual_bytes = vdisk_image_size(rebase->image);
    if (!is_unsafe(rebase))
        ret = pull(rebase, err);
    else if (has_new)
        ret = check_unopened(rebase, err);
    if (ret == 0)
        ret = vd_format_set_backing(vd_image_format(rebase->image),
                                    has_new ? &rebase->backing : NULL, err);
    int closed = vdisk_image_close(STEAL_PTR(rebase->image), ret == 0 ? err : NULL);
    if (ret == 0)
        ret = closed;
    if (ret == 0)
        (void)vd_job_finish(&rebase->job, NULL); /* too late to cancel: it is done */
    return ret;
}

static int check_options(const struct vdisk_rebase_options *options,
                         const struct vdisk_rebase_result *result, struct vdisk_error *err)
{
    const uint32_t open_flags = VDISK_OPEN_DIRECT | VDISK_OPEN_SYNC | VDISK_OPEN_UNSAFE;
    const uint32_t backing_flags = VDISK_OPEN_SHARE | VDISK_OPEN_SEQUENTIAL | open_flags;
    if (options->struct_bytes != sizeof(*options) || options->reserved)
        return vd_err_set(err, EINVAL,
                          "rebase options: struct_bytes is %zu and reserved %" PRIu64
                          ": this library wants %zu and 0",
                          options->struct_bytes, options->reserved, sizeof(*options));
    if (options->flags & ~(uint32_t)VDISK_REBASE_UNSAFE)
        return vd_err_set(err, EINVAL, "rebase options: unknown flags 0x%" PRIx32,
                          options->flags & ~(uint32_t)VDISK_REBASE_UNSAFE);
    if (options->open_flags & ~open_flags)
        return vd_err_set(err, EINVAL, "rebase options: open flags 0x%" PRIx32 " have no meaning",
                          options->open_flags & ~open_flags);
    if (options->backing_flags & ~backing_flags)
        return vd_err_set(err, EINVAL,
                          "rebase options: backing flags 0x%" PRIx32 " have no meaning",
                          options->backing_flags & ~backing_flags);
    if (!options->name)
        return vd_err_set(err, EINVAL, "rebase options: the name of an image is needed");
    bool has_new = options->backing && *options->backing;
    if (options->backing_format && !has_new)
        return vd_err_set(err, EINVAL, "a format of the backing file, and no backing file");
    if (options->backing_format && !vd_format_find(options->backing_format, err))
        return -EINVAL;
    if (result && result->struct_bytes != sizeof(*result))
        return vd_err_set(err, EINVAL, "rebase result: struct_bytes is %zu, this library wants %zu",
                          result->struct_bytes, sizeof(*result));
    return 0;
}

int vdisk_rebase(const struct vdisk_rebase_options *options, struct vdisk_rebase_result *result,
                 struct vdisk_error *err)
{
    int ret = check_options(options, result, err);
    if (ret < 0)
        return ret;
    struct vdisk_rebase_result done = {.struct_bytes = sizeof(done)};
    struct rebase rebase = {.options = options, .result = &done};
    if (options->backing && *options->backing)
        rebase.backing =
            (struct vd_backing){.name = options->backing, .format = options->backing_format};
    vd_job_init(&rebase.job, options->progress, options->opaque, options->rate_bytes);
    ret = run(&rebase, err);
    if (result)
        *result = done;
    vdisk_image_close(rebase.image, NULL);  /* what has failed is in err */
    vdisk_image_close(rebase.behind, NULL); /* read-only: nothing to lose */
    vd_job_destroy(&rebase.job);
    return ret;
}
