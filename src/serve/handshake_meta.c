/* SPDX-License-Identifier: MIT */
/*
 * Options about metadata contexts: which there are, and the choice of some.
 *
 * The export is held for a look only, never while anything is received or sent, so that nobody who
 * wants to remove it waits for a slow client.
 */
#include <inttypes.h>
#include <string.h>

#include "serve/handshake_priv.h"
#include "util/mem.h"

/* The contexts of an export that the queries ask for. */
struct answer {
    uint64_t serial; /* of the export */
    size_t entries;
    bool *is_asked; /* of each; owned */
    bool is_list;
};

static struct vd_export *hold(struct vd_negotiation *negotiation, const struct answer *answer)
{
    struct vd_exports *exports = negotiation->handshake->exports;
    struct vd_export *export = vd_exports_after(exports, answer->serial - 1);
    if (export && export->serial != answer->serial) {
        vd_export_release(exports, export);
        return NULL;
    }
    return export;
}

static int refuse_removed(struct vd_negotiation *negotiation, struct vdisk_error *err)
{
    return vd_negotiation_refuse(negotiation, NBD_REP_ERR_UNKNOWN, err,
                                 "the export is there no longer");
}

static int take_query(struct vd_negotiation *negotiation, const struct answer *answer,
                      struct vdisk_error *err)
{
    struct vd_negotiation_text query;
    uint32_t length = 0;
    int ret = vd_negotiation_take_u32(negotiation, &length, err);
    if (ret == 0)
        ret = vd_negotiation_take_text(negotiation, length, &query, err);
    if (ret != 0)
        return ret;
    struct vd_export *export = hold(negotiation, answer);
    if (!export)
        return refuse_removed(negotiation, err);
    for (size_t i = 0; i < answer->entries; i++)
        answer->is_asked[i] |= vd_context_is_asked(&export->contexts.list[i], query.bytes,
                                                   query.length, answer->is_list);
    vd_export_release(negotiation->handshake->exports, export);
    return 0;
}

static int take_queries(struct vd_negotiation *negotiation, const struct answer *answer,
                        struct vdisk_error *err)
{
    uint32_t queries = 0;
    int ret = vd_negotiation_take_u32(negotiation, &queries, err);
    /* A list without queries is one of all. */
    for (size_t i = 0; ret == 0 && queries == 0 && i < answer->entries; i++)
        answer->is_asked[i] = answer->is_list;
    while (ret == 0 && queries-- > 0)
        ret = take_query(negotiation, answer, err);
    if (ret == 0 && negotiation->left > 0)
        return vd_negotiation_refuse(negotiation, NBD_REP_ERR_INVALID, err,
                                     "%" PRIu32 " bytes follow the last query", negotiation->left);
    return ret;
}

/* Chosen contexts get the numbers by which requests and replies call them; others have none. */
static int reply_context(struct vd_negotiation *negotiation, const struct answer *answer,
                         size_t index, uint32_t id, struct vdisk_error *err)
{
    struct vd_export *export = hold(negotiation, answer);
    if (!export)
        return refuse_removed(negotiation, err);
    CLEANUP_FREE char *name = strdup(export->contexts.list[index].name);
    vd_export_release(negotiation->handshake->exports, export);
    if (!name)
        return vd_err_nomem(err, "the name of a metadata context");

    struct be32 head = be32_of(id);
    return vd_negotiation_reply_parts(negotiation, NBD_REP_META_CONTEXT, &head, sizeof(head), name,
                                      (uint32_t)strlen(name), err);
}

static int list(struct vd_negotiation *negotiation, const struct answer *answer,
                struct vdisk_error *err)
{
    int ret = 0;
    for (size_t i = 0; ret == 0 && i < answer->entries; i++)
        if (answer->is_asked[i])
            ret = reply_context(negotiation, answer, i, 0, err);
    return ret;
}

static int set(struct vd_negotiation *negotiation, const struct answer *answer,
               struct vdisk_error *err)
{
    size_t asked = 0;
    for (size_t i = 0; i < answer->entries; i++)
        asked += answer->is_asked[i];
    if (asked > VD_SESSION_CONTEXTS_MAX)
        return vd_negotiation_refuse(negotiation, NBD_REP_ERR_TOO_BIG, err,
                                     "%zu metadata contexts: no more than %u can be chosen", asked,
                                     VD_SESSION_CONTEXTS_MAX);
    int ret = 0;
    negotiation->context_serial = answer->serial;
    for (size_t i = 0; ret == 0 && i < answer->entries; i++) {
        if (!answer->is_asked[i])
            continue;
        negotiation->contexts[negotiation->context_entries++] = (uint32_t)i;
        ret = reply_context(negotiation, answer, i, negotiation->context_entries, err);
    }
    if (ret != 0)
        vd_negotiation_drop_contexts(negotiation);
    return ret;
}

static int find_export(struct vd_negotiation *negotiation, struct answer *answer,
                       struct vdisk_error *err)
{
    struct vd_exports *exports = negotiation->handshake->exports;
    struct vd_negotiation_text name;
    uint32_t length = 0;
    int ret = vd_negotiation_take_u32(negotiation, &length, err);
    if (ret == 0)
        ret = vd_negotiation_take_text(negotiation, length, &name, err);
    if (ret != 0)
        return ret;
    struct vd_export *export = vd_exports_find(exports, name.bytes, name.length);
    if (!export)
        return vd_negotiation_refuse(negotiation, NBD_REP_ERR_UNKNOWN, err,
                                     "there is no export '%.*s'", vd_negotiation_shown(&name),
                                     name.bytes);
    answer->serial = export->serial;
    answer->entries = export->contexts.entries;
    vd_export_release(exports, export);
    return 0;
}

int vd_negotiate_contexts(struct vd_negotiation *negotiation, struct vdisk_error *err)
{
    if (!negotiation->session->has_structured)
        return vd_negotiation_refuse(negotiation, NBD_REP_ERR_INVALID, err,
                                     "metadata contexts want NBD_OPT_STRUCTURED_REPLY first");
    struct answer answer = {.is_list = negotiation->option == NBD_OPT_LIST_META_CONTEXT};
    int ret = find_export(negotiation, &answer, err);
    if (ret != 0)
        return ret;
    CLEANUP_FREE bool *is_asked = vd_alloc_array(answer.entries, sizeof(*is_asked));
    if (!is_asked)
        return vd_err_nomem(err, "the metadata contexts that a client asks for");
    answer.is_asked = is_asked;
    ret = take_queries(negotiation, &answer, err);
    if (ret == 0)
        ret = answer.is_list ? list(negotiation, &answer, err) : set(negotiation, &answer, err);
    if (ret == 0)
        ret = vd_negotiation_reply(negotiation, NBD_REP_ACK, NULL, 0, err);
    return ret;
}
