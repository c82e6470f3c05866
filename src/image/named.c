/* SPDX-License-Identifier: MIT */
/* What the name of a file within an image means. */
#include "image/named.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "storage/storage.h"
#include "util/mem.h"

static bool has_prefix(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

bool vd_named_has_directory(const char *bearer)
{
    const char *end = vd_storage_name_is_local(bearer) ? NULL : strstr(bearer, "://");
    return !end || end - bearer < 5 || strncasecmp(end - 5, "+unix", 5) != 0;
}

/* How much of a name is its directory, the last slash included?  A URL's query is not looked at. */
static size_t directory_length(const char *name, bool is_url)
{
    size_t length = is_url ? strcspn(name, "?#") : strlen(name);
    size_t start = is_url ? (size_t)(strstr(name, "://") - name) + 3 : 0;
    while (length > start && name[length - 1] != '/')
        length--;
    return length > start ? length : 0;
}

/* "word:" before any slash, as QEMU takes it for a protocol. */
static bool has_protocol(const char *name)
{
    return name[strcspn(name, "/:")] == ':';
}

static char *join(const char *bearer, const char *name)
{
    bool is_url = !vd_storage_name_is_local(bearer);
    size_t length = directory_length(bearer, is_url);
    bool lacks_slash = is_url && length == 0; /* http://host */
    if (lacks_slash)
        length = strcspn(bearer, "?#");
    /* A file called so must not be taken for a URL. */
    const char *between = lacks_slash ? "/" : length == 0 && has_protocol(name) ? "./" : "";
    char *joined = NULL;
    if (asprintf(&joined, "%.*s%s%s", (int)length, bearer, between, name) < 0)
        joined = NULL;
    return joined;
}

/* An absolute path in an image that came from a server is a path on that server. */
static char *join_absolute(const char *bearer, const char *name)
{
    if (vd_storage_name_is_local(bearer))
        return strdup(name);
    size_t host = (size_t)(strstr(bearer, "://") - bearer) + 3;
    host += strcspn(bearer + host, "/?#");
    char *joined = NULL;
    if (asprintf(&joined, "%.*s%s", (int)host, bearer, name) < 0)
        joined = NULL;
    return joined;
}

/* @name: no json: name. */
static int resolve_file(struct vd_named *named, const char *bearer, const char *name,
                        struct vdisk_error *err)
{
    /* What follows "file:" is a path, whatever it looks like. */
    bool is_path = has_prefix(name, "file:");
    if (is_path)
        name += has_prefix(name, "file:///") ? strlen("file://") : strlen("file:");
    if (!*name)
        return vd_err_set(err, EINVAL, "the name of the file is empty");
    bool is_url = !is_path && !vd_storage_name_is_local(name);
    if (!is_path && !is_url && has_protocol(name))
        return vd_err_set(err, ENOTSUP,
                          "the name '%s' begins with an unknown protocol: a file that is really "
                          "called so is written ./%s",
                          name, name);
    if (!is_url && !vd_named_has_directory(bearer))
        return vd_err_set(
            err, ENOTSUP,
            "the name '%s' in an image that is reached through a socket: only a whole "
            "URI means something there",
            name);
    if (is_url)
        named->path = strdup(name);
    else
        named->path = *name == '/' ? join_absolute(bearer, name) : join(bearer, name);
    if (!named->path)
        return vd_err_nomem(err, "the name of a file");
    named->is_url = !vd_storage_name_is_local(named->path);
    return 0;
}

int vd_named_resolve(struct vd_named *named, const char *bearer, const char *name,
                     struct vdisk_error *err)
{
    *named = (struct vd_named){.is_json = has_prefix(name, "json:")};
    if (!named->is_json)
        return resolve_file(named, bearer, name, err);
    CLEANUP_FREE char *file = NULL;
    int ret = vd_json_name_parse(name, &file, &named->format, err);
    return ret < 0 ? ret : resolve_file(named, bearer, file, err);
}

void vd_named_free(struct vd_named *named)
{
    free(named->path);
    free(named->format);
    *named = (struct vd_named){0};
}
