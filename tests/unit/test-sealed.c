/* SPDX-License-Identifier: MIT */
/* backup/sealed: no byte of a file changes unnoticed, and whatever a file holds is bounded. */
#include "drivers/check.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backup/sealed.h"
#include "drivers/alloc.h"

#define BYTES_MAX 4096u

static const struct vd_seal_key key = {.bytes = "a secret of 22 bytes..", .length = 22};
static const struct vd_seal_key other_key = {.bytes = "a secret of 22 bytes,.", .length = 22};
static const struct vd_seal_key *const keys[] = {NULL, &key};

static char work_dir[256];

static int enter_work_dir(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(work_dir, sizeof(work_dir), "%s/test-sealed-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(work_dir) && chdir(work_dir) == 0 ? 0 : -1;
}

static int leave_work_dir(void **state)
{
    (void)state;
    return chdir("/") == 0 && rmdir(work_dir) == 0 ? 0 : -1;
}

static bool has_hmac(void)
{
    uint8_t digest[VD_SHA256_BYTES];
    return vd_sha256("", 0, digest, NULL) == 0;
}

/* How many ways there are to seal. */
static size_t key_entries(void)
{
    return has_hmac() ? 2 : 1;
}

static json_t *sample(void)
{
    return json_pack("{s:i, s:s, s:[s,s], s:{s:b}}", "number", 7, "text", "\"seal\": \"x\"\n}\n",
                     "list", "a", "\xc3\xa4", "inner", "seal", 1);
}

static char *content_of(const char *name, size_t *length)
{
    FILE *file = fopen(name, "r");
    assert_non_null(file);
    char *text = vt_calloc(1, BYTES_MAX);
    *length = fread(text, 1, BYTES_MAX - 1, file);
    fclose(file);
    return text;
}

static void put(const char *name, const char *text, size_t length)
{
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

static int parse(const char *text, size_t length, const struct vd_seal_key *with,
                 struct vdisk_error *err)
{
    json_t *object = NULL;
    int ret = vd_sealed_parse("f.json", text, length, with, &object, err);
    assert_int_equal(ret == 0, object != NULL);
    json_decref(object);
    return ret;
}

static void test_round_trip(void **state)
{
    (void)state;
    for (size_t k = 0; k < key_entries(); k++) {
        json_t *object = sample();
        json_t *again = NULL;
        assert_int_equal(vd_sealed_write("f.json", object, keys[k], NULL), 0);
        assert_int_equal(vd_sealed_read("f.json", keys[k], BYTES_MAX, &again, NULL), 0);
        assert_true(json_equal(object, again));
        json_decref(again);
        json_decref(object);
    }
    assert_int_equal(unlink("f.json"), 0);
}

static void test_form(void **state)
{
    (void)state;
    static const char wanted[] = "{\n"
                                 "  \"a\": 1,\n"
                                 "  \"seal\": \"xxh128:";
    size_t length;
    json_t *object = json_pack("{s:i}", "a", 1);
    assert_int_equal(vd_sealed_write("f.json", object, NULL, NULL), 0);
    char *text = content_of("f.json", &length);
    assert_memory_equal(text, wanted, strlen(wanted));
    assert_string_equal(text + length - 4, "\"\n}\n");
    assert_int_equal(length, strlen(wanted) + 32 + 4);

    /* Anybody can compute it: over all that is before the line. */
    uint8_t digest[VD_DIGEST_BYTES_MAX];
    char hex[2 * VD_DIGEST_BYTES_MAX + 1];
    vd_digest(VD_DIGEST_XXH128, text, strlen("{\n  \"a\": 1,\n"), digest, NULL);
    vd_hex_write(digest, 16, hex);
    assert_memory_equal(text + strlen(wanted), hex, 32);
    free(text);
    json_decref(object);

    object = json_object();
    assert_int_equal(vd_sealed_write("f.json", object, NULL, NULL), 0);
    text = content_of("f.json", &length);
    assert_memory_equal(text, "{\n  \"seal\": ", 12);
    assert_int_equal(parse(text, length, NULL, NULL), 0);
    free(text);
    json_decref(object);
    assert_int_equal(unlink("f.json"), 0);
}

/* Every byte, changed to every other value. */
static void test_every_byte(void **state)
{
    (void)state;
    for (size_t k = 0; k < key_entries(); k++) {
        size_t length;
        json_t *object = sample();
        assert_int_equal(vd_sealed_write("f.json", object, keys[k], NULL), 0);
        json_decref(object);
        char *text = content_of("f.json", &length);
        assert_int_equal(parse(text, length, keys[k], NULL), 0);
        for (size_t i = 0; i < length; i++) {
            char was = text[i];
            for (int value = 0; value < 256; value++) {
                struct vdisk_error err = {0};
                text[i] = (char)value;
                int ret = parse(text, length, keys[k], &err);
                if (text[i] == was) {
                    assert_int_equal(ret, 0);
                    continue;
                }
                assert_true(ret == -EBADMSG || (keys[k] && ret == -EKEYREJECTED));
                assert_non_null(strstr(err.message, "f.json"));
            }
            text[i] = was;
        }
        free(text);
    }
    assert_int_equal(unlink("f.json"), 0);
}

/* Cut off anywhere, or with something behind or before. */
static void test_length(void **state)
{
    (void)state;
    for (size_t k = 0; k < key_entries(); k++) {
        size_t length;
        json_t *object = sample();
        assert_int_equal(vd_sealed_write("f.json", object, keys[k], NULL), 0);
        json_decref(object);
        char *text = content_of("f.json", &length);
        for (size_t cut = 0; cut < length; cut++) {
            char *start = vt_calloc(1, cut + 1); /* a sanitizer sees what is read behind it */
            memcpy(start, text, cut);
            assert_int_equal(parse(start, cut, keys[k], NULL), -EBADMSG);
            free(start);
        }
        memmove(text + 1, text, length);
        text[0] = ' ';
        text[length + 1] = '\0';
        assert_true(parse(text, length + 1, keys[k], NULL) < 0);
        memmove(text, text + 1, length);
        static const char *const tails[] = {"\n", " ", "}", "{}", "\"\n}\n"};
        for (size_t i = 0; i < sizeof(tails) / sizeof(tails[0]); i++) {
            snprintf(text + length, BYTES_MAX - length, "%s", tails[i]);
            assert_int_equal(parse(text, length + strlen(tails[i]), keys[k], NULL), -EBADMSG);
        }
        free(text);
    }
    assert_int_equal(unlink("f.json"), 0);
}

static void test_keys(void **state)
{
    (void)state;
    struct vdisk_error err = {0};
    json_t *object = sample();
    json_t *again = NULL;
    assert_int_equal(vd_sealed_write("plain.json", object, NULL, NULL), 0);
    assert_int_equal(vd_sealed_read("plain.json", &key, BYTES_MAX, &again, &err), -EKEYREJECTED);
    assert_non_null(strstr(err.message, "sealed without a key"));
    if (has_hmac()) {
        assert_int_equal(vd_sealed_write("keyed.json", object, &key, NULL), 0);
        err = (struct vdisk_error){0};
        assert_int_equal(vd_sealed_read("keyed.json", NULL, BYTES_MAX, &again, &err),
                         -EKEYREJECTED);
        assert_non_null(strstr(err.message, "none was given"));
        err = (struct vdisk_error){0};
        assert_int_equal(vd_sealed_read("keyed.json", &other_key, BYTES_MAX, &again, &err),
                         -EKEYREJECTED);
        assert_non_null(strstr(err.message, "another key"));
        assert_int_equal(unlink("keyed.json"), 0);
    } else {
        assert_int_equal(vd_sealed_write("keyed.json", object, &key, NULL), -ENOTSUP);
    }
    assert_null(again);
    json_decref(object);
    assert_int_equal(unlink("plain.json"), 0);
}

static void test_replace(void **state)
{
    (void)state;
    json_t *first = json_pack("{s:i}", "a", 1);
    json_t *second = json_pack("{s:i}", "a", 2);
    json_t *again = NULL;
    assert_int_equal(vd_sealed_replace("f.json", first, NULL, NULL), 0);
    assert_int_equal(vd_sealed_replace("f.json", second, NULL, NULL), 0);
    assert_int_equal(access("f.json.part", F_OK), -1);
    assert_int_equal(vd_sealed_read("f.json", NULL, BYTES_MAX, &again, NULL), 0);
    assert_true(json_equal(second, again));
    json_decref(again);

    /* What is in the way of the new one leaves the old one. */
    assert_int_equal(mkdir("f.json.part", 0700), 0);
    assert_int_equal(vd_sealed_replace("f.json", first, NULL, NULL), -EISDIR);
    assert_int_equal(rmdir("f.json.part"), 0);
    assert_int_equal(vd_sealed_read("f.json", NULL, BYTES_MAX, &again, NULL), 0);
    assert_true(json_equal(second, again));
    json_decref(again);
    json_decref(first);
    json_decref(second);
    assert_int_equal(unlink("f.json"), 0);
}

/* What is not a file is neither read nor waited for. */
static void test_no_file(void **state)
{
    (void)state;
    json_t *object = NULL;
    struct vdisk_error err = {0};
    assert_int_equal(vd_sealed_read("none.json", NULL, BYTES_MAX, &object, &err), -ENOENT);
    assert_non_null(strstr(err.message, "none.json"));

    assert_int_equal(mkdir("dir.json", 0700), 0);
    assert_int_equal(vd_sealed_read("dir.json", NULL, BYTES_MAX, &object, NULL), -EBADMSG);
    assert_int_equal(rmdir("dir.json"), 0);

    assert_int_equal(mkfifo("pipe.json", 0600), 0);
    assert_int_equal(vd_sealed_read("pipe.json", NULL, BYTES_MAX, &object, NULL), -EBADMSG);
    assert_int_equal(unlink("pipe.json"), 0);

    assert_int_equal(symlink("/dev/zero", "link.json"), 0);
    assert_int_equal(vd_sealed_read("link.json", NULL, BYTES_MAX, &object, NULL), -EBADMSG);
    json_t *empty = json_object();
    assert_true(vd_sealed_write("link.json", empty, NULL, NULL) < 0);
    json_decref(empty);
    assert_int_equal(unlink("link.json"), 0);

    put("empty.json", "", 0);
    assert_int_equal(vd_sealed_read("empty.json", NULL, BYTES_MAX, &object, NULL), -EBADMSG);
    assert_int_equal(unlink("empty.json"), 0);
    assert_null(object);
}

static void test_too_long(void **state)
{
    (void)state;
    struct vdisk_error err = {0};
    size_t length;
    json_t *object = sample();
    json_t *again = NULL;
    assert_int_equal(vd_sealed_write("f.json", object, NULL, NULL), 0);
    json_decref(object);
    free(content_of("f.json", &length));
    assert_int_equal(vd_sealed_read("f.json", NULL, length - 1, &again, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "at most"));
    assert_int_equal(vd_sealed_read("f.json", NULL, length, &again, NULL), 0);
    json_decref(again);
    assert_int_equal(unlink("f.json"), 0);
}

/* @body and its seal: what somebody writes who wants to do harm. */
static int parse_hostile(const char *body, size_t length, struct vdisk_error *err)
{
    uint8_t digest[VD_DIGEST_BYTES_MAX];
    char hex[2 * VD_DIGEST_BYTES_MAX + 1];
    char *text = vt_calloc(1, length + 128);
    memcpy(text, body, length);
    text[length] = '\n';
    vd_digest(VD_DIGEST_XXH128, text, length + 1, digest, NULL);
    vd_hex_write(digest, 16, hex);
    int end = snprintf(text + length + 1, 127, "  \"seal\": \"xxh128:%s\"\n}\n", hex);
    int ret = parse(text, length + 1 + (size_t)end, NULL, err);
    free(text);
    return ret;
}

static void test_hostile(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        const char *message; /* NULL: it is fine */
    } cases[] = {
        {"{", NULL},
        {"{\"a\": 1,", NULL},
        {"{\"a\": {\"seal\": 1},", NULL},
        {"{\"a\": 1, \"a\": 1,", "duplicate"},
        {"{\"seal\": 1,", "duplicate"},
        {"{\"a\": {\"b\": 1, \"b\": 2},", "duplicate"},
        {"{\"a\": 1", "line"},
        {"{\"a\": 1,,", "line"},
        {"[", "line"},
        {"", "line"},
        {"{} {", "line"},
        {"{\"a\": \"\xff\",", "line"},
        {"{\"a\": \"\xc0\x80\",", "line"},
        {"{\"a\": \"\xed\xa0\x80\",", "line"},
        {"{\"a\": \"\\u0000\",", "line"},
        {"{\"a\\u0000b\": 1,", "line"},
        {"{\"a\": 99999999999999999999,", "line"},
        {"{\"a\": -99999999999999999999,", "line"},
        {"{\"a\": 1e999,", "line"},
        {"{\"a\": NaN,", "line"},
        {"{\"a\": 0x10,", "line"},
        {"{\"a\": \"b", "line"},
        {"{\"a\": [[[[[[[[[[[[[[[]]]]]]]]]]]]]]],", NULL},
        {"{\"a\": [[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]],", "deeper than 16"},
        {"{\"a\": \"[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[[[\",", NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vdisk_error err = {0};
        int ret = parse_hostile(cases[i].body, strlen(cases[i].body), &err);
        if (!cases[i].message) {
            assert_int_equal(ret, 0);
            continue;
        }
        if (ret != -EBADMSG || !strstr(err.message, cases[i].message))
            fail_msg("%s: %d %s", cases[i].body, ret, err.message);
    }
    assert_int_equal(parse_hostile("{\"a\": \"b\0c\",", 12, NULL), -EBADMSG);
}

/* A megabyte of brackets, and of empty lists. */
static void test_bombs(void **state)
{
    (void)state;
    enum {
        BYTES = 4 << 20
    };
    struct vdisk_error err = {0};
    char *bomb = vt_calloc(1, BYTES);
    memset(bomb, '[', BYTES);
    assert_int_equal(parse_hostile(bomb, BYTES, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "deeper"));
    memset(bomb, '{', BYTES);
    assert_int_equal(parse_hostile(bomb, BYTES, NULL), -EBADMSG);

    err = (struct vdisk_error){0};
    memcpy(bomb, "{\"a\": [", 7);
    for (size_t i = 7; i + 3 <= BYTES; i += 3)
        memcpy(bomb + i, "[],", 3);
    assert_int_equal(parse_hostile(bomb, BYTES, &err), -EBADMSG);
    assert_non_null(strstr(err.message, "more than 524288 values"));
    free(bomb);
}

static void test_can_not_write(void **state)
{
    (void)state;
    struct vdisk_error err = {0};
    json_t *object = json_object();
    assert_int_equal(vd_sealed_write("no/such/f.json", object, NULL, &err), -ENOENT);
    assert_non_null(strstr(err.message, "no/such/f.json"));
    assert_int_equal(vd_sealed_replace("no/such/f.json", object, NULL, NULL), -ENOENT);
    if (access("/dev/full", W_OK) == 0)
        assert_int_equal(vd_sealed_write("/dev/full", object, NULL, NULL), -ENOSPC);
    json_decref(object);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),    cmocka_unit_test(test_form),
        cmocka_unit_test(test_every_byte),    cmocka_unit_test(test_length),
        cmocka_unit_test(test_keys),          cmocka_unit_test(test_replace),
        cmocka_unit_test(test_no_file),       cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_hostile),       cmocka_unit_test(test_bombs),
        cmocka_unit_test(test_can_not_write),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, enter_work_dir, leave_work_dir);
}
