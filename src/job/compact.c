/* SPDX-License-Identifier: MIT */
/*
 * vdisk_compact(): what an image does not use is given back to the file system, without a second
 * copy.  The format moves clusters while the image is open for writing; then, while nothing is
 * going on in it, what the rest is found by.
 */
#include <inttypes.h>

#include "format/format.h"
#include "image/image.h"
#include "job/job.h"
#include "util/mem.h"

struct compaction {
    const struct vdisk_compact_options *options;
    struct vdisk_compact_result *result;
    struct vd_job job;
    uint64_t told; /* parts that the job knows of */
};

static int advance(void *opaque, uint64_t done, uint64_t total, struct vdisk_error *err)
{
    struct compaction *compaction = opaque;
    int ret = 0;
    if (compaction->told == 0)
        ret = vd_job_phase(&compaction->job, "compact", total, 0, err);
    struct vd_job_step step = {.done_bytes = done - compaction->told};
    compaction->told = done;
    return ret < 0 ? ret : vd_job_advance(&compaction->job, step, err);
}

static int open_image(const struct compaction *compaction, uint32_t flags,
                      struct vdisk_image **image, struct vdisk_error *err)
{
    const struct vdisk_compact_options *options = compaction->options;
    struct vdisk_open_options open = {.struct_bytes = sizeof(open),
                                      .flags = VDISK_OPEN_WRITE | VDISK_OPEN_NO_BACKING | flags |
                                               options->open_flags,
                                      .format = options->format,
                                      .passphrases = options->passphrases,
                                      .gate = options->gate};
    return vdisk_image_open(options->name, &open, image, err);
}

/* How long is the file, and how much space does it take? */
static int look_at_file(struct vdisk_image *image, uint64_t *bytes, uint64_t *allocated,
                        struct vdisk_error *err)
{
    struct vd_storage *file = vd_format_file(vd_image_format(image));
    int ret = vd_storage_size(file, bytes, err);
    if (ret == 0 && vd_storage_allocated(file, allocated, NULL) < 0)
        *allocated = *bytes;
    return ret;
}

static int run_once(struct compaction *compaction, uint32_t flags, struct vdisk_error *err)
{
    struct vdisk_compact_result *result = compaction->result;
    const struct vd_compact compact = {.progress = advance, .opaque = compaction, .result = result};
    struct vdisk_image *image;
    uint64_t bytes, allocated;
    int ret = open_image(compaction, flags, &image, err);
    if (ret < 0)
        return ret;
    ret = look_at_file(image, &bytes, &allocated, err);
    if (ret == 0 && !(flags & VDISK_OPEN_CHECK)) {
        result->old_file_bytes = bytes;
        result->old_allocated_bytes = allocated;
    }
    if (ret == 0)
        ret = vd_format_compact(vd_image_format(image), &compact, err);
    if (ret == 0)
        ret = look_at_file(image, &result->file_bytes, &result->allocated_bytes, err);
    int closed = vdisk_image_close(image, ret == 0 ? err : NULL);
    return ret < 0 ? ret : closed;
}

/*
 * What moves clusters believes the refcounts: where they are too low it would write over data, and
 * give its space back.  A writer that did not end well is recovered from first, as by any writer.
 */
static int check_sound(const struct compaction *compaction, struct vdisk_error *err)
{
    struct vdisk_check_result found = {.struct_bytes = sizeof(found)};
    struct vdisk_image *image;
    int ret = open_image(compaction, 0, &image, err);
    if (ret == 0 && !vd_format_can_compact(vd_image_format(image))) /* its message is the better */
        return vdisk_image_close(image, err);
    if (ret == 0)
        ret = vdisk_image_close(image, err);
    if (ret == 0)
        ret = open_image(compaction, VDISK_OPEN_CHECK, &image, err);
    if (ret < 0)
        return ret;
    ret = vdisk_image_check(image, VDISK_REPAIR_NONE, NULL, NULL, &found, err);
    if (ret == 0 && (found.corruptions || found.check_errors))
        ret = vd_err_set(err, EBADMSG, "%s: its metadata is not sound: run vdisk check -r all",
                         compaction->options->name);
    int closed = vdisk_image_close(image, ret == 0 ? err : NULL);
    return ret < 0 ? ret : closed;
}

static int check_options(const struct vdisk_compact_options *options,
                         const struct vdisk_compact_result *result, struct vdisk_error *err)
{
    const uint32_t open_flags = VDISK_OPEN_DIRECT | VDISK_OPEN_SYNC | VDISK_OPEN_UNSAFE;
    if (options->struct_bytes != sizeof(*options) || options->flags)
        return vd_err_set(err, EINVAL,
                          "compact options: struct_bytes is %zu and flags 0x%" PRIx32
                          ": this library wants %zu and 0",
                          options->struct_bytes, options->flags, sizeof(*options));
    if (options->open_flags & ~open_flags)
        return vd_err_set(err, EINVAL, "compact options: open flags 0x%" PRIx32 " have no meaning",
                          options->open_flags & ~open_flags);
    if (!options->name)
        return vd_err_set(err, EINVAL, "compact options: the name of an image is needed");
    if (result && result->struct_bytes != sizeof(*result))
        return vd_err_set(err, EINVAL,
                          "compact result: struct_bytes is %zu, this library wants %zu",
                          result->struct_bytes, sizeof(*result));
    return 0;
}

int vdisk_compact(const struct vdisk_compact_options *options, struct vdisk_compact_result *result,
                  struct vdisk_error *err)
{
    int ret = check_options(options, result, err);
    if (ret < 0)
        return ret;
    struct vdisk_compact_result done = {.struct_bytes = sizeof(done)};
    struct compaction compaction = {.options = options, .result = &done};
    vd_job_init(&compaction.job, options->progress, options->opaque, 0);
    ret = check_sound(&compaction, err);
    if (ret == 0)
        ret = run_once(&compaction, 0, err);
    if (ret == 0)
        ret = run_once(&compaction, VDISK_OPEN_CHECK, err);
    if (ret == 0)
        (void)vd_job_finish(&compaction.job, NULL); /* too late to cancel: it is done */
    if (result)
        *result = done;
    vd_job_destroy(&compaction.job);
    return ret;
}
