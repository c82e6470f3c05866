/* SPDX-License-Identifier: MIT */
/* What is printed for programs: JSON. */
#include "cli/output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli/cli.h"
#include "util/mem.h"
#include "util/url.h"
#include "util/utf8.h"

/* jansson refuses NULL everywhere, so a failure just spreads to has_failed. */

static void put(struct vd_json *json, json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, value) < 0)
        json->has_failed = true;
}

void vd_json_begin_array(struct vd_json *json)
{
    json->root = json_array();
    json->has_failed = !json->root;
}

void vd_json_begin_object(struct vd_json *json)
{
    json->root = json_object();
    json->has_failed = !json->root;
}

json_t *vd_json_append_object(struct vd_json *json, json_t *array)
{
    json_t *object = json_object();
    if (json_array_append_new(array, object) < 0) {
        json->has_failed = true;
        return NULL;
    }
    return object;
}

json_t *vd_json_put_object(struct vd_json *json, json_t *object, const char *key)
{
    json_t *value = json_object();
    put(json, object, key, value);
    return json->has_failed ? NULL : value;
}

json_t *vd_json_put_array(struct vd_json *json, json_t *object, const char *key)
{
    json_t *value = json_array();
    put(json, object, key, value);
    return json->has_failed ? NULL : value;
}

void vd_json_put_u64(struct vd_json *json, json_t *object, const char *key, uint64_t value)
{
    put(json, object, key, json_integer((json_int_t)value));
}

void vd_json_put_i64(struct vd_json *json, json_t *object, const char *key, int64_t value)
{
    put(json, object, key, json_integer(value));
}

void vd_json_put_bool(struct vd_json *json, json_t *object, const char *key, bool value)
{
    put(json, object, key, json_boolean(value));
}

void vd_json_put_real(struct vd_json *json, json_t *object, const char *key, double value)
{
    put(json, object, key, json_real(value));
}

/* @text with U+FFFD in place of each byte that is not UTF-8. */
static json_t *mended_string(const char *text)
{
    static const char mark[] = "\xef\xbf\xbd";
    char *mended = calloc(strlen(text) + 1, sizeof(mark) - 1);
    if (!mended)
        return NULL;
    size_t used = 0;
    while (*text) {
        size_t length = vd_utf8_length(text, strlen(text));
        memcpy(mended + used, length ? text : mark, length ? length : sizeof(mark) - 1);
        used += length ? length : sizeof(mark) - 1;
        text += length ? length : 1;
    }
    json_t *value = json_stringn(mended, used);
    free(mended);
    return value;
}

char *vd_cli_shown_name(const char *text)
{
    char *shown = strdup(text);
    if (shown && (strncasecmp(shown, "http", 4) == 0 || strncasecmp(shown, "nbd", 3) == 0))
        vd_url_strip_secrets(shown, "");
    return shown;
}

void vd_json_put_name(struct vd_json *json, json_t *object, const char *key, const char *name)
{
    CLEANUP_FREE char *shown = vd_cli_shown_name(name);
    if (shown)
        vd_json_put_text(json, object, key, shown);
    else
        json->has_failed = true;
}

void vd_json_put_text(struct vd_json *json, json_t *object, const char *key, const char *text)
{
    json_t *value = json_string(text);
    put(json, object, key, value ? value : mended_string(text));
}

void vd_json_append_text(struct vd_json *json, json_t *array, const char *text)
{
    json_t *value = json_string(text);
    if (json_array_append_new(array, value ? value : mended_string(text)) != 0)
        json->has_failed = true;
}

void vd_cli_print_line(const char *text)
{
    for (; *text; text++)
        putchar((unsigned char)*text < ' ' || *text == 0x7f ? '?' : *text);
}

int vd_json_print(struct vd_json *json)
{
    int status = 0;
    if (json->has_failed || json_dumpf(json->root, stdout, JSON_INDENT(4)) < 0) {
        vd_cli_error("can not make the JSON output: out of memory, or standard output is closed");
        status = 1;
    } else {
        printf("\n");
    }
    vd_json_drop(json);
    return status;
}

void vd_json_drop(struct vd_json *json)
{
    json_decref(json->root);
    json->root = NULL;
}
