/* SPDX-License-Identifier: MIT */
/* Names of QEMU's that are JSON objects: a format, and a file or a URL.  Nothing else is taken. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "format/format.h"
#include "image/named.h"
#include "util/mem.h"

/* A format in the field "driver", or what carries the bytes. */
static bool is_carrier(const char *driver)
{
    static const char *const carriers[] = {"file", "host_device", "http", "https"};
    for (size_t i = 0; i < sizeof(carriers) / sizeof(carriers[0]); i++)
        if (strcmp(driver, carriers[i]) == 0)
            return true;
    return false;
}

struct meaning {
    const char *format;
    const char *file;
};

static int take_text(const char **field, const char *key, const json_t *value,
                     struct vdisk_error *err)
{
    const char *text = json_string_value(value);
    if (!text || strlen(text) != json_string_length(value))
        return vd_err_set(err, EINVAL, "json: name: \"%s\" is no text", key);
    if (*field)
        return vd_err_set(err, EINVAL, "json: name: \"%s\" comes on top of another one", key);
    *field = text;
    return 0;
}

static int take_driver(struct meaning *meaning, const char *key, const json_t *value,
                       struct vdisk_error *err)
{
    const char *driver = NULL;
    int ret = take_text(&driver, key, value, err);
    if (ret < 0 || is_carrier(driver))
        return ret;
    return take_text(&meaning->format, key, value, err);
}

/* The members of the object @object, which is the "file" of another one if @is_inner. */
static int take_object(struct meaning *meaning, json_t *object, bool is_inner,
                       struct vdisk_error *err)
{
    const char *key;
    json_t *value;
    int ret = 0;
    json_object_foreach(object, key, value)
    {
        const char *inner = strncmp(key, "file.", 5) == 0 ? key + 5 : key;
        if (inner != key && is_inner)
            inner = "";
        if (strcmp(inner, "driver") == 0)
            ret = take_driver(meaning, key, value, err);
        else if (strcmp(inner, "filename") == 0 || strcmp(inner, "url") == 0)
            ret = take_text(&meaning->file, key, value, err);
        else if (strcmp(key, "file") == 0 && !is_inner && json_is_object(value))
            ret = take_object(meaning, value, true, err);
        else
            ret = vd_err_set(err, ENOTSUP,
                             "json: name: \"%s\" is not supported: only driver, file, filename and "
                             "url are",
                             key);
        if (ret < 0)
            break;
    }
    return ret;
}

int vd_json_name_parse(const char *name, char **file, char **format, struct vdisk_error *err)
{
    json_error_t error;
    json_t *root = json_loads(name + strlen("json:"), JSON_REJECT_DUPLICATES, &error);
    struct meaning meaning = {0};
    int ret = 0;
    *file = NULL;
    *format = NULL;
    if (!json_is_object(root))
        ret = vd_err_set(err, EINVAL, "json: name: not a JSON object: %s",
                         root ? "it is something else" : error.text);
    if (ret == 0)
        ret = take_object(&meaning, root, false, err);
    if (ret == 0 && !meaning.file)
        ret = vd_err_set(err, EINVAL, "json: name: no filename in it");
    if (ret == 0) {
        *file = strdup(meaning.file);
        *format = meaning.format ? strdup(meaning.format) : NULL;
        if (!*file || (meaning.format && !*format))
            ret = vd_err_nomem(err, "the name of a file");
    }
    json_decref(root);
    return ret;
}
