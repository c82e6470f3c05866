/* SPDX-License-Identifier: MIT */
/* The nbd storage driver: options, opening, closing. */
#include "storage/nbd.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "storage/nbd_priv.h"
#include "util/mem.h"

/* What an image names must not read files of whoever opens the image. */
static int check_options(const struct vd_nbd *nbd, const struct vd_storage_options *options,
                         struct vdisk_error *err)
{
    if ((nbd->uri.has_key || nbd->uri.certificates) && !nbd->is_trusted)
        return vd_err_set(err, EPERM,
                          "the image that names it names files with certificates or keys too "
                          "(tls-certificates, tls-psk-file): refused");
    if (options->flags & VD_STORAGE_EXCLUSIVE)
        return vd_err_set(err, EEXIST, "an export is there already, or never");
    return 0;
}

static int check_facts(const struct vd_nbd *nbd, struct vdisk_error *err)
{
    const struct vd_nbd_facts *facts = &nbd->facts;
    if (nbd->is_writable && !(facts->can & VD_NBD_CAN_WRITE))
        return vd_err_set(err, EROFS, "the server lets this export only be read");
    if (nbd->is_writable && nbd->is_sync && !(facts->can & (VD_NBD_CAN_FUA | VD_NBD_CAN_FLUSH)))
        return vd_err_set(err, EOPNOTSUPP,
                          "the server has neither flush nor FUA: nothing tells when what was "
                          "written is durable; cache mode unsafe does not ask");
    return 0;
}

static int make_conns(struct vd_nbd *nbd, unsigned count, struct vdisk_error *err)
{
    nbd->conns = vd_alloc_array(count, sizeof(*nbd->conns));
    if (!nbd->conns)
        return vd_err_nomem(err, "NBD connections");
    for (unsigned i = 0; i < count; i++) {
        struct vd_nbd_conn *conn = &nbd->conns[i];
        conn->nbd = nbd;
        conn->index = i;
        conn->wake_fd = -1;
        atomic_init(&conn->load, 0);
        vd_mutex_init(&conn->lock);
        vd_cond_init(&conn->changed);
    }
    nbd->conn_slots = count;
    atomic_init(&nbd->conn_count, count);
    return 0;
}

/*
 * All connections of a writable export, before anything is written: one made later might lead to
 * another server than the one that has acknowledged changes, and read there what was before.
 */
static void connect_all(struct vd_nbd *nbd)
{
    int ret = 0;
    for (unsigned i = 1; i < nbd->conn_slots && ret == 0; i++) {
        struct vd_nbd_conn *conn = &nbd->conns[i];
        vd_mutex_lock(&conn->lock);
        ret = vd_nbd_conn_ready(conn, NULL); /* the others do without it */
        vd_mutex_unlock(&conn->lock);
    }
}

static int connect_first(struct vd_nbd *nbd, struct vdisk_error *err)
{
    struct nbd_handle *handle;
    int ret = vd_nbd_connect(nbd, nbd->settings.timeout_ms, &handle, &nbd->facts, err);
    if (ret == 0)
        ret = check_facts(nbd, err);
    bool is_multi = ret == 0 && (nbd->facts.can & VD_NBD_CAN_MULTI_CONN);
    if (ret == 0)
        ret = make_conns(nbd, is_multi ? nbd->settings.connections : 1, err);
    if (ret == 0)
        ret = vd_nbd_conn_adopt(&nbd->conns[0], handle, err);
    if (ret < 0)
        nbd_close(handle);
    return ret;
}

void vd_nbd_free(struct vd_nbd *nbd)
{
    for (unsigned i = 0; i < nbd->conn_slots; i++)
        vd_nbd_conn_close(&nbd->conns[i]);
    free(nbd->conns);
    free(nbd->extents.runs);
    vd_nbd_uri_free(&nbd->uri);
    vd_mutex_destroy(&nbd->extents.lock);
    vd_mutex_destroy(&nbd->durable.lock);
    free(nbd);
}

static uint32_t caps_of(const struct vd_nbd *nbd)
{
    uint32_t can = nbd->facts.can;
    uint32_t caps = VD_STORAGE_IS_REMOTE;
    if (can & VD_NBD_CAN_EXTENTS)
        caps |= VD_STORAGE_CAN_EXTENTS;
    if (!nbd->is_writable)
        return caps;
    caps |= VD_STORAGE_CAN_WRITE;
    if ((can & VD_NBD_CAN_TRIM) && (can & VD_NBD_CAN_ZERO))
        caps |= VD_STORAGE_CAN_DISCARD;
    if ((can & VD_NBD_CAN_ZERO) && (can & VD_NBD_CAN_FAST_ZERO))
        caps |= VD_STORAGE_FAST_ZEROES;
    return caps;
}

int vd_nbd_new(const char *name, const struct vd_nbd_options *options, struct vd_nbd **made,
               struct vdisk_error *err)
{
    const struct vd_storage_options *storage = options->storage;
    struct vd_nbd *nbd = calloc(1, sizeof(*nbd));
    if (!nbd)
        return vd_err_nomem(err, "an NBD client");
    nbd->context = options->context;
    nbd->is_trusted = !(storage->flags & VD_STORAGE_NAMED);
    nbd->is_writable = (storage->flags & VD_STORAGE_WRITE) != 0;
    nbd->is_sync = (storage->flags & VD_STORAGE_SYNC) && !(storage->flags & VD_STORAGE_UNSAFE);
    vd_nbd_durable_init(&nbd->durable);
    vd_mutex_init(&nbd->extents.lock);
    atomic_init(&nbd->request_count, 0);
    atomic_init(&nbd->received_bytes, 0);
    int ret = vd_network_settings(storage->network, &nbd->settings, err);
    if (ret == 0)
        ret = vd_nbd_uri_parse(name, &nbd->uri, err);
    if (ret == 0)
        ret = check_options(nbd, storage, err);
    if (ret == 0)
        ret = connect_first(nbd, err);
    if (ret < 0)
        vd_nbd_free(nbd);
    else
        *made = nbd;
    return ret;
}

static int nbd_open(struct vd_storage *storage, const char *name,
                    const struct vd_storage_options *options, struct vdisk_error *err)
{
    struct vd_nbd *nbd;
    int ret = vd_nbd_new(name, &(struct vd_nbd_options){.storage = options}, &nbd, err);
    if (ret < 0)
        return ret;
    if (nbd->is_writable)
        connect_all(nbd);
    storage->state = nbd;
    storage->caps = caps_of(nbd);
    storage->align_bytes = nbd->facts.min_bytes;
    storage->identity = vd_nbd_uri_identity(&nbd->uri);
    return 0;
}

static void nbd_close_storage(struct vd_storage *storage)
{
    vd_nbd_free(storage->state);
}

static int nbd_size(struct vd_storage *storage, uint64_t *size, struct vdisk_error *err)
{
    (void)err;
    const struct vd_nbd *nbd = storage->state;
    *size = nbd->facts.size;
    return 0;
}

static void nbd_stats(struct vd_storage *storage, struct vd_storage_stats *stats)
{
    struct vd_nbd *nbd = storage->state;
    stats->requests = atomic_load(&nbd->request_count);
    stats->bytes = atomic_load(&nbd->received_bytes);
}

static const char *const nbd_schemes[] = {VD_NBD_SCHEMES, NULL};

const struct vd_storage_driver vd_storage_nbd_driver = {
    .name = "nbd",
    .schemes = nbd_schemes,
    .open = nbd_open,
    .close = nbd_close_storage,
    .identify = vd_nbd_identify,
    .size = nbd_size,
    .preadv = vd_nbd_preadv,
    .pwritev = vd_nbd_pwritev,
    .write_zeroes = vd_nbd_write_zeroes,
    .discard = vd_nbd_discard,
    .flush = vd_nbd_flush,
    .extent = vd_nbd_extent,
    .stats = nbd_stats,
};
