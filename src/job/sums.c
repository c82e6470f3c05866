/* SPDX-License-Identifier: MIT */
/* vdisk_sums(): the SHA-256 of each block of a master, in a file beside it. */
#include <inttypes.h>
#include <stdlib.h>

#include "job/sums_crypto.h"
#include "job/sync_sums.h"
#include "storage/new_file.h"
#include "util/mem.h"
#include "util/workers.h"

#define RUN_BLOCKS 16u

struct hashing {
    struct vd_source *source;
    const struct vd_delta *delta;
    struct vd_job *job;
    struct vd_sums_disk_entry *entries; /* one for each block of the delta */
    atomic_uint next_run;
};

static int hash_run(struct hashing *h, const struct vd_delta_run *run, uint8_t *data,
                    struct vdisk_error *err)
{
    const struct vd_delta_block *blocks = h->delta->fetch + run->first;
    size_t length = (size_t)run->count * VD_GOW_BLOCK_BYTES;
    int ret = vd_source_read(h->source, data, length,
                             vd_gow_host_offset(&h->source->layout, blocks[0].host), err);
    for (uint32_t i = 0; ret == 0 && i < run->count; i++) {
        struct vd_sums_disk_entry *entry = &h->entries[run->first + i];
        entry->block = le32_of(blocks[i].block);
        ret = vd_sha256(data + (size_t)i * VD_GOW_BLOCK_BYTES, VD_GOW_BLOCK_BYTES, entry->sha256,
                        err);
    }
    struct vd_job_step step = {
        .done_bytes = length, .moved_bytes = length, .done_blocks = run->count};
    return ret < 0 ? ret : vd_job_advance(h->job, step, err);
}

static int hash_runs(void *opaque, unsigned index, struct vdisk_error *err)
{
    struct hashing *h = opaque;
    (void)index;
    CLEANUP_FREE uint8_t *data = vd_alloc_io((size_t)RUN_BLOCKS * VD_GOW_BLOCK_BYTES);
    int ret = data ? 0 : vd_err_nomem(err, "blocks to hash");
    while (ret == 0) {
        unsigned next = atomic_fetch_add(&h->next_run, 1);
        if (next >= h->delta->run_count)
            break;
        ret = hash_run(h, &h->delta->runs[next], data, err);
    }
    if (ret < 0)
        atomic_store(&h->next_run, h->delta->run_count);
    return ret;
}

/* Replaces @name by a file of these bytes. */
static int replace_file(const char *name, const uint8_t *bytes, size_t length,
                        struct vdisk_error *err)
{
    struct vd_storage_options options = {.flags = VD_STORAGE_WRITE};
    struct vd_new_file new_file;
    struct vd_storage *file = NULL;
    int ret = vd_new_file_open(&new_file, name, err);
    if (ret == 0)
        ret = vd_storage_open(vd_new_file_place(&new_file), &options, &file, err);
    if (ret == 0)
        ret = vd_storage_pwrite(file, bytes, length, 0, err);
    if (ret == 0)
        ret = vd_storage_flush(file, err);
    vd_storage_close(file);
    if (ret == 0)
        ret = vd_new_file_publish(&new_file, true, err);
    vd_new_file_abandon(&new_file);
    return ret;
}

/* The signature first: a consumer that wants one never sees new sums without it. */
static int write_files(const char *output, const char *key, const uint8_t *bytes, size_t length,
                       struct vdisk_error *err)
{
    if (key) {
        CLEANUP_FREE char *signature_name = vd_sync_sums_name(output, ".sig");
        CLEANUP_FREE uint8_t *signature = NULL;
        size_t signature_bytes = 0;
        if (!signature_name)
            return vd_err_nomem(err, "the name of a signature");
        int ret = vd_signature_make(key, bytes, length, &signature, &signature_bytes, err);
        if (ret == 0)
            ret = replace_file(signature_name, signature, signature_bytes, err);
        if (ret < 0)
            return ret;
    }
    return replace_file(output, bytes, length, err);
}

static int make_sums(const struct vdisk_sums_options *options, const char *output,
                     struct vd_source *source, struct vd_job *job, const struct vd_delta *delta,
                     struct vdisk_error *err)
{
    CLEANUP_FREE uint8_t *bytes =
        vd_sums_encode(&source->header, delta->versions, delta->fetch_count, err);
    if (!bytes)
        return err ? -err->code : -ENOMEM;
    struct hashing hashing = {
        .source = source, .delta = delta, .job = job, .entries = vd_sums_entries(bytes)};
    atomic_init(&hashing.next_run, 0);
    int ret = vd_job_phase(job, "sums", vd_delta_fetch_bytes(delta), delta->fetch_count, err);
    if (ret == 0)
        ret = vd_workers_run(vd_workers_cpus(), hash_runs, &hashing, err);
    if (ret == 0)
        ret = vd_sums_seal(bytes, delta->fetch_count, err);
    if (ret == 0)
        ret = vd_source_recheck(source, err);
    if (ret == 0)
        ret = write_files(output, options->key, bytes, vd_sums_file_bytes(delta->fetch_count), err);
    return ret == 0 ? vd_job_finish(job, err) : ret;
}

static int run(const struct vdisk_sums_options *options, const char *output,
               struct vd_source *source, struct vdisk_sums_result *result, struct vdisk_error *err)
{
    bool can_wait;
    int ret = vd_source_open(source, &can_wait, err);
    if (ret < 0)
        return ret;

    struct vd_delta_options everything = {.run_blocks = RUN_BLOCKS};
    struct vd_delta delta;
    struct vd_job job;
    vd_job_init(&job, options->progress, options->opaque, 0);
    ret = vd_delta_make(source, NULL, &everything, &job, &delta, err);
    if (ret == 0) {
        ret = make_sums(options, output, source, &job, &delta, err);
        result->blocks = delta.fetch_count;
        result->generation = source->header.generation;
        memcpy(result->uuid, source->header.uuid, sizeof(result->uuid));
        vd_delta_free(&delta);
    }
    vd_job_destroy(&job);
    return ret;
}

static int check_options(const struct vdisk_sums_options *options,
                         const struct vdisk_sums_result *result, struct vdisk_error *err)
{
    if (options->struct_bytes != sizeof(*options) || options->reserved)
        return vd_err_set(err, EINVAL,
                          "sums options: struct_bytes is %zu and reserved %" PRIu64
                          ": this library wants %zu and 0",
                          options->struct_bytes, options->reserved, sizeof(*options));
    if (result->struct_bytes != sizeof(*result))
        return vd_err_set(err, EINVAL, "sums result: struct_bytes is %zu, this library wants %zu",
                          result->struct_bytes, sizeof(*result));
    if (!options->image)
        return vd_err_set(err, EINVAL, "sums options: an image is needed");
    if (!options->output && !vd_storage_name_is_local(options->image))
        return vd_err_set(err, EINVAL, "%s: name a file for the sums of an image on a server",
                          options->image);
    return 0;
}

int vdisk_sums(const struct vdisk_sums_options *options, struct vdisk_sums_result *result,
               struct vdisk_error *err)
{
    struct vdisk_sums_result unwanted = {.struct_bytes = sizeof(unwanted)};
    if (!result)
        result = &unwanted;
    int ret = check_options(options, result, err);
    if (ret < 0)
        return ret;

    *result = (struct vdisk_sums_result){.struct_bytes = sizeof(*result)};
    CLEANUP_FREE char *own_name = vd_sync_sums_name(options->image, ".sums");
    if (!own_name)
        return vd_err_nomem(err, "the name of the sums");
    struct vd_source source;
    vd_source_init(&source, options->image, options->network);
    ret = run(options, options->output ? options->output : own_name, &source, result, err);
    vd_source_close(&source);
    return ret;
}
