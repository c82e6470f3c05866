/* SPDX-License-Identifier: MIT */
/* TLS for streams, by GnuTLS: certificates or pre-shared keys, and who may come in with them. */
#ifndef VD_SERVE_TLS_H
#define VD_SERVE_TLS_H

#include "serve/stream.h"

struct vd_tls;

/*
 * Reads certificates and keys.  -ENOTSUP in a build without GnuTLS.  Of a file of pre-shared keys,
 * empty lines and those that begin with # are skipped.  An authorised name may be in the order of
 * the certificate or in that of RFC 4514, which are the two that GnuTLS prints.
 */
int vd_tls_create(const struct vdisk_tls_options *options, struct vd_tls **tls,
                  struct vdisk_error *err);

/* Reads them again; streams that have begun keep what they have.  Any thread. */
int vd_tls_reload(struct vd_tls *tls, struct vdisk_error *err);

void vd_tls_free(struct vd_tls *tls); /* or NULL; no stream uses it */

/* Is TLS required of clients? */
bool vd_tls_is_required(const struct vd_tls *tls);

/*
 * Shakes hands with the client on the plain @stream, checks who it is, and makes it a stream by
 * TLS.  After a failure it can only be closed.  The name of the client, if there is one, is added
 * to
 * @peer, for logs.
 */
#define VD_TLS_PEER_BYTES 256u
int vd_tls_begin(struct vd_tls *tls, struct vd_stream *stream, uint64_t deadline,
                 char peer[VD_TLS_PEER_BYTES], struct vdisk_error *err);

#endif
