/* SPDX-License-Identifier: MIT */
/* Options about exports: which there are, what they are like, and the choice of one. */
#include <inttypes.h>
#include <string.h>

#include "serve/handshake_priv.h"

/* What NBD_OPT_INFO and NBD_OPT_GO are asked to tell beside NBD_INFO_EXPORT. */
struct wishes {
    bool name;
    bool description;
    bool block_size;
};

/* An export as a client is told of it: copied, so that nobody waits for a slow client if the export
 * is to be removed. */
struct facts {
    uint64_t size;
    uint16_t flags;
    uint32_t preferred_bytes;
    uint32_t name_bytes;
    uint32_t description_bytes;
    char name[NBD_STRING_MAX];
    char description[NBD_STRING_MAX];
};

/*
 * The greatest block that is offered as the preferred one is NBD_PAYLOAD_BASE, which every server
 * takes.  Any byte can be read and written alone: what has to be aligned is aligned inside.
 */
#define MINIMUM_BYTES 1u

static uint16_t flags_of(const struct vd_negotiation *negotiation, const struct vd_export *export)
{
    const struct vd_session *session = negotiation->session;
    unsigned flags =
        NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;
    if (export->is_writable)
        flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
    else
        flags |= NBD_FLAG_READ_ONLY;
    /* Clients take it as advice to come several times. */
    if (export->clients_max != 1)
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    if (session->has_structured)
        flags |= NBD_FLAG_SEND_DF;
    if (session->has_extended && negotiation->context_entries > 0 &&
        negotiation->context_serial == export->serial)
        flags |= NBD_FLAG_BLOCK_STAT_PAYLOAD;
    return (uint16_t)flags;
}

static void look(const struct vd_negotiation *negotiation, const struct vd_export *export,
                 struct facts *facts)
{
    facts->size = vdisk_image_size(export->image);
    facts->flags = flags_of(negotiation, export);
    facts->preferred_bytes = export->preferred_bytes;
    facts->name_bytes = (uint32_t)strlen(export->name);
    memcpy(facts->name, export->name, facts->name_bytes);
    facts->description_bytes = 0;
    if (export->description) {
        facts->description_bytes = (uint32_t)strlen(export->description);
        memcpy(facts->description, export->description, facts->description_bytes);
    }
}

/* The export is used from now on.  Metadata contexts of another one are not chosen any more. */
static void choose(struct vd_negotiation *negotiation, struct vd_export *export,
                   const struct facts *facts)
{
    struct vd_session *session = negotiation->session;
    session->export = export;
    session->size = facts->size;
    session->flags = facts->flags;
    if (negotiation->context_serial == export->serial) {
        for (uint32_t i = 0; i < negotiation->context_entries; i++)
            session->contexts[i] = &export->contexts.list[negotiation->contexts[i]];
        session->context_entries = negotiation->context_entries;
    }
    negotiation->is_chosen = true;
}

/* There is no way to tell the client what is wrong. */
int vd_negotiate_export_name(struct vd_negotiation *negotiation, struct vdisk_error *err)
{
    if (negotiation->session->has_extended)
        return vd_err_set(err, EPROTO, "NBD_OPT_EXPORT_NAME after NBD_OPT_EXTENDED_HEADERS");
    if (negotiation->left > NBD_STRING_MAX)
        return vd_err_set(err, EPROTO, "NBD_OPT_EXPORT_NAME with a name of %" PRIu32 " bytes",
                          negotiation->left);
    struct vd_negotiation_text name = {.length = negotiation->left};
    struct vd_export *export = NULL;
    int ret = vd_negotiation_take(negotiation, name.bytes, name.length, err);
    if (ret < 0)
        return ret;
    ret = vd_exports_use(negotiation->handshake->exports, name.bytes, name.length, &export, err);
    if (ret < 0)
        return vd_err_prefix(err, ret, "NBD_OPT_EXPORT_NAME '%.*s': ", vd_negotiation_shown(&name),
                             name.bytes);

    struct facts facts;
    look(negotiation, export, &facts);
    choose(negotiation, export, &facts);
    struct vd_nbd_export_reply reply = {
        .size = be64_of(facts.size),
        .flags = be16_of(facts.flags),
    };
    ret = vd_negotiation_send(negotiation, &reply, sizeof(reply), err);
    if (ret == 0 && negotiation->sends_zeroes) {
        static const uint8_t zeros[124];
        ret = vd_negotiation_send(negotiation, zeros, sizeof(zeros), err);
    }
    return ret;
}

int vd_negotiate_list(struct vd_negotiation *negotiation, struct vdisk_error *err)
{
    struct vd_exports *exports = negotiation->handshake->exports;
    struct vd_export *export;
    uint64_t serial = 0;
    while ((export = vd_exports_after(exports, serial)) != NULL) {
        struct facts facts;
        serial = export->serial;
        look(negotiation, export, &facts);
        vd_export_release(exports, export);

        uint8_t name[sizeof(struct be32) + NBD_STRING_MAX];
        struct be32 length = be32_of(facts.name_bytes);
        memcpy(name, &length, sizeof(length));
        memcpy(name + sizeof(length), facts.name, facts.name_bytes);
        int ret = vd_negotiation_reply_parts(negotiation, NBD_REP_SERVER, name,
                                             (uint32_t)sizeof(length) + facts.name_bytes,
                                             facts.description, facts.description_bytes, err);
        if (ret < 0)
            return ret;
    }
    return vd_negotiation_reply(negotiation, NBD_REP_ACK, NULL, 0, err);
}

static int reply_text(struct vd_negotiation *negotiation, uint16_t type, const char *text,
                      uint32_t length, struct vdisk_error *err)
{
    struct be16 head = be16_of(type);
    return vd_negotiation_reply_parts(negotiation, NBD_REP_INFO, &head, sizeof(head), text, length,
                                      err);
}

static int reply_facts(struct vd_negotiation *negotiation, const struct facts *facts,
                       const struct wishes *wishes, struct vdisk_error *err)
{
    struct vd_nbd_info_export export = {
        .type = be16_of(NBD_INFO_EXPORT),
        .size = be64_of(facts->size),
        .flags = be16_of(facts->flags),
    };
    int ret = vd_negotiation_reply(negotiation, NBD_REP_INFO, &export, sizeof(export), err);
    if (ret == 0 && wishes->name)
        ret = reply_text(negotiation, NBD_INFO_NAME, facts->name, facts->name_bytes, err);
    if (ret == 0 && wishes->description && facts->description_bytes > 0)
        ret = reply_text(negotiation, NBD_INFO_DESCRIPTION, facts->description,
                         facts->description_bytes, err);
    if (ret == 0 && wishes->block_size) {
        struct vd_nbd_info_block_size sizes = {
            .type = be16_of(NBD_INFO_BLOCK_SIZE),
            .minimum = be32_of(MINIMUM_BYTES),
            .preferred = be32_of(facts->preferred_bytes),
            .maximum = be32_of(negotiation->handshake->payload_max),
        };
        ret = vd_negotiation_reply(negotiation, NBD_REP_INFO, &sizes, sizeof(sizes), err);
    }
    if (ret == 0)
        ret = vd_negotiation_reply(negotiation, NBD_REP_ACK, NULL, 0, err);
    return ret;
}

static int take_wishes(struct vd_negotiation *negotiation, struct wishes *wishes,
                       struct vdisk_error *err)
{
    uint16_t entries = 0;
    int ret = vd_negotiation_take_u16(negotiation, &entries, err);
    if (ret != 0)
        return ret;
    if (negotiation->left != (uint32_t)entries * sizeof(struct be16))
        return vd_negotiation_refuse(negotiation, NBD_REP_ERR_INVALID, err,
                                     "%" PRIu16 " information requests in %" PRIu32 " bytes",
                                     entries, negotiation->left);
    while (ret == 0 && entries-- > 0) {
        uint16_t type = 0;
        ret = vd_negotiation_take_u16(negotiation, &type, err);
        wishes->name |= type == NBD_INFO_NAME;
        wishes->description |= type == NBD_INFO_DESCRIPTION;
        wishes->block_size |= type == NBD_INFO_BLOCK_SIZE;
    }
    return ret;
}

static int refuse_export(struct vd_negotiation *negotiation, const struct vd_negotiation_text *name,
                         int why, struct vdisk_error *err)
{
    if (why == -EUSERS)
        return vd_negotiation_refuse(negotiation, NBD_REP_ERR_POLICY, err,
                                     "the export '%.*s' has as many clients as it may have",
                                     vd_negotiation_shown(name), name->bytes);
    return vd_negotiation_refuse(negotiation, NBD_REP_ERR_UNKNOWN, err, "there is no export '%.*s'",
                                 vd_negotiation_shown(name), name->bytes);
}

/* NBD_OPT_INFO tells the same as NBD_OPT_GO would. */
int vd_negotiate_info(struct vd_negotiation *negotiation, struct vdisk_error *err)
{
    struct vd_exports *exports = negotiation->handshake->exports;
    struct vd_negotiation_text name;
    struct wishes wishes = {0};
    uint32_t length = 0;
    int ret = vd_negotiation_take_u32(negotiation, &length, err);
    if (ret == 0)
        ret = vd_negotiation_take_text(negotiation, length, &name, err);
    if (ret == 0)
        ret = take_wishes(negotiation, &wishes, err);
    if (ret != 0)
        return ret;

    struct facts facts;
    struct vd_export *export = NULL;
    if (negotiation->option == NBD_OPT_GO) {
        ret = vd_exports_use(exports, name.bytes, name.length, &export, NULL);
        if (ret < 0)
            return refuse_export(negotiation, &name, ret, err);
        look(negotiation, export, &facts);
        choose(negotiation, export, &facts);
    } else {
        export = vd_exports_find(exports, name.bytes, name.length);
        if (!export)
            return refuse_export(negotiation, &name, -ENOENT, err);
        look(negotiation, export, &facts);
        vd_export_release(exports, export);
    }
    return reply_facts(negotiation, &facts, &wishes, err);
}
