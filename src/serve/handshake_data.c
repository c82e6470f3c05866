/* SPDX-License-Identifier: MIT */
/* The data of options, and the replies to them. */
#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "serve/handshake_priv.h"
#include "util/utf8.h"

/* Of a name, in a message. */
#define SHOWN_BYTES_MAX 256u

static int receive(struct vd_negotiation *negotiation, void *buf, size_t length,
                   struct vdisk_error *err)
{
    int ret =
        vd_stream_receive_all(negotiation->stream, buf, length, negotiation->handshake->deadline);
    if (ret == -ETIMEDOUT)
        vd_err_set(err, ETIMEDOUT, "%s: the client was too slow to choose an export",
                   vd_nbd_option_name(negotiation->option));
    else if (ret < 0)
        vd_err_errno(err, -ret, "%s: the client left in the middle of it",
                     vd_nbd_option_name(negotiation->option));
    return ret;
}

int vd_negotiation_take(struct vd_negotiation *negotiation, void *buf, uint32_t length,
                        struct vdisk_error *err)
{
    assert(length <= negotiation->left);
    negotiation->left -= length;
    return length > 0 ? receive(negotiation, buf, length, err) : 0;
}

static int refuse_short(struct vd_negotiation *negotiation, size_t wanted, struct vdisk_error *err)
{
    return vd_negotiation_refuse(negotiation, NBD_REP_ERR_INVALID, err,
                                 "the option's data ends too soon: %" PRIu32
                                 " bytes are left where %zu are due",
                                 negotiation->left, wanted);
}

int vd_negotiation_take_u16(struct vd_negotiation *negotiation, uint16_t *value,
                            struct vdisk_error *err)
{
    struct be16 raw;
    if (negotiation->left < sizeof(raw))
        return refuse_short(negotiation, sizeof(raw), err);
    int ret = vd_negotiation_take(negotiation, &raw, sizeof(raw), err);
    if (ret == 0)
        *value = be16_get(raw);
    return ret;
}

int vd_negotiation_take_u32(struct vd_negotiation *negotiation, uint32_t *value,
                            struct vdisk_error *err)
{
    struct be32 raw;
    if (negotiation->left < sizeof(raw))
        return refuse_short(negotiation, sizeof(raw), err);
    int ret = vd_negotiation_take(negotiation, &raw, sizeof(raw), err);
    if (ret == 0)
        *value = be32_get(raw);
    return ret;
}

int vd_negotiation_take_text(struct vd_negotiation *negotiation, uint32_t length,
                             struct vd_negotiation_text *text, struct vdisk_error *err)
{
    if (length > NBD_STRING_MAX)
        return vd_negotiation_refuse(negotiation, NBD_REP_ERR_TOO_BIG, err,
                                     "a string of %" PRIu32 " bytes: no more than %u are allowed",
                                     length, NBD_STRING_MAX);
    if (negotiation->left < length)
        return refuse_short(negotiation, length, err);
    int ret = vd_negotiation_take(negotiation, text->bytes, length, err);
    if (ret < 0)
        return ret;
    text->bytes[length] = '\0';
    text->length = length;
    if (!vd_utf8_is_text(text->bytes, length))
        return vd_negotiation_refuse(negotiation, NBD_REP_ERR_INVALID, err,
                                     "a string is no UTF-8, or has a NUL in it");
    return 0;
}

int vd_negotiation_shown(const struct vd_negotiation_text *text)
{
    size_t shown = 0;
    while (shown < text->length) {
        size_t next = shown + vd_utf8_length(text->bytes + shown, text->length - shown);
        if (next == shown || next > SHOWN_BYTES_MAX)
            break;
        shown = next;
    }
    return (int)shown;
}

static int send_all(struct vd_negotiation *negotiation, const void *buf, size_t length,
                    struct vdisk_error *err)
{
    int ret =
        vd_stream_send_all(negotiation->stream, buf, length, negotiation->handshake->deadline);
    if (ret == -ETIMEDOUT)
        vd_err_set(err, ETIMEDOUT, "%s: the client was too slow to take the reply",
                   vd_nbd_option_name(negotiation->option));
    else if (ret < 0)
        vd_err_errno(err, -ret, "%s: the reply can not be sent",
                     vd_nbd_option_name(negotiation->option));
    return ret;
}

int vd_negotiation_flush(struct vd_negotiation *negotiation, struct vdisk_error *err)
{
    size_t length = negotiation->replies_bytes;
    negotiation->replies_bytes = 0;
    return length > 0 ? send_all(negotiation, negotiation->replies, length, err) : 0;
}

int vd_negotiation_send(struct vd_negotiation *negotiation, const void *buf, size_t length,
                        struct vdisk_error *err)
{
    if (length > sizeof(negotiation->replies) - negotiation->replies_bytes) {
        int ret = vd_negotiation_flush(negotiation, err);
        if (ret < 0)
            return ret;
    }
    if (length > sizeof(negotiation->replies))
        return send_all(negotiation, buf, length, err);
    if (length > 0)
        memcpy(negotiation->replies + negotiation->replies_bytes, buf, length);
    negotiation->replies_bytes += length;
    return 0;
}

int vd_negotiation_reply_parts(struct vd_negotiation *negotiation, uint32_t type, const void *head,
                               uint32_t head_length, const void *data, uint32_t length,
                               struct vdisk_error *err)
{
    struct vd_nbd_option_reply reply = {
        .magic = be64_of(NBD_OPTION_REPLY_MAGIC),
        .option = be32_of(negotiation->option),
        .type = be32_of(type),
        .length = be32_of(head_length + length),
    };
    int ret = vd_negotiation_send(negotiation, &reply, sizeof(reply), err);
    if (ret == 0)
        ret = vd_negotiation_send(negotiation, head, head_length, err);
    if (ret == 0)
        ret = vd_negotiation_send(negotiation, data, length, err);
    return ret;
}

int vd_negotiation_reply(struct vd_negotiation *negotiation, uint32_t type, const void *data,
                         uint32_t length, struct vdisk_error *err)
{
    return vd_negotiation_reply_parts(negotiation, type, NULL, 0, data, length, err);
}

int vd_negotiation_skip(struct vd_negotiation *negotiation, struct vdisk_error *err)
{
    uint8_t bytes[4096];
    while (negotiation->left > 0) {
        uint32_t length =
            negotiation->left < sizeof(bytes) ? negotiation->left : (uint32_t)sizeof(bytes);
        int ret = vd_negotiation_take(negotiation, bytes, length, err);
        if (ret < 0)
            return ret;
    }
    return 0;
}

int vd_negotiation_refuse(struct vd_negotiation *negotiation, uint32_t type,
                          struct vdisk_error *err, const char *fmt, ...)
{
    char message[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);

    int ret = vd_negotiation_skip(negotiation, err);
    if (ret < 0)
        return ret;
    vd_log(negotiation->handshake->log, VDISK_LOG_DEBUG, "%s: %s (%" PRIu32 ") refused: %s",
           negotiation->handshake->peer, vd_nbd_option_name(negotiation->option),
           negotiation->option, message);
    ret = vd_negotiation_reply(negotiation, type, message, (uint32_t)strlen(message), err);
    return ret < 0 ? ret : NEGOTIATION_REFUSED;
}
