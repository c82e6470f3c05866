/* SPDX-License-Identifier: MIT */
#include "serve/export.h"

#include <inttypes.h>
#include <string.h>

#include "nbdproto/nbdproto.h"
#include "serve/stream.h"
#include "util/mem.h"
#include "util/utf8.h"

/* The protocol wants no less than 512; less than a page costs the client's kernel more. */
#define PREFERRED_BYTES_MIN 4096u

/* A client that has closed its connection takes a while to be gone: what it asked for is finished
 * first.  The next one, of a script say, waits so long instead of being refused. */
#define LEAVING_MS 3000u

void vd_exports_init(struct vd_exports *exports)
{
    memset(exports, 0, sizeof(*exports));
    vd_mutex_init(&exports->lock);
    vd_cond_init(&exports->changed);
}

static void free_export(struct vd_export *export)
{
    vd_contexts_free(&export->contexts);
    free(export->description);
    free(export->name);
    free(export);
}

void vd_exports_destroy(struct vd_exports *exports)
{
    while (exports->first) {
        struct vd_export *export = exports->first;
        assert(export->holders == 0);
        exports->first = export->next;
        free_export(export);
    }
    vd_cond_destroy(&exports->changed);
    vd_mutex_destroy(&exports->lock);
}

static int check_text(const char *what, const char *text, struct vdisk_error *err)
{
    size_t length = strlen(text);
    if (length > VDISK_EXPORT_NAME_BYTES_MAX)
        return vd_err_set(err, EINVAL, "the %s of the export has %zu bytes; NBD allows %u", what,
                          length, VDISK_EXPORT_NAME_BYTES_MAX);
    if (!vd_utf8_is_text(text, length))
        return vd_err_set(err, EINVAL, "the %s of the export is no UTF-8, which NBD wants", what);
    return 0;
}

static int check_options(struct vdisk_image *image, const struct vdisk_export_options *options,
                         struct vdisk_error *err)
{
    const uint32_t known = VDISK_EXPORT_WRITE | VDISK_EXPORT_ALLOCATION_DEPTH;
    if (options->struct_bytes != sizeof(*options))
        return vd_err_set(err, EINVAL, "vdisk_export_options has %zu bytes; this library wants %zu",
                          options->struct_bytes, sizeof(*options));
    if (options->flags & ~known)
        return vd_err_set(err, EINVAL, "vdisk_export_options: unknown flags 0x%" PRIx32,
                          options->flags & ~known);
    int ret = check_text("name", options->name ? options->name : "", err);
    if (ret == 0 && options->description)
        ret = check_text("description", options->description, err);
    if (ret == 0 && (options->flags & VDISK_EXPORT_WRITE) &&
        !vd_format_is_writable(vd_image_format(image)))
        ret =
            vd_err_set(err, EROFS, "%s: is open for reading only, but the export is to be writable",
                       vd_storage_name(vd_format_file(vd_image_format(image))));
    return ret;
}

/* Requests of the image's own clusters move no other bytes. */
static int find_preferred(struct vdisk_image *image, uint32_t *preferred, struct vdisk_error *err)
{
    struct vdisk_image_info info = {.struct_bytes = sizeof(info)};
    int ret = vdisk_image_info(image, &info, err);
    if (ret < 0)
        return ret;
    bool is_power = (info.cluster_bytes & (info.cluster_bytes - 1)) == 0;
    *preferred = PREFERRED_BYTES_MIN;
    if (is_power && info.cluster_bytes > PREFERRED_BYTES_MIN)
        *preferred = info.cluster_bytes < NBD_PAYLOAD_BASE ? info.cluster_bytes : NBD_PAYLOAD_BASE;
    return 0;
}

static int make_export(struct vdisk_image *image, const struct vdisk_export_options *options,
                       struct vd_export **made, struct vdisk_error *err)
{
    struct vd_export *export = calloc(1, sizeof(*export));
    if (!export)
        return vd_err_nomem(err, "an export");
    export->image = image;
    export->is_writable = options->flags & VDISK_EXPORT_WRITE;
    export->clients_max = options->clients;
    export->name = strdup(options->name ? options->name : "");
    export->description = options->description ? strdup(options->description) : NULL;

    int ret = 0;
    if (!export->name || (options->description && !export->description))
        ret = vd_err_nomem(err, "an export");
    if (ret == 0)
        ret = find_preferred(image, &export->preferred_bytes, err);
    if (ret == 0)
        ret = vd_contexts_make(image, options, &export->contexts, err);
    if (ret < 0) {
        free_export(export);
        return ret;
    }
    *made = export;
    return 0;
}

static struct vd_export *find(const struct vd_exports *exports, const char *name, size_t length)
    VD_REQUIRES(exports->lock)
{
    for (struct vd_export *at = exports->first; at; at = at->next)
        if (strlen(at->name) == length && memcmp(at->name, name, length) == 0)
            return at;
    return NULL;
}

int vd_exports_add(struct vd_exports *exports, struct vdisk_image *image,
                   const struct vdisk_export_options *options, struct vdisk_error *err)
{
    const struct vdisk_export_options defaults = {.struct_bytes = sizeof(defaults)};
    if (!options)
        options = &defaults;
    struct vd_export *export = NULL;
    int ret = check_options(image, options, err);
    if (ret == 0)
        ret = make_export(image, options, &export, err);
    if (ret < 0)
        return ret;

    vd_mutex_lock(&exports->lock);
    if (find(exports, export->name, strlen(export->name))) {
        ret =
            vd_err_set(err, EEXIST, "there is an export '%s' already: give each a name of its own",
                       export->name);
    } else {
        struct vd_export **link = &exports->first;
        while (*link)
            link = &(*link)->next;
        export->serial = ++exports->added;
        *link = export;
    }
    vd_mutex_unlock(&exports->lock);
    if (ret < 0)
        free_export(export);
    return ret;
}

/* What a client means by @name. */
static struct vd_export *find_for_client(const struct vd_exports *exports, const char *name,
                                         size_t length) VD_REQUIRES(exports->lock)
{
    struct vd_export *export = find(exports, name, length);
    if (!export && length == 0 && exports->first && !exports->first->next)
        export = exports->first;
    return export;
}

struct vd_export *vd_exports_find(struct vd_exports *exports, const char *name, size_t length)
{
    vd_mutex_lock(&exports->lock);
    struct vd_export *export = find_for_client(exports, name, length);
    if (export)
        export->holders++;
    vd_mutex_unlock(&exports->lock);
    return export;
}

static bool is_full(const struct vd_export *export)
{
    return export->clients_max && atomic_load(&export->counters.clients) >= export->clients_max;
}

/* As find_for_client(); waits for a place, but not for long.  Meanwhile it may have been removed.
 */
static struct vd_export *wait_for_place(struct vd_exports *exports, const char *name, size_t length)
    VD_REQUIRES(exports->lock)
{
    uint64_t deadline = vd_clock_ms() + LEAVING_MS;
    bool is_late = false;
    struct vd_export *export;
    while ((export = find_for_client(exports, name, length)) && is_full(export) && !is_late)
        is_late = !vd_cond_wait_until(&exports->changed, &exports->lock, deadline);
    return export;
}

int vd_exports_use(struct vd_exports *exports, const char *name, size_t length,
                   struct vd_export **used, struct vdisk_error *err)
{
    int ret = 0;
    vd_mutex_lock(&exports->lock);
    struct vd_export *export = wait_for_place(exports, name, length);
    if (!export) {
        ret = vd_err_set(err, ENOENT, "there is no such export");
    } else if (is_full(export)) {
        ret = vd_err_set(err, EUSERS, "the export has %" PRIu32 " clients, as many as it may have",
                         export->clients_max);
    } else {
        export->holders++;
        atomic_fetch_add(&export->counters.clients, 1);
        atomic_fetch_add(&export->counters.connections, 1);
        *used = export;
    }
    vd_mutex_unlock(&exports->lock);
    return ret;
}

static void let_go(struct vd_exports *exports, struct vd_export *export) VD_REQUIRES(exports->lock)
{
    assert(export->holders > 0);
    export->holders--;
    vd_cond_broadcast(&exports->changed);
}

void vd_export_leave(struct vd_exports *exports, struct vd_export *export)
{
    vd_mutex_lock(&exports->lock);
    atomic_fetch_sub(&export->counters.clients, 1);
    let_go(exports, export);
    vd_mutex_unlock(&exports->lock);
}

void vd_export_release(struct vd_exports *exports, struct vd_export *export)
{
    vd_mutex_lock(&exports->lock);
    let_go(exports, export);
    vd_mutex_unlock(&exports->lock);
}

/* One that has been taken off the list does not know its neighbours any more. */
static struct vd_export *after(const struct vd_exports *exports, uint64_t serial)
    VD_REQUIRES(exports->lock)
{
    struct vd_export *at = exports->first;
    while (at && at->serial <= serial)
        at = at->next;
    return at;
}

struct vd_export *vd_exports_after(struct vd_exports *exports, uint64_t serial)
{
    vd_mutex_lock(&exports->lock);
    struct vd_export *export = after(exports, serial);
    if (export)
        export->holders++;
    vd_mutex_unlock(&exports->lock);
    return export;
}

struct vd_export *vd_exports_next(struct vd_exports *exports, struct vd_export *export)
{
    struct vd_export *next = vd_exports_after(exports, export ? export->serial : 0);
    if (export)
        vd_export_release(exports, export);
    return next;
}

int vd_exports_unlist(struct vd_exports *exports, const char *name, struct vd_export **unlisted,
                      struct vdisk_error *err)
{
    int ret = 0;
    vd_mutex_lock(&exports->lock);
    struct vd_export *export = find(exports, name, strlen(name));
    if (export) {
        struct vd_export **link = &exports->first;
        while (*link != export)
            link = &(*link)->next;
        *link = export->next;
        export->next = NULL;
        atomic_store(&export->is_removed, true);
        *unlisted = export;
    } else {
        ret = vd_err_set(err, ENOENT, "there is no export '%s'", name);
    }
    vd_mutex_unlock(&exports->lock);
    return ret;
}

static void move_counter(atomic_ullong *to, const atomic_ullong *from)
{
    atomic_fetch_add(to, atomic_load(from));
}

/* What is past: there are no clients of it any more. */
static void keep_counters(struct vd_counters *past, const struct vd_counters *counters)
{
    move_counter(&past->connections, &counters->connections);
    move_counter(&past->received_bytes, &counters->received_bytes);
    move_counter(&past->sent_bytes, &counters->sent_bytes);
    for (unsigned kind = 0; kind < VDISK_REQUEST_KINDS; kind++) {
        struct vd_request_counter *to = &past->requests[kind];
        const struct vd_request_counter *from = &counters->requests[kind];
        move_counter(&to->requests, &from->requests);
        move_counter(&to->errors, &from->errors);
        move_counter(&to->bytes, &from->bytes);
        move_counter(&to->total_us, &from->total_us);
        for (unsigned i = 0; i < VDISK_LATENCY_CLASSES; i++)
            move_counter(&to->latencies[i], &from->latencies[i]);
    }
}

void vd_exports_drop(struct vd_exports *exports, struct vd_export *export)
{
    assert(atomic_load(&export->is_removed));
    vd_mutex_lock(&exports->lock);
    while (export->holders > 0)
        vd_cond_wait(&exports->changed, &exports->lock);
    keep_counters(&exports->past, &export->counters);
    vd_mutex_unlock(&exports->lock);
    free_export(export);
}
