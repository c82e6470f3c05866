/* SPDX-License-Identifier: MIT */
/* Replies as bytes: in the words that the session has agreed on. */
#ifndef VD_SERVE_REPLY_H
#define VD_SERVE_REPLY_H

#include "serve/request.h"

/* No head of a reply, or of a chunk of one, is longer: the bytes before the data. */
#define VD_REPLY_HEAD_BYTES 52u

/* An error with its message is no longer. */
#define VD_REPLY_ERROR_BYTES 200u

/* Each of these puts bytes at @to and returns how many. */

/* It is done, and there is nothing to tell. */
size_t vd_reply_done(const struct vd_session *session, const struct vd_request *request,
                     uint8_t *to);

/* It failed with @error of the protocol, for the reason @why. */
size_t vd_reply_error(const struct vd_session *session, const struct vd_request *request,
                      uint32_t error, const char *why, uint8_t *to);

/*
 * Before the bytes of @part of the disk, which are read.  @is_last: no other chunk follows; always
 * the case without structured replies, where @part is the whole range.
 */
size_t vd_reply_data(const struct vd_session *session, const struct vd_request *request,
                     struct vd_range part, bool is_last, uint8_t *to);

/* @part of what is read is zeros.  With structured replies only. */
size_t vd_reply_hole(const struct vd_session *session, const struct vd_request *request,
                     struct vd_range part, bool is_last, uint8_t *to);

/* The bytes of so many extents of one context, with what is before them. */
size_t vd_reply_status_bytes(const struct vd_session *session, size_t entries);

/* What the context @index says.  With structured replies only. */
size_t vd_reply_status(const struct vd_session *session, const struct vd_request *request,
                       uint32_t index, const struct vd_context_extent *extents, size_t entries,
                       bool is_last, uint8_t *to);

#endif
