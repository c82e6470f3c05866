/* SPDX-License-Identifier: MIT */
/* Requests of clients: from bytes to what is wanted, and whether that is allowed. */
#ifndef VD_SERVE_REQUEST_H
#define VD_SERVE_REQUEST_H

#include "nbdproto/nbdproto.h"
#include "serve/session.h"

struct vd_request {
    uint16_t command; /* any number */
    uint16_t flags;
    uint64_t cookie;
    struct vd_range range;  /* what it is about, in bytes of the disk; any numbers until checked */
    uint64_t payload_bytes; /* follow the header */
    uint64_t contexts;      /* BLOCK_STATUS: those asked for, by bits: 1 << index */
};

/* The size of the header of every request of this session. */
size_t vd_request_header_bytes(const struct vd_session *session);

/*
 * Takes a header apart; its payload still has to be received, also if the request is not allowed.
 * -EPROTO: this is no request, and nobody knows where the next one begins.
 */
int vd_request_parse(const struct vd_session *session, const uint8_t *header,
                     struct vd_request *request, struct vdisk_error *err);

/* Has the payload to be kept?  Otherwise the request is refused, whatever is in it. */
bool vd_request_wants_payload(const struct vd_request *request);

/* The payload of BLOCK_STATUS: which contexts are asked for.  0, or an error of the protocol and
 * @why. */
uint32_t vd_request_filter(const struct vd_session *session, struct vd_request *request,
                           const uint8_t *payload, const char **why);

/*
 * May it be done?  Returns 0, or an error of the protocol, and in @why what is wrong.  After
 * filter(), if there is a filter.
 */
uint32_t vd_request_check(const struct vd_session *session, const struct vd_request *request,
                          const char **why);

/* How it is counted; of a command that is known. */
enum vdisk_request_kind vd_request_kind(const struct vd_request *request);

#endif
