/* SPDX-License-Identifier: MIT */
/* backup/manifest: what is written comes back; whatever else a manifest holds is refused. */
#include "drivers/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "backup/manifest_json.h"
#include "drivers/alloc.h"

#define REPOSITORY "0f000000-0000-4000-8000-00000000000f"
#define UUID       "11111111-2222-4333-8444-555555555555"
#define PARENT     "21111111-2222-4333-8444-555555555555"
#define SOURCE     "31111111-2222-4333-8444-555555555555"

static const struct vd_seal_key key = {.bytes = "a secret of 22 bytes..", .length = 22};

static char work_dir[256];

static int enter_work_dir(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(work_dir, sizeof(work_dir), "%s/test-manifest-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(work_dir) && chdir(work_dir) == 0 ? 0 : -1;
}

static int leave_work_dir(void **state)
{
    (void)state;
    return chdir("/") == 0 && rmdir(work_dir) == 0 ? 0 : -1;
}

static bool has_sha256(void)
{
    uint8_t digest[VD_SHA256_BYTES];
    return vd_sha256("", 0, digest, NULL) == 0;
}

static char *copy_of(const char *text)
{
    return vt_must(strdup(text));
}

static struct vd_digest_table table_of(enum vd_digest_kind kind, uint64_t bytes)
{
    struct vd_digest_table table;
    assert_int_equal(vd_digest_table_init(&table, kind, 1 << 20, bytes, NULL), 0);
    for (size_t i = 0; i < table.entries * vd_digest_bytes(kind); i++)
        table.digests[i] = (uint8_t)(i * 7 + 1);
    return table;
}

/* A full point of nothing but what each has. */
static struct vd_manifest plain_point(void)
{
    return (struct vd_manifest){
        .number = 1,
        .uuid = PARENT,
        .kind = VDISK_POINT_FULL,
        .tracker = VDISK_TRACKER_NONE,
        .created = 1763775000,
        .virtual_bytes = 10 << 20,
        .image = {.name = copy_of("000001.qed"), .table = table_of(VD_DIGEST_XXH128, 3 << 20)},
        .image_format = copy_of("qed"),
        .source = copy_of("disk.img"),
        .source_format = copy_of("raw"),
    };
}

/* One that has everything. */
static struct vd_manifest rich_point(enum vd_digest_kind kind)
{
    struct vd_manifest_backing *backings = vt_calloc(2, sizeof(*backings));
    backings[0] = (struct vd_manifest_backing){copy_of("/images/base.qcow2"), 12345, -5};
    backings[1] = (struct vd_manifest_backing){copy_of("/images/\xe4.raw"), 0, INT64_MAX};
    return (struct vd_manifest){
        .number = 3,
        .uuid = UUID,
        .kind = VDISK_POINT_DIFFERENTIAL,
        .tracker = VDISK_TRACKER_VERSIONS,
        .parent = 1,
        .parent_uuid = PARENT,
        .created = -1,
        .virtual_bytes = INT64_MAX,
        .changed_bytes = 77,
        .read_bytes = 78,
        .is_compressed = true,
        .compression_level = 9,
        .image = {.name = copy_of("000003.qcow2"), .table = table_of(kind, (3 << 20) + 1)},
        .image_format = copy_of("qcow2"),
        .source = copy_of("/a/\xff\"b\".gow"),
        .source_format = copy_of("gow"),
        .bitmap = copy_of("vdisk-0f000000-11111111"),
        .source_uuid = SOURCE,
        .versions = {.name = copy_of("000003.versions"), .table = table_of(kind, 64)},
        .backings = backings,
        .backing_entries = 2,
    };
}

static void assert_same_text(const char *a, const char *b)
{
    assert_int_equal(a == NULL, b == NULL);
    if (a)
        assert_string_equal(a, b);
}

static void assert_same_file(const struct vd_manifest_file *a, const struct vd_manifest_file *b)
{
    assert_same_text(a->name, b->name);
    if (!a->name)
        return;
    assert_int_equal(a->table.kind, b->table.kind);
    assert_int_equal(a->table.extent_bytes, b->table.extent_bytes);
    assert_int_equal(a->table.file_bytes, b->table.file_bytes);
    assert_int_equal(a->table.entries, b->table.entries);
    assert_memory_equal(a->table.digests, b->table.digests,
                        a->table.entries * vd_digest_bytes(a->table.kind));
}

static void assert_same(const struct vd_manifest *a, const struct vd_manifest *b)
{
    assert_int_equal(a->number, b->number);
    assert_string_equal(a->uuid, b->uuid);
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->tracker, b->tracker);
    assert_int_equal(a->parent, b->parent);
    assert_string_equal(a->parent_uuid, b->parent_uuid);
    assert_int_equal(a->created, b->created);
    assert_int_equal(a->virtual_bytes, b->virtual_bytes);
    assert_int_equal(a->changed_bytes, b->changed_bytes);
    assert_int_equal(a->read_bytes, b->read_bytes);
    assert_int_equal(a->is_compressed, b->is_compressed);
    assert_int_equal(a->compression_level, b->compression_level);
    assert_same_file(&a->image, &b->image);
    assert_same_text(a->image_format, b->image_format);
    assert_same_text(a->source, b->source);
    assert_same_text(a->source_format, b->source_format);
    assert_same_text(a->bitmap, b->bitmap);
    assert_string_equal(a->source_uuid, b->source_uuid);
    assert_same_file(&a->versions, &b->versions);
    assert_int_equal(a->backing_entries, b->backing_entries);
    for (size_t i = 0; i < a->backing_entries; i++) {
        assert_same_text(a->backings[i].name, b->backings[i].name);
        assert_int_equal(a->backings[i].bytes, b->backings[i].bytes);
        assert_int_equal(a->backings[i].modified_ns, b->backings[i].modified_ns);
    }
}

static void check_round_trip(struct vd_manifest *manifest, const struct vd_seal_key *with)
{
    struct vd_manifest again;
    struct vdisk_error err = {0};
    assert_int_equal(vd_manifest_write(manifest, REPOSITORY, "m.json", with, &err), 0);
    assert_int_equal(vd_manifest_read(&again, REPOSITORY, "m.json", with, &err), 0);
    assert_same(manifest, &again);
    vd_manifest_free(&again);
    vd_manifest_free(&again);
    assert_int_equal(unlink("m.json"), 0);
    vd_manifest_free(manifest);
}

static void test_round_trip(void **state)
{
    (void)state;
    struct vd_manifest plain = plain_point();
    struct vd_manifest rich = rich_point(VD_DIGEST_XXH128);
    assert_int_equal(vd_manifest_stored_bytes(&plain), 3 << 20);
    assert_int_equal(vd_manifest_stored_bytes(&rich), (3 << 20) + 1 + 64);
    check_round_trip(&plain, NULL);
    check_round_trip(&rich, NULL);
    if (has_sha256()) {
        rich = rich_point(VD_DIGEST_SHA256);
        check_round_trip(&rich, &key);
    }
}

static void test_another_repository(void **state)
{
    (void)state;
    struct vd_manifest manifest = plain_point();
    struct vd_manifest again;
    struct vdisk_error err = {0};
    assert_int_equal(vd_manifest_write(&manifest, REPOSITORY, "m.json", NULL, NULL), 0);
    assert_int_equal(vd_manifest_read(&again, UUID, "m.json", NULL, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "m.json: it is of another repository: " REPOSITORY));
    assert_int_equal(vd_manifest_read(&again, REPOSITORY, "n.json", NULL, NULL), -ENOENT);
    assert_null(again.source);
    assert_int_equal(vd_manifest_read(&again, REPOSITORY, "m.json", &key, NULL), -EKEYREJECTED);
    assert_int_equal(unlink("m.json"), 0);
    vd_manifest_free(&manifest);
}

/* What would not be taken when it is read is not written. */
static void test_not_written(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        struct vd_manifest manifest = rich_point(VD_DIGEST_XXH128);
        if (i == 0)
            manifest.number = 0;
        else if (i == 1)
            manifest.virtual_bytes = UINT64_C(1) << 63;
        else if (i == 2)
            manifest.created = INT64_MAX;
        else if (i == 3)
            manifest.parent = 3;
        else if (i == 4)
            manifest.uuid[0] = 'X';
        else if (i == 5)
            manifest.image.name[0] = '/';
        else if (i == 6)
            manifest.source[0] = '\0';
        else
            manifest.compression_level = 10;
        assert_int_equal(vd_manifest_write(&manifest, REPOSITORY, "m.json", NULL, NULL), -EINVAL);
        assert_int_equal(access("m.json", F_OK), -1);
        vd_manifest_free(&manifest);
    }
    struct vd_manifest weak = rich_point(VD_DIGEST_XXH128);
    assert_int_equal(vd_manifest_write(&weak, REPOSITORY, "m.json", &key, NULL), -EINVAL);
    assert_int_equal(access("m.json", F_OK), -1);
    vd_manifest_free(&weak);
}

/* @text with the first @what in it replaced by @with.  To be freed. */
static char *edited(const char *text, const char *what, const char *with)
{
    const char *at = strstr(text, what);
    if (!at)
        fail_msg("there is no %s in %s", what, text);
    size_t bytes = strlen(text) + strlen(with) + 1;
    char *result = vt_calloc(1, bytes);
    snprintf(result, bytes, "%.*s%s%s", (int)(at - text), text, with, at + strlen(what));
    return result;
}

static int read_text(const char *text, struct vdisk_error *err)
{
    struct vd_manifest manifest;
    json_t *object = json_loads(text, 0, NULL);
    if (!object)
        fail_msg("no JSON: %s", text);
    int ret = vd_manifest_from_json(&manifest, object, REPOSITORY, "m.json", NULL, err);
    vd_manifest_free(&manifest);
    json_decref(object);
    return ret;
}

static const struct edit {
    const char *what;
    const char *with;
    const char *message; /* part of what is said; NULL: it is fine */
} edits[] = {
    {"\"read-bytes\": 78", "\"read-bytes\": 79", NULL},
    {"\"vdisk-manifest\": 1", "\"vdisk-manifest\": 2", "version 2, and this vdisk knows 1"},
    {"\"vdisk-manifest\": 1", "\"vdisk-manifest\": \"1\"", "vdisk-manifest"},
    {"\"vdisk-manifest\": 1", "\"vdisk-manifest\": 1, \"new\": 1", "has a member"},
    {"\"vdisk-manifest\": 1, ", "", "vdisk-manifest\": it is missing"},
    {"\"repository\": \"0", "\"repository\": \"1", "another repository"},
    {"\"point\": 3", "\"point\": 0", "count from 1"},
    {"\"point\": 3", "\"point\": -3", "\"point\""},
    {"\"point\": 3", "\"point\": 3.0", "\"point\""},
    {"\"point\": 3", "\"point\": 1", "\"parent\""},
    {"\"point\": 3", "\"point\": 4", "has to be 000004.qcow2"},
    {"\"point\": 3", "\"point\": true", "\"point\""},
    {"\"point\": 3", "\"point\": [3]", "\"point\""},
    {"\"point\": 3, ", "", "missing"},
    {"\"uuid\": \"1", "\"uuid\": \"A", "\"uuid\""},
    {"\"uuid\": \"11111111-2222-4333-8444-555555555555\"",
     "\"uuid\": \"00000000-0000-0000-0000-000000000000\"", "\"uuid\""},
    {"\"uuid\": \"1", "\"uuid\": \"11", "\"uuid\""},
    {"\"uuid\": \"1", "\"uuid\": \"", "\"uuid\""},
    {"\"uuid\": \"11111111-2222", "\"uuid\": \"../../../../..", "\"uuid\""},
    {"\"kind\": \"differential\"", "\"kind\": \"full\"", "has a member"},
    {"\"kind\": \"differential\"", "\"kind\": \"half\"", "no such kind"},
    {"\"kind\": \"differential\"", "\"kind\": null", "\"kind\""},
    {"\"tracker\": \"versions\"", "\"tracker\": \"\"", "no such tracker"},
    {"\"parent\": 1", "\"parent\": 0", "\"parent\""},
    {"\"parent\": 1", "\"parent\": 3", "\"parent\""},
    {"\"parent\": 1", "\"parent\": 9223372036854775807", "\"parent\""},
    {"\"parent\": 1, ", "", "\"parent\": it is missing"},
    {"\"parent-uuid\": \"2", "\"parent-uuid\": \"1", "that of this point"},
    {"\"parent-uuid\": \"2", "\"parent-uuid\": \"x", "\"parent-uuid\""},
    {"T23:59:59Z", "T23:59:60Z", "\"created\""},
    {"T23:59:59Z", "T23:59:59", "\"created\""},
    {"1969-12-31", "1969-02-29", "\"created\""},
    {"1969-12-31", "+969-12-31", "\"created\""},
    {"\"virtual-size\": 9223372036854775807", "\"virtual-size\": -1", "\"virtual-size\""},
    {"\"virtual-size\": 9223372036854775807", "\"virtual-size\": 1e3", "\"virtual-size\""},
    {"\"changed-bytes\": 77", "\"changed-bytes\": -77", "\"changed-bytes\""},
    {"\"read-bytes\": 78", "\"read-bytes\": {}", "\"read-bytes\""},
    {"\"compression-level\": 9", "\"compression-level\": 10", "more than 9"},
    {"\"compression-level\": 9", "\"compression-level\": -1", "\"compression-level\""},
    {"\"image\": {", "\"image\": {\"more\": 1, ", "\"image\": it has a member"},
    {"\"image\": {", "\"image\": [], \"x\": {", "\"image\""},
    {"\"format\": \"qcow2\"", "\"format\": \"qed\"", "has to be 000003.qed"},
    {"\"format\": \"qcow2\"", "\"format\": \"raw\"", "neither qcow2 nor qed"},
    {"\"format\": \"qcow2\"", "\"format\": 2", "neither qcow2 nor qed"},
    {"\"000003.qcow2\"", "\"../000003.qcow2\"", "has to be 000003.qcow2"},
    {"\"000003.qcow2\"", "\"/etc/passwd\"", "has to be 000003.qcow2"},
    {"\"000003.qcow2\"", "\"000001.qcow2\"", "has to be 000003.qcow2"},
    {"\"000003.qcow2\"", "\"journal.json\"", "has to be 000003.qcow2"},
    {"\"000003.qcow2\"", "\"..\"", "has to be 000003.qcow2"},
    {"\"000003.qcow2\"", "\"\"", "\"file\""},
    {"\"000003.qcow2\"", "[]", "\"file\""},
    {"\"file\": \"000003.qcow2\"", "\"file-hex\": \"3030\"", "\"file\""},
    {"\"000003.versions\"", "\"000003.json\"", "has to be 000003.versions"},
    {"\"000003.versions\"", "\"000003.qcow2\"", "has to be 000003.versions"},
    {"\"bytes\": 3145729", "\"bytes\": 3145728", "one digest for each extent"},
    {"\"bytes\": 3145729", "\"bytes\": 4194305", "one digest for each extent"},
    {"\"bytes\": 3145729", "\"bytes\": 9223372036854775807", "one digest for each extent"},
    {"\"bytes\": 3145729", "\"bytes\": -1", "\"bytes\""},
    {"\"bytes\": 3145729", "\"bytes\": 4194304", NULL},
    {"\"extent-bytes\": 1048576", "\"extent-bytes\": 1048577", "power of two"},
    {"\"extent-bytes\": 1048576", "\"extent-bytes\": 0", "power of two"},
    {"\"extent-bytes\": 1048576", "\"extent-bytes\": 32768", "power of two"},
    {"\"extent-bytes\": 1048576", "\"extent-bytes\": 4294967296", "power of two"},
    {"\"extent-bytes\": 1048576", "\"extent-bytes\": 2147483648", "power of two"},
    {"\"extent-bytes\": 1048576", "\"extent-bytes\": 2097152", "one digest for each extent"},
    {"\"digest\": \"xxh128\"", "\"digest\": \"md5\"", "no such kind of digests"},
    {"\"digest\": \"xxh128\"", "\"digest\": \"sha256\"", "one of its digests is none"},
    {"\"digest\": \"xxh128\"", "\"digest\": 1", "\"digest\""},
    {"\"digests\": [", "\"digests\": [1, ", "one digest for each extent"},
    {"\"digests\": [\"0", "\"digests\": [\"g", "one of its digests is none"},
    {"\"digests\": [\"0", "\"digests\": [\"00", "one of its digests is none"},
    {"\"digests\": [\"0", "\"digests\": [\"", "one of its digests is none"},
    {"\"digests\": [", "\"digests\": {}, \"x\": [", "one digest for each extent"},
    {"\"digests\": [", "\"digests\": null, \"x\": [", "one digest for each extent"},
    {"\"source\": {", "\"source\": 1, \"x\": {", "\"source\": it is no object"},
    {"\"source\": {", "\"source\": {\"x\": 1, ", "\"source\": it has a member"},
    {"\"name-hex\": \"2f61", "\"name-hex\": \"0061", "\"name\""},
    {"\"name-hex\": \"2f61", "\"name-hex\": \"2f6", "\"name\""},
    {"\"name-hex\": \"2f61", "\"name-hex\": \"zz61", "\"name\""},
    {"\"name-hex\": \"2f61", "\"name\": \"both\", \"name-hex\": \"2f61", "\"name\""},
    {"2f612fff", "2f612f2f", "\"name\""}, /* it could have been written as it is */
    {"\"format\": \"gow\"", "\"format\": \"\"", "\"format\""},
    {"\"bitmap\": \"", "\"bitmap\": 1, \"x\": \"", "\"bitmap\""},
    {"\"uuid\": \"3", "\"uuid\": \"+", "\"uuid\""},
    {"\"backings\": [", "\"backings\": [1, ", "\"backings\""},
    {"\"backings\": [", "\"backings\": [], \"x\": [", "\"backings\""},
    {"\"backings\": [", "\"backings\": 1, \"x\": [", "\"backings\""},
    {"\"modified-ns\": -5", "\"modified-ns\": \"-5\"", "\"modified-ns\""},
    {"\"modified-ns\": -5", "\"modified-ns\": -5, \"x\": 1", "has a member"},
    {"\"bytes\": 12345", "\"bytes\": -12345", "\"bytes\""},
};

static void test_hostile(void **state)
{
    (void)state;
    struct vd_manifest manifest = rich_point(VD_DIGEST_XXH128);
    json_t *object = vd_manifest_to_json(&manifest, REPOSITORY);
    assert_non_null(object);
    char *text = json_dumps(object, 0);
    assert_int_equal(read_text(text, NULL), 0);
    for (size_t i = 0; i < sizeof(edits) / sizeof(edits[0]); i++) {
        struct vdisk_error err = {0};
        char *other = edited(text, edits[i].what, edits[i].with);
        int ret = read_text(other, &err);
        free(other);
        if (!edits[i].message ? ret != 0
                              : ret != -EBADMSG || !strstr(err.message, edits[i].message) ||
                                    !strstr(err.message, "m.json: "))
            fail_msg("%s: %d %s", edits[i].with, ret, err.message);
    }
    free(text);
    json_decref(object);
    vd_manifest_free(&manifest);
}

/* Every member but those that may be left out is wanted, wherever it is. */
static void drop_each(json_t *root, json_t *object)
{
    static const char *const optional[] = {"compression-level", "bitmap", "uuid", "versions",
                                           "backings"};
    json_t *members = json_copy(object); /* what is put back comes last */
    const char *name;
    json_t *value;
    json_object_foreach(members, name, value)
    {
        bool may_go = false;
        struct vd_manifest manifest;
        for (size_t i = 0; i < sizeof(optional) / sizeof(optional[0]); i++)
            may_go = may_go || strcmp(name, optional[i]) == 0;
        if (object == root && strcmp(name, "uuid") == 0)
            may_go = false; /* that of the point */
        assert_int_equal(json_object_del(object, name), 0);
        int ret = vd_manifest_from_json(&manifest, root, REPOSITORY, "m.json", NULL, NULL);
        vd_manifest_free(&manifest);
        if (ret != (may_go ? 0 : -EBADMSG))
            fail_msg("without %s: %d", name, ret);
        assert_int_equal(json_object_set(object, name, value), 0);
    }
    json_decref(members);
}

static void test_missing_members(void **state)
{
    (void)state;
    struct vd_manifest manifest = rich_point(VD_DIGEST_XXH128);
    json_t *root = vd_manifest_to_json(&manifest, REPOSITORY);
    json_t *source = json_object_get(root, "source");
    drop_each(root, root);
    drop_each(root, json_object_get(root, "image"));
    drop_each(root, source);
    drop_each(root, json_object_get(source, "versions"));
    drop_each(root, json_array_get(json_object_get(source, "backings"), 1));
    json_decref(root);
    vd_manifest_free(&manifest);
}

static void test_too_many_backings(void **state)
{
    (void)state;
    struct vd_manifest manifest = rich_point(VD_DIGEST_XXH128);
    json_t *root = vd_manifest_to_json(&manifest, REPOSITORY);
    json_t *backings = json_object_get(json_object_get(root, "source"), "backings");
    struct vd_manifest again;
    while (json_array_size(backings) < VD_MANIFEST_BACKINGS_MAX)
        json_array_append(backings, json_array_get(backings, 0));
    assert_int_equal(vd_manifest_from_json(&again, root, REPOSITORY, "m.json", NULL, NULL), 0);
    assert_int_equal(again.backing_entries, VD_MANIFEST_BACKINGS_MAX);
    vd_manifest_free(&again);
    json_array_append(backings, json_array_get(backings, 0));
    assert_int_equal(vd_manifest_from_json(&again, root, REPOSITORY, "m.json", NULL, NULL),
                     -EBADMSG);
    vd_manifest_free(&again);
    json_decref(root);
    vd_manifest_free(&manifest);
}

static void test_times(void **state)
{
    (void)state;
    static const int64_t good[] = {0, -1, 1763775000, 253402300799, -62135596800, 951782400};
    static const char *const bad[] = {
        "",
        "2026-11-22",
        "2026-11-22T01:30:00",
        "2026-11-22 01:30:00Z",
        "2026-11-31T01:30:00Z",
        "2026-02-29T00:00:00Z",
        "2026-11-22T24:00:00Z",
        "2026-11-22T01:60:00Z",
        "0000-01-01T00:00:00Z",
        "2026-11-22T01:30:00z",
        "2026-11-22T01:30:0 Z",
        " 026-11-22T01:30:00Z",
        "2026-11-22T01:30:61Z",
    };
    char text[VD_TIME_TEXT_BYTES];
    int64_t seconds;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_true(vd_time_write(good[i], text));
        assert_true(vd_time_read(text, &seconds));
        assert_int_equal(seconds, good[i]);
    }
    assert_true(vd_time_write(951782400, text));
    assert_string_equal(text, "2000-02-29T00:00:00Z");
    assert_false(vd_time_write(253402300800, text));
    assert_false(vd_time_write(-62135596801, text));
    assert_false(vd_time_write(INT64_MAX, text));
    assert_false(vd_time_write(INT64_MIN, text));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (vd_time_read(bad[i], &seconds))
            fail_msg("%s is a time", bad[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),      cmocka_unit_test(test_another_repository),
        cmocka_unit_test(test_not_written),     cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_missing_members), cmocka_unit_test(test_too_many_backings),
        cmocka_unit_test(test_times),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, enter_work_dir, leave_work_dir);
}
