/* SPDX-License-Identifier: MIT */
/* Names of QEMU's that are JSON objects: a format, and a file or a URL.  Nothing else is taken. */
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "format/format.h"
#include "image/json_nbd.h"
#include "image/named.h"
#include "storage/storage.h"
#include "util/mem.h"

/* The parser calls itself for what is nested. */
#define DEPTH_MAX 16

/* A "driver" that is no format, and what its names are called here. */
struct carrier {
    const char *driver;
    const char *scheme;
    bool adds_scheme; /* its names are paths; else they bear the scheme already */
};

static const struct carrier *find_carrier(const char *driver)
{
    static const struct carrier carriers[] =
        {
            {"file", "file:", true},    {"host_device", "file:", true},
            {"http", "http://", false}, {"https", "https://", false},
            {"nbd", "nbd://", false}, /* made of its parts: vd_json_nbd_uri() */
        };
    for (size_t i = 0; i < sizeof(carriers) / sizeof(carriers[0]); i++)
        if (strcmp(driver, carriers[i].driver) == 0)
            return &carriers[i];
    return NULL;
}

static bool has_scheme(const char *name, const struct carrier *carrier)
{
    if (strcmp(carrier->driver, "nbd") == 0) /* nbd+unix:// and so on too */
        return strncasecmp(name, "nbd", 3) == 0 && !vd_storage_name_is_local(name);
    return strncasecmp(name, carrier->scheme, strlen(carrier->scheme)) == 0;
}

struct meaning {
    const char *format;
    const char *driver; /* what carries the bytes */
    const char *file;
    struct vd_json_nbd nbd;
};

static bool is_too_deep(const char *text)
{
    unsigned depth = 0;
    bool is_quoted = false;
    for (; *text && depth <= DEPTH_MAX; text++) {
        if (is_quoted && *text == '\\' && text[1])
            text++;
        else if (*text == '"')
            is_quoted = !is_quoted;
        else if (!is_quoted && (*text == '{' || *text == '['))
            depth++;
        else if (!is_quoted && depth && (*text == '}' || *text == ']'))
            depth--;
    }
    return depth > DEPTH_MAX;
}

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
    if (ret < 0)
        return ret;
    return take_text(find_carrier(driver) ? &meaning->driver : &meaning->format, key, value, err);
}

static int refuse_key(const char *key, struct vdisk_error *err)
{
    return vd_err_set(
        err, ENOTSUP,
        "json: name: \"%s\" is not supported: only driver, file, filename and url are, "
        "and for nbd server (type, host, port, path) and export",
        key);
}

/* The member @key of the part "server" of an NBD name. */
static int take_server(struct meaning *meaning, json_t *server, struct vdisk_error *err)
{
    const char *key;
    json_t *value;
    int ret = 0;
    json_object_foreach(server, key, value)
    {
        const char **field = vd_json_nbd_field(&meaning->nbd, key, true);
        ret = field ? take_text(field, key, value, err) : refuse_key(key, err);
        if (ret < 0)
            break;
    }
    return ret;
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
        bool is_of_server = strncmp(inner, "server.", 7) == 0;
        const char **field =
            vd_json_nbd_field(&meaning->nbd, is_of_server ? inner + 7 : inner, is_of_server);
        if (strcmp(inner, "driver") == 0)
            ret = take_driver(meaning, key, value, err);
        else if (strcmp(inner, "filename") == 0 || strcmp(inner, "url") == 0)
            ret = take_text(&meaning->file, key, value, err);
        else if (strcmp(key, "file") == 0 && !is_inner && json_is_object(value))
            ret = take_object(meaning, value, true, err);
        else if (strcmp(inner, "server") == 0 && json_is_object(value))
            ret = take_server(meaning, value, err);
        else if (field)
            ret = take_text(field, key, value, err);
        else
            ret = refuse_key(key, err);
        if (ret < 0)
            break;
    }
    return ret;
}

/* *file and *format get copies, the caller's. */
static int give_meaning(const struct meaning *meaning, char **file, char **format,
                        struct vdisk_error *err)
{
    const struct carrier *carrier = meaning->driver ? find_carrier(meaning->driver) : NULL;
    bool is_nbd = carrier && strcmp(carrier->driver, "nbd") == 0;
    if (!is_nbd && vd_json_nbd_is_set(&meaning->nbd))
        return vd_err_set(err, EINVAL, "json: name: a server or an export, and driver is not nbd");
    if (is_nbd && !meaning->file) {
        *format = meaning->format ? strdup(meaning->format) : NULL;
        if (meaning->format && !*format)
            return vd_err_nomem(err, "the name of a format");
        int ret = vd_json_nbd_uri(&meaning->nbd, file, err);
        if (ret < 0)
            free(STEAL_PTR(*format));
        return ret;
    }
    if (is_nbd && vd_json_nbd_is_set(&meaning->nbd))
        return vd_err_set(err, EINVAL, "json: name: a filename, and a server or an export too");
    if (!meaning->file || !*meaning->file)
        return vd_err_set(err, EINVAL, "json: name: no filename in it");
    if (carrier && !carrier->adds_scheme && !has_scheme(meaning->file, carrier))
        return vd_err_set(err, EINVAL, "json: name: driver %s, and '%s' does not begin with %s",
                          meaning->driver, meaning->file, carrier->scheme);
    if (asprintf(file, "%s%s", carrier && carrier->adds_scheme ? carrier->scheme : "",
                 meaning->file) < 0)
        *file = NULL;
    *format = meaning->format ? strdup(meaning->format) : NULL;
    if (*file && (*format || !meaning->format))
        return 0;
    free(STEAL_PTR(*file));
    free(STEAL_PTR(*format));
    return vd_err_nomem(err, "the name of a file");
}

int vd_json_name_parse(const char *name, char **file, char **format, struct vdisk_error *err)
{
    const char *text = name + strlen("json:");
    struct meaning meaning = {0};
    json_error_t error;
    int ret = 0;
    *file = NULL;
    *format = NULL;
    if (is_too_deep(text))
        return vd_err_set(err, EINVAL, "json: name: more than %d levels deep", DEPTH_MAX);
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(root))
        ret = vd_err_set(err, EINVAL, "json: name: not a JSON object: %s",
                         root ? "it is something else" : error.text);
    if (ret == 0)
        ret = take_object(&meaning, root, false, err);
    if (ret == 0)
        ret = give_meaning(&meaning, file, format, err);
    json_decref(root);
    return ret;
}
