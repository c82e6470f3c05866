/* SPDX-License-Identifier: MIT */
/* What a client of NBD sends, written down; and what it gets, read. */
#ifndef TESTS_UNIT_NBD_SCRIPT_H
#define TESTS_UNIT_NBD_SCRIPT_H

#include <stdlib.h>

#include "drivers/check.h"
#include "nbdproto/nbdproto.h"

#define SCRIPT_BYTES_MAX (2u << 20)

struct script {
    uint8_t *bytes; /* owned */
    size_t length;
};

static inline void script_raw(struct script *script, const void *bytes, size_t length)
{
    if (!script->bytes)
        script->bytes = malloc(SCRIPT_BYTES_MAX);
    assert_non_null(script->bytes);
    assert_true(length <= SCRIPT_BYTES_MAX - script->length);
    if (length > 0)
        memcpy(script->bytes + script->length, bytes, length);
    script->length += length;
}

static inline void script_u16(struct script *script, uint16_t value)
{
    struct be16 raw = be16_of(value);
    script_raw(script, &raw, sizeof(raw));
}

static inline void script_u32(struct script *script, uint32_t value)
{
    struct be32 raw = be32_of(value);
    script_raw(script, &raw, sizeof(raw));
}

static inline void script_text(struct script *script, const char *text)
{
    script_u32(script, (uint32_t)strlen(text));
    script_raw(script, text, strlen(text));
}

static inline void script_head(struct script *script, uint32_t option, uint32_t length)
{
    struct vd_nbd_option_head head = {
        .magic = be64_of(NBD_OPTION_MAGIC),
        .option = be32_of(option),
        .length = be32_of(length),
    };
    script_raw(script, &head, sizeof(head));
}

/* An option whose data is another script, which is freed; NULL: it has none. */
static inline void script_option(struct script *script, uint32_t option, struct script *data)
{
    script_head(script, option, data ? (uint32_t)data->length : 0);
    if (!data)
        return;
    script_raw(script, data->bytes, data->length);
    free(data->bytes);
    *data = (struct script){0};
}

static inline void script_free(struct script *script)
{
    free(script->bytes);
    *script = (struct script){0};
}

/* NBD_OPT_INFO or NBD_OPT_GO. */
static inline void script_go(struct script *script, uint32_t option, const char *name,
                             const uint16_t *infos, size_t entries)
{
    struct script data = {0};
    script_text(&data, name);
    script_u16(&data, (uint16_t)entries);
    for (size_t i = 0; i < entries; i++)
        script_u16(&data, infos[i]);
    script_option(script, option, &data);
}

/* NBD_OPT_LIST_META_CONTEXT or NBD_OPT_SET_META_CONTEXT; the queries end with NULL. */
static inline void script_meta(struct script *script, uint32_t option, const char *name,
                               const char *const *queries)
{
    struct script data = {0};
    uint32_t entries = 0;
    while (queries[entries])
        entries++;
    script_text(&data, name);
    script_u32(&data, entries);
    for (uint32_t i = 0; i < entries; i++)
        script_text(&data, queries[i]);
    script_option(script, option, &data);
}

/* A reply to an option. */
struct reply {
    uint32_t option;
    uint32_t type;
    const uint8_t *data;
    uint32_t length;
};

/* The reply at @at, which goes behind it; it has to be whole. */
static inline struct reply next_reply(const uint8_t **at, const uint8_t *end)
{
    struct vd_nbd_option_reply head;
    assert_true((size_t)(end - *at) >= sizeof(head));
    memcpy(&head, *at, sizeof(head));
    assert_true(be64_get(head.magic) == NBD_OPTION_REPLY_MAGIC);
    struct reply reply = {
        .option = be32_get(head.option),
        .type = be32_get(head.type),
        .data = *at + sizeof(head),
        .length = be32_get(head.length),
    };
    assert_true(reply.length <= (size_t)(end - reply.data));
    *at = reply.data + reply.length;
    return reply;
}

static inline uint16_t u16_at(const uint8_t *at)
{
    struct be16 raw;
    memcpy(&raw, at, sizeof(raw));
    return be16_get(raw);
}

static inline uint32_t u32_at(const uint8_t *at)
{
    struct be32 raw;
    memcpy(&raw, at, sizeof(raw));
    return be32_get(raw);
}

static inline uint64_t u64_at(const uint8_t *at)
{
    struct be64 raw;
    memcpy(&raw, at, sizeof(raw));
    return be64_get(raw);
}

#endif
