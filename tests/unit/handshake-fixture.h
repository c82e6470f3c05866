/* SPDX-License-Identifier: MIT */
/* A server with two exports, and conversations with it. */
#ifndef TESTS_UNIT_HANDSHAKE_FIXTURE_H
#define TESTS_UNIT_HANDSHAKE_FIXTURE_H

#include <stdio.h>
#include <stdlib.h>

#include "drivers/check.h"
#include "drivers/wire.h"
#include "nbd-script.h"
#include "serve/handshake.h"
#include "util/utf8.h"

#define DISK_BYTES  (1u << 20)
#define PAYLOAD_MAX (48u << 20)
#define BOTH_FLAGS  (NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)

/* "disk" can be written, and has contexts of all kinds; "ro" takes one client. */
struct fixture {
    struct vdisk_image *image;
    struct vd_exports exports;
    struct vd_tls *tls; /* or NULL */
    atomic_bool is_stopping;
    struct vd_log log;
};

/* As if the image had bitmaps b0, b1, ... */
static inline void fixture_add_bitmaps(struct vd_export *export, unsigned bitmaps)
{
    static const char prefix[] = "qemu:dirty-bitmap:";
    struct vd_contexts *contexts = &export->contexts;
    contexts->list =
        realloc(contexts->list, (contexts->entries + bitmaps) * sizeof(*contexts->list));
    assert_non_null(contexts->list);
    for (unsigned i = 0; i < bitmaps; i++) {
        char name[64];
        snprintf(name, sizeof(name), "%sb%u", prefix, i);
        struct vd_context context = {.kind = VD_CONTEXT_BITMAP, .name = strdup(name)};
        assert_non_null(context.name);
        context.bitmap = context.name + strlen(prefix);
        contexts->list[contexts->entries++] = context;
    }
}

static inline void fixture_add(struct fixture *fixture, const char *name, const char *description,
                               uint32_t flags, uint32_t clients)
{
    struct vdisk_export_options options = {
        .struct_bytes = sizeof(options),
        .flags = flags,
        .clients = clients,
        .name = name,
        .description = description,
    };
    VT_OK(vd_exports_add(&fixture->exports, fixture->image, &options, &vt_err));
}

static inline void fixture_init(struct fixture *fixture)
{
    struct vdisk_open_options raw = {
        .struct_bytes = sizeof(raw), .format = "raw", .flags = VDISK_OPEN_WRITE};
    struct vd_storage *file = NULL;
    memset(fixture, 0, sizeof(*fixture));
    VT_OK(vd_storage_mem_open(DISK_BYTES, &file, &vt_err));
    VT_OK(vd_image_open_on(file, &raw, &fixture->image, &vt_err));
    vd_exports_init(&fixture->exports);
    fixture_add(fixture, "disk", "the disk", VDISK_EXPORT_WRITE | VDISK_EXPORT_ALLOCATION_DEPTH, 0);
    fixture_add_bitmaps(fixture->exports.first, 2);
    fixture_add(fixture, "ro", NULL, 0, 1);
}

static inline void fixture_free(struct fixture *fixture)
{
    vd_exports_destroy(&fixture->exports);
    VT_OK(vdisk_image_close(fixture->image, &vt_err));
}

/* For cmocka: the state of a test is a fixture. */
static inline int fixture_setup(void **state)
{
    struct fixture *fixture = malloc(sizeof(*fixture));
    assert_non_null(fixture);
    fixture_init(fixture);
    *state = fixture;
    return 0;
}

static inline int fixture_teardown(void **state)
{
    fixture_free(*state);
    free(*state);
    return 0;
}

/* Who holds exports, or is a client of one. */
static inline uint64_t fixture_holders(const struct fixture *fixture)
{
    uint64_t holders = 0;
    for (struct vd_export *at = fixture->exports.first; at; at = at->next)
        holders += at->holders + atomic_load(&at->counters.clients);
    return holders;
}

/* What became of a script. */
struct talk {
    struct fixture *fixture;
    uint64_t holders; /* before it */
    struct vd_session session;
    int ret;
    struct vdisk_error err;
    struct vt_wire wire;
    const uint8_t *at; /* within what the client got */
    const uint8_t *end;
};

static inline struct vd_handshake talk_handshake(struct fixture *fixture)
{
    return (struct vd_handshake){
        .exports = &fixture->exports,
        .tls = fixture->tls,
        .log = &fixture->log,
        .is_stopping = &fixture->is_stopping,
        .deadline = VD_NEVER,
        .payload_max = PAYLOAD_MAX,
        .peer = "test",
    };
}

/* Has it in portions of so many bytes; 0: all at once.  Goes to talk_end(). */
static inline void talk_begin(struct talk *talk, struct fixture *fixture, const void *bytes,
                              size_t length, size_t portion)
{
    struct vd_handshake handshake = talk_handshake(fixture);
    memset(talk, 0, sizeof(*talk));
    talk->fixture = fixture;
    talk->holders = fixture_holders(fixture);
    vt_wire_init(&talk->wire, bytes, length, 4u << 20);
    talk->wire.portion = portion;
    talk->ret = vd_handshake(&handshake, &talk->wire.stream, &talk->session, &talk->err);
    assert_true(talk->ret <= 0);
    assert_int_equal(talk->err.code, -talk->ret);
    assert_true(talk->ret == 0 ? talk->session.export != NULL : talk->err.message[0] != '\0');
    assert_int_equal(talk->wire.sent_length, talk->wire.sent_kept);

    struct vd_nbd_greeting greeting;
    assert_true(talk->wire.sent_kept >= sizeof(greeting));
    memcpy(&greeting, talk->wire.sent, sizeof(greeting));
    assert_true(be64_get(greeting.magic) == NBD_MAGIC);
    assert_true(be64_get(greeting.option_magic) == NBD_OPTION_MAGIC);
    assert_int_equal(be16_get(greeting.flags), NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    talk->at = talk->wire.sent + sizeof(greeting);
    talk->end = talk->wire.sent + talk->wire.sent_kept;
}

/* Frees the script. */
static inline void talk_script(struct talk *talk, struct fixture *fixture, struct script *script)
{
    talk_begin(talk, fixture, script->bytes, script->length, 0);
    script_free(script);
}

/* The next reply is of that type to that option. */
static inline struct reply talk_next(struct talk *talk, uint32_t option, uint32_t type)
{
    struct reply reply = next_reply(&talk->at, talk->end);
    assert_int_equal(reply.option, option);
    assert_int_equal(reply.type, type);
    return reply;
}

static inline void talk_ack(struct talk *talk, uint32_t option)
{
    assert_int_equal(talk_next(talk, option, NBD_REP_ACK).length, 0);
}

/* ... an error, with words. */
static inline void talk_refused(struct talk *talk, uint32_t option, uint32_t type)
{
    struct reply reply = talk_next(talk, option, type);
    assert_true(reply.length > 0 && reply.length <= NBD_STRING_MAX);
    assert_true(vd_utf8_is_text((const char *)reply.data, reply.length));
}

/* There is no more, and the negotiation ended so: 0, or the errno. */
static inline void talk_end(struct talk *talk, int code)
{
    assert_int_equal(talk->ret, -code);
    assert_ptr_equal(talk->at, talk->end);
    if (talk->session.export)
        vd_export_leave(&talk->fixture->exports, talk->session.export);
    assert_int_equal(fixture_holders(talk->fixture), talk->holders);
    vt_wire_free(&talk->wire);
}

static inline void begin_script(struct script *script)
{
    *script = (struct script){0};
    script_u32(script, BOTH_FLAGS);
}

#endif
