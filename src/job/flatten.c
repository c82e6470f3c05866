/* SPDX-License-Identifier: MIT */
/*
 * vdisk_flatten(): brings all that an image takes from its backing files into it, and drops them.
 *
 * An image whose data lies in a file of its own (add-cow's raw file) is to leave that behind as the
 * whole disk.  So it has to decide everything, zeros too.
 */
#include <inttypes.h>
#include <stdio.h>

#include "image/named.h"
#include "job/pull.h"
#include "util/mem.h"

struct flatten {
    const struct vdisk_flatten_options *options;
    struct vdisk_flatten_result *result;
    struct vd_job job;
    struct vdisk_image *image;
    bool has_backing;
    bool has_data_file;
};

static int open_image(struct flatten *flatten, struct vdisk_error *err)
{
    const struct vdisk_flatten_options *options = flatten->options;
    struct vdisk_open_options open = {.struct_bytes = sizeof(open),
                                      .flags = VDISK_OPEN_WRITE | options->open_flags,
                                      .format = options->format,
                                      .network = options->network,
                                      .passphrases = options->passphrases,
                                      .gate = options->gate};
    struct vd_format_info info;
    int ret = vdisk_image_open(options->name, &open, &flatten->image, err);
    if (ret == 0)
        ret = vd_format_info(vd_image_format(flatten->image), &info, err);
    if (ret < 0)
        return ret;
    const struct vd_format_driver *driver = vd_format_driver_of(vd_image_format(flatten->image));
    if (!vd_format_driver_has_backing(driver))
        return vd_err_set(err, ENOTSUP, "%s: format %s has no backing files", options->name,
                          vd_format_driver_name(driver));
    flatten->has_backing = info.backing_name != NULL;
    flatten->has_data_file = info.data_name != NULL;
    if (!info.data_name)
        return 0;
    struct vd_named named;
    ret = vd_named_resolve(&named, options->name, info.data_name, err);
    if (ret == 0)
        snprintf(flatten->result->data_file, sizeof(flatten->result->data_file), "%s", named.path);
    vd_named_free(&named);
    return ret;
}

static int pull(struct flatten *flatten, struct vdisk_error *err)
{
    const struct vdisk_flatten_options *options = flatten->options;
    struct vd_pull pull = {.image = flatten->image,
                           .takes_all = flatten->has_data_file,
                           .is_durable = !(options->open_flags & VDISK_OPEN_UNSAFE),
                           .job = &flatten->job,
                           .phase = "flatten",
                           .workers = options->workers};
    int ret = vd_pull(&pull, err);
    flatten->result->data_bytes = pull.data_bytes;
    flatten->result->zero_bytes = pull.zero_bytes;
    return ret;
}

static int run(struct flatten *flatten, struct vdisk_error *err)
{
    int ret = open_image(flatten, err);
    if (ret < 0)
        return ret;
    flatten->result->virtual_bytes = vdisk_image_size(flatten->image);
    if (flatten->has_backing || flatten->has_data_file)
        ret = pull(flatten, err);
    if (ret == 0 && flatten->has_backing)
        ret = vd_format_set_backing(vd_image_format(flatten->image), NULL, err);
    int closed = vdisk_image_close(STEAL_PTR(flatten->image), ret == 0 ? err : NULL);
    if (ret == 0)
        ret = closed;
    if (ret < 0)
        return ret;
    if (flatten->has_backing)
        flatten->result->flags |= VDISK_FLATTEN_DROPPED;
    (void)vd_job_finish(&flatten->job, NULL); /* too late to cancel: it is done */
    return 0;
}

static int check_options(const struct vdisk_flatten_options *options,
                         const struct vdisk_flatten_result *result, struct vdisk_error *err)
{
    const uint32_t open_flags = VDISK_OPEN_DIRECT | VDISK_OPEN_SYNC | VDISK_OPEN_UNSAFE;
    if (options->struct_bytes != sizeof(*options) || options->reserved)
        return vd_err_set(err, EINVAL,
                          "flatten options: struct_bytes is %zu and reserved %" PRIu64
                          ": this library wants %zu and 0",
                          options->struct_bytes, options->reserved, sizeof(*options));
    if (options->flags)
        return vd_err_set(err, EINVAL, "flatten options: unknown flags 0x%" PRIx32, options->flags);
    if (options->open_flags & ~open_flags)
        return vd_err_set(err, EINVAL, "flatten options: open flags 0x%" PRIx32 " have no meaning",
                          options->open_flags & ~open_flags);
    if (!options->name)
        return vd_err_set(err, EINVAL, "flatten options: the name of an image is needed");
    if (result && result->struct_bytes != sizeof(*result))
        return vd_err_set(err, EINVAL,
                          "flatten result: struct_bytes is %zu, this library wants %zu",
                          result->struct_bytes, sizeof(*result));
    return 0;
}

int vdisk_flatten(const struct vdisk_flatten_options *options, struct vdisk_flatten_result *result,
                  struct vdisk_error *err)
{
    int ret = check_options(options, result, err);
    if (ret < 0)
        return ret;
    struct vdisk_flatten_result done = {.struct_bytes = sizeof(done)};
    struct flatten flatten = {.options = options, .result = &done};
    vd_job_init(&flatten.job, options->progress, options->opaque, options->rate_bytes);
    ret = run(&flatten, err);
    if (result)
        *result = done;
    vdisk_image_close(flatten.image, NULL); /* what has failed is in err */
    vd_job_destroy(&flatten.job);
    return ret;
}
