/* SPDX-License-Identifier: MIT */
/*
 * What a server proves itself with, and who may come in.  A set is read as a whole and never
 * changes, so sessions that began with it go on when another one takes its place.
 */
#ifndef VD_SERVE_TLS_CREDS_H
#define VD_SERVE_TLS_CREDS_H

#include <gnutls/gnutls.h>
#include <stdbool.h>

#include "util/err.h"

/* A line of the file of pre-shared keys. */
struct vd_tls_user {
    char *name;         /* owned */
    gnutls_datum_t key; /* owned, by gnutls_malloc() */
};

struct vd_tls_creds {
    gnutls_priority_t priority;
    gnutls_certificate_credentials_t x509; /* or NULL */
    gnutls_psk_server_credentials_t psk;   /* or NULL */
    gnutls_dh_params_t dh;                 /* or NULL */
    struct vd_tls_user *users;             /* owned */
    size_t user_entries;
    unsigned holders; /* under the lock of who has it */
};

/* Reads the files.  @options have been checked. */
int vd_tls_creds_read(const struct vdisk_tls_options *options, struct vd_tls_creds **creds,
                      struct vdisk_error *err);
void vd_tls_creds_free(struct vd_tls_creds *creds); /* or NULL */

/* NULL: there is none of that name. */
const struct vd_tls_user *vd_tls_creds_user(const struct vd_tls_creds *creds, const char *name);

/* Is it @pattern, in which * stands for any text? */
bool vd_tls_name_matches(const char *pattern, const char *name);

#endif
