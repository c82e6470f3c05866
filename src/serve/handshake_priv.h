/* SPDX-License-Identifier: MIT */
/*
 * A negotiation under way, for the files of the handshake only.
 *
 * The data of an option is taken from the stream as it is understood, so no option, however long it
 * says it is, takes memory.  Replies are gathered, and sent when the option has been dealt with.
 *
 * Functions return 0, NEGOTIATION_REFUSED if the client was told what is wrong with its option, or
 * a negative errno: then the connection is at its end.
 */
#ifndef VD_SERVE_HANDSHAKE_PRIV_H
#define VD_SERVE_HANDSHAKE_PRIV_H

#include "nbdproto/nbdproto.h"
#include "serve/handshake.h"

#define NEGOTIATION_REFUSED 1

/* Longer data is no option of any client; shorter is skipped if it makes no sense. */
#define NEGOTIATION_OPTION_BYTES_MAX (1u << 20)

#define NEGOTIATION_REPLIES_BYTES    4096u

struct vd_negotiation {
    struct vd_handshake *handshake;
    struct vd_stream *stream;
    struct vd_session *session;
    bool is_fixed;     /* fixed newstyle */
    bool sends_zeroes; /* behind the answer to EXPORT_NAME */
    bool is_encrypted;
    bool is_chosen; /* session->export is */

    /* The metadata contexts chosen: of the export of that serial, by their index in its list.
     * Nothing is held, so the export may go. */
    uint64_t context_serial;
    uint32_t contexts[VD_SESSION_CONTEXTS_MAX];
    uint32_t context_entries;

    uint32_t option;
    uint32_t left; /* bytes of its data that have not been taken */

    size_t replies_bytes;
    uint8_t replies[NEGOTIATION_REPLIES_BYTES];
};

/* An export name, or a query: text with a NUL behind it. */
struct vd_negotiation_text {
    uint32_t length;
    char bytes[NBD_STRING_MAX + 1];
};

/* Takes the next @length bytes of data; so many are left. */
int vd_negotiation_take(struct vd_negotiation *negotiation, void *buf, uint32_t length,
                        struct vdisk_error *err);

/* Takes a number.  Refuses if there is none. */
int vd_negotiation_take_u16(struct vd_negotiation *negotiation, uint16_t *value,
                            struct vdisk_error *err);
int vd_negotiation_take_u32(struct vd_negotiation *negotiation, uint32_t *value,
                            struct vdisk_error *err);

/* Takes @length bytes of text.  Refuses what is too long, or no UTF-8. */
int vd_negotiation_take_text(struct vd_negotiation *negotiation, uint32_t length,
                             struct vd_negotiation_text *text, struct vdisk_error *err);

/* Takes what is left of the option's data. */
int vd_negotiation_skip(struct vd_negotiation *negotiation, struct vdisk_error *err);

/* How much of @text a message shows: for "%.*s".  No more than is UTF-8. */
int vd_negotiation_shown(const struct vd_negotiation_text *text);

/* Answers to the option with one of possibly several replies. */
int vd_negotiation_reply(struct vd_negotiation *negotiation, uint32_t type, const void *data,
                         uint32_t length, struct vdisk_error *err);

/* As reply(), of data in two parts. */
int vd_negotiation_reply_parts(struct vd_negotiation *negotiation, uint32_t type, const void *head,
                               uint32_t head_length, const void *data, uint32_t length,
                               struct vdisk_error *err);

/* Skips what is left of the option's data, and answers with an error; NEGOTIATION_REFUSED. */
VD_PRINTF(4, 5)
int vd_negotiation_refuse(struct vd_negotiation *negotiation, uint32_t type,
                          struct vdisk_error *err, const char *fmt, ...);

/* Sends bytes, behind the replies that were gathered. */
int vd_negotiation_send(struct vd_negotiation *negotiation, const void *buf, size_t length,
                        struct vdisk_error *err);

/* Sends the replies that were gathered. */
int vd_negotiation_flush(struct vd_negotiation *negotiation, struct vdisk_error *err);

/* Forgets the metadata contexts that were chosen. */
void vd_negotiation_drop_contexts(struct vd_negotiation *negotiation);

/* The options. */
int vd_negotiate_export_name(struct vd_negotiation *negotiation, struct vdisk_error *err);
int vd_negotiate_list(struct vd_negotiation *negotiation, struct vdisk_error *err);
int vd_negotiate_info(struct vd_negotiation *negotiation, struct vdisk_error *err); /* and GO */
int vd_negotiate_contexts(struct vd_negotiation *negotiation, struct vdisk_error *err);

#endif
