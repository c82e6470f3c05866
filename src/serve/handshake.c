/* SPDX-License-Identifier: MIT */
/* The greeting, and one option after the other until the client has chosen an export. */
#include "serve/handshake.h"

#include <inttypes.h>
#include <string.h>

#include "serve/handshake_priv.h"

/* So many bytes by the deadline; -ECANCELED: the client left before the first of them. */
static int receive_from_start(struct vd_negotiation *negotiation, void *buf, size_t length,
                              const char *what, struct vdisk_error *err)
{
    uint64_t deadline = negotiation->handshake->deadline;
    int ret = vd_stream_receive_all(negotiation->stream, buf, 1, deadline);
    if (ret == -ECONNRESET)
        return vd_err_set(err, ECANCELED, "the client left during the negotiation");
    if (ret == 0)
        ret = vd_stream_receive_all(negotiation->stream, (uint8_t *)buf + 1, length - 1, deadline);
    if (ret == -ETIMEDOUT)
        return vd_err_set(err, ETIMEDOUT, "the client was too slow to choose an export");
    if (ret < 0)
        return vd_err_errno(err, -ret, "%s can not be received", what);
    return 0;
}

static int greet(struct vd_negotiation *negotiation, struct vdisk_error *err)
{
    const uint32_t known = NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES;
    struct vd_nbd_greeting greeting = {
        .magic = be64_of(NBD_MAGIC),
        .option_magic = be64_of(NBD_OPTION_MAGIC),
        .flags = be16_of(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES),
    };
    int ret = vd_stream_send_all(negotiation->stream, &greeting, sizeof(greeting),
                                 negotiation->handshake->deadline);
    if (ret == -ECONNRESET || ret == -EPIPE)
        return vd_err_set(err, ECANCELED, "the client left before the greeting");
    if (ret < 0)
        return vd_err_errno(err, -ret, "the greeting can not be sent");

    struct be32 raw;
    ret = receive_from_start(negotiation, &raw, sizeof(raw), "the client's flags", err);
    if (ret < 0)
        return ret;
    uint32_t flags = be32_get(raw);
    if (flags & ~known)
        return vd_err_set(err, EPROTO, "the client's flags are 0x%" PRIx32 "; known are 0x%" PRIx32,
                          flags, known);
    negotiation->is_fixed = flags & NBD_FLAG_C_FIXED_NEWSTYLE;
    negotiation->sends_zeroes = !(flags & NBD_FLAG_C_NO_ZEROES);
    return 0;
}

static int receive_option(struct vd_negotiation *negotiation, struct vdisk_error *err)
{
    struct vd_nbd_option_head head;
    int ret = receive_from_start(negotiation, &head, sizeof(head), "an option", err);
    if (ret < 0)
        return ret;
    if (be64_get(head.magic) != NBD_OPTION_MAGIC)
        return vd_err_set(err, EPROTO,
                          "an option begins with 0x%016" PRIx64 " instead of 0x%016" PRIx64,
                          be64_get(head.magic), NBD_OPTION_MAGIC);
    negotiation->option = be32_get(head.option);
    negotiation->left = be32_get(head.length);
    if (negotiation->left > NEGOTIATION_OPTION_BYTES_MAX)
        return vd_err_set(
            err, EPROTO, "%s (%" PRIu32 ") announces %" PRIu32 " bytes; no option has more than %u",
            vd_nbd_option_name(negotiation->option), negotiation->option, negotiation->left,
            NEGOTIATION_OPTION_BYTES_MAX);
    vd_log(negotiation->handshake->log, VDISK_LOG_DEBUG, "%s: %s (%" PRIu32 "), %" PRIu32 " bytes",
           negotiation->handshake->peer, vd_nbd_option_name(negotiation->option),
           negotiation->option, negotiation->left);
    return 0;
}

void vd_negotiation_drop_contexts(struct vd_negotiation *negotiation)
{
    negotiation->context_serial = 0;
    negotiation->context_entries = 0;
}

static int refuse_data(struct vd_negotiation *negotiation, struct vdisk_error *err)
{
    return vd_negotiation_refuse(negotiation, NBD_REP_ERR_INVALID, err,
                                 "the option takes no data, and came with %" PRIu32 " bytes",
                                 negotiation->left);
}

static int acknowledge(struct vd_negotiation *negotiation, struct vdisk_error *err)
{
    return vd_negotiation_reply(negotiation, NBD_REP_ACK, NULL, 0, err);
}

/* The client may be gone already. */
static int abort_negotiation(struct vd_negotiation *negotiation, struct vdisk_error *err)
{
    struct vdisk_error ignored = {0};
    if (vd_negotiation_skip(negotiation, &ignored) == 0 && acknowledge(negotiation, &ignored) == 0)
        vd_negotiation_flush(negotiation, &ignored);
    return vd_err_set(err, ECANCELED, "the client ended the negotiation");
}

static int start_tls(struct vd_negotiation *negotiation, struct vdisk_error *err)
{
    struct vd_handshake *handshake = negotiation->handshake;
    if (!handshake->tls)
        return vd_negotiation_refuse(negotiation, NBD_REP_ERR_POLICY, err,
                                     "this server has no TLS");
    if (negotiation->is_encrypted)
        return vd_negotiation_refuse(negotiation, NBD_REP_ERR_INVALID, err,
                                     "the connection is encrypted already");
    if (negotiation->left > 0)
        return refuse_data(negotiation, err);
    int ret = acknowledge(negotiation, err);
    if (ret == 0)
        ret = vd_negotiation_flush(negotiation, err);
    if (ret == 0)
        ret = vd_tls_begin(handshake->tls, negotiation->stream, handshake->deadline,
                           handshake->peer, err);
    if (ret < 0)
        return ret;
    /* What was agreed on before could have been forged. */
    negotiation->is_encrypted = true;
    negotiation->session->has_structured = false;
    negotiation->session->has_extended = false;
    vd_negotiation_drop_contexts(negotiation);
    return 0;
}

static int use_structured(struct vd_negotiation *negotiation, struct vdisk_error *err)
{
    if (negotiation->left > 0)
        return refuse_data(negotiation, err);
    if (negotiation->session->has_extended)
        return vd_negotiation_refuse(negotiation, NBD_REP_ERR_EXT_HEADER_REQD, err,
                                     "extended headers have been agreed on already");
    negotiation->session->has_structured = true;
    return acknowledge(negotiation, err);
}

static int use_extended(struct vd_negotiation *negotiation, struct vdisk_error *err)
{
    if (negotiation->left > 0)
        return refuse_data(negotiation, err);
    negotiation->session->has_structured = true;
    negotiation->session->has_extended = true;
    return acknowledge(negotiation, err);
}

/* Options that are open to everybody who may know what this server has. */
static int negotiate_more(struct vd_negotiation *negotiation, struct vdisk_error *err)
{
    switch (negotiation->option) {
    case NBD_OPT_LIST:
        return negotiation->left > 0 ? refuse_data(negotiation, err)
                                     : vd_negotiate_list(negotiation, err);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return vd_negotiate_info(negotiation, err);
    case NBD_OPT_STRUCTURED_REPLY:
        return use_structured(negotiation, err);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return vd_negotiate_contexts(negotiation, err);
    case NBD_OPT_EXTENDED_HEADERS:
        return use_extended(negotiation, err);
    default:
        return vd_negotiation_refuse(negotiation, NBD_REP_ERR_UNSUP, err,
                                     "this server does not know the option %" PRIu32,
                                     negotiation->option);
    }
}

static int negotiate(struct vd_negotiation *negotiation, struct vdisk_error *err)
{
    const struct vd_handshake *handshake = negotiation->handshake;
    bool needs_tls = handshake->tls && vd_tls_is_required(handshake->tls);
    bool is_open = !needs_tls || negotiation->is_encrypted;
    bool is_stopping = atomic_load(handshake->is_stopping);

    if (negotiation->option == NBD_OPT_EXPORT_NAME) {
        if (!is_open)
            return vd_err_set(err, EACCES, "NBD_OPT_EXPORT_NAME without TLS, which is required");
        if (is_stopping)
            return vd_err_set(err, ESHUTDOWN, "NBD_OPT_EXPORT_NAME: the server is stopping");
        return vd_negotiate_export_name(negotiation, err);
    }
    if (!negotiation->is_fixed)
        return vd_err_set(err, EPROTO, "%s (%" PRIu32 ") from a client without fixed newstyle",
                          vd_nbd_option_name(negotiation->option), negotiation->option);
    if (negotiation->option == NBD_OPT_ABORT)
        return abort_negotiation(negotiation, err);
    if (negotiation->option == NBD_OPT_SET_META_CONTEXT)
        vd_negotiation_drop_contexts(negotiation); /* even if it fails */
    if (is_stopping)
        return vd_negotiation_refuse(negotiation, NBD_REP_ERR_SHUTDOWN, err,
                                     "the server is stopping");
    if (negotiation->option == NBD_OPT_STARTTLS)
        return start_tls(negotiation, err);
    if (!is_open)
        return vd_negotiation_refuse(negotiation, NBD_REP_ERR_TLS_REQD, err,
                                     "this server wants TLS first");
    return negotiate_more(negotiation, err);
}

int vd_handshake(struct vd_handshake *handshake, struct vd_stream *stream,
                 struct vd_session *session, struct vdisk_error *err)
{
    memset(session, 0, sizeof(*session));
    session->stream = stream;
    session->payload_max = handshake->payload_max;
    struct vd_negotiation negotiation = {
        .handshake = handshake, .stream = stream, .session = session};

    int ret = greet(&negotiation, err);
    while (ret >= 0 && !negotiation.is_chosen) {
        ret = receive_option(&negotiation, err);
        if (ret == 0)
            ret = negotiate(&negotiation, err);
        if (ret >= 0)
            ret = vd_negotiation_flush(&negotiation, err);
    }
    if (ret < 0 && session->export) {
        vd_export_leave(handshake->exports, session->export);
        session->export = NULL;
    }
    return ret < 0 ? ret : 0;
}
