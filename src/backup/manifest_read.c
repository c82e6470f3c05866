/* SPDX-License-Identifier: MIT */
/* Reading a manifest, which may hold anything: docs/formats/backup.md, "Manifest". */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backup/manifest_json.h"
#include "backup/repository.h"
#include "util/mem.h"
#include "util/utf8.h"

#define TEXT_BYTES_MAX 4096u
#define LEVEL_MAX      9u

/* Members of one object being taken, so that one that nobody knows is seen. */
struct taking {
    const char *name; /* of the file */
    const json_t *object;
    size_t taken;
    struct vdisk_error *err;
};

static int bad(const struct taking *from, const char *key, const char *what)
{
    return vd_err_set(from->err, EBADMSG, "%s: \"%s\": %s", from->name, key, what);
}

/* NULL: there is none. */
static const json_t *take(struct taking *from, const char *key)
{
    const json_t *value = json_object_get(from->object, key);
    if (value)
        from->taken++;
    return value;
}

/* All of an object has to be known: what is not might change what the rest means. */
static int take_no_more(const struct taking *from, const char *what)
{
    if (from->taken == json_object_size(from->object))
        return 0;
    return bad(from, what, "it has a member that this version of manifests does not");
}

static int take_number(struct taking *from, const char *key, uint64_t *number)
{
    const json_t *value = take(from, key);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return bad(from, key, value ? "it is no number from 0 on" : "it is missing");
    *number = (uint64_t)json_integer_value(value);
    return 0;
}

/* What could be text as it is has to be. */
static bool is_text_of_hex(const char *text, size_t length)
{
    return !memchr(text, 0, length) && !vd_utf8_is_text(text, length);
}

static int decode_hex(const struct taking *from, const char *key, const char *hex, size_t length,
                      char **text)
{
    static const char no_hex[] = "it is no text in hexadecimal digits";
    if (length % 2 != 0)
        return bad(from, key, no_hex);
    *text = calloc(1, length / 2 + 1);
    if (!*text)
        return vd_err_nomem(from->err, from->name);
    if (vd_hex_read(hex, (uint8_t *)*text, length / 2) && is_text_of_hex(*text, length / 2))
        return 0;
    free(STEAL_PTR(*text));
    return bad(from, key, no_hex);
}

/* @text: to be freed; NULL: it is not there, which is an error if it @is_needed. */
static int take_text(struct taking *from, const char *key, bool is_needed, char **text)
{
    char hex_key[64];
    snprintf(hex_key, sizeof(hex_key), "%s" VD_HEX_KEY, key);
    const json_t *plain = take(from, key);
    const json_t *hex = take(from, hex_key);
    const json_t *value = plain ? plain : hex;
    *text = NULL;
    if (!value)
        return is_needed ? bad(from, key, "it is missing") : 0;
    size_t length = json_string_length(value);
    if (!json_is_string(value) || (plain && hex) || length == 0 ||
        length > TEXT_BYTES_MAX * (plain ? 1 : 2))
        return bad(from, key, "it is no text of 1 to 4096 bytes");
    if (hex)
        return decode_hex(from, key, json_string_value(value), length, text);
    *text = strdup(json_string_value(value));
    return *text ? 0 : vd_err_nomem(from->err, from->name);
}

/* A text that has to be one of a few; NULL with the error set. */
static const char *take_word(struct taking *from, const char *key)
{
    const json_t *value = take(from, key);
    if (json_is_string(value))
        return json_string_value(value);
    bad(from, key, value ? "it is no text" : "it is missing");
    return NULL;
}

static int take_uuid(struct taking *from, const char *key, char uuid[VD_UUID_TEXT_BYTES])
{
    static const char zero[] = "00000000-0000-0000-0000-000000000000";
    const char *text = take_word(from, key);
    if (!text)
        return -EBADMSG;
    if (!vd_uuid_is_text(text) || strcmp(text, zero) == 0)
        return bad(from, key, "it is no UUID in lower case, or zero");
    memcpy(uuid, text, VD_UUID_TEXT_BYTES);
    return 0;
}

static int take_digests(struct taking *from, struct vd_digest_table *table, const char *key)
{
    const json_t *digests = take(from, "digests");
    size_t bytes = vd_digest_bytes(table->kind);
    for (uint64_t i = 0; i < table->entries; i++) {
        const char *hex = json_string_value(json_array_get(digests, (size_t)i));
        if (!hex || !vd_hex_read(hex, vd_digest_at(table, i), bytes))
            return bad(from, key, "one of its digests is none");
    }
    return 0;
}

/* What a table is like is known before there is room for it: the digests have to be there. */
static int take_table(struct taking *from, const char *key, struct vd_digest_table *table,
                      bool is_keyed)
{
    uint64_t file_bytes = 0;
    uint64_t extent_bytes = 0;
    const char *word = take_word(from, "digest");
    const json_t *digests = json_object_get(from->object, "digests");
    enum vd_digest_kind kind = word ? vd_digest_find(word) : (enum vd_digest_kind)0;
    if (!kind)
        return bad(from, key, "there is no such kind of digests");
    if (is_keyed && kind != VD_DIGEST_SHA256)
        return bad(from, key, "its digests are not proof against malice, as this repository is");
    int ret = take_number(from, "bytes", &file_bytes);
    if (ret == 0)
        ret = take_number(from, "extent-bytes", &extent_bytes);
    if (ret < 0)
        return ret;
    if (extent_bytes < VD_DIGEST_EXTENT_BYTES_MIN || extent_bytes > VD_DIGEST_EXTENT_BYTES_MAX ||
        (extent_bytes & (extent_bytes - 1)) != 0)
        return bad(from, key, "\"extent-bytes\" is no power of two from 64 KiB to 1 GiB");
    if (!json_is_array(digests) || vd_div_up(file_bytes, extent_bytes) != json_array_size(digests))
        return bad(from, key, "there is not one digest for each extent of the file");
    ret = vd_digest_table_init(table, kind, (uint32_t)extent_bytes, file_bytes, from->err);
    return ret < 0 ? ret : take_digests(from, table, key);
}

/* The name is that of a file of this point: it can not lead anywhere else. */
static int take_file(struct taking *parent, const char *key, const char *wanted_name,
                     struct vd_manifest_file *file, struct taking *members)
{
    *members =
        (struct taking){.name = parent->name, .object = take(parent, key), .err = parent->err};
    if (!json_is_object(members->object))
        return bad(parent, key, "it is no object");
    int ret = take_text(members, "file", true, &file->name);
    if (ret == 0 && strcmp(file->name, wanted_name) != 0)
        return vd_err_set(parent->err, EBADMSG, "%s: \"%s\": its file has to be %s", parent->name,
                          key, wanted_name);
    return ret;
}

static int take_image(struct taking *from, struct vd_manifest *manifest, bool is_keyed)
{
    struct taking members = {0};
    char suffix[16];
    const json_t *format = json_object_get(json_object_get(from->object, "image"), "format");
    const char *word = json_string_value(format);
    if (!word || (strcmp(word, "qcow2") != 0 && strcmp(word, "qed") != 0))
        return bad(from, "image", "its format is neither qcow2 nor qed");
    snprintf(suffix, sizeof(suffix), ".%s", word);
    CLEANUP_FREE char *name = vd_point_file_name(manifest->number, suffix, from->err);
    if (!name)
        return -ENOMEM;
    int ret = take_file(from, "image", name, &manifest->image, &members);
    if (ret == 0)
        ret = take_text(&members, "format", true, &manifest->image_format);
    if (ret == 0)
        ret = take_table(&members, "image", &manifest->image.table, is_keyed);
    return ret == 0 ? take_no_more(&members, "image") : ret;
}

static int take_versions(struct taking *from, struct vd_manifest *manifest, bool is_keyed)
{
    struct taking members = {0};
    if (!json_object_get(from->object, "versions"))
        return 0;
    CLEANUP_FREE char *name = vd_point_file_name(manifest->number, ".versions", from->err);
    if (!name)
        return -ENOMEM;
    int ret = take_file(from, "versions", name, &manifest->versions, &members);
    if (ret == 0)
        ret = take_table(&members, "versions", &manifest->versions.table, is_keyed);
    return ret == 0 ? take_no_more(&members, "versions") : ret;
}

static int take_backing(const struct taking *from, const json_t *object,
                        struct vd_manifest_backing *backing)
{
    if (!json_is_object(object))
        return bad(from, "backings", "one of them is no object");
    struct taking members = {.name = from->name, .object = object, .err = from->err};
    int ret = take_text(&members, "name", true, &backing->name);
    if (ret == 0)
        ret = take_number(&members, "bytes", &backing->bytes);
    if (ret < 0)
        return ret;
    const json_t *modified = take(&members, "modified-ns");
    if (!json_is_integer(modified))
        return bad(from, "backings", "\"modified-ns\" is no number");
    backing->modified_ns = json_integer_value(modified);
    return take_no_more(&members, "backings");
}

static int take_backings(struct taking *from, struct vd_manifest *manifest)
{
    const json_t *backings = take(from, "backings");
    size_t entries = json_array_size(backings);
    if (!backings)
        return 0;
    if (!json_is_array(backings) || entries == 0 || entries > VD_MANIFEST_BACKINGS_MAX)
        return bad(from, "backings", "it is no list of 1 to 256 files");
    manifest->backings = vd_alloc_array(entries, sizeof(*manifest->backings));
    if (!manifest->backings)
        return vd_err_nomem(from->err, "a manifest");
    manifest->backing_entries = entries;
    for (size_t i = 0; i < entries; i++) {
        int ret = take_backing(from, json_array_get(backings, i), &manifest->backings[i]);
        if (ret < 0)
            return ret;
    }
    return 0;
}

static int take_source(struct taking *from, struct vd_manifest *manifest, bool is_keyed)
{
    const json_t *object = take(from, "source");
    if (!json_is_object(object))
        return bad(from, "source", "it is no object");
    struct taking members = {.name = from->name, .object = object, .err = from->err};
    int ret = take_text(&members, "name", true, &manifest->source);
    if (ret == 0)
        ret = take_text(&members, "format", true, &manifest->source_format);
    if (ret == 0)
        ret = take_text(&members, "bitmap", false, &manifest->bitmap);
    if (ret == 0 && json_object_get(object, "uuid"))
        ret = take_uuid(&members, "uuid", manifest->source_uuid);
    if (ret == 0)
        ret = take_versions(&members, manifest, is_keyed);
    if (ret == 0)
        ret = take_backings(&members, manifest);
    return ret == 0 ? take_no_more(&members, "source") : ret;
}

static int take_identity(struct taking *from, const char *repository, struct vd_manifest *manifest)
{
    uint64_t version;
    char uuid[VD_UUID_TEXT_BYTES];
    int ret = take_number(from, "vdisk-manifest", &version);
    if (ret < 0)
        return ret;
    if (version != VD_MANIFEST_VERSION)
        return vd_err_set(from->err, EBADMSG,
                          "%s: it is a manifest of version %" PRIu64 ", and this vdisk knows %u",
                          from->name, version, VD_MANIFEST_VERSION);
    ret = take_uuid(from, "repository", uuid);
    if (ret < 0)
        return ret;
    if (strcmp(uuid, repository) != 0)
        return vd_err_set(from->err, EBADMSG, "%s: it is of another repository: %s instead of %s",
                          from->name, uuid, repository);
    ret = take_number(from, "point", &manifest->number);
    if (ret == 0 && manifest->number == 0)
        return bad(from, "point", "it is 0: points count from 1");
    return ret == 0 ? take_uuid(from, "uuid", manifest->uuid) : ret;
}

static int take_parent(struct taking *from, struct vd_manifest *manifest)
{
    const char *kind = take_word(from, "kind");
    const char *tracker = take_word(from, "tracker");
    if (!kind || !tracker)
        return -EBADMSG;
    manifest->kind = vd_point_kind_of(kind);
    manifest->tracker = vd_tracker_of(tracker);
    if (!manifest->kind)
        return bad(from, "kind", "there is no such kind");
    if (!manifest->tracker)
        return bad(from, "tracker", "there is no such tracker");
    if (manifest->kind == VDISK_POINT_FULL)
        return 0; /* a "parent" is not taken, and so too much */
    int ret = take_number(from, "parent", &manifest->parent);
    if (ret == 0)
        ret = take_uuid(from, "parent-uuid", manifest->parent_uuid);
    if (ret < 0)
        return ret;
    if (manifest->parent == 0 || manifest->parent >= manifest->number)
        return bad(from, "parent", "it is no point before this one");
    if (strcmp(manifest->parent_uuid, manifest->uuid) == 0)
        return bad(from, "parent-uuid", "it is that of this point");
    return 0;
}

static int take_numbers(struct taking *from, struct vd_manifest *manifest)
{
    const char *created = take_word(from, "created");
    if (!created)
        return -EBADMSG;
    if (!vd_time_read(created, &manifest->created))
        return bad(from, "created", "it is no time such as 2026-11-22T01:30:00Z");
    int ret = take_number(from, "virtual-size", &manifest->virtual_bytes);
    if (ret == 0)
        ret = take_number(from, "changed-bytes", &manifest->changed_bytes);
    if (ret == 0)
        ret = take_number(from, "read-bytes", &manifest->read_bytes);
    if (ret < 0 || !json_object_get(from->object, "compression-level"))
        return ret;
    uint64_t level = 0;
    ret = take_number(from, "compression-level", &level);
    if (ret == 0 && level > LEVEL_MAX)
        return bad(from, "compression-level", "it is more than 9");
    manifest->is_compressed = ret == 0;
    manifest->compression_level = (uint32_t)level;
    return ret;
}

int vd_manifest_from_json(struct vd_manifest *manifest, const json_t *object,
                          const char *repository, const char *name, const struct vd_seal_key *key,
                          struct vdisk_error *err)
{
    struct vdisk_error own = {0};
    struct taking from = {.name = name, .object = object, .err = err ? err : &own};
    bool is_keyed = key && key->bytes;
    *manifest = (struct vd_manifest){0};
    int ret = take_identity(&from, repository, manifest);
    if (ret == 0)
        ret = take_parent(&from, manifest);
    if (ret == 0)
        ret = take_numbers(&from, manifest);
    if (ret == 0)
        ret = take_image(&from, manifest, is_keyed);
    if (ret == 0)
        ret = take_source(&from, manifest, is_keyed);
    if (ret == 0)
        ret = take_no_more(&from, "vdisk-manifest");
    if (ret == 0 && manifest->is_compressed && strcmp(manifest->image_format, "qcow2") != 0)
        ret = bad(&from, "compression-level", "only qcow2 images are compressed");
    return ret;
}

int vd_manifest_read(struct vd_manifest *manifest, const char *repository, const char *name,
                     const struct vd_seal_key *key, struct vdisk_error *err)
{
    json_t *object = NULL;
    *manifest = (struct vd_manifest){0};
    int ret = vd_sealed_read(name, key, VD_MANIFEST_BYTES_MAX, &object, err);
    if (ret == 0)
        ret = vd_manifest_from_json(manifest, object, repository, name, key, err);
    json_decref(object);
    if (ret < 0)
        vd_manifest_free(manifest);
    return ret;
}
