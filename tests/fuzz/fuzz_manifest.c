/* SPDX-License-Identifier: MIT */
/*
 * Manifests of points, and what seals them.
 *
 * The first byte tells what the rest is: a whole file; or one without its seal, which is made, as
 * somebody would who wants to do harm, so that what is behind the seal is reached.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backup/manifest_json.h"

#define REPOSITORY "0f000000-0000-4000-8000-00000000000f"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

static void check_file(const struct vd_manifest_file *file)
{
    const struct vd_digest_table *table = &file->table;
    assert(file->name && !strchr(file->name, '/') && file->name[0] != '.');
    assert(table->entries == vd_div_up(table->file_bytes, table->extent_bytes));
    unsigned sum = 0; /* each byte is there, or a sanitizer sees it */
    for (size_t i = 0; i < table->entries * vd_digest_bytes(table->kind); i++)
        sum += table->digests[i];
    assert(sum <= 255 * table->entries * VD_DIGEST_BYTES_MAX);
}

static void check(const struct vd_manifest *manifest)
{
    assert(manifest->number && manifest->parent < manifest->number);
    assert((manifest->kind == VDISK_POINT_FULL) == (manifest->parent == 0));
    assert((manifest->parent_uuid[0] != '\0') == (manifest->parent != 0));
    assert(vd_uuid_is_text(manifest->uuid));
    assert(vd_point_kind_name(manifest->kind) && vd_tracker_name(manifest->tracker));
    assert(manifest->image_format && manifest->source && manifest->source_format);
    check_file(&manifest->image);
    if (manifest->versions.name)
        check_file(&manifest->versions);
    for (size_t i = 0; i < manifest->backing_entries; i++)
        assert(manifest->backings[i].name);
    assert(vd_manifest_stored_bytes(manifest) >= manifest->image.table.file_bytes);
}

/* What is taken can be written, and then is the same. */
static void check_again(const struct vd_manifest *manifest)
{
    struct vd_manifest again;
    json_t *object = vd_manifest_to_json(manifest, REPOSITORY);
    assert(object);
    int ret = vd_manifest_from_json(&again, object, REPOSITORY, "again", NULL, NULL);
    assert(ret == 0);
    json_t *other = vd_manifest_to_json(&again, REPOSITORY);
    assert(json_equal(object, other));
    json_decref(object);
    json_decref(other);
    vd_manifest_free(&again);
}

static void take(const char *text, size_t length)
{
    struct vd_manifest manifest;
    struct vdisk_error err = {0};
    json_t *object = NULL;
    int ret = vd_sealed_parse("m.json", text, length, NULL, &object, &err);
    assert((ret < 0) == (err.code != 0) && (ret < 0) == !object);
    if (ret < 0)
        return;
    ret = vd_manifest_from_json(&manifest, object, REPOSITORY, "m.json", NULL, &err);
    assert((ret < 0) == (err.code != 0));
    if (ret == 0) {
        check(&manifest);
        check_again(&manifest);
    }
    vd_manifest_free(&manifest);
    json_decref(object);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    uint8_t digest[VD_DIGEST_BYTES_MAX];
    char hex[2 * VD_DIGEST_BYTES_MAX + 1];
    if (length == 0)
        return 0;
    bool is_sealed = data[0] & 1; /* "0" and "1" */
    size_t body = length - 1;
    size_t room = body + 128;
    char *text = calloc(1, room);
    if (!text)
        abort();
    memcpy(text, data + 1, body);
    if (!is_sealed) {
        text[body++] = '\n';
        vd_digest(VD_DIGEST_XXH128, text, body, digest, NULL);
        vd_hex_write(digest, vd_digest_bytes(VD_DIGEST_XXH128), hex);
        body += (size_t)snprintf(text + body, room - body, "  \"seal\": \"xxh128:%s\"\n}\n", hex);
    }
    take(text, body);
    free(text);
    return 0;
}
