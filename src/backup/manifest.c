/* SPDX-License-Identifier: MIT */
/* What is known of a point, and writing it to its file. */
#include "backup/manifest.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backup/manifest_json.h"
#include "util/mem.h"
#include "util/utf8.h"

bool vd_time_write(int64_t seconds, char text[VD_TIME_TEXT_BYTES])
{
    time_t time = (time_t)seconds;
    struct tm tm;
    if (!gmtime_r(&time, &tm) || tm.tm_year < -1899 || tm.tm_year > 9999 - 1900)
        return false;
    unsigned year = (unsigned)(tm.tm_year + 1900);
    return snprintf(text, VD_TIME_TEXT_BYTES, "%04u", year) == 4 &&
           strftime(text + 4, VD_TIME_TEXT_BYTES - 4, "-%m-%dT%H:%M:%SZ", &tm) != 0;
}

bool vd_time_read(const char *text, int64_t *seconds)
{
    char again[VD_TIME_TEXT_BYTES];
    struct tm tm = {0};
    if (strlen(text) != VD_TIME_TEXT_BYTES - 1)
        return false;
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    if (!end || *end)
        return false;
    *seconds = (int64_t)timegm(&tm);
    return vd_time_write(*seconds, again) && strcmp(again, text) == 0; /* no 31st of June */
}

void vd_manifest_free(struct vd_manifest *manifest)
{
    free(manifest->image.name);
    vd_digest_table_free(&manifest->image.table);
    free(manifest->image_format);
    free(manifest->source);
    free(manifest->source_format);
    free(manifest->bitmap);
    free(manifest->versions.name);
    vd_digest_table_free(&manifest->versions.table);
    for (size_t i = 0; i < manifest->backing_entries; i++)
        free(manifest->backings[i].name);
    free(manifest->backings);
    *manifest = (struct vd_manifest){0};
}

uint64_t vd_manifest_stored_bytes(const struct vd_manifest *manifest)
{
    return manifest->image.table.file_bytes + manifest->versions.table.file_bytes;
}

/* What can not be written, because there is no memory or no word for it, makes *@ok false. */
static void put(json_t *object, const char *key, json_t *value, bool *ok)
{
    if (json_object_set_new(object, key, value) < 0)
        *ok = false;
}

static void put_number(json_t *object, const char *key, uint64_t value, bool *ok)
{
    if (value > INT64_MAX)
        *ok = false;
    else
        put(object, key, json_integer((json_int_t)value), ok);
}

/* A text that need not be UTF-8; NULL is left out. */
static void put_text(json_t *object, const char *key, const char *text, bool *ok)
{
    CLEANUP_FREE char *hex_key = NULL;
    if (!text)
        return;
    size_t length = strlen(text);
    if (vd_utf8_is_text(text, length)) {
        put(object, key, json_string(text), ok);
        return;
    }
    CLEANUP_FREE char *hex = malloc(2 * length + 1);
    if (!hex || asprintf(&hex_key, "%s" VD_HEX_KEY, key) < 0) {
        *ok = false;
        return;
    }
    vd_hex_write((const uint8_t *)text, length, hex);
    put(object, hex_key, json_string(hex), ok);
}

static json_t *digests_of(const struct vd_digest_table *table, bool *ok)
{
    char hex[2 * VD_DIGEST_BYTES_MAX + 1];
    size_t bytes = vd_digest_bytes(table->kind);
    json_t *digests = json_array();
    for (uint64_t i = 0; digests && i < table->entries; i++) {
        vd_hex_write(vd_digest_at(table, i), bytes, hex);
        if (json_array_append_new(digests, json_string(hex)) < 0)
            *ok = false;
    }
    return digests;
}

/* @format: or NULL */
static void put_file(json_t *object, const char *key, const struct vd_manifest_file *file,
                     const char *format, bool *ok)
{
    if (!file->name)
        return;
    json_t *members = json_object();
    put_text(members, "file", file->name, ok);
    put_text(members, "format", format, ok);
    put_number(members, "bytes", file->table.file_bytes, ok);
    put(members, "digest", json_string(vd_digest_name(file->table.kind)), ok);
    put_number(members, "extent-bytes", file->table.extent_bytes, ok);
    put(members, "digests", digests_of(&file->table, ok), ok);
    put(object, key, members, ok);
}

static void put_backings(json_t *object, const struct vd_manifest *manifest, bool *ok)
{
    if (manifest->backing_entries == 0)
        return;
    json_t *backings = json_array();
    for (size_t i = 0; i < manifest->backing_entries; i++) {
        const struct vd_manifest_backing *backing = &manifest->backings[i];
        json_t *members = json_object();
        put_text(members, "name", backing->name, ok);
        put_number(members, "bytes", backing->bytes, ok);
        put(members, "modified-ns", json_integer(backing->modified_ns), ok);
        if (json_array_append_new(backings, members) < 0)
            *ok = false;
    }
    put(object, "backings", backings, ok);
}

static json_t *source_of(const struct vd_manifest *manifest, bool *ok)
{
    json_t *source = json_object();
    put_text(source, "name", manifest->source, ok);
    put_text(source, "format", manifest->source_format, ok);
    put_text(source, "bitmap", manifest->bitmap, ok);
    put_text(source, "uuid", manifest->source_uuid[0] ? manifest->source_uuid : NULL, ok);
    put_file(source, "versions", &manifest->versions, NULL, ok);
    put_backings(source, manifest, ok);
    return source;
}

json_t *vd_manifest_to_json(const struct vd_manifest *manifest, const char *repository)
{
    char created[VD_TIME_TEXT_BYTES];
    if (!vd_time_write(manifest->created, created))
        return NULL;
    json_t *object = json_object();
    bool ok = object != NULL;
    put_number(object, "vdisk-manifest", VD_MANIFEST_VERSION, &ok);
    put_text(object, "repository", repository, &ok);
    put_number(object, "point", manifest->number, &ok);
    put_text(object, "uuid", manifest->uuid, &ok);
    put_text(object, "kind", vd_point_kind_name(manifest->kind), &ok);
    put_text(object, "tracker", vd_tracker_name(manifest->tracker), &ok);
    if (manifest->parent) {
        put_number(object, "parent", manifest->parent, &ok);
        put_text(object, "parent-uuid", manifest->parent_uuid, &ok);
    }
    put_text(object, "created", created, &ok);
    put_number(object, "virtual-size", manifest->virtual_bytes, &ok);
    put_number(object, "changed-bytes", manifest->changed_bytes, &ok);
    put_number(object, "read-bytes", manifest->read_bytes, &ok);
    if (manifest->is_compressed)
        put_number(object, "compression-level", manifest->compression_level, &ok);
    put_file(object, "image", &manifest->image, manifest->image_format, &ok);
    put(object, "source", source_of(manifest, &ok), &ok);
    if (!ok) {
        json_decref(object);
        return NULL;
    }
    return object;
}

/* What is written has to be taken when it is read: whoever made it up is told now. */
static int check_readable(const json_t *object, const char *repository, const char *name,
                          const struct vd_seal_key *key, struct vdisk_error *err)
{
    struct vd_manifest again;
    struct vdisk_error why = {0};
    int ret = vd_manifest_from_json(&again, object, repository, name, key, &why);
    vd_manifest_free(&again);
    if (ret == -EBADMSG)
        return vd_err_set(err, EINVAL, "it can not be written: %s", why.message);
    return ret < 0 ? vd_err_copy(err, &why) : 0;
}

int vd_manifest_write(const struct vd_manifest *manifest, const char *repository, const char *name,
                      const struct vd_seal_key *key, struct vdisk_error *err)
{
    json_t *object = vd_manifest_to_json(manifest, repository);
    if (!object)
        return vd_err_set(err, EINVAL,
                          "%s: it can not be written: a value is out of range, or there is no "
                          "memory",
                          name);
    int ret = check_readable(object, repository, name, key, err);
    if (ret == 0)
        ret = vd_sealed_write(name, object, key, err);
    json_decref(object);
    return ret;
}
