/* SPDX-License-Identifier: MIT */
/* TLS in a build without GnuTLS: there is none. */
#include "serve/tls.h"

static int refuse(struct vdisk_error *err)
{
    return vd_err_set(err, ENOTSUP, "this build of vdisk has no TLS: it wants GnuTLS");
}

int vd_tls_create(const struct vdisk_tls_options *options, struct vd_tls **tls,
                  struct vdisk_error *err)
{
    (void)options;
    (void)tls;
    return refuse(err);
}

int vd_tls_reload(struct vd_tls *tls, struct vdisk_error *err)
{
    (void)tls;
    return refuse(err);
}

void vd_tls_free(struct vd_tls *tls)
{
    (void)tls;
}

bool vd_tls_is_required(const struct vd_tls *tls)
{
    (void)tls;
    return false;
}

int vd_tls_begin(struct vd_tls *tls, struct vd_stream *stream, uint64_t deadline,
                 char peer[VD_TLS_PEER_BYTES], struct vdisk_error *err)
{
    (void)tls;
    (void)stream;
    (void)deadline;
    (void)peer;
    return refuse(err);
}
