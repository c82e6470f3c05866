/* SPDX-License-Identifier: MIT */
/* The sums that a sync checks the master's blocks against. */
#include "job/sync_sums.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "job/sums_crypto.h"
#include "util/mem.h"

#define SIGNATURE_BYTES_MAX 4096u

char *vd_sync_sums_name(const char *name, const char *suffix)
{
    size_t length = vd_storage_name_is_local(name) ? strlen(name) : strcspn(name, "?#");
    char *result;
    if (asprintf(&result, "%.*s%s%s", (int)length, name, suffix, name + length) < 0)
        return NULL;
    return result;
}

/* The whole of a file of at most @limit bytes, to be freed. */
static int load(struct vd_source *source, const char *name, size_t limit, uint8_t **bytes,
                size_t *length, struct vdisk_error *err)
{
    struct vd_storage_options options = {.network = source->network};
    struct vd_storage *storage;
    uint64_t size;
    int ret = vd_storage_open(name, &options, &storage, err);
    if (ret < 0)
        return ret;
    ret = vd_storage_size(storage, &size, err);
    if (ret == 0 && size > limit)
        ret = vd_err_set(err, EBADMSG, "%s: %" PRIu64 " bytes, expected are at most %zu", name,
                         size, limit);
    if (ret == 0) {
        *length = (size_t)size;
        *bytes = malloc(*length ? *length : 1);
        ret = *bytes ? vd_storage_pread(storage, *bytes, *length, 0, err)
                     : vd_err_nomem(err, "the sums of the master");
    }
    struct vd_storage_stats stats = {.requests = 1, .bytes = ret == 0 ? size : 0};
    if (vd_storage_caps(storage) & VD_STORAGE_IS_REMOTE)
        vd_storage_stats(storage, &stats);
    source->past_requests += stats.requests;
    source->past_bytes += stats.bytes;
    vd_storage_close(storage);
    return ret;
}

static int check_signature(struct vd_source *source, const char *name, const char *key_name,
                           const uint8_t *bytes, size_t length, struct vdisk_error *err)
{
    CLEANUP_FREE char *signature_name = vd_sync_sums_name(name, ".sig");
    CLEANUP_FREE uint8_t *signature = NULL;
    size_t signature_bytes = 0;
    if (!signature_name)
        return vd_err_nomem(err, "the name of a signature");
    int ret = load(source, signature_name, SIGNATURE_BYTES_MAX, &signature, &signature_bytes, err);
    if (ret < 0)
        return ret;
    ret = vd_signature_check(key_name, bytes, length, signature, signature_bytes, err);
    return ret == -EKEYREJECTED ? vd_err_prefix(err, ret, "%s: ", name) : ret;
}

/* Do the sums belong to this state of the master, and do they agree on what has data? */
static int check_match(const char *name, const struct vd_sums *sums, const struct vd_source *source,
                       const struct vd_delta *delta, struct vdisk_error *err)
{
    const struct vd_gow_header *header = &source->header;
    if (memcmp(sums->uuid, header->uuid, sizeof(sums->uuid)) != 0)
        return vd_err_set(err, EBADMSG, "%s: these sums are of another image (UUID)", name);
    if (sums->generation != header->generation || sums->size != header->size)
        return vd_err_set(err, EBADMSG,
                          "%s: these sums are of generation %" PRIu64 " (%" PRIu64
                          " bytes), the master is at %" PRIu64 " (%" PRIu64
                          " bytes): make them again with 'vdisk sums'",
                          name, sums->generation, sums->size, header->generation, header->size);

    uint8_t digest[VD_SHA256_BYTES];
    int ret =
        vd_sha256(delta->versions, delta->block_count * sizeof(*delta->versions), digest, err);
    if (ret < 0)
        return ret;
    if (memcmp(digest, sums->versions_sha256, sizeof(digest)) != 0)
        return vd_err_set(err, EBADMSG,
                          "%s: the block versions do not match %s: the master was altered",
                          source->name, name);
    for (uint32_t i = 0; i < delta->bare_count; i++)
        if (vd_sums_has(sums, delta->bare[i].block))
            return vd_err_set(err, EBADMSG,
                              "%s: block %" PRIu32
                              " has no data, but a sum in %s: the master was altered",
                              source->name, delta->bare[i].block, name);
    return 0;
}

int vd_sync_sums_load(struct vd_source *source, const struct vd_delta *delta, const char *name,
                      const char *key_name, struct vd_sums *sums, struct vdisk_error *err)
{
    *sums = (struct vd_sums){0};
    CLEANUP_FREE char *own_name = name ? NULL : vd_sync_sums_name(source->name, ".sums");
    if (!name)
        name = own_name;
    if (!name)
        return vd_err_nomem(err, "the name of the sums");

    uint8_t *bytes = NULL;
    size_t length = 0;
    int ret = load(source, name, vd_sums_file_bytes(delta->block_count), &bytes, &length, err);
    if (ret == 0 && key_name)
        ret = check_signature(source, name, key_name, bytes, length, err);
    if (ret < 0) {
        free(bytes);
        return ret;
    }
    ret = vd_sums_decode(name, bytes, length, sums, err);
    return ret < 0 ? ret : check_match(name, sums, source, delta, err);
}
