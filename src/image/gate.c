/* SPDX-License-Identifier: MIT */
/* Which of the files that images name may be opened. */
#include "image/gate.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "util/mem.h"

#define GATE_FLAGS_ALL (VDISK_GATE_BESIDE | VDISK_GATE_JSON | VDISK_GATE_ANY)

int vd_gate_check_policy(const struct vdisk_gate *policy, struct vdisk_error *err)
{
    if (!policy)
        return 0;
    if (policy->struct_bytes != sizeof(*policy))
        return vd_err_set(err, EINVAL, "gate: struct_bytes is %zu: this library wants %zu",
                          policy->struct_bytes, sizeof(*policy));
    if (policy->flags & ~(uint32_t)GATE_FLAGS_ALL)
        return vd_err_set(err, EINVAL, "gate: unknown flags 0x%" PRIx32,
                          policy->flags & ~(uint32_t)GATE_FLAGS_ALL);
    if (policy->images_max > VDISK_CHAIN_IMAGES_MAX)
        return vd_err_set(err, EINVAL, "gate: images_max is %" PRIu32 ": the limit is %u",
                          policy->images_max, VDISK_CHAIN_IMAGES_MAX);
    for (size_t i = 0; i < policy->path_entries; i++)
        if (!policy->paths || !policy->paths[i] || !*policy->paths[i])
            return vd_err_set(err, EINVAL, "gate: path number %zu of %zu is empty", i + 1,
                              policy->path_entries);
    return 0;
}

unsigned vd_gate_images_max(const struct vdisk_gate *policy)
{
    return policy && policy->images_max ? policy->images_max : VDISK_CHAIN_IMAGES_MAX;
}

void vd_gate_init(struct vd_gate *gate, const struct vdisk_gate *policy)
{
    *gate = (struct vd_gate){.policy = policy};
}

void vd_gate_destroy(struct vd_gate *gate)
{
    free(gate->beside);
    gate->beside = NULL;
}

static bool has_flag(const struct vd_gate *gate, uint32_t flag)
{
    return gate->policy && (gate->policy->flags & flag);
}

/* Up to the last slash, that included; "./" if there is none. */
static char *directory_of(const char *path, size_t length)
{
    while (length && path[length - 1] != '/')
        length--;
    return length ? strndup(path, length) : strdup("./");
}

int vd_gate_trust_beside(struct vd_gate *gate, const char *path, bool always,
                         struct vdisk_error *err)
{
    free(gate->beside);
    gate->beside = NULL;
    if ((!always && !has_flag(gate, VDISK_GATE_BESIDE)) || !vd_named_has_directory(path))
        return 0;
    bool is_url = !vd_storage_name_is_local(path);
    CLEANUP_FREE char *directory = directory_of(path, is_url ? strcspn(path, "?#") : strlen(path));
    if (!directory)
        return vd_err_nomem(err, "the name of a directory");
    gate->beside = is_url ? STEAL_PTR(directory) : realpath(directory, NULL);
    return gate->beside ? 0
                        : vd_err_errno(err, errno, "can not look at the directory of '%s'", path);
}

/* Is @path the file or directory @root, or below it?  Both have no links left in them. */
static bool is_below(const char *path, const char *root)
{
    size_t length = strlen(root);
    while (length > 1 && root[length - 1] == '/')
        length--;
    if (strncmp(path, root, length) != 0)
        return false;
    return path[length] == '\0' || path[length] == '/' || root[length - 1] == '/';
}

/* The host of a URL ends at a slash: nobody else's host begins with it. */
static bool is_url_below(const char *url, const char *root)
{
    size_t length = strlen(root);
    const char *host = strstr(root, "://");
    if (!host || strncmp(url, root, length) != 0)
        return false;
    return root[length - 1] == '/' || url[length] == '\0' ||
           (strchr(host + 3, '/') ? strchr("/?#", url[length]) != NULL : url[length] == '/');
}

/* Could a server take @url for something in another directory? */
static bool url_climbs(const char *url)
{
    return strstr(url, "..") || strcasestr(url, "%2e") || strcasestr(url, "%2f") ||
           strchr(url, '\\');
}

static bool url_is_permitted(const struct vd_gate *gate, const char *url)
{
    if (url_climbs(url))
        return false;
    if (gate->beside && is_url_below(url, gate->beside))
        return true;
    for (size_t i = 0; gate->policy && i < gate->policy->path_entries; i++)
        if (is_url_below(url, gate->policy->paths[i]))
            return true;
    return false;
}

/* @real: without links. */
static bool path_is_permitted(const struct vd_gate *gate, const char *real)
{
    if (gate->beside && is_below(real, gate->beside))
        return true;
    for (size_t i = 0; gate->policy && i < gate->policy->path_entries; i++) {
        CLEANUP_FREE char *root = realpath(gate->policy->paths[i], NULL);
        if (root && is_below(real, root))
            return true;
    }
    return false;
}

static int refuse(const char *name, const char *real, struct vdisk_error *err)
{
    return vd_err_set(
        err, EPERM,
        "the image names the file '%s'%s%s%s, which is not permitted: images may name "
        "only files in their own directory, and what --allow-path permits",
        name, real ? " (" : "", real ? real : "", real ? ")" : "");
}

static int ask_path(const struct vd_gate *gate, const char *name, const char *path,
                    struct vd_gate_pass *pass, struct vdisk_error *err)
{
    bool any = has_flag(gate, VDISK_GATE_ANY);
    /* Who permits nothing does not tell either what is there. */
    if (!any && !gate->beside && !(gate->policy && gate->policy->path_entries))
        return refuse(name, NULL, err);
    CLEANUP_FREE char *real = realpath(path, NULL);
    if (!real)
        return vd_err_errno(err, errno, "the image names the file '%s': can not open '%s'", name,
                            path);
    if (!any && !path_is_permitted(gate, real))
        return refuse(name, real, err);
    /* What is neither file nor device has none, and does not open either. */
    pass->is_path = true;
    pass->identity = vd_storage_identify(real);
    return 0;
}

int vd_gate_ask(const struct vd_gate *gate, const char *name, const struct vd_named *named,
                struct vd_gate_pass *pass, struct vdisk_error *err)
{
    *pass = (struct vd_gate_pass){0};
    if (named->is_json && !has_flag(gate, VDISK_GATE_JSON) && !has_flag(gate, VDISK_GATE_ANY))
        return vd_err_set(err, EPERM,
                          "the image names a file by '%s': json: names are not permitted without "
                          "--allow-json",
                          name);
    if (!named->is_url)
        return ask_path(gate, name, named->path, pass, err);
    if (has_flag(gate, VDISK_GATE_ANY) || url_is_permitted(gate, named->path))
        return 0;
    return refuse(name, NULL, err);
}

int vd_gate_confirm(const struct vd_gate_pass *pass, const struct vd_storage *storage,
                    struct vdisk_error *err)
{
    if (!pass->is_path || vd_storage_identity_equals(pass->identity, vd_storage_identity(storage)))
        return 0;
    return vd_err_set(err, EPERM, "'%s' became another file while it was being opened",
                      vd_storage_name(storage));
}
